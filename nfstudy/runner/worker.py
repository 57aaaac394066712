"""The loop of a worker, the same for every engine: it answers orders with messages, over a channel.

A worker knows of no store and no search: it is sent trials, and sends back epochs and results. Asked to stop, it writes
a checkpoint of what it is at and leaves.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Protocol

from nfstudy.core.errors import DataError, UserError, without_secrets
from nfstudy.core.sources import sources_digest
from nfstudy.inference.training.checkpoints import CheckpointPlan, Checkpoints, checkpoint_key
from nfstudy.inference.training.stop import Stopped, StopRequest
from nfstudy.runs.code import package_sources, plugin_sources
from nfstudy.runs.evaluations import EvaluationRequest
from nfstudy.runs.result import Cost, EpochRecord, Notice, Resumed, TrialResult
from nfstudy.study.cells import Trial
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings

if TYPE_CHECKING:
    from nfstudy.data import Dataset

LOADED = ("core.kernels", "core.cuda", "flows", "data", "inference")
"""The packages of nfstudy that a trial may need: loaded when a worker starts, so that none is read later, edited."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DETERMINISM_VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Without it, cuBLAS refuses to multiply once torch is asked for deterministic algorithms."""
COMPILER_VARIABLES = {
    "NUMBA_DISABLE_JIT": "0",
    "NUMBA_OPT": "3",
    "NUMBA_LOOP_VECTORIZE": "1",
    "NUMBA_SLP_VECTORIZE": "0",
    "NUMBA_BOUNDSCHECK": "0",
    "NUMBA_DEBUGINFO": "0",
}
"""Numba's defaults, whatever somebody has set for other programs: what a run computes is said by its sources and
versions."""
MEMORY_VARIABLES = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "1073741824")
"""Up to these many bytes, glibc keeps what is freed. Else it hands large tensors back to the kernel, and each new one
costs a page fault for every 4 KiB: an evaluation's block of images took 8 ms in place of 2."""


@dataclass(frozen=True)
class Run:
    """An order to run a trial."""

    trial: Trial
    asks: bool
    """Whether it waits for an answer after each epoch."""
    plan: CheckpointPlan | None = None
    """None: it writes no checkpoints."""
    numbers: str = ""
    """The fingerprint of the data that its run is logged with; empty where that does not matter."""


@dataclass(frozen=True)
class Measure:
    """An order to measure what a trial with some settings takes."""

    settings: Settings


@dataclass(frozen=True)
class Evaluate:
    """An order to evaluate the kept weights of a run."""

    settings: Settings
    repetition: int
    weights: bytes
    """As `checkpoint.pt` holds them."""
    request: EvaluationRequest


Order = Run | Measure | Evaluate


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    device: str
    environment: Mapping[str, str] | None = None
    """`provenance.environment` of its machine; None where that is the coordinator's."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name -> digest of all that it has loaded of nfstudy and of plug-ins."""


@dataclass(frozen=True)
class Compiling:
    """A worker compiles a loop, which takes seconds and is kept for later."""

    loop: str


@dataclass(frozen=True)
class Evaluated:
    """What came of an order to evaluate."""

    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Died:
    """A worker has ended, without an answer."""

    reason: str
    clean_exit: bool = False
    """Whether it left as it was asked to, after saving what it was at."""


@dataclass(frozen=True)
class Alive:
    """A sign of life of a worker on another machine, whatever its trial does."""


Message = Ready | Compiling | EpochRecord | Resumed | Notice | TrialResult | Cost | Evaluated | Died | Alive


class CoordinatorGoneError(BaseException):
    """Nobody is at the other end of a worker's channel; no trial's, and nothing that handles errors sees it."""


class Channel(Protocol):
    """A worker's end of what joins it to its coordinator; its methods raise EOFError or OSError when that has gone."""

    def send(self, message: Message, /) -> None:
        """Send a message."""

    def order(self) -> Order:
        """Wait for the next order."""

    def answer(self) -> bool:
        """Wait for the answer to an epoch: whether to go on."""


def work_variables(threads: int) -> dict[str, str]:
    """Return the environment variables of a worker with so many threads; libraries read them once, when loaded."""
    return {
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        **DETERMINISM_VARIABLES,
        **COMPILER_VARIABLES,
        **MEMORY_VARIABLES,
    }


def serve(
    channel: Channel,
    threads: int,
    device: str,
    find_data: Callable[[DataSpec], Dataset],
    stop: StopRequest,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Be a worker, in the calling thread: answer orders until the channel closes.

    Arguments:
        channel: to the coordinator.
        threads: of each operation; `work_variables` of as many must have been set before the process began.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        find_data: what a data set is loaded by -> the data set; raises DataError.
        stop: what may ask to stop.
        environment: sent with `Ready`.

    Raises:
        Stopped: asked to stop, and what it was at is saved.
    """
    import torch

    from nfstudy.core.kernels import cache

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # Of this thread.
    # Some operations have no deterministic form on CUDA: there torch warns, and last bits may differ.
    # `torch.use_deterministic_algorithms` is this, after a second in which it loads the compiler to tell it the same.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads what nobody wrote, and to fill it first takes 3 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = resolve_device(device)
    if device.startswith("cuda"):
        # Of this thread: what is captured must not be in the stream that all share.
        device = f"cuda:{torch.device(device).index or 0}"
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    datasets = _Datasets(find_data)
    sources = load_sources()
    made_by = {"device": device, "threads": str(threads), "torch": version("torch")}
    channel = _Line(channel)
    with suppress(CoordinatorGoneError):
        cache.on_compile = lambda loop: channel.send(Compiling(loop))
        channel.send(Ready(device, environment, sources))
        while True:
            order = channel.order()
            if isinstance(order, Measure):
                channel.send(_measure(device, datasets, order.settings))
            elif isinstance(order, Evaluate):
                channel.send(_evaluate(device, datasets, order))
            else:
                channel.send(_run(channel, datasets, stop, order, sources_digest(sources), made_by))


def load_sources() -> dict[str, str]:
    """Load all that a trial may need, and return name -> digest of these sources and of the plug-ins'.

    A file that is written meanwhile has no digest: nobody can say which of the two was loaded.
    """
    from nfstudy.core.cuda import has_triton

    before = worker_sources()
    for name in LOADED:
        package = import_module(f"nfstudy.{name}")
        for found in walk_packages(package.__path__, f"{package.__name__}."):
            if has_triton() or "cuda" not in found.name.split("."):  # A torch for the processor comes without Triton.
                import_module(found.name)
    after = worker_sources()
    return {name: digest if before.get(name) == digest else "" for name, digest in after.items()}


def worker_sources() -> dict[str, str]:
    """Return name -> digest of the sources that a worker which starts now will load."""
    return package_sources() | plugin_sources()


def resolve_device(device: str) -> str:
    """Return the torch device that `auto` stands for here: a CUDA device if there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


class _Line:
    """A channel whose own errors are told from those that a trial raises, which may be the same: EOFError, OSError."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sending = threading.Lock()

    def send(self, message: Message, /) -> None:
        with _as_gone(), self._sending:
            self._channel.send(message)

    def order(self) -> Order:
        with _as_gone():
            return self._channel.order()

    def answer(self) -> bool:
        with _as_gone():
            return self._channel.answer()


@contextmanager
def _as_gone() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise CoordinatorGoneError from error


class _Datasets:
    """The data sets that a worker has loaded."""

    def __init__(self, find: Callable[[DataSpec], Dataset]) -> None:
        self._find = find
        self._loaded: dict[DataSpec, Dataset] = {}

    def of(self, settings: Settings) -> Dataset | None:
        """Return the images that the settings name, whole; None where they name none; raises DataError."""
        source = settings.data and settings.data.source()
        if source and source not in self._loaded:
            self._loaded[source] = self._find(source)
        return self._loaded[source] if source else None


def _measure(device: str, datasets: _Datasets, settings: Settings) -> TrialResult | Cost:
    """Measure what a trial takes; whatever goes wrong becomes a failed result."""
    from nfstudy.inference.training.cost import measure_cost

    try:
        return measure_cost(settings, datasets.of(settings), device)
    except NOT_A_TRIALS:
        raise
    except BaseException as error:
        return _failed(error, 0)


def _evaluate(device: str, datasets: _Datasets, order: Evaluate) -> TrialResult | Evaluated:
    """Evaluate kept weights; whatever goes wrong becomes a failed result."""
    from nfstudy.inference.training.kept import evaluate_kept

    try:
        dataset = datasets.of(order.settings)
        return Evaluated(evaluate_kept(order.settings, dataset, order.repetition, device, order.weights, order.request))
    except UserError as error:
        return TrialResult("failed", reason=str(error), retry=False)
    except Exception as error:
        return _failed(error, 0)


def _run(
    channel: Channel, datasets: _Datasets, stop: StopRequest, order: Run, code: str, made_by: Mapping[str, str]
) -> TrialResult:
    """Run a trial; whatever goes wrong in it becomes a failed result with its traceback."""
    from nfstudy.inference.training.trial import run_trial

    update = 0

    def on_epoch(record: EpochRecord) -> bool:
        nonlocal update
        update = record.update
        channel.send(record)
        return channel.answer() if order.asks else True

    try:
        dataset = datasets.of(order.trial.settings)
        if dataset and order.numbers not in ("", dataset.fingerprint):
            raise DataError(
                f"data {dataset.name}: a worker got other numbers, SHA-256 {dataset.fingerprint[:10]}…, than the "
                f"launcher, {order.numbers[:10]}…; expected: the same, as long as a study runs and on every machine"
            )
        stamp = checkpoint_key(order.trial, dataset.fingerprint if dataset else "")
        checkpoints = Checkpoints(order.plan, stamp, channel.send, stop, code, made_by) if order.plan else None
        return run_trial(order.trial, dataset, made_by["device"], on_epoch, checkpoints)
    except NOT_A_TRIALS:
        raise
    except BaseException as error:  # SystemExit too: somebody else's code may raise anything.
        return _failed(error, update)


NOT_A_TRIALS = (Stopped, CoordinatorGoneError)
"""What passes through a trial and does not come from it."""


def _failed(error: BaseException, update: int) -> TrialResult:
    reason = without_secrets(f"{type(error).__name__}: {error}")
    files = {"traceback.txt": without_secrets(traceback.format_exc()).encode(errors="replace")}
    return TrialResult("failed", update, reason, files=files, retry=not isinstance(error, UserError))
