"""How long SQLite waits for a lock: MLflow's own statement, rewritten to a time after which signals are seen."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

SQLITE_WAIT_SECONDS = 2


def shorten_busy_timeout(engine: type[Engine] = Engine) -> None:
    """Let SQLite wait for a lock only so long that signals are seen in time: `retry.Retry` tries again.

    MLflow asks for 20 s at every statement's start, and in SQLite Python handles no signal.
    """
    if not event.contains(engine, "before_cursor_execute", _shortened):
        event.listen(engine, "before_cursor_execute", _shortened, retval=True)


def _shortened(
    connection: object, cursor: object, statement: str, parameters: Any, context: object, many: bool
) -> tuple[str, Any]:
    if statement.startswith("PRAGMA busy_timeout"):
        statement = f"PRAGMA busy_timeout = {SQLITE_WAIT_SECONDS * 1000}"
    return statement, parameters
