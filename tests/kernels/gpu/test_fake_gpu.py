"""The GPU path of whole faces, networks and training steps, on the fake GPU: values, launches, waits of the host."""

import ast
import operator
import pathlib

import fake_cupy
import numpy as np
import pytest

import cupynn
from cupynn import device, models, nn, ops, optim
from cupynn.autograd import tensor
from cupynn.cli import kernel_examples
from cupynn.kernels import cross_layer, depthwise, runtime

PACKAGE = pathlib.Path(cupynn.__file__).parent


def on_cpu_reference(call):
    """What `call` returns on the CPU in mode "reference"."""
    mode = runtime.mode()
    runtime.set_mode("reference")
    try:
        with device.use_device("cpu"):
            return call()
    finally:
        runtime.set_mode(mode)


def assert_close(given, expected, tolerance, least=1e-30):
    """Relative to the largest number of each array, or to `least` where that is more."""
    for ours, theirs in zip(given, expected, strict=True):
        ours, theirs = device.to_numpy(ours), device.to_numpy(theirs)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(least, np.abs(theirs).max()))


@pytest.mark.parametrize("name", kernel_examples.EXAMPLES)
def test_every_kernel_with_a_gpus_blocks(gpu_log, name, monkeypatch):
    """Run under the checker: no races, nothing out of bounds, and the reference's values."""
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "80")  # with tensor cores

    def call():
        return kernel_examples.EXAMPLES[name](kernel_examples._normal_numbers())()

    given = call()
    assert gpu_log.launches and not gpu_log.waits
    assert_close(given, on_cpu_reference(call), kernel_examples.TOLERANCE)


def normal(seed, *shapes):
    numbers = np.random.default_rng(seed)
    return [device.asarray(numbers.standard_normal(shape).astype(np.float32)) for shape in shapes]


def test_small_planes(gpu_log):
    """Planes of one pixel: every thread of a depthwise block takes a plane of its own, on its third axis."""

    def call():
        x, w, bias, grad = normal(1, (7, 40, 1, 1), (40, 1, 3, 3), (40,), (7, 40, 1, 1))
        return [depthwise.forward(x, w, bias, padding=1), *depthwise.backward(grad, x, w, padding=1)]

    given = call()
    assert max(launch.block[2] for launch in gpu_log.launches) == 64
    assert_close(given, on_cpu_reference(call), 1e-5)


def test_more_channels_than_a_grid_is_wide(gpu_log):
    def call():
        x, y, weight, grad = normal(2, *[(2, 70_000, 1, 1)] * 2, (2, 70_000), (2, 70_000, 1, 1))
        return cross_layer.backward(grad, [x, y], weight)

    given = call()
    assert gpu_log.launches[0].grid[1] == 35_000
    assert_close(given, on_cpu_reference(call), 1e-5)


def training_steps(name, options, shape, count):
    """Loss and parameters of a network after some steps of SGD."""
    cupynn.manual_seed(5)
    numbers = np.random.default_rng(6)
    model = models.create(name, **options)
    optimiser = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(count):
        images = device.asarray(numbers.standard_normal(shape).astype(np.float32))
        targets = device.asarray(numbers.integers(0, 10, shape[0]))
        fake_cupy.log.clear()
        optimiser.zero_grad()
        loss = ops.cross_entropy(model(tensor(images)), targets)
        loss.backward()
        optimiser.step()
    return [loss.data, *(parameter.data for parameter in model.parameters())]


@pytest.mark.parametrize(
    "name, options, size, steps",
    [
        ("smallnet", {"kernel_size": 3}, 32, 2),
        ("smallnet", {"kernel_size": 5, "expand": "ck", "rate": 2}, 32, 1),
        ("cifar_resnet", {"depth": 8, "whe": 4}, 8, 1),
        ("cifar_resnet", {"depth": 20}, 8, 1),
    ],
)
def test_a_training_step(gpu_log, name, options, size, steps):
    """The host waits for nothing. It copies a table of parameters to the device, and once those of the shapes."""
    shape = 2, 3, size, size
    given = training_steps(name, options, shape, steps)
    assert gpu_log.launches and not gpu_log.waits
    tables = {"conv_plan", "pool_windows"} if steps == 1 else set()
    assert {place for _, place in gpu_log.uploads if place.partition(".")[0] not in tables} <= {"recording.upload"}
    # Sums of some thousand float32 products, in another order, through up to 20 layers and back. Some parameters stay
    # near 0: batch norm cancels what they add, and what is left of their gradients is rounding.
    expected = on_cpu_reference(lambda: training_steps(name, options, shape, steps))
    assert_close(given, expected, 1e-3, least=1e-2)


def test_wrong_targets(gpu_log):
    """On the host they are named; on the GPU nobody waits to look at them, and the loss is NaN."""
    logits = tensor(device.asarray(np.zeros((3, 4), np.float32)), requires_grad=True)
    with pytest.raises(ValueError, match=r"targets\[1\] is 4; with K = 4"):
        ops.cross_entropy(logits, np.array([0, 4, 1]))
    loss = ops.cross_entropy(logits, device.asarray(np.array([0, -1, 1])))
    loss.backward()
    assert not gpu_log.waits
    assert np.isnan(loss.item())
    np.testing.assert_array_equal(np.isnan(logits.grad.get()).all(axis=1), [False, True, False])


@pytest.mark.parametrize("apply", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
def test_a_gpu_array_to_the_left_of_a_tensor(gpu_log, apply):
    """CuPy hands over to NumPy's protocol, and that to the tensor."""
    x = tensor(device.asarray(np.array([1.0, 2.0])), requires_grad=True)
    y = apply(device.asarray(np.array([3.0, 4.0])), x)
    assert isinstance(y, cupynn.Tensor) and y.requires_grad
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), apply(np.array([3.0, 4.0]), np.array([1.0, 2.0])))
    assert isinstance(x.grad, fake_cupy.ndarray)


def dotted(node):
    """`a.b.c` of an attribute's syntax tree, `xp_of().c` where it begins with a call; None for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return inner and f"{inner}.{node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"{node.func.id}()"
    return node.id if isinstance(node, ast.Name) else None


def test_every_name_of_cupy_exists():
    """What the package calls as cupy.NAME, xp.NAME or xp_of(x).NAME is in the installed CuPy."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if isinstance(cupy, fake_cupy.Module):
        cupy = cupy._real
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            begin, _, name = (dotted(node) or "").partition(".")
            if isinstance(node, ast.Attribute) and begin in ("cupy", "xp", "xp_of()", "default_xp()"):
                names.add(name)
    assert {"RawModule", "cuda.Device", "ascontiguousarray", "empty"} <= names
    missing = set()
    for name in names:
        try:
            operator.attrgetter(name)(cupy)
        except AttributeError:
            missing.add(name)
    assert not missing


def test_the_fake_refuses_what_a_gpu_refuses(gpu_log):
    x = device.asarray(np.zeros((4, 8), np.float32))
    with pytest.raises(TypeError, match="Unsupported type"):
        x + np.zeros((4, 8), np.float32)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    with pytest.raises(AttributeError):
        fake_cupy.module.vstack_of_nothing  # noqa: B018
    step = "step<float, false, false>"
    args = (x, x, None, np.int64(32), 32, None, *[np.float32(0)] * 3, None)
    runtime.launch("sgd", step, 1, 256, args)
    for wrong, grid, threads, shared, changed in (
        ("not in instantiations", 1, 256, 0, None),
        ("grid", (1, 65536), 256, 0, None),
        ("threads", 1, (64, 32), 0, None),
        ("shared memory", 1, 256, 97 << 10, None),
        ("argument 4, int64", 1, 256, 0, (4, np.int64(32))),
        ("argument 5, float64", 1, 256, 0, (5, np.float64(0))),
        ("argument 0, ndarray", 1, 256, 0, (0, device.asarray(np.zeros(32)))),
    ):
        values = [*args]
        if changed:
            values[changed[0]] = changed[1]
        name = "step<float, false, 1>" if wrong.startswith("not in") else step
        with pytest.raises(AssertionError, match=wrong):
            runtime.launch("sgd", name, grid, threads, values, shared)


def test_dlpack_of_arrays_on_the_gpu(gpu_log):
    """What lies there stays there, and is shared both ways; the host's memory stays the host's."""
    array = device.asarray(np.arange(3, dtype=np.float32))
    t = cupynn.from_dlpack(array)
    assert isinstance(t.data, fake_cupy.ndarray) and t.__dlpack_device__() == (2, fake_cupy.NUMBER)
    array[0] = 7
    assert t.data._host[0] == 7
    back = fake_cupy.module.from_dlpack(t)
    back[1] = 8
    assert array._host.tolist() == [7, 8, 2]
    assert type(cupynn.from_dlpack(np.arange(3.0)).data) is np.ndarray
    with pytest.raises(BufferError, match="requires grad"):
        fake_cupy.module.from_dlpack(cupynn.Tensor(array, requires_grad=True))


def test_export_of_a_network_on_the_gpu(gpu_log, tmp_path):
    """Its graph is made on the host; what is compared is the network where it is."""
    pytest.importorskip("onnxruntime", reason="cupynn[onnx] is not installed")
    layers = (
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.WHEBlock(4, 2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    model = nn.Sequential(*layers)
    written = cupynn.export_onnx(model, tmp_path / "net.onnx", (2, 4, 4))
    assert written.difference < 2e-6 and gpu_log.launches
    assert isinstance(model[0].weight.data, fake_cupy.ndarray) and device.default_device() == f"cuda:{fake_cupy.NUMBER}"
