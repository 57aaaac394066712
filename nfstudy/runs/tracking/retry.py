"""Writing to a store again while it is unavailable, so that hours of training outlive a lock or a server restart."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

from nfstudy.core.errors import StoreUnavailableError

RETRY_SECONDS = 120.0
"""Workers train on meanwhile; what they send waits in their pipes."""
PAUSE_SECONDS = 0.5
LASTING_CODES = ("SQLITE_READONLY", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_PERM", "SQLITE_AUTH")
"""How the names of SQLite's lasting errors begin; a lock, a full disk or a failing one may pass."""
LASTING_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR)

Found = TypeVar("Found")


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Retry:
    """For how long an unavailable store is tried again, who is told, and what ends it."""

    seconds: float = 0.0
    tell: Callable[[str], None] = print
    is_over: Callable[[], bool] = _never
    """Asked before each wait, as when somebody wants the study to stop."""
    waiting: set[int] = field(default_factory=set)
    """Threads that wait for the store: the first tells of it, and the last that it has come back."""

    def retry_while_unavailable(self, work: Callable[[], Found]) -> Found:
        """Do some work, again while the store is unavailable; it must be work that may be done twice.

        The time runs from the first failure: a server that was silent until a request timed out was tried only once.

        Raises:
            StoreUnavailableError: the store has been unavailable for longer.
        """
        failed_first: float | None = None
        own = threading.get_ident()
        try:
            while True:
                try:
                    found = work()
                except StoreUnavailableError as error:
                    passed = 0.0 if failed_first is None else time.monotonic() - failed_first
                    if self.is_over() or passed >= self.seconds:
                        raise
                    if failed_first is None:
                        failed_first = time.monotonic()
                        if not self.waiting:
                            self.tell(f"{error}; retrying for {self.seconds:.0f} s")
                        self.waiting.add(own)
                    time.sleep(PAUSE_SECONDS)
                else:
                    if self.waiting == {own}:
                        self.tell("the tracking store is available again")
                    return found
        finally:
            self.waiting.discard(own)


def may_pass(error: BaseException) -> bool:
    """Say whether what went wrong in a store is such that the same work may succeed later."""
    for each in _chain(error):
        if isinstance(each, OperationalError):
            return not getattr(each.orig, "sqlite_errorname", "").startswith(LASTING_CODES)
        if isinstance(each, OSError):
            return each.errno not in LASTING_ERRORS
        # What a tracking server answers; MLflow's errors of other origin have no such answer.
        if getattr(each, "json", None) is not None:
            answered: Any = each
            return bool(answered.get_http_status_code() >= 500)
    return False


def reason(error: BaseException) -> str:
    """Return what went wrong in a store in one line: the database's own words where it spoke, without the statement."""
    spoken = next((each.orig for each in _chain(error) if isinstance(each, DBAPIError) and each.orig), error)
    return " ".join(str(spoken).split())[:500]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
