"""Cells are timed on workers that may still be starting; what one did not begin, its successor does."""

from support.fake_engine import FakeEngine, FakeWorker

from nfstudy.runner.prepare import CostMeasurement
from nfstudy.runner.signals import StopSignal
from nfstudy.runner.worker import Died, Measure
from nfstudy.runs.result import Cost, TrialResult
from nfstudy.study.cells import cost_key
from nfstudy.study.reader import read_study


class Timing(FakeWorker):
    """Says of each cell what it takes: so many seconds an update as it was given cells before."""

    def __init__(self, number, script):
        super().__init__(number, script)
        self.given = []

    def send(self, order):
        assert isinstance(order, Measure)
        self.given.append(order.settings)
        self.said.append(self.script(order.settings))


class Machine(FakeEngine):
    def _start(self, number):
        self.started.append(worker := Timing(number, self.script))
        return worker


STUDY = """\
study: little
title: Little
data: {name: digits}
flow: {family: planar}
grid: {flow.length: [0, 2, 4]}
exhibits: [summary]
"""


def cells_of(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return read_study(path).under(None).corners


def seconds(machine, measurement):
    told = []
    found = measurement.seconds(StopSignal(), told.append)
    assert not told
    return found


def test_each_worker_of_this_machine_has_a_cell_before_anything_is_waited_for(tmp_path):
    cells = cells_of(tmp_path)
    machine = Machine(2, lambda settings: Cost(0.5, 1.0, 2.0))
    measurement = CostMeasurement(machine, cells)
    assert [len(worker.given) for worker in machine.workers] == [1, 1]
    assert all(worker.device is None for worker in machine.workers), "none has said that it has started"
    found = seconds(machine, measurement)
    assert found.keys() == {cost_key(cell.key, "repetition") for cell in cells}
    assert sum(len(worker.given) for worker in machine.workers) == len(cells)


def test_where_workers_wait_for_room_none_is_given_a_cell_before_it_has_started(tmp_path):
    machine = Machine(2, lambda settings: Cost(0.5, 1.0, 2.0))
    machine.starts_wait = True
    measurement = CostMeasurement(machine, cells_of(tmp_path))
    assert [len(worker.given) for worker in machine.workers] == [0, 0]
    assert len(seconds(machine, measurement)) == 3


def test_a_worker_that_dies_before_it_has_started_leaves_its_cell_to_the_next(tmp_path):
    cells = cells_of(tmp_path)
    machine = Machine(1, lambda settings: Cost(0.5, 1.0, 2.0))
    measurement = CostMeasurement(machine, cells)
    (first,) = machine.workers
    first.said.clear()
    first.said.append(Died("its worker process exited with exit code 1"))
    assert seconds(machine, measurement).keys() == {cost_key(cell.key, "repetition") for cell in cells}
    assert machine.started[0] is first
    assert len(machine.started) == 2
    assert first.given[0] in machine.started[1].given


def test_a_cell_that_cannot_be_timed_has_no_estimate_and_the_others_have(tmp_path):
    cells = cells_of(tmp_path)
    machine = Machine(
        2, lambda settings: TrialResult("failed", 0, "no") if settings.flow.length == 2 else Cost(0.5, 1.0, 2.0)
    )
    found = seconds(machine, CostMeasurement(machine, cells))
    assert len(found) == len(cells) - 1
