"""A study's claim: which launcher is at work on it, said in the store itself, where launchers in any folder see it.

It is a tag of the study's experiment with the time of the launcher's last sign of life. A lock would be lost on
other machines, and stay after a crash; a sign of life ends by itself. A launcher that finds another's claim in the
place of its own stops at once and writes nothing more, so that two never work beside each other for longer than a beat.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Protocol

from nfstudy.core.errors import StoreError, printable
from nfstudy.core.launcher import Launcher
from nfstudy.runs.tags import Tag

BEAT_SECONDS = 15.0
STALE_SECONDS = 180.0
"""After so long without a sign of life a launcher counts as gone. Longer than a store may be out of reach before its
launcher gives up (`retry.RETRY_SECONDS`), and a beat."""
YIELD_SECONDS = 25.0
"""How long one that insists waits for the other to notice: a beat, and the time to write what is under way."""


class TakenOverError(StoreError):
    """Another launcher has taken the study over."""


class ClaimStore(Protocol):
    """Where claims stand."""

    uri: str

    def study_tag(self, study: str, name: str) -> str:
        """Return a tag of the study's experiment, empty where there is none."""

    def tag_study(self, study: str, name: str, text: str) -> None:
        """Set a tag of the study's experiment."""

    def hurried(self) -> AbstractContextManager[None]:
        """Wait for answers only briefly in this context."""


class Claim:
    """The claim of one launcher on a study."""

    def __init__(self, store: ClaimStore, study: str, launcher: Launcher) -> None:
        self._store, self._study, self._own = store, study, launcher
        self._keeping = threading.Lock()
        self._last = 0.0
        """When it was last shown; 0: show it when next asked."""

    def take(self, insist: bool = False, tell: Callable[[str], None] | None = None) -> None:
        """Claim the study; call it with the project's lock held, unless that is to be taken over too.

        Arguments:
            insist: take it from a launcher that shows signs of life; returns once that has had time to notice.
            tell: told whose it was.

        Raises:
            StoreError: another launcher is at work on it; says which.
        """
        text = self._store.study_tag(self._study, Tag.LAUNCHER)
        other = at_work_elsewhere(text, self._own)
        if other and not insist:
            raise StoreError(
                f"{self._store.uri}: study '{self._study}' is being run by another launcher: {other}; last sign of "
                f"life {_ago(age_of(text))}; hint: stop it there, or insist with `run --take-over`; after "
                f"{STALE_SECONDS:.0f} s without a sign it counts as gone"
            )
        self._show()
        if other:
            (tell or _tell)(f"taking over from {other}: it stops as soon as it notices")
            deadline = time.monotonic() + YIELD_SECONDS
            while time.monotonic() < deadline:
                time.sleep(min(1.0, YIELD_SECONDS))
                if Launcher.read(self._store.study_tag(self._study, Tag.LAUNCHER)) != self._own:
                    self._show()  # It had read its own claim just before.
        self._last = 0.0

    def keep(self) -> None:
        """Show a sign of life if it is time to.

        Raises:
            TakenOverError: the study is another launcher's now; says whose.
        """
        with self._keeping:  # Threads that write ask at once.
            if abs(time.time() - self._last) < BEAT_SECONDS:  # The clock of a machine that slept goes on.
                return
            found = Launcher.read(self._store.study_tag(self._study, Tag.LAUNCHER))
            if found != self._own:
                raise TakenOverError(
                    f"{self._store.uri}: study '{self._study}' was taken over by "
                    f"{found or 'somebody who left no name'}; this launcher stops"
                )
            self._show()

    def release(self, hurry: bool = False) -> None:
        """Give the study back, unless it is another's.

        Arguments:
            hurry: do not wait for a store that does not answer; the claim then ends by itself.
        """
        with suppress(StoreError), self._store.hurried() if hurry else nullcontext():
            if Launcher.read(self._store.study_tag(self._study, Tag.LAUNCHER)) == self._own:
                self._store.tag_study(self._study, Tag.LAUNCHER, "")

    def _show(self) -> None:
        text = json.dumps({**json.loads(self._own.text()), "alive": time.time()})
        self._store.tag_study(self._study, Tag.LAUNCHER, text)
        self._last = time.time()


@contextmanager
def claimed(claim: Claim, insist: bool = False) -> Iterator[Claim]:
    """Hold a claim in this context; raises StoreError as `Claim.take`."""
    claim.take(insist)
    try:
        yield claim
    except BaseException:  # Somebody wants to end, or the store is what has failed.
        claim.release(hurry=True)
        raise
    claim.release()


def at_work_elsewhere(text: str, own: Launcher) -> Launcher | None:
    """Return the launcher that a claim is of, if it may be at work where this process's lock does not reach.

    Arguments:
        text: the tag.
        own: this process; another one of its host and folder would hold the lock.
    """
    found = Launcher.read(text)
    return found if found and not found.shares_lock(own) and age_of(text) < STALE_SECONDS else None


def age_of(text: str) -> float:
    """Return the seconds since a claim's last sign of life, by the clocks of the two machines."""
    try:
        return time.time() - float(json.loads(text)["alive"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return STALE_SECONDS


def _ago(age: float) -> str:
    if age < -1:
        return f"{-age:.0f} s ahead of this machine's clock, so that one of the two clocks is wrong"
    return f"{max(age, 0):.0f} s ago"


def _tell(words: str) -> None:
    print(printable(words), file=sys.stderr, flush=True)
