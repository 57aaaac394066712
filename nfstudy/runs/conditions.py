"""The recorded settings and provenance of a run, compared with the present ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nfstudy.core.errors import UserError
from nfstudy.runs.code import UNKNOWN, CodeState
from nfstudy.runs.frame import param_text, param_value
from nfstudy.runs.tags import Tag
from nfstudy.study.cells import settings_digest
from nfstudy.study.settings import ADDED_SINCE_KEY_VERSION, Settings, setting_defaults

MACHINE = ("machine", "processor")
"""Entries of `provenance.environment` that, with device and threads, make a kind of machine: there bits are equal."""
_NUMBERS_DO_NOT_DEPEND_ON = ("platform", "cores")


@dataclass(frozen=True)
class Conditions:
    """The provenance of a run, or that of a run started now."""

    commit: str
    changes: str
    """Digest of the uncommitted changes; empty where there were none."""
    settings: str
    """Digest of the settings, as `nfstudy.study.cells.settings_digest` makes it."""
    data: str
    """The data set's fingerprint; empty without data."""
    device: str
    threads: str
    environment: Mapping[str, str]
    """As `provenance.environment` returns it; empty where it was not recorded."""
    code: str = ""
    """Digest of nfstudy's sources; empty where it was not recorded."""

    def facts(self) -> dict[str, str]:
        """Return name -> value of all that numbers may depend on."""
        own = {
            "commit": self.commit,
            "sources": self.code,
            "uncommitted changes": self.changes or "none",
            "settings": self.settings,
            "data": self.data or "none",
            "device": self.device,
            "threads": self.threads,
        }
        rest = {name: text for name, text in self.environment.items() if name not in _NUMBERS_DO_NOT_DEPEND_ON}
        return own | rest

    def machine(self) -> tuple[str | None, ...]:
        """Return what makes the kind of machine."""
        return (self.device, self.threads, *(self.environment.get(name) for name in MACHINE))


class UnknownSettingError(UserError):
    """A recorded setting that this version of nfstudy, with the plug-ins at hand, does not have."""

    def __init__(self, path: str, words: str) -> None:
        super().__init__(words)
        self.path = path


def recorded_settings(params: Mapping[str, str]) -> Settings:
    """Return the settings that a run logged.

    Arguments:
        params: dotted path -> text, as `nfstudy.runs.frame.param_text` makes it. Settings younger than the run have the
            value that means what was done before there was a choice.

    Raises:
        UnknownSettingError: a setting is not known here.
        UserError: a setting is not recorded, or impossible; the message names it.
    """
    tree: dict[str, Any] = {}
    used = {path.split(".")[0] for path in params}
    younger = {path: param_text(value) for path, value in ADDED_SINCE_KEY_VERSION.items() if path.split(".")[0] in used}
    for path, text in {**younger, **params}.items():
        *parents, leaf = path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise UserError(f"{path}: got {text}, and a value for {parent} too; expected: one of the two")
        if leaf in branch:
            raise UserError(f"{path}: got {text}, and values within it too; expected: one of the two")
        branch[leaf] = _tuples(param_value(text))
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        path = ".".join(map(str, details["loc"]))
        words = f"{path}: {details['msg']}; expected: the settings of this version of nfstudy"
        raise UnknownSettingError(path, words) if details["type"] == "extra_forbidden" else UserError(words) from None
    now = {path: param_text(value) for path, value in settings.flat().items()}
    # What is idle is not recorded, and means nothing: it has its default.
    idle = younger.keys() - params.keys() - now.keys()
    settings = settings.replace({path: setting_defaults()[path] for path in idle})
    for path in sorted(now.keys() - params.keys() - ADDED_SINCE_KEY_VERSION.keys()):
        raise UserError(f"{path}: is not recorded; expected: a run that logged all its settings")
    for path, text in params.items():
        if now.get(path) != text:
            raise UserError(f"{path}: got {text}, which means {now.get(path, 'nothing')} here; expected: the same")
    return settings


def recorded_conditions(tags: Mapping[str, str], environment: bytes | None, diff: bytes | None) -> Conditions:
    """Return the recorded provenance of a run.

    Arguments:
        tags: the run's.
        environment: its file `environment.json`, None where it has none.
        diff: its file `git.diff`, None where it has none.
    """
    try:
        found = json.loads(environment or b"{}")
    except (ValueError, RecursionError):
        found = {}
    words = {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}
    changes = {"true": _digest(diff or b""), UNKNOWN: UNKNOWN}.get(tags.get(Tag.DIRTY, ""), "")
    names = (Tag.COMMIT, Tag.SETTINGS, Tag.DATA_FINGERPRINT, Tag.DEVICE, Tag.THREADS)
    commit, settings, data, device, threads = (tags.get(name, UNKNOWN) for name in names)
    return Conditions(commit, changes, settings, data, device, threads, words, tags.get(Tag.CODE, ""))


def present_conditions(
    code: CodeState, settings: Settings, data: str, device: str, threads: int, environment: Mapping[str, str]
) -> Conditions:
    """Return the provenance of a run started now."""
    changes = UNKNOWN if code.dirty is None else _digest(code.diff) if code.dirty else ""
    return Conditions(
        code.commit, changes, settings_digest(settings), data, device, str(threads), environment, code.digest
    )


def differences(then: Conditions, now: Conditions) -> Iterator[str]:
    """Yield a line for each thing that has changed, for people."""
    before, after = then.facts(), now.facts()
    for name in dict.fromkeys((*before, *after)):
        if name == "sources" and not before[name]:
            if UNKNOWN in (then.commit, then.changes):
                yield "code: not known then, so it may have been another"
        elif before.get(name) != after.get(name):
            yield f"{name}: {before.get(name, 'not recorded')} then, {after.get(name, 'none')} now"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _tuples(value: Any) -> Any:
    """Return a value of JSON as settings hold it: lists as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
