"""`ops.seq_conv` against the definition with concatenation, its gradients, and the memory it takes."""

import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cupynn
from cupynn import ops
from cupynn.autograd import gradcheck, no_grad, tensor
from cupynn.kernels import batch_norm, conv, conv_scaled, runtime
from cupynn.ops.seq_conv import NormalisedConv, SeqConvGroup


def make_groups(rng, channels, count, k, windowed, reduced, subgroups=1, dtype=np.float64):
    """Random groups whose weights require grad."""

    def stage(shape):
        learned = rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5, *rng.uniform(0.5, 1.5, (2, k))
        running = rng.standard_normal(k), rng.uniform(0.5, 2, k)
        parameters = (tensor(array.astype(dtype), requires_grad=True) for array in learned)
        return NormalisedConv(*parameters, *(array.astype(dtype) for array in running))

    views = [channels if windowed else channels + j * k for j in range(count)]
    if reduced:
        return [SeqConvGroup(stage((k, k // subgroups, 3, 3)), stage((k, view, 1, 1))) for view in views]
    return [SeqConvGroup(stage((k, view, 3, 3))) for view in views]


def running_of(groups):
    return [array for group in groups for stage in group.stages for array in stage[3:]]


def leaves_of(groups):
    return [leaf for group in groups for stage in group.stages for leaf in stage[:3]]


def concatenated(x, groups, shortcut=None, windowed=True, subgroups=1, dropout=0.0, training=False):
    """The definition, written as the authors do: every group concatenates its view."""
    view, raws, acts, k = x, [], [], groups[0].conv.weight.shape[0]
    for j, group in enumerate(groups):
        y = ops.dropout2d(view, dropout, training)
        if group.reduction is not None:
            weight, *norm = group.reduction
            y = ops.batch_norm(ops.conv2d(y, weight), *norm, training=training, relu=True)
        weight, *norm = group.conv
        y = ops.conv2d(y, weight, padding=1, groups=subgroups)
        raws.append(y if shortcut is None else y + shortcut[:, j * k : (j + 1) * k])
        acts.append(ops.batch_norm(raws[-1], *norm, training=training, relu=True))
        view = ops.concatenate([view[:, k:] if windowed else view, acts[-1]], axis=1)
    return ops.concatenate(raws, axis=1), ops.concatenate(acts, axis=1)


def run(function, seed, x_shape, shape, with_shortcut, training, dropout, dtype=np.float64):
    """Everything that `function` gives: raw, act, all gradients, running statistics."""
    channels, count, k, windowed, reduced, subgroups = shape
    rng = np.random.default_rng(seed)
    groups = make_groups(rng, channels, count, k, windowed, reduced, subgroups, dtype)
    out_shape = (x_shape[0], count * k, *x_shape[2:])
    x = tensor(rng.standard_normal(x_shape).astype(dtype), requires_grad=True)
    shortcut = tensor(rng.standard_normal(out_shape).astype(dtype), requires_grad=True) if with_shortcut else None
    cupynn.manual_seed(seed)
    raw, act = function(x, groups, shortcut, windowed, subgroups, dropout, training)
    (raw * rng.standard_normal(out_shape).astype(dtype) + act * rng.standard_normal(out_shape).astype(dtype)).backward(
        np.ones(out_shape, dtype)
    )
    leaves = [x, *leaves_of(groups)] + ([shortcut] if with_shortcut else [])
    return [raw.numpy(), act.numpy(), *(leaf.grad for leaf in leaves), *running_of(groups)]


@st.composite
def problems(draw):
    reduced, windowed = draw(st.booleans()), draw(st.booleans())
    k = draw(st.integers(1, 4))
    subgroups = draw(st.sampled_from([d for d in (1, 2, 3, 4) if k % d == 0])) if reduced else 1
    channels, count = draw(st.integers(k if windowed else 1, 6)), draw(st.integers(1, 4))
    # fewer than some 20 values per channel could have a variance near 0, which no tolerance allows for
    x_shape = (draw(st.integers(2, 4)), channels, draw(st.integers(3, 6)), draw(st.integers(4, 6)))
    return x_shape, (channels, count, k, windowed, reduced, subgroups)


@given(
    problem=problems(),
    shortcut=st.booleans(),
    training=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    part=st.integers(1, 20),
)
def test_it_is_the_definition_with_concatenation(problem, shortcut, training, dropout, part):
    arguments = (*problem, shortcut, training, dropout)
    with mock.patch.object(sys.modules["cupynn.ops.seq_conv"], "PART", part):  # x in one part, in some, in too many
        found = run(ops.seq_conv, 0, *arguments)
    wanted = run(concatenated, 0, *arguments)
    for ours, theirs in zip(found, wanted, strict=True):
        # the same sums of up to some 10^3 terms in another order, through up to 8 batch norms
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * max(1, np.abs(theirs).max()))


SHAPES = {  # input channels, groups, k, windowed, reduced, subgroups
    "windowed": (4, 3, 2, True, False, 1),
    "windowed past its input": (3, 3, 2, True, False, 1),
    "dense": (3, 2, 2, False, False, 1),
    "reduced": (3, 2, 2, True, True, 1),
    "dense, reduced, with subgroups": (3, 2, 2, False, True, 2),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradcheck(shape, training):
    channels, count, k, windowed, _, subgroups = shape
    rng = np.random.default_rng(5)
    groups = make_groups(rng, *shape)
    arrays = [rng.standard_normal((2, c, 3, 2)) for c in (channels, count * k)]

    def f(x, shortcut, *leaves):
        fresh, leaves = [], iter(leaves)
        for group in groups:
            stages = [
                NormalisedConv(*(next(leaves) for _ in range(3)), *(array.copy() for array in stage[3:]))
                for stage in group.stages
            ]
            fresh.append(SeqConvGroup(*stages[::-1]))
        return ops.seq_conv(x, fresh, shortcut, windowed, subgroups, training=training)

    gradcheck(f, [*(tensor(array, requires_grad=True) for array in arrays), *leaves_of(groups)])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_two_runs_give_the_same_bits(shape):
    arguments = (3, (5, shape[0], 7, 6), shape, True, True, 0.3, np.float32)
    for first, second in zip(run(ops.seq_conv, *arguments), run(ops.seq_conv, *arguments), strict=True):
        assert first.tobytes() == second.tobytes()


def test_float32_stays_close_to_float64():
    shape, x_shape = SHAPES["windowed"], (4, 4, 9, 8)
    single, double = (run(concatenated, 1, x_shape, shape, True, True, 0.0, dtype) for dtype in ("float32", "float64"))
    ours = run(ops.seq_conv, 1, x_shape, shape, True, True, 0.0, np.float32)
    for found, plain, exact in zip(ours, single, double, strict=True):
        assert found.dtype == np.float32
        scale = np.abs(exact).max()
        # draws differ between the dtypes only by rounding; sums of some 300 terms: 300 eps = 4e-5 of the largest
        np.testing.assert_allclose(found, plain, rtol=0, atol=4e-5 * scale)


def test_every_group_draws_its_own_channels_from_an_undropped_view():
    """The mask of a group falls on its own view alone: what stays in the buffer is x and the activations."""
    rng = np.random.default_rng(2)
    groups = make_groups(rng, 8, 3, 2, True, False)
    x = rng.uniform(1, 2, (4, 8, 3, 3))
    cupynn.manual_seed(7)
    raw, act = ops.seq_conv(tensor(x, requires_grad=True), groups, dropout=0.5, training=True)
    buffer, _, _, _, masks = raw.record.function.saved
    np.testing.assert_array_equal(buffer, np.concatenate([x, act.numpy()], axis=1))
    kept = [masks[:, j, 2 * j : 2 * j + 8] for j in range(3)]
    assert all(np.isin(mask, [0, 2]).all() for mask in kept) and 0.2 < np.mean(kept) / 2 < 0.8
    # channels 4 to 7 of the buffer are seen by all three groups, with masks drawn anew
    assert not np.array_equal(kept[0][:, 4:8], kept[1][:, 2:6])
    assert not np.array_equal(kept[1][:, 2:6], kept[2][:, 0:4])
    for j, group in enumerate(groups):
        view = buffer[:, 2 * j : 2 * j + 8] * kept[j][:, :, None, None]
        wanted = conv.reference_forward(view, group.conv.weight.numpy(), padding=1)
        np.testing.assert_allclose(raw.numpy()[:, 2 * j : 2 * j + 2], wanted, rtol=0, atol=1e-12)
    plain = ops.seq_conv(tensor(x, requires_grad=True), groups, dropout=0.5, training=False)[0]
    assert plain.record.function.saved[-1] is None


def test_inputs_that_need_no_gradient_get_none():
    rng = np.random.default_rng(4)
    groups = make_groups(rng, 4, 3, 2, True, False)
    x, shortcut = rng.standard_normal((2, 4, 4, 5)), tensor(rng.standard_normal((2, 6, 4, 5)), requires_grad=True)
    ops.seq_conv(x, groups, shortcut, training=True)[1].sum().backward()
    assert shortcut.grad is not None and all(leaf.grad is not None for leaf in leaves_of(groups))
    with no_grad():
        raw, act = ops.seq_conv(tensor(x, requires_grad=True), groups, training=True)
    assert not raw.requires_grad and not act.requires_grad


def test_an_empty_batch_in_evaluation():
    groups = make_groups(np.random.default_rng(0), 4, 2, 2, True, True)
    x = tensor(np.zeros((0, 4, 3, 3)), requires_grad=True)
    raw, act = ops.seq_conv(x, groups)
    (raw + act).sum().backward()
    assert raw.shape == act.shape == (0, 4, 3, 3) and x.grad.shape == x.shape
    assert not any(leaf.grad.any() for leaf in leaves_of(groups))


def peak(call):
    """The most bytes that `call` has allocated at a time: NumPy reports its arrays to tracemalloc."""
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("windowed", [True, False])
def test_one_buffer_its_gradient_and_what_one_push_needs(windowed):
    """Forward allocates the buffer and raw; backward the buffer's gradient; each, besides, the weights of all groups,
    and what one group's batch norm and the widest convolution need, measured on arrays that are there."""
    if runtime.mode() != "compiled":
        pytest.skip("the reference unfolds images, and checked mode copies arrays into guard zones")
    rng, k, count, channels = np.random.default_rng(6), 8, 4, 32
    x = tensor(rng.standard_normal((128, channels, 16, 16), np.float32), requires_grad=True)
    groups = make_groups(rng, channels, count, k, windowed, False, dtype=np.float32)
    grads = rng.standard_normal((2, 128, count * k, 16, 16), np.float32)

    def step():
        raw, act = ops.seq_conv(x, groups, windowed=windowed, training=True)
        return raw, act, peak(lambda: raw.record.function.backward(*grads))

    step()  # compiles and plans
    wide, view, scale = np.zeros_like(grads[0]), np.zeros_like(x.data), np.ones(k, np.float32)
    weight = np.zeros((count * k, channels, 3, 3), np.float32)

    def group_and_push():
        own = wide[:, :k]
        draw = batch_norm.backward_train(own, own, None, scale, scale, scale, scale, relu=True)[0]
        conv_scaled.weight_gradient(wide, view, weight)
        conv_scaled.input_gradient(wide, weight, view)
        return draw

    group_and_push()
    single = peak(group_and_push)[0]
    buffer = x.data.nbytes + grads[0].nbytes
    assert single < 0.5 * x.data.nbytes, "one push alone must be small for this test to tell"
    # Less than a tenth of the buffer: weights of all groups side by side, their gradients, both in parts; statistics.
    small = 8 * count * k * (channels + count * k) * 9 * 4 + (64 << 10)
    forward, (raw, _, (backward, _)) = peak(lambda: ops.seq_conv(x, groups, windowed=windowed, training=True)), step()
    assert buffer + raw.data.nbytes <= forward[0] <= buffer + raw.data.nbytes + single + small
    assert buffer <= backward <= buffer + single + small


def test_errors_come_before_anything_changes():
    rng = np.random.default_rng(8)
    groups = make_groups(rng, 4, 2, 2, True, False)
    before = [array.copy() for array in running_of(groups)]
    x = rng.standard_normal((2, 4, 3, 3))
    fault = lambda message, *args, kind=ValueError, **options: _raises(kind, message, *args, training=True, **options)  # noqa: E731
    fault("x must be .N, C, H, W.; it has shape .2, 4, 3.", x[..., 0], groups)
    fault(
        r"x has shape \(2, 3, 3, 3\), so group 0's conv.weight must be \(2, 3, 3, 3\); it has shape", x[:, :3], groups
    )
    fault(r"group 1's conv.weight must be \(2, 6, 3, 3\); it has shape \(2, 4, 3, 3\)", x, groups, windowed=False)
    fault(r"shortcut must be \(2, 4, 3, 3\); it has shape \(2, 4, 3, 2\)", x, groups, x[..., :2])
    fault("groups must be one or more; got none", x, [])
    fault("dropout must be a probability from 0 to 1; got 1.5", x, groups, dropout=1.5)
    fault("subgroups must divide the k=2 channels", x, groups, subgroups=2)
    fault("a window moves by k=2 channels, so x needs as many; x has shape", x[:, :1], groups)
    mixed = [groups[0], *make_groups(rng, 4, 1, 2, True, True)]
    fault("all groups or none have a reduction; group 1 differs", x, mixed)
    last = groups[1].conv._replace(shift=groups[1].conv.shift.numpy().astype(np.float32))
    fault(
        "group 1's conv.shift must be float64 where x is float64; it is float32",
        x,
        [groups[0], SeqConvGroup(last)],
        kind=TypeError,
    )
    fault("more than one value per channel", x[:1, :, :1, :1], groups)
    assert all(np.array_equal(a, b) for a, b in zip(running_of(groups), before, strict=True))


def _raises(kind, message, *args, **options):
    with pytest.raises(kind, match=message):
        ops.seq_conv(*args, **options)
