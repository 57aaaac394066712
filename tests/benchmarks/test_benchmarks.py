import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from llvmlite.binding import get_host_cpu_name
from matplotlib.figure import Figure

from benchmarks import __main__ as command
from benchmarks import first_use, flagship, flows, likelihood, ours, paper, peers, scaling, step, timing
from benchmarks.contest import Contest, torch_contestant
from benchmarks.page import MOST_ROWS, write_page
from benchmarks.result import Result, Verdict, as_tables, save
from nfstudy.flows.full_covariance.flow import full_covariance
from nfstudy.flows.householder.flow import householder_flow
from nfstudy.flows.planar.flow import free_planar_flow, planar_flow
from nfstudy.flows.radial.flow import radial_flow
from nfstudy.study.reader import read_study

pytestmark = pytest.mark.slow

ENTRIES, MISSING = peers.find_peers()


def test_ratios_are_of_medians_and_quartiles_of_the_rounds_own():
    # Medians 6 and 2; round by round 2, 3, 20, 1.5, 4.
    assert timing.ratio([4, 6, 40, 3, 8], [2, 2, 2, 2, 2]) == (3, 2, 4)
    assert timing.ratio([4, 9, 8], [2, 3, 8]) == (8 / 3, 1.5, 2.5)


def test_rounds_that_were_not_paired_are_refused():
    with pytest.raises(ValueError, match="3 rounds against 2; expected: equally many"):
        timing.ratio([1, 2, 3], [1, 2])


def test_quartiles_and_slopes():
    assert timing.spread([5, 1, 2, 4, 3]) == (3, 2, 4)
    assert timing.log_slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)


def test_contestants_take_turns_and_each_follows_every_other():
    calls = []
    steps = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = timing.take_turns(steps, timing.Plan(rounds=12, turn=0))
    assert {name: len(numbers) for name, numbers in seconds.items()} == {"a": 12, "b": 12, "c": 12}
    assert "".join(calls[:6]) == "aabbcc"
    rounds = ["".join(calls[at : at + 3]) for at in range(6, len(calls), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert {pair for order in rounds for pair in (order[:2], order[1:])} == {"ab", "ac", "ba", "bc", "ca", "cb"}
    again = calls[6:]
    calls.clear()
    timing.take_turns(steps, timing.Plan(rounds=12, turn=0))
    assert calls[6:] == again, "the same orders each time"


@pytest.fixture
def every_timing_takes_a_second(monkeypatch):
    clock = iter(np.arange(0, 1000, dtype=float))  # Every reading is a second later, so every timing takes 1 s

    class Timer(timing.timeit.Timer):
        def __init__(self, step):
            super().__init__(step, timer=lambda: next(clock))

    monkeypatch.setattr(timing.timeit, "Timer", Timer)


@pytest.mark.usefixtures("every_timing_takes_a_second")
def test_a_turn_repeats_fast_work_and_tells_seconds_of_one_call():
    calls = []
    seconds = timing.take_turns({"a": lambda: calls.append(1)}, timing.Plan(rounds=2, turn=4.5))
    assert len(calls) == 1 + 1 + 2 * 5
    assert seconds == {"a": [0.2, 0.2]}


@pytest.mark.usefixtures("every_timing_takes_a_second")
def test_the_pace_is_of_a_product_of_known_size():
    assert timing.pace() == pytest.approx(2 * 512 * 784 * 512 / 1e9)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system lets nobody choose cores")
def test_one_core_is_given_back():
    before = os.sched_getaffinity(0)
    with timing.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_peers_that_cannot_be_imported_are_named_with_the_reason(monkeypatch):
    def fail(name):
        raise {"benchmarks.peers.absent": ModuleNotFoundError, "benchmarks.peers.broken": AttributeError}[name](name)

    monkeypatch.setattr(peers, "import_module", fail)
    entries, missing = peers.find_peers(("absent", "broken"))
    assert not entries
    assert missing == [
        peers.Missing("absent", "ModuleNotFoundError: benchmarks.peers.absent"),
        peers.Missing("broken", "AttributeError: benchmarks.peers.broken"),
    ]


def row(library, amortised, times):
    return {"library": library, "amortised": amortised, "times_as_fast": times}


def test_the_fastest_peer_decides_by_the_kind_that_we_have():
    rows = [
        row("nfstudy", True, 1.0),
        row("nfstudy", False, 0.5),
        row("normflows", False, 30.0),
        row("pyro", True, 26.0),
        row("pyro", False, 20.0),  # counts for nothing beside pyro's amortised entry
        row("flowjax", True, 2.5),
    ]
    first, second = flows.judge(Contest("planar", 80), rows)
    assert first == Verdict(
        "planar, K = 80, fastest of normflows, pyro, pythae: pyro", "26.00 times", "at least 25 times", True
    )
    assert (second.found, second.asked, second.met) == ("2.50 times", "at least 3 times", False)
    (other,) = flows.judge(Contest("radial", 80), rows)
    assert (other.found, other.asked, other.met) == ("2.50 times", "at least 1 times", True)


def test_without_peers_there_is_no_verdict():
    assert flows.judge(Contest("planar", 80), [row("nfstudy", True, 1.0)]) == []


def test_a_map_that_is_not_ours_is_seen():
    contest = Contest("planar", 3, batch=5, latent=4)
    numbers = [torch.tensor(x) for x in contest.planar(amortised=False)]
    free = torch_contestant("wrong", False, lambda z: free_planar_flow(z, *numbers), [], contest)
    assert flows.disagreement(contest, free) > 0.01
    for own in ours.contestants(contest):
        assert flows.disagreement(contest, own) < 1e-5


@pytest.mark.parametrize("family", flows.FAMILIES)
def test_our_entries_differentiate_by_all_that_the_chain_takes(family):
    contest = Contest(family, 2, batch=3, latent=6)
    for entry in ours.contestants(contest):
        gradients = entry.step()
        assert len(gradients) > 1
        assert gradients[0].shape == (3, 6)
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def entries_of(name, contest):
    if name not in ENTRIES:
        pytest.skip(next(f"{peer.name} is missing: {peer.reason}" for peer in MISSING if peer.name == name))
    return ENTRIES[name](contest)


PLAIN = {
    "planar": planar_flow,
    "radial": radial_flow,
    "householder": householder_flow,
    "full-covariance": full_covariance,
}


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_make_our_map_and_its_gradient(name, family):
    contest = Contest(family, 6, batch=7, latent=5)
    entries = entries_of(name, contest)
    if not entries:
        pytest.skip(f"{name} has no {family} flow")
    for entry in entries:
        z_0 = torch.tensor(contest.z_0(), requires_grad=True)
        numbers = map(torch.tensor, getattr(contest, family.replace("-", "_"))(entry.amortised))
        z_K, log_det = PLAIN[family](z_0, *numbers)
        (slope,) = torch.autograd.grad(0.5 * z_K.square().sum() - log_det.sum(), z_0)
        # pythae adds 1e-4 to each planar determinant before it takes the logarithm.
        loose = 2e-2 if name == "pythae" and family == "planar" else 2e-4
        np.testing.assert_allclose(entry.outcome()[0], z_K.detach(), atol=1e-5)
        np.testing.assert_allclose(entry.outcome()[1], log_det.detach(), atol=loose)
        theirs = next(x for x in entry.step() if getattr(x, "shape", None) == z_0.shape)
        np.testing.assert_allclose(np.asarray(theirs), slope, atol=loose, rtol=loose)


@pytest.mark.parametrize("family", ["nice-perm", "iaf", "sylvester", "realnvp", "glow", "spline"])
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_with_weights_of_their_own_run_forward_and_backward(name, family):
    contest = Contest(family, 2, batch=3, latent=6)
    for entry in entries_of(name, contest):
        z_K, log_det = entry.outcome()
        assert (z_K.shape, log_det.shape, entry.same) == ((3, 6), (3,), False)
        assert np.isfinite(z_K).all()
        assert entry.step() is not None


def test_pythae_gives_the_same_likelihood():
    entries_of("pythae", Contest("planar", 1))
    size = likelihood.QUICK._replace(samples=400, raced_images=2, plan=timing.Plan(rounds=1, turn=0))
    rows = likelihood.race(5, size)
    assert [row["their_layers"] for row in rows] == ["torch's layers", "our layers"]
    assert all(row["error_nats"] < 0.2 for row in rows)
    assert all(abs(row["difference_se"]) < 4 for row in rows)
    # It draws the same samples through either kind of layers.
    assert rows[0]["their_nats"] == pytest.approx(rows[1]["their_nats"], abs=1e-3)
    # Without the chain the model is another: its answer must be further off than the errors.
    assert abs(likelihood.race(0, size)[0]["our_nats"] - rows[0]["our_nats"]) > 0.05


def test_files_say_what_was_found_where_and_what_is_missing(tmp_path):
    rows = [{"family": "planar", "K": 10, "amortised": True, "median_ms": 0.123456789}]
    verdict = Verdict("faster", "0.5 times", "at least 1 times", False)
    paths = save(
        "flows", Result("a title", rows, [verdict], ["pyro: no such module"], Figure()), tmp_path / "new", True
    )
    assert [path.name for path in paths] == ["flows.csv", "flows.json", "flows.png"]
    assert (tmp_path / "new" / "flows.csv").read_text() == "family,K,amortised,median_ms\nplanar,10,True,0.123457\n"
    content = json.loads(paths[1].read_text())
    assert content["missing"] == ["pyro: no such module"]
    assert content["verdicts"][0]["met"] is False
    assert content["quick"] is True
    assert content["machine"]["torch"] == torch.__version__
    assert {"processor", "generation", "cores", "threads", "commit", "flowjax"} <= set(content["machine"])
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_numbers_of_numpy_are_written_and_nothing_is_where_something_cannot_be(tmp_path):
    rows = [{"K": np.int64(10), "nll": np.float64(89.5), "reached": np.True_}]
    _, record = save("paper", Result("t", rows, [Verdict("x", "1", "2", np.False_)]), tmp_path, True)
    content = json.loads(record.read_text())
    assert content["rows"] == [{"K": 10, "nll": 89.5, "reached": True}]
    assert content["verdicts"][0]["met"] is False
    with pytest.raises(TypeError):
        save("odd", Result("t", [{"K": object()}]), tmp_path, True)
    assert {path.name for path in tmp_path.iterdir()} == {"paper.csv", "paper.json"}


def test_the_page_holds_what_was_measured_in_the_order_of_the_list(tmp_path):
    verdicts = [Verdict("as fast", "0.5 times", "at least 1 times", False), Verdict("as small", "1 MB", "2 MB", True)]
    many = [{"K": k, "median_ms": 0.5} for k in range(MOST_ROWS + 1)]
    save("scaling", Result("of K", many, [], ["pyro: no such module"], Figure(), (215.26, 98.7)), tmp_path, False)
    save("step", Result("an update", [{"what": "K = 0", "median_ms": 1234.5678}], verdicts), tmp_path, True)
    text = write_page(tmp_path, ["step", "flows", "scaling"]).read_text()
    assert text.index("## step: an update") < text.index("## scaling: of K")
    assert "flows" not in text, "it was not measured"
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["as fast", "0.5 times", "at least 1 times", "**missed**"] in lines
    assert ["as small", "1 MB", "2 MB", "met"] in lines
    assert lines[-1] == ["K = 0", "1,235"], "a row more than the most is too many"
    step, scaled = text.split("## scaling")
    assert "**Few rounds:**" in step
    assert "**Few rounds:**" not in scaled
    assert ("step.png" in step, "![of K](scaling.png)" in scaled) == (False, True)
    assert "Missing: pyro: no such module" in scaled
    assert "[scaling.csv](scaling.csv)" in scaled
    assert f" ({get_host_cpu_name()}), " in scaled
    assert "its float32 products before and after: 215 and 99 GFLOP/s" in scaled
    assert "GFLOP/s" not in step, "its pace was not taken"


def test_tables_hold_rows_and_verdicts():
    result = Result("t", [{"K": 10, "median_ms": 1.23456}], [Verdict("x", "1", "2", False)])
    first, second = as_tables(result)
    assert [list(column.cells) for column in first.columns] == [["10"], ["1.235"]]
    assert [list(column.cells) for column in second.columns] == [["x"], ["1"], ["2"], ["missed"]]
    assert as_tables(Result("t", [])) == []


def test_the_command_line_lists_and_refuses(capsys):
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.BENCHMARKS)
    with pytest.raises(SystemExit) as stopped:
        command.main(["flow"])
    assert stopped.value.code == 2
    assert "NAME flow: expected: flows, scaling, step, likelihood" in capsys.readouterr().err


def test_a_quick_run_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(flows, "FAMILIES", ("radial",))
    monkeypatch.setattr(scaling, "FAMILIES", ("radial",))
    assert command.main(["flows", "scaling", "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(f"missing: {peer.name}: {peer.reason}" in printed for peer in MISSING)
    before, after = json.loads((tmp_path / "flows.json").read_text())["gflops"]
    assert min(before, after) > 0
    table = pd.read_csv(tmp_path / "flows.csv")
    assert set(table["library"]) == {"nfstudy"} | ({"normflows", "pyro", "pythae"} & set(ENTRIES))
    assert (table["median_ms"] > 0).all()
    assert (table["off_by"] < 1e-3).all()
    assert len(pd.read_csv(tmp_path / "scaling.csv")) == 6


def test_stores_are_held_against_their_limits(monkeypatch):
    row = {"what": "report", "seconds": 14.0, "limit": 15.0, "peak_megabytes": 800, "limit_megabytes": 1500.0}
    rows = [row, row | {"seconds": 16.0}, row | {"peak_megabytes": 1600}]
    monkeypatch.setattr("benchmarks.store.measure", lambda runs: rows if runs == 10_000 else [])
    found = command.BENCHMARKS["store"].measure(False).verdicts
    assert [verdict.met for verdict in found] == [True, False, False]
    assert found[0] == Verdict("report", "14.0 s, 800 MB", "at most 15 s and 1500 MB", True)
    assert command.BENCHMARKS["store"].measure(True).rows == []


def test_a_step_without_its_chain_has_the_gradient_of_its_head_still():
    problem, _ = step.make_problem(1, "planar", 3)
    step.without_chain(problem)
    (terms,) = (batch.terms() for batch in problem.minibatches(1, 1))
    terms.elbo.mean().backward()
    assert problem.model.flow.head.weight.grad.abs().sum() > 0
    posterior = problem.model.infer(torch.ones(2, step.PIXELS))
    z_k, _, _ = problem.model.sample(posterior, torch.zeros(2, 40))
    torch.testing.assert_close(z_k, posterior.mean)


def test_bare_products_are_those_of_every_layer_forward_and_backward():
    problem, _ = step.make_problem(1, "none", 0)
    multiplied = []
    step.bare_products(problem, lambda a, b: multiplied.append(len(a) * a.shape[1] * len(b)))()
    layers = [784 * 1600, 400 * 1600, 400 * 40, 400 * 40, 40 * 1600, 400 * 1600, 400 * 784]
    # Forward, weights' and inputs' gradients cost the same; the first layer's input needs none.
    assert sorted(multiplied) == sorted(100 * size for size in [*layers, *layers, *layers[1:]])


def test_the_settings_of_the_race_to_the_papers_number_stand_in_its_study():
    study = read_study(paper.STUDY)
    assert {goal.budget for goal in paper.GOALS} | {"smoke"} == set(study.budgets)
    for goal in paper.GOALS:
        (cell,) = study.under(goal.budget).cells
        settings = cell.settings
        assert goal.budget in command.GOALS
        assert (settings.data.name, settings.data.binarisation) == ("mnist", "static")
        assert (settings.evaluation.samples, settings.evaluation.test_images) == (200, None)
        assert study.under(goal.budget).repetitions >= 3


def test_the_flagship_is_scaled_up_from_a_few_epochs_of_each_cell():
    # 1,800 updates in 36 s, three validations of 2 s and an evaluation of a minute, for 40,000 updates and five seeds.
    run = {"run_name": "planar K=80 D=40 #1", "update": 1800, "time/updates_per_second": 50.0}
    run |= {"time/wall_seconds": 36 + 3 * 2 + 60, "time/evaluation_seconds": 60.0}
    row = flagship._row(pd.Series(run), flagship.Scale(40_000, 40_000 / 600, 5))
    assert row["cell"] == "planar K=80"
    assert row["update_milliseconds"] == pytest.approx(20)
    assert row["training_hours"] == pytest.approx(5 * 800 / 3600)
    assert row["validation_hours"] == pytest.approx(5 * 2 * 66.67 / 3600, rel=1e-4)
    assert row["hours"] == pytest.approx(5 * (800 + 133.33 + 60) / 3600, rel=1e-4)


def test_processor_seconds_are_those_of_a_session_with_its_children():
    busy = (
        "import os, time\nos.fork()\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["done\n"] * 2
        assert 0.9 <= first_use.processor_seconds(process.pid) < 10
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert math.isnan(first_use.processor_seconds(-1)), "no such session"


def test_a_command_that_starts_no_run_is_no_first_use(tmp_path):
    with pytest.raises(RuntimeError, match="no-such-study: no run started"):
        first_use.until_first_run("no-such-study", tmp_path)


def test_the_rate_of_an_evaluation_is_at_most_that_of_its_products():
    size = likelihood.QUICK._replace(samples=64, rated_samples=32, rated_passes=1)
    verdict = likelihood.rate("planar", 80, size)
    found = float(verdict.found.partition(":")[0])
    assert 0 < found < 1
    assert verdict.met == (found >= likelihood.LEAST_RATE)
    assert "torch.matmul" in verdict.found or "oneDNN" in verdict.found
    seconds = likelihood.tight("planar", 80, size)
    assert float(seconds.found.partition(" ")[0]) > 0
    assert "1,000 images of 64 samples, told from 20 images" in seconds.what
