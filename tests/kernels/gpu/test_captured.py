"""A step recorded as a graph, on the fake GPU: the bits of the plain function, and what cannot be recorded."""

import fake_cupy
import fake_streams
import numpy as np
import pytest

import cupynn
from cupynn import device, nn, ops, optim, step_graph
from cupynn.autograd import Tensor
from cupynn.optim import schedules

CALLS = 5


class Drops(nn.Module):
    """Convolution, batch norm, both kinds of dropout."""

    def __init__(self):
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x):
        x = ops.dropout2d(self.body(x), 0.3, self.training)
        return self.head(ops.dropout(x.flatten(1), 0.4, self.training))


class Training:
    """A model on its way, with a step that is captured or not."""

    def __init__(self, make, wrap, clip=None, **options):
        cupynn.manual_seed(3)
        self.model = make()
        options = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, **options}
        self.optimizer = optim.SGD(self.model.parameters(), **{"lr": 0.1, **options})
        self.clip = clip
        self.step = wrap(self.plain_step)
        self.ran = 0

    def plain_step(self, images, labels):
        self.ran += 1
        self.optimizer.zero_grad()
        logits = self.model(Tensor(images))
        loss = ops.cross_entropy(logits, labels)
        loss.backward()
        if self.clip:
            optim.clip_grad_norm(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss, {"logits": logits.data}

    def batch(self, number, count=4):
        numbers = np.random.default_rng(number)
        images = numbers.standard_normal((count, 3, 4, 4)).astype(np.float32)
        return device.asarray(images), device.asarray(numbers.integers(0, 5, count))

    def state(self):
        grads = {f"grad of {name}": p.grad for name, p in self.model.named_parameters()}
        return {name: device.to_numpy(array) for name, array in {**self.model.state_dict(), **grads}.items()}


def plain(step):
    return step


def results(make, wrap, sizes=(4,) * CALLS, put=device.asarray, **options):
    """What calls return, the last state, the place of the random generator, and how often Python ran."""
    training = Training(make, wrap, **options)
    schedule, kept = schedules.Cosine(CALLS), []
    for number, size in enumerate(sizes):
        training.optimizer.param_groups[0]["lr"] = 0.1 * schedule(number)
        loss, outputs = training.step(*map(put, training.batch(number, size)))
        kept.append((loss, outputs["logits"]))  # copies: later calls leave them alone
    kept = [(device.to_numpy(loss.data), device.to_numpy(logits)) for loss, logits in kept]
    return kept, training.state(), device.generator().bit_generator.state, training.ran


def assert_same_bits(ours, theirs):
    for (loss, logits), (wanted, wanted_logits) in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(loss, wanted)
        np.testing.assert_array_equal(logits, wanted_logits)
    assert ours[1].keys() == theirs[1].keys()
    for name, array in ours[1].items():
        np.testing.assert_array_equal(array, theirs[1][name], err_msg=name)
    assert ours[2] == theirs[2]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0, "nesterov": False}, {"clip": 0.5}], ids=str)
def test_the_bits_of_the_plain_step(gpu_log, options):
    wanted = results(Drops, plain, **options)
    given = results(Drops, cupynn.captured, **options)
    assert given[3] == step_graph.WARM_UP + 1 < wanted[3] == CALLS
    assert_same_bits(given, wanted)
    assert not np.array_equal(given[0][-1][0], given[0][-2][0])


def test_numbers_of_any_type(gpu_log):
    """The kernel reads them as float64."""

    def run(wrap):
        training = Training(Drops, wrap, lr=1, momentum=0, nesterov=False, weight_decay=0)
        for number in range(CALLS):
            training.optimizer.param_groups[0]["lr"] = 1 if number < 4 else np.float32(0.1)
            training.step(*training.batch(number))
        return [], training.state(), device.generator().bit_generator.state

    assert_same_bits(run(cupynn.captured), run(plain))


class Tables(nn.Module):
    """Layers that read tables which the host makes in every step, and WHE, pooling and resizing."""

    def __init__(self):
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.WHEBlock(4, 2)
        self.cross = nn.CrossLayerDepthwise(4, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(x)
        x = self.cross([ops.LayerOutput(self.second(x)), ops.LayerOutput(x)])
        x = ops.upsample2d(ops.max_pool2d(x, 2), size=(3, 3), mode="bilinear")
        return self.head(ops.adaptive_avg_pool2d(x, 1).flatten(1))


def test_tables_of_the_host(gpu_log):
    assert_same_bits(results(Tables, cupynn.captured, (2,) * 5), results(Tables, plain, (2,) * 5))


def test_other_shapes(gpu_log, monkeypatch):
    """Each gets a graph of its own once it has come often enough; the one used longest ago is dropped."""
    monkeypatch.setattr(step_graph, "GRAPHS", 2)
    sizes = (3, 2, 3, 2, 3, 2, 3, 1, 2, 1, 1, 3, 2)
    given, wanted = results(Drops, cupynn.captured, sizes), results(Drops, plain, sizes)
    assert_same_bits(given, wanted)
    # Two calls of each size run it, and the third records it; the last of 3 finds its graph dropped for that of 1.
    assert given[3] == 9 + 1 < wanted[3] == len(sizes)


def test_nothing_waits_and_one_launch_does_it(gpu_log):
    training = Training(Drops, cupynn.captured)
    for number in range(CALLS):
        arrays = training.batch(number)
        fake_cupy.log.clear()
        training.step(*arrays)
        assert not gpu_log.waits
    assert not gpu_log.launches  # of single kernels
    assert [place for _, place in gpu_log.uploads] == ["recording.send"]  # dropout's keys and mask


def test_arguments_may_be_numpys(gpu_log):
    assert_same_bits(results(Drops, cupynn.captured, put=device.to_numpy), results(Drops, plain))


def test_state_that_is_loaded_goes_on(gpu_log):
    """`load_state_dict` of model and optimiser after the step was recorded: velocities are new arrays then."""

    def run(wrap):
        training = Training(Drops, wrap)
        for number in range(4):
            training.step(*training.batch(number))
        weights = {name: array.copy() for name, array in training.model.state_dict().items()}
        velocities = training.optimizer.state_dict()
        velocities["velocities"] = [array.copy() for array in velocities["velocities"]]
        training.step(*training.batch(4))
        training.model.load_state_dict(weights)
        training.optimizer.load_state_dict(velocities)
        for group in training.optimizer.param_groups:
            group["lr"], group["momentum"] = 0.02, 0.5
        losses = [(training.step(*training.batch(number))[0].numpy(), 0) for number in range(5, 9)]
        return losses, training.state(), device.generator().bit_generator.state

    assert_same_bits(run(cupynn.captured), run(plain))


def test_options_are_checked_as_ever(gpu_log):
    training = Training(Drops, cupynn.captured)
    for number in range(4):
        training.step(*training.batch(number))
    training.optimizer.param_groups[0]["lr"] = -0.1
    before = training.state()
    with pytest.raises(ValueError, match=r"SGD: lr of group 0 must be >= 0; got -0.1"):
        training.step(*training.batch(4))
    for name, array in training.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_momentum_that_begins_after_the_step_was_recorded(gpu_log):
    """The step is recorded anew, and velocities made in that call: a replay may not set them to zero again."""

    def run(wrap):
        training = Training(Drops, wrap, momentum=0.0, nesterov=False)
        for number in range(7):
            training.optimizer.param_groups[0]["momentum"] = 0.9 if number > 3 else 0.0
            training.step(*training.batch(number))
        return [], training.state(), device.generator().bit_generator.state

    assert_same_bits(run(cupynn.captured), run(plain))


def test_numbers_of_the_host_lie_in_memory_of_their_own(gpu_log):
    """Else an operation before, which had the memory until it was given back, would write to it at every launch."""

    def step(x):
        factors = cupynn.recording.upload(np.arange(3, dtype=np.float32), x * 2)
        return x * factors + cupynn.recording.renewed(lambda: np.ones(3, np.float32), x)

    x, step = device.asarray(np.ones((2, 3), np.float32)), cupynn.captured(step)
    for _ in range(step_graph.WARM_UP + 3):
        np.testing.assert_array_equal(step(x).get(), [[1, 2, 3]] * 2)


def test_many_arrays_are_joined(gpu_log):
    """CuPy joins more than eight by their addresses, which it brings to the device."""

    def step(x):
        rows = [Tensor(x + number) for number in range(20)]
        return cupynn.autograd.concatenate(rows, -1), cupynn.autograd.stack(rows, 1)

    x = device.asarray(np.arange(6.0).reshape(2, 3))
    captured = cupynn.captured(step)
    calls(captured, x)
    for given, wanted in zip(captured(x), step(x), strict=True):
        np.testing.assert_array_equal(given.numpy(), wanted.numpy())


def test_no_memory_left_for_a_step(gpu_log, monkeypatch):
    """CuPy's pool would give back what the step has freed, and go on; that memory is the graph's."""

    def full(size):
        raise fake_cupy.module.cuda.runtime.CUDARuntimeError(2)  # cudaErrorMemoryAllocation

    monkeypatch.setattr(fake_cupy.module.cuda, "Memory", full)
    with pytest.raises(MemoryError, match="captured: no memory is left on the GPU for 1 bytes of the step"):
        calls(cupynn.captured(lambda x: x * 2), device.asarray(np.ones(3)))


def test_a_parameter_that_is_replaced_is_found(gpu_log):
    training = Training(Drops, cupynn.captured, momentum=0.0, nesterov=False)
    for number in range(4):
        training.step(*training.batch(number))
    ran = training.ran
    weight = training.model.head.weight
    weight.data = weight.data * 2
    before = weight.numpy()
    training.step(*training.batch(4))
    assert training.ran == ran + 1 and (weight.numpy() != before).any()


def test_on_the_cpu_the_function_just_runs():
    given, wanted = results(Drops, cupynn.captured), results(Drops, plain)
    assert given[3] == wanted[3] == CALLS
    assert_same_bits(given, wanted)
    training = Training(Drops, cupynn.captured)
    loss, _ = training.step(*training.batch(0))
    assert loss.record is None and training.step.__name__ == "plain_step"


def calls(step, *arrays):
    for _ in range(step_graph.WARM_UP + 1):
        step(*arrays)


def refused(step, *parts):
    """The error of a step that cannot be recorded; afterwards another one can be."""
    x = device.asarray(np.ones((2, 3), np.float32))
    with pytest.raises(RuntimeError) as caught:
        calls(cupynn.captured(step), x)
    for part in parts:
        assert part in str(caught.value)
    doubled = cupynn.captured(lambda x: x * 2)
    calls(doubled, x)
    assert (doubled(x).get() == 2).all() and fake_streams.current == [fake_streams.null]


def test_a_step_that_waits_is_refused(gpu_log):
    def reads_the_loss(x):
        loss = Tensor(x).sum()
        return x if loss.item() > 1e9 else -x  # here

    def looks_at_an_array(x):
        if (x > 0).any():
            return x
        return -x

    def synchronizes(x):
        fake_cupy.module.cuda.Device().synchronize()
        return x

    test = "which a recorded step cannot do; it is asked for in test_captured.py, line "
    refused(reads_the_loss, "captured: reads_the_loss waits for the device in Tensor.item, " + test, "if loss.item() >")
    refused(synchronizes, "captured: synchronizes waits for the device, " + test, ".synchronize()")
    refused(looks_at_an_array, "captured: looks_at_an_array waits for the device, " + test, "if (x > 0).any():")


def test_a_wait_inside_an_operation_names_it(gpu_log):
    class Peeks(cupynn.autograd.Function):
        def forward(self, x):
            return x * float(x.max())

        def backward(self, grad):
            return grad

    refused(lambda x: Peeks()(Tensor(x)), "captured: <lambda> waits for the device in Peeks.forward, which")


def test_a_copy_from_the_host_is_refused(gpu_log):
    def adds_noise(x):
        return x + device.asarray(np.random.default_rng().standard_normal(x.shape).astype(np.float32))

    refused(adds_noise, "captured: adds_noise copies an array from the host, which", "return x + device.asarray(")


def test_gradients_that_add_up_are_refused(gpu_log):
    weight = Tensor(device.asarray(np.ones(3, np.float32)), requires_grad=True)

    def step(x):
        (Tensor(x) * weight).sum().backward()

    refused(step, "captured: the step runs backward, but never zero_grad()")


def test_wrong_arguments_and_results():
    with pytest.raises(TypeError, match="captured: <lambda> takes arrays; argument 1 is a float"):
        cupynn.captured(lambda x, lr: x)(np.ones(3), 0.1)
    with pytest.raises(TypeError, match=r"captured: a step returns arrays, tensors, None, .* it returned a float"):
        cupynn.captured(lambda x: (x, 1.0))(np.ones(3))


def test_an_error_of_the_step_itself_passes(gpu_log):
    def step(x):
        if cupynn.recording.current():
            raise ValueError("of its own")

    with pytest.raises(ValueError, match=r"^of its own$"):
        calls(cupynn.captured(step), device.asarray(np.ones(3)))
    assert fake_streams.current == [fake_streams.null]
