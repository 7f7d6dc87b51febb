import warnings

import pytest

from cupynn.device import cuda_available
from cupynn.distributed.nccl import Ring


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_a_ring_of_one_gpu(dtype):
    """The way through NCCL and the two streams; the sum over one rank is what it was."""
    if not cuda_available():
        pytest.skip("no GPU here")
    import cupy
    from cupy.cuda import nccl

    if not nccl.available:
        pytest.skip("CuPy finds no NCCL: pip install nvidia-nccl-cu12")
    ring = Ring(0, 1, lambda value: value)
    array = cupy.arange(1 << 20).astype(dtype)
    started = ring.start_sum(array)
    started.Test()
    started.Wait()
    array += 1  # behind the sum, on the current stream
    assert bool((array == cupy.arange(1, (1 << 20) + 1).astype(dtype)).all())


def test_without_nccl_the_error_says_what_to_install(monkeypatch):
    pytest.importorskip("cupy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy's own, where NCCL is missing
        from cupy.cuda import nccl

    monkeypatch.setattr(nccl, "available", False, raising=False)
    with pytest.raises(RuntimeError, match="pip install nvidia-nccl-cu12"):
        Ring(0, 2, lambda value: value)
