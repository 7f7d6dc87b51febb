"""What `cupynn doctor` says of OpenBLAS's choice of kernels."""

import os

import numpy as np
import pytest

from cupynn.cli import blas_core
from cupynn.kernels.runtime import blas

AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"}
AVX2 = {"avx2", "fma"}


@pytest.mark.parametrize(
    ("core", "flags", "set_to", "expected"),
    [
        ("Haswell", AVX512, None, [("set OPENBLAS_CORETYPE=SkylakeX", "SkylakeX")]),
        ("Zen", AVX512, "", [("set OPENBLAS_CORETYPE=SkylakeX", "SkylakeX")]),
        (
            "Haswell",
            AVX512,
            "Haswell",
            [("unset OPENBLAS_CORETYPE", None), ("set OPENBLAS_CORETYPE=SkylakeX", "SkylakeX")],
        ),
        ("Zen", AVX2, None, []),
        ("Prescott", AVX2, None, [("set OPENBLAS_CORETYPE=Haswell", "Haswell")]),
        ("SkylakeX", AVX512, None, []),
        ("Cooperlake", AVX512, None, []),
        ("SkylakeX", AVX512, "SkylakeX", [("unset OPENBLAS_CORETYPE", None)]),  # it may be slower than the own choice
        ("Prescott", {"sse2"}, None, []),
        ("neoversen1", set(), None, []),
        (None, AVX512, None, []),
    ],
)
def test_what_may_be_faster(core, flags, set_to, expected):
    environment = {"HOME": "/"} | ({} if set_to is None else {blas_core.VARIABLE: set_to})
    found = list(blas_core.candidates(core, flags, environment))
    assert [(advice, tried.get(blas_core.VARIABLE)) for advice, tried in found] == expected
    assert all(tried["HOME"] == "/" for _, tried in found)


NOW = {"core": "Haswell", "speed": 100e9, "right": True}


@pytest.mark.parametrize(
    ("then", "named"),
    [
        ({"core": "SkylakeX", "speed": 200e9, "right": True}, True),
        ({"core": "SkylakeX", "speed": 110e9, "right": True}, False),  # hardly faster
        ({"core": "SkylakeX", "speed": 200e9, "right": False}, False),
        (None, False),  # the process failed: an illegal instruction, perhaps
    ],
)
def test_a_remedy_is_named_only_if_it_holds(then, named, monkeypatch):
    monkeypatch.setattr(blas, "core", lambda: "Haswell")
    monkeypatch.setattr(blas_core, "flags", lambda: AVX512)
    monkeypatch.delenv(blas_core.VARIABLE, raising=False)
    monkeypatch.setattr(blas_core, "measured", lambda where: then if where.get(blas_core.VARIABLE) else NOW)
    found = blas_core.remedy()
    if named:
        assert found == (
            "OpenBLAS runs its kernels for Haswell, 100 GFLOP/s a thread in float32; those for SkylakeX give 200, and "
            "right results: set OPENBLAS_CORETYPE=SkylakeX"
        )
    else:
        assert found is None


def test_nothing_is_measured_where_the_choice_is_right(monkeypatch):
    monkeypatch.setattr(blas, "core", lambda: "SkylakeX")
    monkeypatch.setattr(blas_core, "flags", lambda: AVX512)
    monkeypatch.delenv(blas_core.VARIABLE, raising=False)
    monkeypatch.setattr(blas_core, "measured", lambda where: pytest.fail("measured"))
    assert blas_core.remedy() is None


def test_a_product_is_measured_and_checked(monkeypatch):
    found = blas_core.measure()
    assert found["core"] == blas.core() and found["right"] and found["speed"] > 0

    class Wrong(np.ndarray):
        def __matmul__(self, other):
            product = np.asarray(self) @ np.asarray(other)
            if product.dtype == np.float32:
                product[0, 0] += 1
            return product

        def astype(self, dtype):
            return np.asarray(self).astype(dtype)

    arrays = np.random.default_rng(0).standard_normal((2, 512, 512), np.float32)

    class Generator:
        def standard_normal(self, shape, dtype):
            return arrays.view(Wrong)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Generator())
    assert not blas_core.measure()["right"]


def test_another_process_takes_the_variable():
    if blas.core() is None or not AVX2 <= blas_core.flags():
        pytest.skip("needs OpenBLAS and AVX2")
    found = blas_core.measured({**os.environ, blas_core.VARIABLE: "Haswell"})
    assert found["core"] == "Haswell" and found["right"] and found["speed"] > 0
    assert blas_core.measured({**os.environ, "PYTHONHOME": "/nowhere"}) is None
