"""The documents name what there is: settings, options, files, links."""

import re
import shutil
from pathlib import Path

import pytest

from nfstudy.cli.parser import make_parser
from nfstudy.core import plugins, registry
from nfstudy.study.reader import parse_study
from nfstudy.study.settings import CHOICES, setting_defaults

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "studies/*.md", "examples/*/*.md")
    for path in sorted(ROOT.glob(pattern))
]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MODULE = re.compile(r"`((?:nfstudy|tests|studies|examples|docs)/[\w./*{},-]+)`")


def slug(heading):
    """The anchor that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path):
    text = path.read_text()
    headings = {slug(line.lstrip("#")) for line in text.splitlines() if line.startswith("#")}
    return headings | set(re.findall(r'<a id="([^"]+)"></a>', text))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_paths_of_a_document_lead_somewhere(path):
    text = path.read_text()
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        if badge := re.fullmatch(r"\.\./\.\./actions/(workflows/[\w.]+)/badge\.svg", target):
            target = f".github/{badge[1]}"  # As the code host serves it.
        if target == "settings.md" or target == "../settings.md" or target.endswith("reports/index.html"):
            continue  # Made by `make docs`, which follows every link.
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{path.name}: {target}"
    for name in MODULE.findall(text):
        if not re.search(r"[*{}<>]", name) and not name.startswith("studies/NAME"):
            assert (ROOT / name).exists(), f"{path.name}: `{name}`"


@pytest.fixture
def own_registry(monkeypatch):
    """A registry that forgets the plug-ins of a test."""
    registry.all_of("flows")
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    monkeypatch.setattr(plugins, "_installed", {})
    yield
    registry._version += 1


@pytest.mark.parametrize("path", [*TUTORIALS, ROOT / "README.md"], ids=lambda path: path.stem)
def test_studies_and_commands_of_the_tutorials_are_valid(path, tmp_path, own_registry):
    text = path.read_text()
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
        for plugin in re.findall(r"^plugins: \[(.*)\]", block, re.M):
            shutil.copy(ROOT / "examples/sinh-arcsinh" / plugin, tmp_path)
        study = parse_study(block, str(tmp_path / f"{path.stem}.yaml"))
        assert study.under().corners
    for line in re.findall(r"^\$ (?:nfstudy|\.venv/bin/python -m nfstudy|python -m nfstudy) (.*)$", text, re.M):
        assert make_parser().parse_args(line.split()).work
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        compile(block, path.name, "exec")


def test_the_reference_has_every_setting():
    text = (ROOT / "docs" / "reference.md").read_text()
    paths = {path for path in (*setting_defaults(), *CHOICES) if not path.startswith("train.schedule.")}
    assert [path for path in sorted(paths) if f"`{path}`" not in text] == []


def test_the_reference_has_every_command_and_option():
    text = (ROOT / "docs" / "reference.md").read_text()
    for command in commands():
        assert f"`{command} " in text or f"`{command}`" in text, command
        for option in options_of(command):
            assert option in text, f"{command} {option}"


def commands():
    return list(subparsers().choices)


def options_of(command):
    parser = subparsers().choices[command]
    options = [option for action in parser._actions for option in action.option_strings]
    return [option for option in options if option not in ("-h", "--help")]


def subparsers():
    return next(action for action in make_parser()._actions if hasattr(action, "choices") and action.choices)
