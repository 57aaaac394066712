"""A slice of `make chaos` that every `make test` takes."""

import pytest
from support.command_line import launch

from chaos import storm
from chaos.kinds import grid

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

UPDATES, RATES, KILLS, WORKERS = 400, (1e-3,), 4, 2


def test_a_study_whose_processes_are_killed_is_the_one_that_was_left_alone(tmp_path):
    kind = grid(RATES)
    calm = storm.prepare(tmp_path / "calm", kind, UPDATES)
    seconds = storm.leave_alone(calm, WORKERS, launch)
    disturbed = storm.prepare(tmp_path / "storm", kind, UPDATES)
    done = storm.rage(disturbed, KILLS, seed=1, interval=seconds / KILLS, workers=WORKERS, launch=launch)
    assert done.kills > 0
    storm.assert_whole(disturbed, calm)
    assert storm.differences(calm, disturbed) == []
