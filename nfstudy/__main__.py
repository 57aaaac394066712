"""Entry point of the command line: parses, and imports a command's module only when there is work for it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module

from nfstudy.cli.parser import make_parser
from nfstudy.core.errors import UserError
from nfstudy.core.output import lost_output, outlive_readers


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; whatever happens, nothing is raised but what ends a process."""
    try:
        outlive_readers()
        options = make_parser().read(arguments)
        module, _, name = options.work.partition(":")
        code = _work(getattr(import_module(module), name), options)
        if lost := lost_output():
            print(f"error: {lost}", file=sys.stderr)
        # What a study has to show is in its store and report, all other commands print it.
        return 2 if lost and code == 0 and options.command != "run" else code
    except SystemExit as end:  # After help, say, which may not have arrived.
        if end.code or not (lost := lost_output()):
            raise
        print(f"error: {lost}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from nfstudy.core.crash import tell

        words, code = tell(error)
        print(f"error: {words}", file=sys.stderr)
        return code


def _work(command: Callable[[Namespace], int], options: Namespace) -> int:
    """Do a command's work; a plug-in's `sys.exit` ends nothing, least of all with success."""
    try:
        return command(options)
    except SystemExit as error:
        raise RuntimeError(f"sys.exit({error.code!r})").with_traceback(error.__traceback__) from None


if __name__ == "__main__":
    sys.exit(main())
