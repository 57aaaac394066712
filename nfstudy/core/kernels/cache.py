"""Numba's cache of compiled loops, bound to all that is compiled into them.

Numba looks at the file of the function alone, and a loop has parts from other files compiled into it: after a pull or a
checkout it would run the old ones. Here an entry is of use only to the very sources, and libraries, that it was made
with. A damaged entry is made again. Of processes that need the same loop at once, one compiles it, and the others wait.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba import config, njit
from numba.core.caching import IndexDataCacheFile

from nfstudy.core.reading import read_regular

on_compile: Callable[[str], None] | None = None
"""Told the name of each loop that is compiled here because the cache has none of it: that takes seconds."""

first_uses = 0
"""How many loops and parts of them this process has compiled or loaded: whoever times one sees whether it was new."""

COMPILES_WITHIN = 120.0
"""Seconds for which a process waits for another that compiles the same loop, before it does so itself."""

PACKAGE = Path(__file__).resolve().parents[2]
ENTRY_BYTES = 2**28
"""Of one compiled function."""
LIBRARIES = ("numba", "llvmlite", "numpy")
OPTIONS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DISABLE_INTEL_SVML", "DEBUGINFO_DEFAULT")
"""Of Numba, from `NUMBA_...` variables or `.numba_config.yaml`: they change what is made of a source, and Numba's own
key of an entry lacks them."""


@cache
def sources_digest() -> str:
    """Return the SHA-256 of every file whose functions are compiled, and of the compiler's version and options."""
    digest = hashlib.sha256()
    for path in sorted({*PACKAGE.glob("core/kernels/*.py"), *PACKAGE.glob("flows/**/kernel*.py")}):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE)} {len(content)}\n".encode() + content)
    digest.update("".join(f"{name} {version(name)}\n" for name in LIBRARIES).encode())
    digest.update("".join(f"{name} {getattr(config, name, None) or 0}\n" for name in OPTIONS).encode())
    return digest.hexdigest()


class _BoundFiles(IndexDataCacheFile):
    """The files of one function in Numba's cache, whose content says what it was made from."""

    loop = ""
    """The function's name for people; empty for a part of others, which is compiled along with them."""

    _turn: FileLock | None = None

    def load(self, key: Any) -> Any:
        """Return the compiled function, or None where it has to be compiled: then until it is saved, others wait."""
        global first_uses
        first_uses += 1
        found = super().load(key)
        if found is None and self.loop:
            self._take_turn()
            found = super().load(key)  # Another process may have compiled it meanwhile.
            if found is not None:
                self._end_turn()
            elif on_compile:
                on_compile(self.loop)
        return found

    def save(self, key: Any, data: Any) -> None:
        """Keep a compiled function."""
        try:
            super().save(key, data)
        finally:
            self._end_turn()

    def ending_turn(self, compile_loop: Callable[..., Any]) -> Callable[..., Any]:
        """Return what compiles a loop, its turn ended in any case: where that fails, nothing is ever saved."""

        def compile_and_end(*arguments: Any) -> Any:
            try:
                return compile_loop(*arguments)
            finally:
                self._end_turn()

        return compile_and_end

    def _take_turn(self) -> None:
        # Where a folder cannot be written to, a file system has no locks, or the wait is over (a TimeoutError, which is
        # an OSError), each compiles for itself: that costs seconds and changes no number.
        with suppress(OSError, NotImplementedError):
            Path(self._cache_path).mkdir(parents=True, exist_ok=True)
            self._turn = FileLock(Path(self._cache_path) / f"{self._index_name}.lock", timeout=COMPILES_WITHIN)
            self._turn.acquire()

    def _end_turn(self) -> None:
        if self._turn:
            self._turn.release()

    def _load_index(self) -> dict[Any, str]:
        try:
            return super()._load_index()
        except Exception:  # Truncated or altered: pickle may raise anything.
            return {}

    def _load_data(self, name: str) -> Any:
        try:
            stamp, digest, content = pickle.loads(read_regular(Path(self._data_path(name)), ENTRY_BYTES))
            if stamp == self._source_stamp and digest == hashlib.sha256(content).hexdigest():
                return pickle.loads(content)
        except OSError:
            raise
        except Exception:  # Truncated or altered, as above.
            pass
        raise FileNotFoundError(f"{name}: of other sources, or damaged")

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        entry = pickle.dumps((self._source_stamp, hashlib.sha256(content).hexdigest(), content))
        with self._open_for_write(self._data_path(name)) as file:
            file.write(entry)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Numba's decorator with these options, its cache bound to the sources."""

    def decorate(function: Callable[..., Any]) -> Any:
        loop = njit(**options)(function)
        if options.get("cache") and not getattr(config, "DISABLE_JIT", 0):  # Else it is a plain function.
            own = hashlib.sha256(Path(function.__code__.co_filename).read_bytes()).hexdigest()
            files = loop._cache._cache_file
            base = files._index_name.removesuffix(".nbi")
            bound = _BoundFiles(files._cache_path, base, f"{sources_digest()} {own}")
            if not options.get("forceinline"):
                bound.loop = (
                    f"{function.__module__.removeprefix('nfstudy.').removesuffix('.kernel')}.{function.__name__}"
                )
                loop.compile = bound.ending_turn(loop.compile)
            loop._cache._cache_file = bound
        return loop

    return decorate
