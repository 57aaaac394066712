"""What is random about many updates at once: bit for bit what is drawn one update after another."""

import numpy as np
import pytest
import torch

from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.drawing import MOST_NUMBERS, in_blocks, normal
from nfstudy.inference.training.replayed import _past
from nfstudy.study.settings import Settings

SETTINGS = {
    "data": {"name": "digits"},
    "model": {"latent": 4, "hidden": 8, "layers": 1, "maxout": 2},
    "flow": {"family": "planar", "length": 2},
    "train": {"updates": 30, "batch": 10},
}
PLANE = {"energy": {"name": "u1"}, "flow": {"family": "planar", "length": 2}, "train": {"updates": 30, "batch": 7}}


def in_turn(size, seed):
    stream = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(size, generator=stream)


@pytest.mark.parametrize("size", [1, 7, 15, 16, 17, 20, 40, 48, 4000])
def test_numbers_of_many_updates_are_those_of_one_after_another(size):
    stream, drawn = torch.Generator().manual_seed(5), in_turn(size, 5)
    for updates in (3, 1, 8):
        many = normal(updates, (size,), stream)
        assert torch.equal(many, torch.stack([next(drawn) for _ in range(updates)]))


def test_blocks_are_as_large_as_asked_and_as_there_is_room_for():
    assert [*in_blocks(10, 4, 1)] == [4, 4, 2]
    assert [*in_blocks(3, 100, MOST_NUMBERS // 2)] == [2, 1]
    assert [*in_blocks(2, 100, 10 * MOST_NUMBERS)] == [1, 1]
    assert [*in_blocks(0, 4, 1)] == []


def problem_of(changes, levels=1):
    settings = Settings.model_validate(changes if "energy" in changes else {**SETTINGS, **changes})
    if settings.data is None:
        return make_problem(settings, None, 1, "cpu")
    rng = np.random.default_rng(0)
    splits = Splits(*(rng.integers(levels + 1, size=(count, 12), dtype=np.uint8) for count in (140, 20, 20)))
    return make_problem(settings, make_dataset("tiny", (3, 4), levels, splits, "made here"), 1, "cpu")


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, 1),
        ({}, 16),
        ({"objective": {"samples": 3}}, 1),
        ({"train": {"updates": 30, "batch": 8}}, 255),
        (PLANE, 1),
    ],
    ids=["bits", "levels", "several samples", "a multiple of 16", "an energy"],
)
@pytest.mark.parametrize("at_once", [1, 4, 500])
def test_blocks_of_a_problem_hold_its_draws(changes, levels, at_once):
    problem = problem_of(changes, levels)
    one_by_one = [*problem.draws(2, 13)]
    blocks = [*problem.blocks(2, 13, at_once)]
    assert max(len(block[0]) for block in blocks) == min(at_once, 13)
    rows = [row for block in blocks for row in zip(*block, strict=True)]
    assert len(rows) == len(one_by_one) == 13
    for row, drawn in zip(rows, one_by_one, strict=True):
        assert len(row) == len(drawn)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(row, drawn, strict=True))


@pytest.mark.parametrize("done", [0, 1, 3, 4, 9, 10])
def test_what_is_past_some_updates_of_blocks(done):
    blocks = [(torch.arange(first, last), torch.arange(first, last) * 2) for first, last in ((0, 4), (4, 8), (8, 10))]
    left = [number for block, double in _past(done, blocks) for number in block.tolist()]
    assert left == [*range(done, 10)]
