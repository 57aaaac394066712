"""The command line's arguments; loads nothing heavy, so that help comes at once."""

from __future__ import annotations

import argparse
import math

from nfstudy import __version__
from nfstudy.cli.arguments import Parser
from nfstudy.cli.options import count, count_from_0, hosts, hours, port, positive_seconds, program, seconds, share

EXAMPLES = """\
`nfstudy` and `python -m nfstudy` are the same command.

examples:
  nfstudy init my-project
  nfstudy run quickstart
  nfstudy run studies/mnist.yaml --budget smoke --workers 2
  nfstudy status studies/mnist.yaml
  nfstudy report studies/mnist.yaml --partial
  nfstudy report --all
  nfstudy check
  nfstudy decide --dry-run
  nfstudy export studies/mnist.yaml mnist.tar.xz
  nfstudy import mnist.tar.xz
  nfstudy reference
  nfstudy rerun 0123456789abcdef0123456789abcdef
  nfstudy evaluate studies/mnist.yaml --samples 5000
  nfstudy ui

exit codes: 0 done, 1 some runs failed or some cells are impossible (run), a claim that was supported is contradicted
(check), some claims stay undecided (decide), some runs are there with other numbers (import, reference), some runs
could not be evaluated (evaluate), something kept is stale (reference --check) or the numbers differ (rerun), 2 a
mistake in what was asked, 3 the numbers are the same within stated tolerances (rerun), 130 interrupted (by Ctrl-C,
SIGTERM, or SIGHUP, which a closed terminal sends), 70 a mistake in nfstudy itself
"""


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog=program(),
        description="Tracked, repeatable studies of 'Variational Inference with Normalizing Flows'.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nfstudy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make a folder with a commented study to begin with")
    init.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="default: this one")

    run = commands.add_parser("run", help="run what is still to do of a study, then rebuild its report")
    _add_study(run)
    run.add_argument("--workers", type=count, metavar="N", help="worker processes (default: one per core)")
    run.add_argument(
        "--threads",
        type=count,
        default=1,
        metavar="N",
        help="threads per worker; values other than 1 may change the last bits of results (default: 1)",
    )
    run.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    run.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where workers run: this machine, or the Ray cluster at $RAY_ADDRESS (default: local)",
    )
    run.add_argument(
        "--gpus",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of a GPU that each worker holds, with --engine ray (default: 0)",
    )
    run.add_argument(
        "--checkpoint-every",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how often a run saves a checkpoint, from which it resumes when it is killed (default: 60)",
    )
    run.add_argument(
        "--retries",
        type=count_from_0,
        default=2,
        metavar="N",
        help="how often a failed run is retried (default: 2)",
    )
    run.add_argument(
        "--worker-timeout",
        type=positive_seconds,
        metavar="SECONDS",
        help="kill a worker that has said nothing for so long, longer than an epoch and the evaluation of a run take, "
        "and retry its run (default: say so after 10 minutes or 20 epochs, and wait)",
    )
    run.add_argument(
        "--take-over",
        action="store_true",
        help="run it although another launcher seems to be at work on it, which then stops",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="print the grid and a time estimate, run nothing; it may download data"
    )

    report = commands.add_parser(
        "report", help="rebuild a study's report, or all reports and an overview, from logged runs"
    )
    _add_study(report, "*")
    report.add_argument(
        "--all",
        action="store_true",
        help="the studies of the files and folders that are named (default: studies/), complete or not, and "
        "reports/index.html over them",
    )
    report.add_argument("--partial", action="store_true", help="build it even if cells are still to do, and mark them")
    report.add_argument("--output", metavar="FOLDER", help="write it there (default: reports/STUDY)")

    status = commands.add_parser("status", help="show the state of each cell: done, running, failed, diverged or to do")
    _add_study(status)

    check = commands.add_parser("check", help="judge the paper's claims on the logged runs of all studies")
    check.add_argument("study", metavar="STUDY", nargs="*", help="study files or folders of them (default: studies/)")
    check.add_argument("--budget", metavar="NAME", help="the only one whose runs count (default: all that have runs)")
    check.add_argument(
        "--baseline", metavar="FILE", help="the earlier verdicts (default: reports/claims-baseline.json)"
    )
    check.add_argument(
        "--update-baseline",
        action="store_true",
        help="save the verdicts as the new baseline; claims that are not run keep their earlier verdict",
    )
    _add_store(check)

    decide = commands.add_parser(
        "decide", help="run further repetitions of the cells that undecided claims depend on, until they are decided"
    )
    decide.add_argument("claims", metavar="CLAIM", nargs="*", help="ids of claims (default: all that are undecided)")
    decide.add_argument(
        "--hours", type=hours, default=math.inf, metavar="H", help="stop after so many hours (default: no limit)"
    )
    decide.add_argument(
        "--max-seeds",
        type=count,
        default=24,
        metavar="N",
        help="how many repetitions a cell may have in all (default: 24)",
    )
    decide.add_argument("--workers", type=count, metavar="N", help="worker processes (default: one per core)")
    decide.add_argument("--budget", metavar="NAME", help="of the studies that have it (default: each study's own)")
    decide.add_argument(
        "--study",
        metavar="STUDY",
        action="append",
        default=[],
        help="a study file, a folder of them or a study's name; may be repeated (default: studies/)",
    )
    decide.add_argument("--dry-run", action="store_true", help="print the forecast, run nothing")
    _add_store(decide)

    export = commands.add_parser("export", help="write a study's logged runs into one archive")
    _add_study(export)
    export.add_argument("file", metavar="FILE", help="the archive, such as mnist.tar.xz; an existing one is replaced")
    export.add_argument(
        "--with-checkpoints", action="store_true", help="include the trained weights, which are most of the bytes"
    )
    export.add_argument(
        "--without",
        action="append",
        metavar="NAME",
        help="leave out files of this name, such as '*.png', that no exhibit of the study reads; may be repeated",
    )
    export.add_argument(
        "--first-only",
        action="append",
        metavar="NAME",
        help="keep files of this name of each cell's first finished repetition alone, as exhibits show one picture a "
        "cell; may be repeated",
    )

    take = commands.add_parser("import", help="import the runs of such a file into the store")
    take.add_argument("file", metavar="FILE", help="an archive written by export")
    _add_store(take)

    reference = commands.add_parser(
        "reference", help="import the runs of mlruns/reference/, and build reports and README's results from them alone"
    )
    reference.add_argument(
        "--check",
        action="store_true",
        help="write nothing; list committed reports, or README results, that are stale",
    )
    _add_store(reference)

    rerun = commands.add_parser("rerun", help="train a logged run again, and compare every number")
    rerun.add_argument(
        "run_id", metavar="RUN_ID", help="the id of a finished, diverged or pruned repetition, or its first digits"
    )
    rerun.add_argument("--threads", type=count, metavar="N", help="threads of the worker (default: as recorded)")
    rerun.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: as recorded, if here)")
    rerun.add_argument(
        "--plugin",
        metavar="FILE",
        action="append",
        default=[],
        help="the file of a plug-in that has moved since",
    )
    _add_store(rerun)

    evaluate = commands.add_parser("evaluate", help="evaluate the kept weights of logged runs again, without training")
    evaluate.add_argument("target", metavar="RUN_ID|STUDY", help="the id of a finished run, or a study's file or name")
    evaluate.add_argument("--budget", metavar="NAME", help="one of the study's budgets (default: the study's own)")
    evaluate.add_argument(
        "--estimator",
        choices=("importance", "ais", "bdmc", "local", "bits-back"),
        default="importance",
        help="importance sampling, annealed importance sampling, that forward and back on images that the model "
        "draws, which brackets the truth, the inference gaps by posteriors optimised for each image, or a lossless "
        "code of the images, whose length is held to F "
        "(default: importance)",
    )
    evaluate.add_argument(
        "--samples",
        type=count,
        metavar="N",
        help="importance samples an image, or chains (default: 5000; 8 chains; 200 beside bits-back)",
    )
    evaluate.add_argument(
        "--images",
        type=count,
        metavar="N",
        help="test images, spread evenly (default: 1000; 100 by annealing, local and bits-back)",
    )
    evaluate.add_argument("--temperatures", type=count, metavar="N", help="of ais, bdmc and local (default: 200)")
    evaluate.add_argument(
        "--updates", type=count, metavar="N", help="of local: at most so many of each posterior (default: 2000)"
    )
    evaluate.add_argument("--seed", type=count_from_0, default=1, metavar="N", help="of its noise (default: 1)")
    evaluate.add_argument("--workers", type=count, metavar="N", help="worker processes (default: one per core)")
    evaluate.add_argument("--threads", type=count, default=1, metavar="N", help="threads per worker (default: 1)")
    evaluate.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    evaluate.add_argument(
        "--plugin", metavar="FILE", action="append", default=[], help="the file of a plug-in that has moved since"
    )
    _add_store(evaluate)

    plugin = commands.add_parser("check-plugin", help="show what a plug-in declares, and check its flows")
    plugin.add_argument("file", metavar="FILE", help="a Python file, or a module's dotted name")

    completion = commands.add_parser("completion", help="print a script with which a shell completes commands")
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")

    ui = commands.add_parser("ui", help="start the MLflow UI on the project's store")
    ui.add_argument("--port", type=port, metavar="N", help="port to listen on (default: 5000, or 8080 with --optuna)")
    ui.add_argument(
        "--optuna", action="store_true", help="Optuna's dashboard on a copy of the searches, in place of the MLflow UI"
    )
    ui.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1, this machine)"
    )
    ui.add_argument(
        "--allowed-hosts",
        type=hosts,
        default=(),
        metavar="NAMES",
        help="further names under which browsers may open it, separated by commas, such as lab.example.org "
        "(default: this machine's names and addresses)",
    )
    _add_store(ui)
    init.set_defaults(work="nfstudy.cli.init:init")
    completion.set_defaults(work="nfstudy.cli.completion:completion")
    run.set_defaults(work="nfstudy.cli.run:run")
    report.set_defaults(work="nfstudy.cli.report:report")
    status.set_defaults(work="nfstudy.cli.status:status")
    check.set_defaults(work="nfstudy.cli.check:check")
    decide.set_defaults(work="nfstudy.cli.decide:decide")
    export.set_defaults(work="nfstudy.cli.archive:export")
    take.set_defaults(work="nfstudy.cli.archive:import_")
    reference.set_defaults(work="nfstudy.cli.reference:reference")
    rerun.set_defaults(work="nfstudy.cli.rerun:rerun")
    evaluate.set_defaults(work="nfstudy.cli.evaluate:evaluate")
    plugin.set_defaults(work="nfstudy.cli.check_plugin:check_plugin")
    ui.set_defaults(work="nfstudy.cli.ui:ui")
    return parser


def _add_study(parser: argparse.ArgumentParser, number: str | None = None) -> None:
    parser.add_argument(
        "study",
        metavar="STUDY",
        nargs=number,
        help="a study file, such as studies/mnist.yaml, or the name of a shipped study, such as mnist",
    )
    parser.add_argument("--budget", metavar="NAME", help="one of the study's budgets (default: the study's own)")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default: $MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db)",
    )
