"""Files from anywhere: every one is read into something valid, or refused with a message that names it.

NFSTUDY_FUZZ_CASES says how many cases each reader gets; `make test` takes a few hundred, always the same.
"""

import ast
import json
import lzma
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from support.archives import members_of
from support.fake_copies import CONTENTS, STUDY, consistent, copy, points, rebuilt, small_archive

import nfstudy
from nfstudy.core.errors import UserError
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.frame import cell_states
from nfstudy.runs.tracking.sql_export import artifact_address, insert_copies
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.tracking.store import open_store
from nfstudy.runs.tracking.uris import artifact_folder
from nfstudy.study.grid import MAX_CELLS
from nfstudy.study.reader import parse_study, read_study

FEW = 250
CASES = int(os.environ.get("NFSTUDY_FUZZ_CASES", FEW))
FUZZ = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES <= FEW,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
MODULES = sorted(Path(nfstudy.__file__).parent.rglob("*.py"))
SEEDS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))]

TOKENS = r"""null ~ [] {} - : ? & * ! | > % @ ` # --- ... *a &a <<: 1e999 -1 0 .nan -.inf 0x10 0o7 1_000 true 'x' "\x41"
2015-07-06 !!binary !!python/object/apply:os.system ../../etc /etc/passwd <script>"""
LONGER = ("9" * 26, "[" * 30, "{a:" * 21, "low: 0, high: 1", "name: tpe, trials: 1000000000", "[1, 2]")
SPACES = ("\t", "\x00", "\x85", "\u2028", "\ufeff", "\ud7ff", "数", "\n", "\n  ", "\n- ", " ", ": ", ", ")
NASTY = st.sampled_from([*TOKENS.split(), *LONGER, *SPACES])
WORDS = st.sampled_from(sorted({word for seed in SEEDS for word in re.findall(r"[\w.-]+", seed)}))


@st.composite
def mutated_studies(draw):
    """A study of the project, in which some pieces have been removed, repeated, moved or replaced."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(start + draw(st.integers(0, 40)), len(text))
        other = draw(st.sampled_from(SEEDS))
        there = draw(st.integers(0, len(other)))
        piece = draw(
            st.one_of(
                st.just(""),
                NASTY,
                WORDS,
                st.text(max_size=8),
                st.just(other[there : there + 60]),
                st.just(text[start:end] * 2),
            )
        )
        text = text[:start] + piece + text[end:]
    return text


@st.composite
def replaced_words(draw):
    """A study of the project in which whole words are others: mostly YAML still, and wrong in what it means."""
    text = draw(st.sampled_from(SEEDS))
    words = [*re.finditer(r"[\w.-]+", text)]
    for match in sorted(
        draw(st.lists(st.sampled_from(words), min_size=1, max_size=4, unique=True)), key=lambda m: -m.start()
    ):
        text = text[: match.start()] + draw(st.one_of(NASTY, WORDS)) + text[match.end() :]
    return text


KEYS = st.one_of(WORDS, st.text(max_size=5))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)
STRUCTURES = st.dictionaries(KEYS, VALUES, max_size=8).map(lambda tree: json.dumps(tree))
VALID_BUT_ONE = st.tuples(
    st.sampled_from(["model", "train", "grid", "search", "budgets", "sampler", "exhibits"]), VALUES
).map(
    lambda pair: (
        f"study: s\ntitle: T\ndata: {{name: digits}}\n{'' if pair[0] == 'exhibits' else 'exhibits: [summary]'}\n"
        + json.dumps(dict([pair]))[1:-1]
    )
)
STUDIES = st.one_of(mutated_studies(), replaced_words(), STRUCTURES, VALID_BUT_ONE, st.text()).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


def read(reader, path):
    """Return what a file is read into, or None where it is refused by name."""
    try:
        found = reader(path)
    except UserError as error:
        message = str(error)
    else:
        event("accepted")
        return found
    assert message.startswith(f"{path}:")
    assert all(each.isprintable() or each == "\n" for each in message)
    return None


@FUZZ
@pytest.mark.timeout(0)
@given(content=st.one_of(STUDIES, st.binary(max_size=200)))
@example(content=b"study: &a [*a]\n")
@example(content=b"? [a, b]\n: 1\n")
@example(content=b"study: x\ntitle: " + b"[" * 2000)
@example(content=b"!!set {a, b}")
def test_any_study_file_is_valid_or_refused_by_name(content, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    if not (study := read(read_study, path)):
        return
    # Its name is a name of files, never a path.
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", study.study)
    for budget in study.budgets:
        assert 1 <= len(study.under(budget).corners) <= MAX_CELLS


COPIES = [copy(1), copy(2, "diverged"), copy(3, "killed")]
LINES = [run.record.model_dump_json().encode() for run in COPIES]
HISTORIES = [history for run in COPIES for history in run.histories.values()]
TEXTS = st.one_of(
    st.text(max_size=20), NASTY, st.sampled_from(["../../x", "/etc/passwd", "a/../../b", "[" * 5000, "9" * 5000])
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def raw_archives(draw, whole):
    """The file itself with bits turned, bytes cut out or put in, or nothing of it."""
    content = bytearray(
        draw(st.sampled_from([whole, whole, whole, b"", lzma.compress(b""), lzma.compress(bytes(4096))]))
    )
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        if draw(st.booleans()) and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        else:
            content[place : place + draw(st.integers(0, 50))] = draw(st.binary(max_size=20))
    return bytes(content)


@st.composite
def tar_archives(draw, whole, members):
    """The tar inside, packed again after some of its bytes have been changed, or its members."""
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(members), max_size=6))
        names = st.one_of(st.just(None), st.sampled_from(["../x", "/etc/passwd", "files/../x", "runs.jsonl", "x"]))
        chosen = [members[0], *((draw(names) or name, content) for name, content in chosen)]
        return ("members", chosen)
    content = bytearray(lzma.decompress(whole))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content) - 1))
        content[place] = draw(st.integers(0, 255))
    return ("tar", bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]))


@st.composite
def consistent_archives(draw):
    """Lines, points and manifest that say something else, under digests and sizes that agree with them."""
    lines = list(LINES)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        tree = json.loads(lines[place])
        branch = draw(st.sampled_from([tree, *(part for part in tree.values() if isinstance(part, dict))]))
        key = draw(st.one_of(st.sampled_from(sorted(branch)), TEXTS)) if branch else draw(TEXTS)
        branch[key] = draw(TEXTS if isinstance(branch.get(key), str) else JSON_VALUES)
        lines[place] = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 4:
        lines = draw(st.permutations(lines))
    rows = st.tuples(st.integers(-1, 30), st.integers(-1, 30), st.floats())
    other = st.lists(st.lists(rows, max_size=4).map(lambda found: points(*found)), max_size=6)
    histories = draw(other) if draw(st.integers(0, 4)) == 4 else HISTORIES
    keys = st.sampled_from(["format", "study", "runs", "points", "members", "x"])
    changes = {draw(keys): draw(JSON_VALUES)} if draw(st.integers(0, 4)) == 4 else {}
    return lines, histories, changes


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An empty store with the study's experiment; its file and the experiment's id."""
    folder = tmp_path_factory.mktemp("template")
    experiment = open_store(f"sqlite:///{folder}/mlflow.db", create=True).experiment(STUDY)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "mlflow.db", experiment


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An archive as `export` writes it: its bytes and its members."""
    path = small_archive(tmp_path_factory.mktemp("whole") / "x", COPIES)
    return path.read_bytes(), members_of(path)


STUDY_SPEC = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ngrid: {flow.length: [2]}\nexhibits: [summary]\n", "s.yaml"
)


@FUZZ
@pytest.mark.timeout(0)
@given(data=st.data())
def test_any_archive_is_imported_or_refused_by_name(data, tmp_path, template, whole):
    path = tmp_path / "x.tar.xz"
    kind = data.draw(st.sampled_from(["raw", "tar", "consistent", "consistent"]))
    if kind == "raw":
        path.write_bytes(data.draw(raw_archives(whole[0])))
    elif kind == "tar":
        form, content = data.draw(tar_archives(*whole))
        rebuilt(path, content) if form == "members" else path.write_bytes(lzma.compress(content, preset=0))
    else:
        lines, histories, changes = data.draw(consistent_archives())
        consistent(path, lines, histories, CONTENTS, **changes)
    if not (archive := read(read_archive, path)):
        return
    # What is accepted can be put into a store, and reports can read it there.
    store = tmp_path / "store" / "mlflow.db"
    store.parent.mkdir(exist_ok=True)
    shutil.copy(template[0], store)
    uri = f"sqlite:///{store}"
    insert_copies(uri, template[1], archive.manifest.study, archive.runs)
    frame = SqlStore(uri).frame(STUDY)
    assert set(frame["run_id"]) == {run.record.id for run in archive.runs}
    assert len(cell_states(STUDY_SPEC.under("default"), frame)) == 1
    for run in archive.runs:
        folder = artifact_folder(artifact_address(archive.manifest.study, run.record.id), uri)
        for name in run.record.files:
            assert store.parent in (folder / name).resolve().parents
    assert dict(archive.files()).keys() == {digest for run in archive.runs for digest in run.record.files.values()}


UNPICKLERS = (
    r"\b(pickle\.(?!UnpicklingError)|joblib|cloudpickle|dill|shelve|marshal)|^(eval|exec)$|unsafe_load|full_load"
)
EXPLAINED = {
    "bytecode": {"marshal.loads"},  # Python's own compiled copies, which it would run; only compared here.
    "cache": {"pickle.loads", "pickle.dumps"},  # Loops that this user's Numba compiled, as Numba itself reads them.
    "plugins": {"exec"},  # A plug-in that the study file names is code, and meant to be run.
}
"""Module -> calls that are what the module is for."""
WANTED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "YAML": ("typ", "safe")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_unpickled_and_no_shell_is_asked(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            assert name in EXPLAINED.get(path.stem, ()) or not re.search(UNPICKLERS, name), name
            assert not given.get("shell"), name
            keyword, value = WANTED.get(name, ("", None))
            assert given.get(keyword) == value, f"{name} without {keyword}={value}"
