"""Entry point of the command line: parses, and imports a command's module only when there is work for it."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from nfstudy.cli.parser import make_parser
from nfstudy.core.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        module, _, name = options.work.partition(":")
        code: int = getattr(import_module(module), name)(options)
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
