"""Errors that are the user's to mend; the command line prints them without a traceback and exits with 2."""


class UserError(Exception):
    """A mistake in what was asked: the message names the file, key, value and what was allowed."""


class SpecError(UserError):
    """A study file that cannot be read into a valid study."""


class DataError(UserError):
    """Data files that are missing, truncated, altered, or out of reach."""


class StoreError(UserError):
    """A tracking store that cannot be opened or used."""


class ReportError(UserError):
    """A report that cannot be built from the runs at hand."""
