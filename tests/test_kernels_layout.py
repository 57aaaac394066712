"""The layout of the compiled loops: where it is had without a copy, and what it says of which number."""

import numpy as np
import pytest
import torch

from nfstudy.kernels.layout import empty_lanes, lanes

SHAPES = pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (3, 5), (2, 3, 5), (4, 2, 3, 5), (1, 3, 5)], ids=str)


@SHAPES
def test_lanes_are_the_numbers_turned_round(shape):
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    turned = lanes(x)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, x.reshape(-1, *shape[-2:]).mT.numpy())


@SHAPES
def test_what_fills_the_lanes_of_an_empty_tensor_fills_the_tensor(shape):
    empty = empty_lanes(torch.zeros(shape, dtype=torch.float64))
    assert empty.dtype == torch.float64
    turned = lanes(empty)
    turned[:] = np.arange(turned.size).reshape(turned.shape)
    assert empty._base is None
    np.testing.assert_array_equal(empty.reshape(-1, *shape[-2:]).mT.numpy(), turned)


def test_samples_that_share_their_numbers_are_copied():
    x = torch.arange(6.0).view(2, 3).expand(4, 2, 3)
    np.testing.assert_array_equal(lanes(x), x.mT.numpy())
