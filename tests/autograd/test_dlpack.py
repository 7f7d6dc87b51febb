"""Memory shared with other libraries by DLPack."""

import numpy as np
import pytest

import cupynn
from cupynn import Tensor, from_dlpack, tensor

pytestmark = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy 2.0 makes whatever it takes over read-only"
)

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float16": np.arange(4, dtype=np.float16),
    "int64": np.arange(5),
    "uint8": np.arange(5, dtype=np.uint8),
    "bool": np.array([[True, False], [False, True]]),
    "0-d": np.array(2.5),
    "0-d bool": np.array(True),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "every second": np.arange(24.0).reshape(4, 6)[::2, 1::2],
    "broadcast": np.broadcast_to(np.arange(3.0), (2, 3)),
    "no elements": np.zeros((0, 3)),
}


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_and_back(name):
    array = ARRAYS[name] if name == "broadcast" else ARRAYS[name].copy(order="K")
    t = from_dlpack(array)
    back = np.from_dlpack(t)
    assert type(t) is Tensor and not t.requires_grad and t.record is None
    for shared in (t.data, back):
        assert shared.dtype == array.dtype and shared.shape == array.shape
        np.testing.assert_array_equal(shared, array)
    if array.size and array.flags.writeable:
        assert address(t.data) == address(array) and t.data.strides == array.strides
        array[...] = 0
        assert not t.data.any() and not back.any()
        t.data[...] = 1
        assert array.all() and back.all()
    assert t.data.flags.writeable == array.flags.writeable


def test_slices_share_only_what_they_show():
    array = np.zeros((4, 6))
    t = from_dlpack(array[::2, 1::2])
    t.data[...] = 1
    assert array.sum() == 6 and array[::2, 1::2].all()


def test_read_only_stays_read_only():
    array = np.arange(3.0)
    array.flags.writeable = False
    t = from_dlpack(array)
    assert address(t.data) == address(array) and not np.from_dlpack(t).flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        t.data[0] = 1
    with pytest.raises(BufferError, match="readonly"):
        t.__dlpack__()  # the protocol's first version cannot say that it is


def test_what_requires_grad_is_refused():
    t = tensor([1.0, 2.0], requires_grad=True)
    for refused in (t, t * 2, cupynn.nn.Linear(2, 2).weight):
        for consumer in (np.from_dlpack, from_dlpack):
            with pytest.raises(BufferError, match=r"this tensor requires grad.*t\.detach\(\) or t\.data"):
                consumer(refused)
    assert np.from_dlpack(t.detach()) is not t.data and np.shares_memory(np.from_dlpack(t.detach()), t.data)
    shared = from_dlpack(t.data)
    shared.data[0] = 7
    assert t.data[0] == 7
    with cupynn.no_grad():
        assert np.from_dlpack(t * 2).tolist() == [14, 4]


def test_backward_axes_are_refused():
    with pytest.raises(BufferError, match=r"runs backwards in memory; hand over t\.data\.copy\(\)"):
        np.from_dlpack(Tensor(np.arange(4.0)[::-1]))


class Elsewhere:
    def __dlpack__(self, **options):
        raise AssertionError("it has to be refused before")

    def __dlpack_device__(self):
        return 8, 0  # Metal


def test_what_cannot_be_shared():
    with pytest.raises(TypeError, match="from_dlpack: x must have __dlpack__ and __dlpack_device__; list has not"):
        from_dlpack([1.0, 2.0])
    with pytest.raises(BufferError, match=r"from_dlpack: x lies on a device of DLPack's kind 8; .*\(1, 3, 2, 13\)"):
        from_dlpack(Elsewhere())


def test_gradients_flow_from_a_shared_leaf():
    array = np.array([1.0, 2.0, 3.0])
    t = from_dlpack(array)
    t.requires_grad = True
    (t * t).sum().backward()
    np.testing.assert_array_equal(t.grad, 2 * array)


def test_torch_both_ways():
    torch = pytest.importorskip("torch")
    for name, array in ARRAYS.items():
        theirs = torch.from_numpy(array.copy())
        ours = from_dlpack(theirs)
        np.testing.assert_array_equal(ours.data, array)
        assert ours.shape == tuple(theirs.shape) and ours.dtype == array.dtype
        if array.size:
            assert address(ours.data) == theirs.data_ptr()
            theirs.fill_(1)
            assert (ours.data == 1).all(), name
            ours.data[...] = 0
            assert not theirs.any(), name
        again = torch.from_dlpack(ours)
        assert again.data_ptr() == theirs.data_ptr() and again.dtype == theirs.dtype
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert from_dlpack(transposed).data.strides == (4, 12)
    strided = torch.from_dlpack(Tensor(np.arange(24.0).reshape(4, 6)[::2, 1::2]))
    assert strided.stride() == (12, 2)
    with pytest.raises(BufferError, match="require gradient"):
        from_dlpack(torch.ones(2, requires_grad=True))
    with pytest.raises(BufferError, match="this tensor requires grad"):
        torch.from_dlpack(tensor([1.0], requires_grad=True))
    with pytest.raises(TypeError, match="from_dlpack: Unsupported dtype"):
        from_dlpack(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(BufferError, match="runs backwards"):
        torch.from_dlpack(Tensor(np.arange(4.0)[::-1]))
