"""The command line: parses, and leaves the work to `nfstudy.commands`, which is imported only when there is some."""

from __future__ import annotations

import argparse
import os
import sys

from nfstudy import __version__
from nfstudy.errors import UserError

EXAMPLES = """\
examples:
  python -m nfstudy run studies/quickstart.yaml
  python -m nfstudy run studies/mnist.yaml --budget smoke --workers 2
  python -m nfstudy status studies/mnist.yaml
  python -m nfstudy report studies/mnist.yaml --partial
  python -m nfstudy report --all
  python -m nfstudy check
  python -m nfstudy ui

exit codes: 0 done, 1 some runs failed (run) or a claim that was supported is contradicted (check), 2 a mistake in what
was asked, 130 interrupted
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m nfstudy",
        description="Tracked, repeatable studies of 'Variational Inference with Normalizing Flows'.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nfstudy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run what is missing of a study, then rebuild its report")
    _add_study(run)
    run.add_argument("--workers", type=_count, metavar="N", help="worker processes (default: one for each core)")
    run.add_argument(
        "--threads",
        type=_count,
        default=1,
        metavar="N",
        help="threads of each worker; other numbers than 1 may change the last bits of results (default: 1)",
    )
    run.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    run.add_argument("--dry-run", action="store_true", help="print the cells and an estimate of the time, run nothing")

    report = commands.add_parser("report", help="rebuild a study's report, or all and a front page, from logged runs")
    _add_study(report, "?")
    report.add_argument("--all", action="store_true", help="all of studies/, as they are, and reports/index.html")
    report.add_argument("--partial", action="store_true", help="build it though cells are missing, and mark them")
    report.add_argument("--output", metavar="FOLDER", help="write it there (default: reports/STUDY)")

    status = commands.add_parser("status", help="say of each cell: done, running, failed, diverged or missing")
    _add_study(status)

    check = commands.add_parser("check", help="judge the paper's claims on the logged runs of all studies")
    check.add_argument("--budget", metavar="NAME", help="of the studies that have it (default: each study's own)")
    check.add_argument(
        "--baseline", metavar="FILE", help="the earlier verdicts (default: reports/claims-baseline.json)"
    )
    check.add_argument(
        "--update-baseline",
        action="store_true",
        help="take the verdicts as the new baseline, whatever has changed; what is not run keeps its earlier one",
    )
    _add_store(check)

    ui = commands.add_parser("ui", help="start the MLflow UI on the project's store")
    ui.add_argument("--port", type=_count, default=5000, metavar="N", help="port to listen on (default: 5000)")
    ui.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1, this machine)"
    )
    _add_store(ui)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = make_parser().parse_args(arguments)
    from nfstudy import commands

    try:
        return getattr(commands, options.command)(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _add_study(parser: argparse.ArgumentParser, number: str | None = None) -> None:
    parser.add_argument("study", metavar="STUDY", nargs=number, help="a study file, such as studies/mnist.yaml")
    parser.add_argument("--budget", metavar="NAME", help="one of the study's budgets (default: the study's own)")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default: $MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db)",
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: a whole number from 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
