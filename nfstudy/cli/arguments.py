"""An argument parser that says what was expected, and what may have been meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from nfstudy.core.suggest import did_you_mean


class Parser(argparse.ArgumentParser):
    """Python's, whose errors suggest the command, option or value that was meant."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse all arguments, and keep them as `typed`; ends the process with 2 where one is not known."""
        typed = sys.argv[1:] if arguments is None else [*arguments]
        options, unknown = self.parse_known_args(typed)
        if unknown:
            known = self._options_of(getattr(options, "command", None))
            words = (f"{word}{did_you_mean(word.partition('=')[0], known)}" for word in unknown)
            self.error(f"unknown: {', '.join(words)}; expected: {', '.join(known)}")
        options.typed = typed
        return options

    def _options_of(self, command: str | None) -> list[str]:
        """Return the long options of a command, those of every one included."""
        parsers: list[argparse.ArgumentParser] = [self]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                parsers.append(action.choices[command])
        found = (name for parser in parsers[::-1] for action in parser._actions for name in action.option_strings)
        return [name for name in dict.fromkeys(found) if name.startswith("--")]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of the choices; argparse's own words suggest none before Python 3.14."""
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"got '{value}'; expected: {', '.join(names)}{did_you_mean(value, names)}"
            )

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Read a value; argparse names the function that could not, where a user needs to know what it could."""
        # As of a variable that a shell does not know.
        if not arg_string and not isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(action, "got nothing; expected: a value")
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if not str(error.message).startswith("invalid "):
                raise
            raise argparse.ArgumentError(action, f"got '{arg_string}'; expected: a number") from None
