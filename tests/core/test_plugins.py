"""Plug-ins: what is read, what is declared, and what is refused with one clear message."""

import errno
import hashlib
import os
import re
import subprocess
import sys

import pytest
from support.plugins import SHIFT, WRONG
from support.plugins_data import COUNTS
from support.processes import loaded_by

from nfstudy.__main__ import main
from nfstudy.cli.check_plugin import check_declaration, check_outside
from nfstudy.core import registry
from nfstudy.core.declarations import FlowFamily
from nfstudy.core.errors import SpecError, UserError
from nfstudy.core.plugins import _Beside, install, read_plugin, require_recorded
from nfstudy.flows.contract import check_family
from nfstudy.study.reader import parse_study

STUDY = """\
study: mine
title: Mine
plugins: [shift.py]
data: {name: digits}
flow: {family: shift, length: 2}
grid: {flow.shift_scale: [1.0, 2.0]}
exhibits: [summary]
"""


DOUBLE = "    torch.set_default_dtype(torch.float64)\n"


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch):
    """Have each test declare into a copy of what there is."""
    registry.all_of("flows")
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    monkeypatch.setattr("nfstudy.core.plugins._installed", {})
    monkeypatch.setattr("nfstudy.core.plugins._beside", _Beside())
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield
    registry._version += 1


def study_in(folder, plugin=SHIFT, text=STUDY, name="shift.py"):
    (folder / name).write_text(plugin)
    return parse_study(text, str(folder / "mine.yaml"))


def cells_in(folder, **changes):
    study = study_in(folder, **changes)
    return study, study.under(study.budget).cells


def test_a_study_uses_what_a_file_beside_it_declares(tmp_path):
    study, cells = cells_in(tmp_path)
    assert [cell.settings.flow.shift_scale for cell in cells] == [1.0, 2.0]
    assert registry.find("flows", "shift").title == "shift"
    assert study.settings.flat()["flow.shift_scale"] == 1.0


def test_its_settings_are_idle_under_other_families(tmp_path):
    study = study_in(tmp_path, text=STUDY.replace("family: shift", "family: planar").replace("grid: {flow.sh", "#"))
    assert "flow.shift_scale" not in study.settings.flat()
    assert not study.settings.origins()


def test_the_file_is_part_of_the_key_of_what_uses_it(tmp_path, monkeypatch):
    keys = {}
    for name, text in {"as it is": SHIFT, "changed": SHIFT + "\n# changed\n"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(registry, "_declared", {kind: dict(d) for kind, d in registry._declared.items()})
            patch.setattr("nfstudy.core.plugins._installed", {})
            _, cells = cells_in(tmp_path, plugin=text)
            keys[name] = [cell.key for cell in cells]
    assert not set(keys["as it is"]) & set(keys["changed"])


def test_reading_such_a_study_loads_no_torch(tmp_path):
    (tmp_path / "shift.py").write_text(SHIFT)
    (tmp_path / "mine.yaml").write_text(STUDY)
    top, _ = loaded_by(f"from nfstudy.study.reader import read_study; read_study({str(tmp_path / 'mine.yaml')!r})")
    assert not {"torch", "matplotlib", "mlflow", "optuna"} & top


MISTAKES = {
    "no such file": (None, STUDY, r"mine.yaml:3:11: plugins.0: got 'shift.py'; no such file"),
    "no such module": (
        None,
        STUDY.replace("shift.py", "not.there"),
        r"plugins.0: got 'not.there', which cannot be impor",
    ),
    "neither": (
        None,
        STUDY.replace("shift.py", "shift flow"),
        r"plugins.0: got 'shift flow'; expected: a path that ends",
    ),
    "no list": (
        None,
        STUDY.replace("[shift.py]", "shift.py"),
        r"mine.yaml:3:10: plugins: got 'shift.py'; expected: a list",
    ),
    "no declaration": ("x = 1\n", STUDY, r"plugins.0: got 'shift.py', which declares nothing; expected: a FlowFamily"),
    "an empty file": ("", STUDY, r"plugins.0: got 'shift.py', which declares nothing; expected: a FlowFamily"),
    "two files of one name": (
        SHIFT,
        STUDY.replace("[shift.py]", "[shift.py, more/shift.py]"),
        r"plugins.1: got 'more/shift.py', a file name that is there already",
    ),
    "a syntax error": ("x = 1\ny = (\n", STUDY, r"plugins.0: shift.py:2: SyntaxError: '\(' was never closed"),
    "an import that fails": (
        "x = 1\nimport no_such\n",
        STUDY,
        r"plugins.0: shift.py:2: ModuleNotFoundError: No module",
    ),
    "an exit": ("raise SystemExit(3)\n", STUDY, r"plugins.0: shift.py:1: SystemExit: 3"),
    "a name twice": (
        SHIFT + "\nSECOND = FlowFamily(name='shift', implementation=implementation)\n",
        STUDY,
        r"plugins.0: shift.py: flows: got 'shift' twice; expected: each name once",
    ),
    "no name": (
        SHIFT.replace('"shift"', '""'),
        STUDY,
        r"shift.py:\d+: ValueError: flows: name: got ''; expected: text",
    ),
    "a path as a name": (SHIFT.replace('"shift"', '"../shift"'), STUDY, r"name: got '../shift'; expected: text of let"),
    "settings that are no record": (
        SHIFT.replace("settings=ShiftSettings", "settings={'shift_scale': 1.0}"),
        STUDY,
        r"flows shift: settings: got {'shift_scale': 1.0}; expected: a subclass of Record",
    ),
    "a setting without a default": (
        SHIFT.replace(": Positive = 1.0", ": Positive"),
        STUDY,
        r"settings: shift_scale: has no default; expected: one",
    ),
    "a setting that no key can hold": (
        SHIFT.replace("shift_scale: Positive = 1.0", "shift_scale: frozenset[str] = frozenset()"),
        STUDY,
        r"settings: shift_scale: got frozenset\(\) as its default; expected: text, a number",
    ),
    "examples without a comma": (
        SHIFT.replace("settings=Shift", "examples=({'shift_scale': 2.0}), settings=Shift"),
        STUDY,
        r"flows shift: examples: got {'shift_scale': 2.0}; expected: a tuple of mappings",
    ),
    "no examples": (
        SHIFT.replace("settings=Shift", "examples=(), settings=Shift"),
        STUDY,
        r"flows shift: examples: got \(\); expected: a tuple of mappings of settings to values, at least one\n",
    ),
    "a dimension as text": (
        SHIFT.replace("settings=Shift", "least_latent='2', settings=Shift"),
        STUDY,
        r"flows shift: least_latent: got '2'; expected: a whole number",
    ),
    "no dimension": (
        SHIFT.replace("settings=Shift", "least_latent=0, settings=Shift"),
        STUDY,
        r"flows shift: least_latent: got 0; expected: 1 or more",
    ),
    "a name that is taken": (SHIFT.replace('"shift"', '"planar"'), STUDY, r"flows: got 'planar'; expected: a name not"),
    "a setting that is taken": (
        SHIFT.replace("shift_scale", "constraint"),
        STUDY,
        r"settings: got 'constraint'; expected",
    ),
    "a setting of the section": (
        SHIFT.replace("shift_scale: P", "length: P"),
        STUDY,
        r"settings: got 'length';",
    ),
    "another declaration": (
        SHIFT + "\nBARE = type('Declared', (), {})()\nSHIFT = 3\n",
        STUDY,
        r"which declares nothing",
    ),
    "a value that its settings do not take": (
        SHIFT,
        STUDY.replace("[1.0, 2.0]", "[1.0, -2.0]"),
        r"mine.yaml:6:32: grid.flow.shift_scale.1: got -2.0; expected: greater than 0",
    ),
    "a setting that it has not": (
        SHIFT,
        STUDY.replace("length: 2}", "length: 2, shift_size: 3}"),
        r"mine.yaml:5:34: flow.shift_size: unknown key; expected: family, length, .*did you mean 'shift_scale'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(mistake, tmp_path):
    plugin, text, words = MISTAKES[mistake]
    if plugin is not None:
        (tmp_path / "shift.py").write_text(plugin)
    with pytest.raises(SpecError, match=words):
        parse_study(text, str(tmp_path / "mine.yaml"))


def test_a_file_that_is_no_plain_text_is_not_run(tmp_path):
    (tmp_path / "shift.py").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="byte 0 is not UTF-8"):
        read_plugin("shift.py", tmp_path)
    (tmp_path / "big.py").write_bytes(b"#" * 1_000_001)
    with pytest.raises(SpecError, match="at most 1,000,000 bytes"):
        read_plugin("big.py", tmp_path)
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(SpecError, match="cannot be read: is a pipe"):
        read_plugin("pipe.py", tmp_path)


def test_a_file_of_a_windows_editor_is_run_and_kept_as_it_is(tmp_path):
    raw = b"\xef\xbb\xbf" + SHIFT.replace("\n", "\r\n").encode()
    (tmp_path / "shift.py").write_bytes(raw)
    plugin = read_plugin("shift.py", tmp_path)
    (family,) = install(plugin)
    assert family.name == "shift"
    assert plugin.source.encode() == raw


def test_a_default_dtype_is_nobodys_to_change(tmp_path):
    code = (
        "import sys; from nfstudy.__main__ import main; import torch; "
        "sys.exit(main(['check-plugin', sys.argv[1] + '/shift.py']))"
    )
    (tmp_path / "shift.py").write_text(SHIFT.replace("    return Shift\n", DOUBLE + "    return Shift\n"))
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "flows shift: changes torch's default dtype, for all else too; expected: float32" in done.stderr


@pytest.mark.parametrize("place", ["when it is checked", "when its study is read"])
def test_an_exit_within_a_plug_in_is_no_success(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = COUNTS.replace("return data.counts - 40, 20, 20", "raise SystemExit(0)")
    if place == "when it is checked":
        code = COUNTS.replace("    import numpy as np\n", "    raise SystemExit(0)\n")
    (tmp_path / "counts.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(
        "study: mine\ntitle: Mine\nplugins: [counts.py]\ndata: {name: counts}\nexhibits: [summary]\n"
    )
    command = ["check-plugin", "counts.py"] if place == "when it is checked" else ["status", "mine.yaml"]
    assert main(command) == 2
    assert re.search(r"error: .*(SystemExit: 0|counts.py:\d+: RuntimeError: sys.exit\(0\))", capsys.readouterr().err)


def test_two_files_that_declare_one_name_are_told_apart(tmp_path):
    (tmp_path / "one.py").write_text(SHIFT)
    (tmp_path / "two.py").write_text(SHIFT + "# another\n")
    install(read_plugin("one.py", tmp_path))
    install(read_plugin("one.py", tmp_path))
    with pytest.raises(SpecError, match=r"two.py: flows: got 'shift'; expected: a name not taken by one.py"):
        install(read_plugin("two.py", tmp_path))


def test_a_flow_is_checked_at_the_settings_of_the_study_that_uses_it(tmp_path):
    """Its examples are its defaults alone, where its log-determinant is right."""
    plugin = SHIFT.replace("z.new_zeros(z.shape[:-1])", "z.new_full(z.shape[:-1], self.scale - 1)")
    _, cells = cells_in(tmp_path, plugin=plugin)
    assert check_declaration(registry.find("flows", "shift")) == "8 chains satisfy the flow contract"
    with pytest.raises(UserError, match=r"flow shift with .*'shift_scale': 2.0}: log-determinant: got "):
        check_outside(cells)


def test_an_example_that_its_settings_do_not_allow_is_told(tmp_path):
    study_in(
        tmp_path,
        plugin=SHIFT.replace("settings=ShiftSettings", 'settings=ShiftSettings, examples=({"shift_scale": -1.0},)'),
    )
    with pytest.raises(UserError, match=r"flow shift: examples: shift_scale: got -1\.0; expected: greater than 0"):
        check_declaration(registry.find("flows", "shift"))


@pytest.mark.parametrize("fault", WRONG)
def test_the_contract_finds_what_is_wrong_with_a_flow(fault, tmp_path):
    text, words = WRONG[fault]
    (tmp_path / "shift.py").write_text(text)
    (family,) = install(read_plugin("shift.py", tmp_path))
    with pytest.raises(UserError, match=words):
        check_family(family)


def test_a_flow_that_is_right_keeps_it(tmp_path):
    (tmp_path / "shift.py").write_text(SHIFT)
    (family,) = install(read_plugin("shift.py", tmp_path))
    assert check_family(family) == 8


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in registry.all_of("flows") if name != "none"])
def test_every_family_of_the_suite_keeps_it(family):
    assert check_family(registry.find("flows", family)) >= 8


def distribution(folder, name, version, entry, text=SHIFT):
    """Install a distribution by hand: a module, its metadata and its entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[nfstudy.flows]\n{entry}\n")
    (info / "top_level.txt").write_text("shift_flows\n")
    (info / "RECORD").write_text("shift_flows.py,,\n")
    (folder / "shift_flows.py").write_text(text)


ORIGIN = (
    "from nfstudy.core import registry; from nfstudy.study.settings import Settings; "
    "s = Settings.model_validate({'data': {'name': 'digits'}, 'flow': {'family': 'shift', 'length': 1}}); "
    "print(s.identity()['origin.flows.shift'])"
)


def in_a_process(folder, code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_an_installed_distribution_adds_a_flow_by_its_entry_point(tmp_path):
    distribution(tmp_path, "my-shift", "1.2", "shift = shift_flows:SHIFT")
    assert in_a_process(tmp_path, ORIGIN).stdout == "my-shift 1.2\n"


def test_a_flow_of_a_distribution_is_checked_before_a_study_trains_it(tmp_path):
    distribution(tmp_path, "my-shift", "1.2", "shift = shift_flows:SHIFT", WRONG["log-determinant"][0])
    study = STUDY.replace("plugins: [shift.py]\n", "") + "train: {updates: 10}\n"
    code = (
        "from nfstudy.cli.check_plugin import check_outside; from nfstudy.study.reader import parse_study; "
        f"check_outside(parse_study({study!r}, 's.yaml').under().corners)"
    )
    done = in_a_process(tmp_path, code)
    assert "UserError: plug-in my-shift 1.2: flow shift with D = 1" in done.stderr
    assert "log-determinant: got 0 nats" in done.stderr
    assert "nothing has been trained" in done.stderr


def test_a_broken_distribution_is_named_only_where_it_is_wanted(tmp_path):
    distribution(tmp_path, "my-shift", "1.2", "shift = shift_flows:SHIFT", "import no_such\n")
    found = in_a_process(tmp_path, "from nfstudy.core import registry; print(*registry.all_of('flows'))")
    assert "shift" not in found.stdout
    assert "planar" in found.stdout
    found = in_a_process(tmp_path, "from nfstudy.core import registry; registry.find('flows', 'shift')")
    assert "'shift' is installed and cannot be imported: my-shift 1.2: ModuleNotFoundError" in found.stderr


def test_a_module_that_a_study_names_belongs_to_its_distribution(tmp_path):
    distribution(tmp_path, "my-shift", "1.2", "")
    code = (
        "from pathlib import Path; from nfstudy.core.plugins import install, read_plugin; "
        "p = read_plugin('shift_flows', Path()); install(p); print(p.distribution, p.record(Path()))"
    )
    assert in_a_process(tmp_path, code).stdout == (
        "my-shift 1.2 {'name': 'shift_flows', 'distribution': 'my-shift 1.2'}\n"
    )


def digest_of(name, folder):
    return read_plugin(name, folder).digest


def test_the_digest_of_a_file_alone_is_that_of_the_file(tmp_path):
    (tmp_path / "shift.py").write_text(SHIFT)
    assert digest_of("shift.py", tmp_path) == hashlib.sha256(SHIFT.encode()).hexdigest()


@pytest.mark.parametrize(
    "line",
    ["import my_scale", "from my_scale import SCALE", "def later():\n    import os, my_scale.inner"],
    ids=["import", "from", "in a function"],
)
def test_what_a_file_imports_from_beside_it_is_part_of_its_digest(line, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shift.py").write_text(f"{SHIFT}\n{line}\n")
    (tmp_path / "my_scale").mkdir()
    inner, further = tmp_path / "my_scale/inner.py", tmp_path / "my_further.py"
    (tmp_path / "my_scale/__init__.py").write_text("SCALE = 1\n")
    inner.write_text("from . import SCALE\nimport my_further\n")
    further.write_text("ONE = 1\n")
    before = digest_of("shift.py", tmp_path)
    for path in (inner, further):
        text = path.read_text()
        path.write_text(f"{text}\n# changed\n")
        assert digest_of("shift.py", tmp_path) != before
        path.write_text(text)
    (tmp_path / "my_unused.py").write_text("")
    assert digest_of("shift.py", tmp_path) == before


@pytest.fixture
def beside(tmp_path):
    """A plug-in with a module beside it, and another of that name in the folder above."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/shift.py").write_text(f"{SHIFT}\n\ndef later():\n    import my_scale\n    return my_scale.SCALE\n")
    (tmp_path / "own/my_scale.py").write_text("SCALE = 1\n")
    (tmp_path / "my_scale.py").write_text("SCALE = 2\n")
    yield tmp_path
    sys.modules.pop("my_scale", None)


def test_what_is_beside_a_file_is_found_whatever_folder_python_was_started_in(beside, monkeypatch):
    alone = digest_of("own/shift.py", beside)
    monkeypatch.chdir(beside)
    monkeypatch.syspath_prepend(beside)
    plugin = read_plugin("own/shift.py", beside)
    assert alone == plugin.digest != hashlib.sha256(plugin.source.encode()).hexdigest()
    install(plugin)
    later = vars(sys.modules[f"nfstudy_plugin_{plugin.digest[:16]}"])["later"]
    assert (later(), sys.modules["my_scale"].__file__) == (1, str(beside / "own/my_scale.py"))


@pytest.mark.parametrize("folder", ["", "own"])
def test_the_command_finds_it_from_any_folder(folder, beside):
    (beside / "own/shift.py").write_text(f"import my_scale\nassert my_scale.SCALE == 1\n{SHIFT}")
    file = os.path.relpath(beside / "own/shift.py", beside / folder)
    done = subprocess.run(
        [sys.executable, "-m", "nfstudy", "check-plugin", file],
        cwd=beside / folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_beside_that_is_edited_is_imported_anew(beside):
    (beside / "own/shift.py").write_text(f"import my_scale\nSCALE = my_scale.SCALE\n{SHIFT}")
    first = read_plugin("own/shift.py", beside)
    install(first)
    (beside / "own/my_scale.py").write_text("SCALE = 3.5\n")
    second = read_plugin("own/shift.py", beside)
    assert second.digest != first.digest
    with pytest.raises(
        SpecError, match=r"name not taken by own/shift.py; hint: .* as it was before: start Python anew"
    ):
        install(second)
    assert vars(sys.modules[f"nfstudy_plugin_{second.digest[:16]}"])["SCALE"] == 3.5


def test_a_module_beside_may_be_a_link(beside):
    (beside / "own/my_scale.py").unlink()
    (beside / "own/my_scale.py").symlink_to(beside / "my_scale.py")
    for name in ("shift", "other"):
        (beside / f"own/{name}.py").write_text("import my_scale\n" + SHIFT.replace("shift", name))
        install(read_plugin(f"{name}.py", beside / "own"))
    assert sys.modules["my_scale"].SCALE == 2


def test_two_modules_of_one_name_beside_two_files_are_told(beside):
    (beside / "own/shift.py").write_text(f"import my_scale\n{SHIFT}")
    (beside / "other.py").write_text("import my_scale\n" + SHIFT.replace('name="shift"', 'name="other"'))
    install(read_plugin("own/shift.py", beside))
    with pytest.raises(SpecError, match=r"other.py: imports my_scale from beside it, and .*own/my_scale.py is loaded"):
        install(read_plugin("other.py", beside))


def test_a_file_declares_all_or_nothing(tmp_path):
    second = SHIFT.replace('name="shift"', 'name="planar"').replace("SHIFT =", "SECOND =")
    (tmp_path / "shift.py").write_text(f"{SHIFT}\n{second}")
    with pytest.raises(SpecError, match=r"shift.py: flows: got 'planar'; expected: a name not taken by nfstudy"):
        install(read_plugin("shift.py", tmp_path))
    (tmp_path / "shift.py").write_text(SHIFT)
    install(read_plugin("shift.py", tmp_path))
    assert registry.find("flows", "shift")


@pytest.mark.parametrize("named", ["../shift.py", "absolute"])
def test_a_run_finds_its_file_again_however_the_study_has_named_it(named, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "my_scale.py").write_text("SCALE = 1\n")
    (tmp_path / "shift.py").write_text(f"{SHIFT}\nimport my_scale\n")
    name = str(tmp_path / "shift.py") if named == "absolute" else named
    record = read_plugin(name, tmp_path / "studies").record(tmp_path)
    require_recorded([record], tmp_path)
    assert registry.find("flows", "shift")
    (tmp_path / "my_scale.py").write_text("SCALE = 2\n")
    with pytest.raises(SpecError, match=r"shift\.py: the run used the file with SHA-256 .*, which is not available"):
        require_recorded([record], tmp_path)
    del sys.modules["my_scale"]


def test_a_module_that_a_run_names_is_imported_only_if_it_is_the_one_it_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_shift.py").write_text(f"{SHIFT}\nprint('imported')\n")
    record = read_plugin("my_shift", tmp_path).record(tmp_path)
    sys.modules.pop("my_shift")
    require_recorded([record], tmp_path)
    assert registry.find("flows", "shift")
    sys.modules.pop("my_shift")
    for other in ({"name": "antigravity"}, {"name": "my_shift"}, {**record, "distribution": "my-shift 1.0"}):
        with pytest.raises(SpecError, match=f"plug-in {other['name']}: the run used .*, and here is .*; expected: the"):
            require_recorded([other], tmp_path)
    (tmp_path / "my_shift.py").write_text(f"{SHIFT}\nraise SystemExit\n")
    with pytest.raises(SpecError, match=r"my_shift: the run used SHA-256 .*, and here is SHA-256 .*…; expected: the"):
        require_recorded([record], tmp_path)
    assert not {"my_shift", "antigravity"} & set(sys.modules)


def test_a_file_that_cannot_be_read_beside_a_plug_in_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shift.py").write_text(f"{SHIFT}\nimport my_scale\n")
    (tmp_path / "my_scale.py").write_text("")
    monkeypatch.setattr("pathlib.Path.read_bytes", raise_denied)
    with pytest.raises(SpecError, match=r"shift\.py', which imports what cannot be read: .*my_scale\.py: denied"):
        read_plugin("shift.py", tmp_path)


def raise_denied(path):
    raise PermissionError(errno.EACCES, "denied", str(path))


def test_all_of_a_package_that_nobody_installed_is_part_of_its_digest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("")
    (tmp_path / "my_package/flows.py").write_text("from my_package import maths\n")
    maths = tmp_path / "my_package/maths.py"
    maths.write_text("ONE = 1\n")
    before = digest_of("my_package.flows", tmp_path)
    maths.write_text("ONE = 2\n")
    assert digest_of("my_package.flows", tmp_path) != before


@pytest.mark.parametrize("way", ["module", "entry point"])
def test_a_distribution_that_is_installed_to_be_edited_is_told_by_its_code(way, tmp_path):
    entry = "shift = shift_flows:SHIFT" if way == "entry point" else ""
    distribution(tmp_path / "installed", "my-shift", "1.2", entry)
    edited = tmp_path / "edited"
    edited.mkdir()
    file = (tmp_path / "installed/shift_flows.py").rename(edited / "shift_flows.py")
    find = {
        "module": "from nfstudy.core.plugins import *; o = read_plugin('shift_flows', Path()).origin",
        "entry point": "from nfstudy.core import registry; o = registry.origin_of('flows', 'shift')",
    }
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(edited)!r}); {find[way]}; "
        "print(o.distribution, o.identity)"
    )
    found = []
    for more in ("", "\n# changed\n"):
        file.write_text(file.read_text() + more)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found.append(in_a_process(tmp_path / "installed", code).stdout)
        assert found[-1] == f"my-shift 1.2 sha256:{digest}\n"


def test_a_declaration_is_of_one_kind_and_found_by_name():
    family = FlowFamily(name="mine", implementation="math:pi")
    assert (family.kind, family.title) == ("flows", "mine")
    with pytest.raises(SpecError, match=r"flows: got 'plannar'; expected: none, .*did you mean 'planar'"):
        registry.find("flows", "plannar")


ASKED_AT_ONCE = """
import threading
from nfstudy.core import registry

together, found = threading.Barrier(8), []

def ask():
    together.wait()
    found.append(registry.find("flows", "planar"))

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found))
"""


def test_threads_that_ask_for_a_kind_at_once_all_find_it_whole():
    done = subprocess.run([sys.executable, "-c", ASKED_AT_ONCE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("8\n", "")
