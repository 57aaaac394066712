"""`python -m benchmarks [NAME ...]`: time nfstudy against its peers, print tables and write `reports/benchmarks/`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.timing import VARIABLES, one_core, pace
from nfstudy.core.errors import UserError

if TYPE_CHECKING:
    from benchmarks.result import Result

REPORTS = Path(__file__).parents[1] / "reports"


class Benchmark(NamedTuple):
    """Something to be measured."""

    about: str
    measure: Callable[..., Result]
    """Whether to be quick, and the `options` by name -> what was found."""
    one_core: bool = True
    """Whether it compares libraries, which then share one core by turns."""
    by_name: bool = False
    """Whether it is left out unless it is named."""
    options: tuple[str, ...] = ()
    """Options of the command line that are its own."""


def _module(name: str) -> Callable[..., Result]:
    """Return a module's `measure`, which is imported only when it is called."""
    return lambda quick, **options: import_module(f"benchmarks.{name}").measure(quick, **options)


def _store(quick: bool) -> Result:
    """Hold what commands on a large store take against their limits; quick, on a store of one run a cell."""
    from benchmarks.big_store import CELLS
    from benchmarks.result import Result, Verdict
    from benchmarks.store import RUNS, measure

    rows = measure(CELLS if quick else RUNS)
    verdicts = []
    for row in rows:
        within = row["seconds"] <= row["limit"] and row["peak_megabytes"] <= row["limit_megabytes"]
        found = f"{row['seconds']:.1f} s, {row['peak_megabytes']:.0f} MB"
        asked = f"at most {row['limit']:g} s and {row['limit_megabytes']:g} MB"
        verdicts.append(Verdict(row["what"], found, asked, within))
    return Result("commands on a large store", rows, verdicts)


BENCHMARKS = {
    "flows": Benchmark("each flow family against normflows, pyro, pythae and flowjax", _module("flows")),
    "scaling": Benchmark("time against K and against the batch", _module("scaling")),
    "step": Benchmark(
        "a training step against its matrix products, and with its chain against without", _module("step")
    ),
    "likelihood": Benchmark("−ln p(x) by importance sampling against pythae", _module("likelihood")),
    "study": Benchmark(
        "a study of 20 cells: how workers share the cores, and the suite's own cost; only if named",
        _module("study"),
        one_core=False,
        by_name=True,
    ),
    "grid": Benchmark(
        "a dry run and the status of a grid of 3,000 cells; only if named",
        _module("grid"),
        one_core=False,
        by_name=True,
    ),
    "coordinator": Benchmark(
        "empty trials a second, of 2 to 32 workers of each engine, into SQLite and to a server, its own or "
        "$MLFLOW_TRACKING_URI; only if named",
        _module("coordinator"),
        one_core=False,
        by_name=True,
    ),
    "flagship": Benchmark(
        "hours of the flagship's nine cells, from a few epochs of each, which take ten minutes; only if named",
        _module("flagship"),
        one_core=False,
        by_name=True,
    ),
    "device": Benchmark(
        "updates on a CUDA device, and the paper's nine cells at once; only if named",
        _module("device"),
        one_core=False,
        by_name=True,
    ),
    "paper": Benchmark(
        "time from a cold start to the paper's −ln p(x), which takes three quarters of an hour, and the records of it; "
        "only if named",
        _module("paper"),
        one_core=False,
        by_name=True,
        options=("goal", "change"),
    ),
    "first-use": Benchmark(
        "from `run` to the first update, loops compiled before and not; only if named",
        _module("first_use"),
        one_core=False,
        by_name=True,
    ),
    "store": Benchmark(
        "reports and status from a store of 10,000 runs, for which it takes 8 GB of disk; only if named",
        _store,
        one_core=False,
        by_name=True,
    ),
}


GOALS = ("gaussian", "planar", "record")
"""Of the benchmark `paper`, which imports too much to be asked what it has."""
OWN_OPTIONS = ("goal", "change")
PARTS = [
    *(part for name in BENCHMARKS for part in (name, *(f"paper-{goal}" for goal in GOALS if name == "paper"))),
]
"""The names that results are kept under, in the order of the page."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were named, or all that need not be; return the exit code, which no timing changes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; without one, all that take minutes"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    parser.add_argument("--quick", action="store_true", help="few rounds and sizes: whether it runs, not how fast")
    parser.add_argument("--out", type=Path, help="folder to write to (default: reports/benchmarks; nowhere if --quick)")
    parser.add_argument("--goal", default="", choices=GOALS, help="paper: this one alone, kept under a name of its own")
    parser.add_argument(
        "--change", default="", help="paper: what a record is due to, in a line (default: the commit's subject)"
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"NAME {name}: expected: {', '.join(BENCHMARKS)}")
    for option in OWN_OPTIONS:
        if getattr(options, option) and not any(option in BENCHMARKS[name].options for name in options.names):
            takers = ", ".join(name for name, benchmark in BENCHMARKS.items() if option in benchmark.options)
            parser.error(f"--{option}: expected: with the benchmark {takers}")
    if options.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:12} {benchmark.about}")
        return 0
    folder = options.out or (None if options.quick else REPORTS / "benchmarks")
    for name in options.names or [name for name, benchmark in BENCHMARKS.items() if not benchmark.by_name]:
        own = {option: getattr(options, option) for option in BENCHMARKS[name].options}
        try:
            _run(name, options.quick, folder, own)
        except UserError as error:
            parser.error(str(error))
    return 0


def _run(name: str, quick: bool, folder: Path | None, own: Mapping[str, str]) -> None:
    from rich.console import Console

    from benchmarks.page import write_page
    from benchmarks.result import as_tables, save

    console = Console(width=None if sys.stdout.isatty() else 160)
    benchmark = BENCHMARKS[name]
    with one_core() if benchmark.one_core else nullcontext():
        before = pace()
        # Few rounds are no record.
        kept = {"folder": None if quick else folder} if own else {}
        result = benchmark.measure(quick, **own, **kept)
        result = replace(result, paces=(before, pace()))
    for table in as_tables(result):
        console.print(table)
    for note in result.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for peer in result.missing:
        console.print(f"missing: {peer}", markup=False, highlight=False)
    if folder:
        saved = save(f"{name}-{own['goal']}" if own.get("goal") else name, result, folder, quick)
        for path in [*saved, write_page(folder, PARTS)]:
            console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in VARIABLES.items()):
        # torch and jax read theirs when they are imported, but glibc its own when a process starts.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], os.environ | VARIABLES)
    sys.exit(main())
