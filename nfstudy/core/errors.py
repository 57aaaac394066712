"""Errors that are the user's to mend; the command line prints them without a traceback and exits with 2."""


def printable(text: str) -> str:
    """Return a text as a terminal may show it: what could move its cursor, or is no character, is spelt out."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


class UserError(Exception):
    """A mistake in what was asked: the message names the file, key, value and what was allowed."""

    def __str__(self) -> str:
        return printable(super().__str__())


class SpecError(UserError):
    """A study file that cannot be read into a valid study."""


class DataError(UserError):
    """Data files that are missing, truncated, altered, or out of reach."""


class StoreError(UserError):
    """A tracking store that cannot be opened or used."""


class StoreUnavailableError(StoreError):
    """A store that cannot be used just now, and may be again: locked, full, or out of reach."""


class ReportError(UserError):
    """A report that cannot be built from the runs at hand."""
