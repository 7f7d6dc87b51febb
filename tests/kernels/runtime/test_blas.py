"""Small products take one thread and give the threads back; large ones and other BLAS libraries are left alone."""

import numpy as np
import pytest

from cupynn.kernels.runtime import blas


class FakeOpenBLAS:
    def __init__(self, threads):
        self.threads, self.history = threads, []

    def get(self):
        return self.threads

    def set(self, threads):
        self.threads = threads
        self.history.append(threads)


@pytest.fixture
def openblas(monkeypatch):
    fake = FakeOpenBLAS(4)
    monkeypatch.setattr(blas, "_openblas", lambda: (fake.get, fake.set))
    return fake


@pytest.mark.parametrize(
    "a_shape, b_shape",
    [((3, 4), (4, 5)), ((4,), (4, 5)), ((2, 1, 3, 4), (7, 4, 5)), ((0, 4), (4, 5)), ((3, 0), (0, 5))],
)
def test_it_is_the_matrix_product(openblas, a_shape, b_shape):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(a_shape), rng.standard_normal(b_shape)
    np.testing.assert_array_equal(blas.product(a, b), a @ b)
    assert openblas.history == [1, 4]


def test_large_products_and_one_thread_are_left_alone(openblas, monkeypatch):
    a = np.ones((4, 4))
    monkeypatch.setattr(blas, "LARGE", 64)
    blas.product(a, a)
    assert openblas.history == []
    monkeypatch.setattr(blas, "LARGE", 65)
    openblas.threads = 1
    blas.product(a, a)
    assert openblas.history == []


def test_the_threads_come_back_after_an_error(openblas):
    with pytest.raises(ValueError):
        blas.product(np.ones((2, 3)), np.ones((2, 3)))
    assert openblas.history == [1, 4] and openblas.threads == 4


def test_the_real_library_if_there_is_one():
    found = blas._openblas()
    if found is None:
        pytest.skip("NumPy here has no OpenBLAS of its own")
    get, put = found
    before = get()
    try:
        put(2)
        blas.product(np.ones((8, 8)), np.ones((8, 8)))
        assert get() == 2
    finally:
        put(before)
