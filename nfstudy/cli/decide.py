"""`decide`: further repetitions of the cells that undecided claims depend on, look by look, until they are decided."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nfstudy.cli.options import find_store, retyped, tell, warn_of_unknown_code
from nfstudy.cli.studies import chosen_studies
from nfstudy.core.errors import StoreError, UserError
from nfstudy.core.launcher import Launcher
from nfstudy.core.project import Project
from nfstudy.core.suggest import did_you_mean
from nfstudy.runner.engine import WorkerError
from nfstudy.runner.eta import expected_seconds, format_duration
from nfstudy.runner.options import Launch, WorkerOptions
from nfstudy.runner.signals import DEADLINE, Interrupted, StopSignal
from nfstudy.runs.provenance import usable_cores
from nfstudy.runs.tags import Tag
from nfstudy.study.plan import Further, StudyPlan

if TYPE_CHECKING:
    from nfstudy.report.claims.deciding import Step
    from nfstudy.report.claims.ledger import JudgedClaim
    from nfstudy.report.claims.verdicts import ClaimVerdict
    from nfstudy.report.statistics.estimates import Results
    from nfstudy.study.spec import StudySpec


def decide(options: argparse.Namespace) -> int:
    """Decide claims by further repetitions; return 0 if all that were asked for are decided, else 1."""
    project, uri = find_store(options.tracking_uri, always=True)
    studies = chosen_studies(options.study, project).values()
    work = _Work(project, uri, studies, options.claims, options.budget, options.workers, options.max_seeds)
    work.judge()
    if not work.asked:
        print("no claim is undecided on the runs of this store")
        return 0
    for claim in options.claims:
        if claim not in {name for name, _ in work.asked}:
            verdicts = {body: verdict.verdict for body, verdict in work.bodies_of(claim).items()}
            words = ", ".join(f"{verdict} on {body}" for body, verdict in verdicts.items()) or "not run"
            print(f"{claim}: nothing to decide: {words}")
    work.print_forecast()
    if options.dry_run:
        return 0
    deadline = time.monotonic() + 3600 * options.hours
    try:
        _decide(work, deadline)
    except Interrupted as signal:
        print(f"stopped by {signal}")
        if not str(signal).startswith(DEADLINE):
            work.rebuild()
            print(f"go on with: {retyped(options)}")
            return 130
    except (StoreError, WorkerError) as error:
        raise type(error)(f"{error}; go on with: {retyped(options)}") from None
    work.rebuild()
    open_claims = work.print_outcome()
    return 1 if open_claims else 0


def _decide(work: _Work, deadline: float) -> None:
    """Take the most promising step that fits into the time left, judge again, and so on, until none is left."""
    while steps := work.steps():
        left = deadline - time.monotonic()
        # Where nothing is known of the time, the deadline ends it.
        fitting = [step for step in steps if not step.seconds > left]
        if left <= 0 or not fitting:
            print(f"the next look takes {format_duration(steps[0].seconds)}, more than is left of the time given")
            return
        work.take(fitting[0], deadline)


@dataclass
class _Work:
    """What is to be decided, on which bodies of evidence, and what came of it."""

    project: Project
    uri: str
    studies: Collection[StudySpec]
    """On whose runs claims are judged; their plug-ins' claims are known."""
    claims: Sequence[str]
    """Ids; none for all that are undecided."""
    budget: str | None
    given: int | None
    """How many workers; None are as many as the device, or the cores, take."""
    most: int
    judged: tuple[JudgedClaim, ...] = ()
    bodies: dict[str, Results] = field(default_factory=dict)
    asked: tuple[tuple[str, str], ...] = ()
    """(claim, body) of what was undecided at first."""
    stuck: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of these, those that nothing more is run for, and why."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Study -> cell key -> seconds of one run."""
    plans: dict[str, StudyPlan] = field(default_factory=dict)
    """Body -> the study under its budget, of those in which something was run."""

    @property
    def workers(self) -> int:
        """How many runs there are at once, as far as a forecast goes."""
        return self.given or usable_cores()

    def judge(self) -> None:
        """Read the runs of all studies, each under its own budget or the one asked for, and judge the claims."""
        from nfstudy.report.claims.judge import all_claims, bodies_in_store, judge_bodies
        from nfstudy.runs.tracking.open import load_frame

        claims = all_claims()
        known = [claim.id for claim in claims]
        for name in self.claims:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UserError(f"decide: no claim '{name}'; expected: {', '.join(known)}{hint}")
        if self.budget and not any(self.budget in study.budgets for study in self.studies):
            names = sorted({name for study in self.studies for name in study.budgets})
            hint = did_you_mean(self.budget, names)
            raise UserError(f"--budget {self.budget}: no study has it; expected: {', '.join(names)}{hint}")
        found = bodies_in_store(self.studies, self.project, self.uri, self.budget)
        kept = [results for results in found if self.budget or results.budget == results.study.budget]
        self.bodies = {results.name: results for results in kept}
        wanted = [claim for claim in claims if not self.claims or claim.id in self.claims]
        self.judged = judge_bodies(wanted, kept)
        for results in kept:
            if results.study.study not in self.seconds:
                frame = load_frame(self.uri, results.study, ["time/wall_seconds"])
                measured = self.project.read_costs(results.study.study)
                self.seconds[results.study.study] = expected_seconds(frame, measured)
        if not self.asked:
            self.asked = tuple(self._undecided())

    def bodies_of(self, claim: str) -> Mapping[str, ClaimVerdict]:
        """Return body -> verdict of one claim."""
        return next(found.bodies for found in self.judged if found.claim.id == claim)

    def _undecided(self) -> list[tuple[str, str]]:
        return [
            (found.claim.id, body)
            for found in self.judged
            for body, verdict in found.bodies.items()
            if verdict.verdict == "undecided"
        ]

    def steps(self) -> list[Step]:
        """Return the next look at each undecided claim, the most promising for its time first."""
        from nfstudy.report.claims.deciding import known_seconds, next_step

        found = []
        for claim, body in self._undecided():
            if (claim, body) in self.stuck or (claim, body) not in self.asked:
                continue
            results = self.bodies[body]
            cost = partial(known_seconds, each=self.seconds[results.study.study], workers=self.workers)
            step = next_step(self.bodies_of(claim)[body], results, cost, self.most)
            if isinstance(step, str):
                self.stuck[claim, body] = step
            else:
                found.append(step)
        return sorted(found, key=lambda step: -step.promise)

    def print_forecast(self) -> None:
        """Say what is going to be run, in which order, and what it promises."""
        from nfstudy.report.claims.deciding import LOOKS

        steps = self.steps()
        print(f"looks, declared beforehand: {LOOKS}; at most {self.most} repetitions of a cell")
        for step in steps:
            labels = step.cells.values()
            print(
                f"{step.claim} on {step.results.name}: look {step.look} at {step.repetitions} repetitions, "
                f"undecided parts: {len(step.parts)}\n"
                f"  runs: {len(step.runs)}, {format_duration(step.seconds)} with {self.workers} at once; decides with "
                f"a probability of {step.chance:.0%} at these means and spreads; {_enough(step)}\n"
                f"  cells: {'; '.join(labels)}"
            )
        for (claim, body), why in self.stuck.items():
            print(f"{claim} on {body}: stays undecided: {why}")
        together: Counter[tuple[str, str]] = Counter()
        for step in steps:
            together |= Counter((step.results.name, key) for key in step.runs)
        print(f"these looks together: at most {together.total()} runs, since claims share cells", flush=True)

    def take(self, step: Step, deadline: float) -> None:
        """Run the repetitions of a step, and judge again; a step that brings no look is not tried again."""
        plan = step.results.plan
        self.plans[step.results.name] = plan
        print(f"{step.claim} on {step.results.name}: look {step.look} at {step.repetitions} repetitions", flush=True)
        launch = Launch(plan, self.project, self.uri, WorkerOptions(count=self.given))
        with self.project.study_lock(plan.name):
            failures = _run(launch, step, self.seconds[plan.study.study], deadline) if step.runs else ()
        before = self.bodies_of(step.claim)[step.results.name]
        self.judge()
        after = self.bodies_of(step.claim)[step.results.name]
        if [len(part.looks) for part in after.parts] == [len(part.looks) for part in before.parts]:
            why = f"its look did not come about ({'; '.join(failures) or 'runs are still to do'})"
            self.stuck[step.claim, step.results.name] = why
        print(f"{step.claim} on {step.results.name}: {after.verdict} ({after.note})", flush=True)
        self._note(step, {found.claim.id: found.bodies for found in self.judged})

    def _note(self, step: Step, verdicts: Mapping[str, Mapping[str, ClaimVerdict]]) -> None:
        """Keep with the runs of a look what the claims were after it."""
        from nfstudy.runs.tracking.store import open_store

        body = step.results.name
        frame = self.bodies[body].runs
        runs = frame.loc[frame["look"] == step.record, "run_id"]
        words = {claim: bodies[body].verdict for claim, bodies in verdicts.items() if body in bodies}
        store = open_store(self.uri)
        for run_id in runs:
            store.tag_run(run_id, {Tag.LOOKED: json.dumps(words)})

    def print_outcome(self) -> int:
        """Say what became of each claim; return how many are still undecided."""
        still = self._undecided()
        for claim, body in self.asked:
            verdict = self.bodies_of(claim)[body]
            why = f"; {self.stuck[claim, body]}" if (claim, body) in self.stuck else ""
            print(f"{verdict.verdict:<12} {claim} on {body}  ({verdict.note}{why})")
        return sum(pair in still for pair in self.asked)

    def rebuild(self) -> None:
        """Make the reports of the studies in which something was run."""
        from nfstudy.cli.run import rebuild

        for plan in self.plans.values():
            rebuild(Launch(plan, self.project, self.uri))


def _run(launch: Launch, step: Step, seconds: Mapping[str, float], deadline: float) -> tuple[str, ...]:
    """Run the repetitions of a step that are to do; return the failures."""
    from nfstudy.cli.run import open_engine

    plan = launch.plan
    further = dict.fromkeys(step.cells, Further(step.repetitions, step.record))
    with StopSignal(deadline) as stop, open_engine(launch, len(step.runs)) as engine:
        with stop.held():
            from nfstudy.cli.check_plugin import check_outside
            from nfstudy.runner.launch import run_study
            from nfstudy.runner.prepare import prepare_data
            from nfstudy.runs.tracking.claim import Claim, claimed
            from nfstudy.runs.tracking.store import open_store
        warn_of_unknown_code()
        check_outside(plan.corners)
        data = prepare_data(plan, launch.project, tell)
        stop.check()
        with claimed(Claim(open_store(launch.uri), plan.name, Launcher.here(launch.project.root))) as claim:
            return run_study(launch, data, seconds, engine, stop, claim, further).failures


def _enough(step: Step) -> str:
    if step.enough is None:
        return "80 % are not reached within the limit"
    repetitions, seconds = step.enough
    return f"80 % at {repetitions} repetitions, {format_duration(seconds)}"
