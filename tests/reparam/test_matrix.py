"""The sparse matrix of a convolution [ExpandNets, Appendix D]."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cupynn import ops
from cupynn.autograd import Tensor
from cupynn.nn.expanded import ExpandedConv2d
from cupynn.reparam import conv_matrix

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=25, deadline=None, print_blob=True)
@given(
    seed=st.integers(0, 2**16),
    kernel_size=SIZES,
    stride=SIZES,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    extra=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    groups=st.integers(1, 3),
    channels=SIZES,
)
def test_product_with_an_image_is_the_convolution(seed, kernel_size, stride, padding, extra, groups, channels):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((channels[0] * groups, channels[1], *kernel_size))
    shape = (channels[1] * groups, kernel_size[0] + extra[0], kernel_size[1] + extra[1])
    x = rng.standard_normal(shape)
    y = ops.conv2d(Tensor(x[None]), w, stride=stride, padding=padding, groups=groups).data
    matrix = conv_matrix(w, shape, stride, padding)
    assert matrix.shape == (y.size, x.size)
    np.testing.assert_allclose(matrix @ x.reshape(-1), y.reshape(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "kernel_size", "stride", "padding", "groups"),
    [("cl", 3, 2, 1, 1), ("cl", 5, 1, 2, 2), ("ck", 5, 2, 2, 1), ("ck", 7, 1, 3, 1), ("ck", 7, 3, 1, 2)],
)
def test_product_of_the_layers_matrices_is_the_contracted_ones(strategy, kernel_size, stride, padding, groups):
    layer = ExpandedConv2d(strategy, 2, 4, kernel_size, stride, padding, groups=groups, bias=False, rate=2)
    layer.astype(np.float64)
    shape = (2, 8, 7)
    product, size = None, shape
    for part in layer.layers:
        matrix = conv_matrix(part.weight, size, part.stride, part.padding)
        product = matrix if product is None else matrix @ product
        size = part(Tensor(np.zeros((1, *size)))).shape[1:]
    contracted = conv_matrix(layer.contract().weight, shape, stride, padding)
    assert product.shape == contracted.shape
    assert abs(product - contracted).max() < 1e-14 * 100 < 1e-3 < abs(contracted).max()


def test_looks_as_in_the_paper():
    """A 2x2 kernel on a 3x3 image: four rows, each the kernel's rows set apart by the image's width."""
    dense = conv_matrix(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), (1, 3, 3)).toarray()
    wanted = [
        [1, 2, 0, 3, 4, 0, 0, 0, 0],
        [0, 1, 2, 0, 3, 4, 0, 0, 0],
        [0, 0, 0, 1, 2, 0, 3, 4, 0],
        [0, 0, 0, 0, 1, 2, 0, 3, 4],
    ]
    np.testing.assert_array_equal(dense, wanted)


def test_a_weight_that_does_not_fit():
    with pytest.raises(ValueError, match=r"weight has shape \(2, 2, 1, 1\)"):
        conv_matrix(np.zeros((2, 2, 1, 1)), (3, 4, 4))
