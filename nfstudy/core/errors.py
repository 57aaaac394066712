"""Errors that are the user's to mend; the command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import re

_USER_INFORMATION = re.compile(
    r"""(?P<scheme>(?:\b[a-z][a-z0-9+.-]*)?://)
        (?: [^\s/?\#'"<>@:]* (?: : (?!\d{1,5}(?:[/?\#]|\s|$)) [^\s'"<>]* )?   # user:password, whatever is in the latter
          | [^\s/?\#'"<>]* )
        @""",
    re.IGNORECASE | re.VERBOSE,
)
"""What stands before the host of a URI. A password may hold `/`, `:` and `@`, as SQLAlchemy reads it."""

_SECRET_PARAMETER = re.compile(
    r"""(?P<name>[?&;\#]
        (?: [\w.-]*(?:password|passwd|pwd|passphrase|secret|token|credential|signature|(?:api|access)[_-]?key)[\w.-]*
          | (?:[\w.-]*[._-])?(?:sig|auth|key) )
        =)[^&;\#\s'"<>]+""",
    re.IGNORECASE | re.VERBOSE,
)

_addresses: dict[str, str] = {}
"""Address that somebody gave this process -> what is shown of it."""


def keep_secret(address: str) -> None:
    """Have `without_secrets` know a store's address as a whole, whatever characters its password has.

    In a text, where a password with a blank or a quote in it ends can only be guessed; of an address alone it is known:
    at its last `@`. All values of its query are left out, too.

    Arguments:
        address: not a file's.
    """
    before, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]
    scheme, separator, place = before.rpartition("://") if before.count("://") == 1 else ("", "", before)
    shown = scheme + separator + place.rpartition("@")[2] + mark + re.sub(r"(?:(?<==)|^(?!.*=))[^&;#]+", "...", query)
    if shown != address:
        _addresses[address] = shown


def without_secrets(text: str) -> str:
    """Return a text with nothing between `://` and the host of any URI in it, and `...` for passwords in its query.

    All that is written or printed goes through here, whoever has made the words: a user's tracking address may hold a
    password, and an exception of a library may hold that address.
    """
    for address, shown in _addresses.items():
        text = text.replace(address, shown)
    if "://" not in text:
        return text
    return _SECRET_PARAMETER.sub(r"\g<name>...", _USER_INFORMATION.sub(r"\g<scheme>", text))


def printable(text: str) -> str:
    """Return a text as a terminal may show it.

    What could move its cursor, or is no character, is spelt out; secrets are left out (`without_secrets`).
    """
    plain = without_secrets(text)
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in plain)


def untold(line: str) -> None:
    """Tell nobody of something: stands for a function that tells people what they should know."""


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


class StudyDeletedError(StoreError):
    """A study whose experiment somebody has deleted; its runs can be had back."""

    @classmethod
    def of(cls, uri: str, study: str, experiment: str) -> StudyDeletedError:
        """Return the error for the experiment of a study, by its id in the store at an address."""
        return cls(
            f"{uri}: the experiment of study '{study}' (id {experiment}) has been deleted; "
            "hint: to have its runs back, with MLFLOW_TRACKING_URI set to that address, run "
            f"`python -m mlflow experiments restore --experiment-id {experiment}`; or give the study another name"
        )


class RunGoneError(StoreError):
    """A run under way that the store no longer has, such as one that somebody has deleted."""


class ReportError(UserError):
    """A report that cannot be built from the runs at hand."""
