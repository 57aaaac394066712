"""The layout of the compiled loops: where it is had without a copy, and what it says of which number."""

import math

import numpy as np
import pytest
import torch

from nfstudy.core.kernels.layout import from_lanes, lanes

SHAPES = pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (3, 5), (2, 3, 5), (4, 2, 3, 5), (1, 3, 5)], ids=str)


@SHAPES
def test_lanes_are_the_numbers_turned_round(shape):
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    turned = lanes(x)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, x.reshape(-1, *shape[-2:]).mT.numpy())


@SHAPES
def test_an_array_and_the_tensor_made_of_it_share_their_memory(shape):
    *samples, images, latent = shape
    array = np.zeros((math.prod(samples), latent, images))
    tensor = from_lanes(array, torch.Size(shape))
    assert tensor.shape == shape
    assert tensor.dtype == torch.float64
    array[:] = np.arange(array.size).reshape(array.shape)
    np.testing.assert_array_equal(tensor.reshape(-1, images, latent).mT.numpy(), array)
    assert np.shares_memory(lanes(tensor), array), "no copy on the way back"


@SHAPES
def test_an_array_of_its_own_leaves_the_tensor_as_it_is(shape):
    for x in (torch.ones(shape), torch.ones(*shape[:-2], shape[-1], shape[-2]).mT):
        turned = lanes(x, own=True)
        assert turned.flags.c_contiguous
        turned[:] = 2
        assert (x == 1).all()


def test_samples_that_share_their_numbers_are_copied():
    x = torch.arange(6.0).view(2, 3).expand(4, 2, 3)
    np.testing.assert_array_equal(lanes(x), x.mT.numpy())
