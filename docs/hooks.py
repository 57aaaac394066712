"""What `mkdocs build` does beyond turning docs/*.md into pages.

Documents that stand elsewhere in the repository become pages too, and links between all of them lead to pages; what is
no page (code, studies) is shown as its path, as the site has no host. The settings of study files are listed from their
records, notebooks are executed, and tables of reports are put where a page asks for them.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import posixpath
import re
import tempfile
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "studies/README.md",
    "reports/*/index.md",
    "reports/*/budget-*/index.md",
)
"""Pages whose place on the site is their path in the repository."""
BESIDE = (
    "reports/*/figures/*.png",
    "reports/*/budget-*/figures/*.png",
    "reports/benchmarks/*.png",
    "reports/index.html",
)
"""Files that are copied to where they are in the repository."""
NOTEBOOKS = "docs/notebooks/*.ipynb"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
AROUND_PICTURE = re.compile(r"()\[(!\[[^\]]*\]\([^)\s]+\))\]\(([^)\s]+)\)")
SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme's offline search loads where a browser lets no file start a worker."""
REMOTE = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*?\shref=["']?(?:https?:)?//[^"'\s>]+|(?:url\(|@import )["']?(?:https?:)?//[^"')]+"""
)
"""What would be fetched from the network when a page is opened."""
TABLE = re.compile(r"<!-- table: (\S+) (.+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that stand outside of docs/, and those that are made here."""
    for path in sorted(path for pattern in ELSEWHERE for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), content=path.read_text("utf-8")))
    for path in sorted(path for pattern in BESIDE for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    for path in sorted(ROOT.glob(NOTEBOOKS)):
        for name, content in notebook_page(path).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables in, and have links lead to pages."""
    markdown = TABLE.sub(lambda found: table_of(ROOT / found[1], found[2]), markdown)
    # Code hosts split a table's code at a bar that is not escaped; here the escape itself would be shown.
    markdown = re.sub(
        r"^\|.*", lambda row: re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), row[0]), markdown, flags=re.M
    )
    # Escapes of CommonMark that Python-Markdown does not know.
    markdown = markdown.replace("\\&", "&amp;").replace("\\<", "&lt;")
    own = page.file.src_uri
    outside = any(Path(own).match(pattern) for pattern in ELSEWHERE)
    folder = posixpath.dirname(own if outside else f"docs/{own}")

    def lead(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        name, hash_, anchor = target.partition("#")
        if re.match(r"\w+:", target) or not name:
            return found[0]
        in_repository = posixpath.normpath(posixpath.join(folder, name))
        place = in_repository.removeprefix("docs/").replace(".ipynb", ".md")
        if files.get_file_from_path(place) is None:
            return (
                text
                if text.startswith("![") or in_repository == "README.md" or "`" in text
                else f"{text} (`{in_repository}`)"
            )
        return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(own) or '.')}{hash_}{anchor})"

    return AROUND_PICTURE.sub(lead, LINK.sub(lead, markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Have the search of pages that are opened from a folder use our own script, not one from the network."""
    local = posixpath.relpath("iframe-worker.js", posixpath.dirname(page.file.dest_uri) or ".")
    return output.replace(SHIM, local)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do so in the page of addresses that are not there."""
    return output_content.replace(SHIM, "iframe-worker.js")


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site whose pages load anything from the network; raises PluginError."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := REMOTE.search(path.read_text("utf-8"))):
            raise PluginError(f"{path}: loads {found[0][:200]}; expected: a site that is read offline")


def table_of(path: Path, heading: str) -> str:
    """Return the first table below a heading of a report; raises PluginError where there is none."""
    _, found, rest = path.read_text("utf-8").partition(f"## {heading}")
    lines = rest.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("|")), None)
    if not found or start is None:
        raise PluginError(f"{path}: no table below '## {heading}'")
    stop = next((number for number, line in enumerate(lines[start:], start) if not line.startswith("|")), len(lines))
    return "\n".join(lines[start:stop])


def notebook_page(path: Path) -> dict[str, str | bytes]:
    """Execute a notebook in an empty folder; return its page and the pictures on it, by their names."""
    import nbformat
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        ExecutePreprocessor(timeout=600).preprocess(notebook, {"metadata": {"path": folder}})
    for cell in notebook.cells:
        # Progress and addresses are of this machine.
        outputs = [each for each in cell.get("outputs", ()) if each.get("name") != "stderr"]
        for before, after in itertools.pairwise(outputs):
            if before.output_type == after.output_type == "stream":
                after.text, before.text = before.text + after.text, ""
        cell["outputs"] = [each for each in outputs if each.get("text") != ""]
    body, resources = MarkdownExporter().from_notebook_node(notebook)
    pictures = {f"{path.stem}/{name}": content for name, content in resources["outputs"].items()}
    body = re.sub(r"!\[(?:png|svg)\]\(([^)]+)\)", rf"![]({path.stem}/\1)", body)
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.S)
    body = re.sub(r' border="1" class="dataframe"| style="text-align: right;"', "", body)
    return {f"{path.stem}.md": body, **pictures}


def settings_page() -> str:
    """Return the page of every key of a study file, from the records that read it."""
    from nfstudy.core import registry
    from nfstudy.study import lr_schedules, spec
    from nfstudy.study.settings import SECTIONS, Settings

    lines = [
        "# Settings",
        "",
        "Every key of a study file, from the records that read it. A setting is named by its dotted path.",
    ]
    used: dict[str, list[str]] = {}
    for problem, sections in SECTIONS.items():
        for name in sections:
            used.setdefault(name, []).append(problem)
    kinds = {"data": "data", "model": "likelihoods", "flow": "flows", "objective": "estimators"}
    for name, field in Settings.model_fields.items():
        section = next((each for each in _records(field.annotation)), None)
        if section is None:
            continue
        lines += ["", f"## `{name}`", "", f"{first_paragraph(section)} In studies of: {', '.join(used[name])}."]
        lines += ["", *rows(section, name)]
        owners: dict[type, list[str]] = {}
        for declaration in registry.all_of(kinds[name]).values() if name in kinds else ():
            for record in declaration.records:
                owners.setdefault(record, []).append(f"`{declaration.name}`")
        for record, names in owners.items():
            lines += ["", f"### {name}: with {', '.join(names)}", "", first_paragraph(record), "", *rows(record, name)]
    lines += ["", "## The study", "", first_paragraph(spec.StudySpec), "", *rows(spec.StudySpec, "")]
    for record in (spec.Sampling, spec.Search, spec.Range, spec.Budget):
        lines += ["", f"### {record.__name__}", "", first_paragraph(record), "", *rows(record, "")]
    lines += ["", "## Learning-rate schedules"]
    for record in vars(lr_schedules).values():
        if not (inspect.isclass(record) and "name" in getattr(record, "model_fields", {})):
            continue
        lines += ["", f"### {record.__name__}", "", first_paragraph(record), "", *rows(record, "train.schedule")]
    return "\n".join(lines) + "\n"


def _records(annotation: Any) -> list[type]:
    """Return the records that a field may hold."""
    from pydantic import BaseModel

    places = [annotation, *getattr(annotation, "__args__", ())]
    return [place for place in places if inspect.isclass(place) and issubclass(place, BaseModel)]


_NO_KEYS = ("StudySpec.settings", "StudySpec.options", "Budget.settings")
"""What the reader fills in: settings, which have sections of their own, and what exhibits say beside their names."""


def rows(record: type, prefix: str) -> list[str]:
    """Return the table of a record's own fields."""
    told = field_docstrings(record)
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in record.model_fields.items():
        if f"{record.__name__}.{name}" in _NO_KEYS:
            continue
        key = field.alias or name
        path = f"{prefix}.{key}" if prefix else key
        default = "" if field.is_required() or field.default_factory else _code(field.default)
        lines.append(f"| `{path}` | {_type(path, field)} | {default} | {_cell(told.get(name, ''))} |")
    return lines


def _type(path: str, field: Any) -> str:
    """Return what a field takes, in words of a study file."""
    from nfstudy.core import registry

    kinds = {
        **{"data.name": "data", "flow.family": "flows", "model.likelihood": "likelihoods"},
        "objective.estimator": "estimators",
    }
    if path in kinds:
        return _cell(" or ".join(f"`{name}`" for name in registry.all_of(kinds[path])))
    text = _words(field.annotation)
    return _cell(", ".join([text, *_limits(field.metadata)]))


def _limits(metadata: Any) -> list[str]:
    """Return the bounds of a number among what annotates it."""
    places = [inner for each in metadata for inner in getattr(each, "metadata", (each,))]
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    bounds = [(sign, getattr(each, name, None)) for each in places for name, sign in signs]
    return [f"{sign} {bound:,}" for sign, bound in bounds if bound is not None]


def _words(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return ", ".join([_words(args[0]), *_limits(args[1:])])
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, args)))
    if origin in (tuple, list):
        return f"list of {_words(args[0])}"
    if origin is dict:
        return "mapping"
    known = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return known.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _code(value: Any) -> str:
    name = getattr(value, "name", None)
    shown = {None: "null", True: "true", False: "false"}.get(value, value) if isinstance(value, bool | None) else value
    return f"`{name or shown}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def first_paragraph(record: type) -> str:
    """Return the first paragraph of a record's docstring."""
    return " ".join((inspect.getdoc(record) or "").split("\n\n")[0].split())


def field_docstrings(record: type) -> dict[str, str]:
    """Return field -> the string that stands below it in the source, of a record and those that it is made of."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.startswith("nfstudy."):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
            for field, below in itertools.pairwise(body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant)
                ):
                    found[field.target.id] = str(below.value.value)
    return found
