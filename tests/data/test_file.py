"""Somebody's own data: what each format becomes, how splits are cut, and each mistake that is named."""

import hashlib
import io
import os
import re
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from nfstudy.core.errors import DataError, SpecError
from nfstudy.core.project import Project
from nfstudy.data import arrays, file, file_arrays, load_dataset, resolve_settings
from nfstudy.data.checks import repeated_examples
from nfstudy.data.dataset import LEAST_EPSILON, draw_bits
from nfstudy.runner.prepare import prepare_data
from nfstudy.study.reader import parse_study
from nfstudy.study.sections import DataSpec

RNG = np.random.default_rng(1)
BITS = RNG.integers(2, size=(70, 12)).astype(np.uint8)
GREYS = RNG.integers(256, size=(70, 6, 2)).astype(np.uint8)
UNIT = RNG.random((70, 12))
REAL = RNG.normal(size=(70, 12))
COLOURS = RNG.integers(256, size=(70, 2, 2, 3)).astype(np.uint8)


def splits(array):
    return {"train": array[:40], "valid": array[40:55], "test": array[55:]}


def npz(folder, name="own.npz", **contents):
    np.savez(folder / name, **contents)
    return name


def resolved(folder, path, **settings):
    """Return the section as a study in a folder has it."""
    spec = DataSpec(name="file", path=path, **settings)
    return DataSpec.model_validate({**spec.model_dump(), **resolve_settings(spec, folder)})


def load(folder, path, **settings):
    return load_dataset(resolved(folder, path, **settings), [folder / "data"])


def message_of(folder, path, **settings):
    with pytest.raises(DataError) as caught:
        load(folder, path, **settings)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_bits_of_an_npz(tmp_path):
    dataset = load(tmp_path, npz(tmp_path, **splits(BITS)))
    assert (dataset.name, dataset.shape, dataset.levels, dataset.dequantisation) == ("file-bits", (1, 12), 1, None)
    for name, array in splits(BITS).items():
        assert (getattr(dataset, name) == array).all()
        assert getattr(dataset, name).dtype == np.uint8
    digest = hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest()
    assert dataset.source == f"own.npz SHA-256 {digest}; train: train; valid: valid; test: test"


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint16, np.float16, np.float64, ">f4", ">i2"])
def test_bits_of_any_type_are_the_same_bits(tmp_path, dtype):
    one = resolved(tmp_path, npz(tmp_path, "one.npz", **splits(BITS)))
    other = resolved(tmp_path, npz(tmp_path, "other.npz", **splits(BITS.astype(dtype))))
    assert (other.kind, other.sha256) == ("bits", one.sha256)


def test_formats_of_the_same_numbers_have_one_digest(tmp_path):
    npz(tmp_path, **splits(GREYS))
    np.savez_compressed(tmp_path / "small.npz", labels=np.array(["a", "b"]), **splits(GREYS))
    savemat(tmp_path / "five.mat", splits(GREYS), do_compression=True)
    savemat(tmp_path / "four.mat", {k: v.reshape(len(v), -1) for k, v in splits(GREYS).items()}, format="4")
    (tmp_path / "folder").mkdir()
    for name, array in splits(GREYS).items():
        np.save(tmp_path / "folder" / name, np.asfortranarray(array))
    found = {
        p: resolved(tmp_path, p, shape=(6, 2), example_axis="first")
        for p in ("own.npz", "small.npz", "five.mat", "four.mat", "folder")
    }
    assert {spec.kind for spec in found.values()} == {"levels"}
    assert len({spec.sha256 for spec in found.values()}) == 1
    source = load(tmp_path, "folder").source
    assert all(
        hashlib.sha256((tmp_path / "folder" / f"{n}.npy").read_bytes()).hexdigest() in source for n in splits(BITS)
    )


def test_one_number_more_is_another_digest(tmp_path):
    changed = GREYS.copy()
    changed[69, 5, 1] ^= 1
    one = resolved(tmp_path, npz(tmp_path, "one.npz", **splits(GREYS)))
    other = resolved(tmp_path, npz(tmp_path, "other.npz", **splits(changed)))
    assert one.sha256 != other.sha256


KINDS = {
    "bits": (BITS, {}, "bits", "bits", np.uint8, 1),
    "levels": (GREYS, {}, "levels", "bits", np.uint8, 1),
    "dynamic levels": (GREYS, {"binarisation": "dynamic"}, "levels", "levels", np.uint8, 255),
    "levels to 16": (GREYS % 17, {"binarisation": "dynamic", "levels": 16}, "levels", "levels", np.uint8, 16),
    "whole floats": (GREYS * 1.0, {"kind": "levels", "binarisation": "dynamic"}, "levels", "levels", np.uint8, 255),
    "from 0 to 1": (UNIT, {"binarisation": "dynamic"}, "levels", "levels", np.float32, 1),
    "colours": (COLOURS, {}, "patches", "patches", np.uint8, 255),
    "flat colours": (COLOURS.reshape(70, 12), {"shape": (2, 2, 3)}, "patches", "patches", np.uint8, 255),
    "colours from 0 to 1": (COLOURS / 255, {}, "patches", "patches", np.float32, 0),
    "grey patches": (GREYS, {"kind": "patches"}, "patches", "patches", np.uint8, 255),
    "real": (REAL, {"kind": "real"}, "real", "real", np.float32, 0),
    "categories": (GREYS % 17, {"kind": "categories", "levels": 16}, "categories", "categories", np.uint8, 0),
    "whole floats as categories": (GREYS * 1.0, {"kind": "categories"}, "categories", "categories", np.uint8, 0),
    "bits as categories": (BITS, {"kind": "categories", "levels": 1}, "categories", "categories", np.uint8, 0),
    "levels that stay": (GREYS, {"binarisation": "categories"}, "levels", "categories", np.uint8, 0),
    "colours that stay": (COLOURS, {"dequantisation": "categories"}, "patches", "categories", np.uint8, 0),
    "real levels": (GREYS, {"kind": "real"}, "real", "real", np.float32, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_the_kind_is_told_or_stated(tmp_path, case):
    array, settings, kind, values, dtype, levels = KINDS[case]
    spec = resolved(tmp_path, npz(tmp_path, **splits(array)), **settings)
    dataset = load_dataset(spec, [tmp_path / "data"])
    assert (spec.kind, spec.values, dataset.train.dtype, dataset.levels) == (kind, values, dtype, levels)
    assert spec.sizes == (40, 15, 15) == tuple(map(len, (dataset.train, dataset.valid, dataset.test)))
    assert [d.shape[1] for d in (dataset.train, dataset.valid, dataset.test)] == [12] * 3
    assert (dataset.dequantisation is not None) == (values == "patches" and dtype == np.uint8)
    if values == "patches":
        assert dataset.test.min() >= 1e-4 - 1e-8
        assert dataset.test.max() <= 1 - 1e-4 + 1e-8
    if values == "real":
        assert (dataset.test == array[55:].reshape(15, -1).astype(np.float32)).all()


def test_categories_are_the_numbers_of_the_file(tmp_path):
    spec = resolved(tmp_path, npz(tmp_path, **splits(GREYS % 17)), kind="categories", levels=20)
    dataset = load_dataset(spec, [tmp_path])
    assert (spec.categories, dataset.levels, dataset.dequantisation) == (21, 0, None)
    rows = np.concatenate([dataset.train, dataset.valid, dataset.test])
    assert (rows == (GREYS % 17).reshape(70, -1)).all()
    idle = set(file.FILE.idle(spec))
    assert idle == {"binarisation", "epsilon", "dequantisation"}
    colours = resolved(tmp_path, npz(tmp_path, "c.npz", **splits(COLOURS)), dequantisation="categories")
    assert colours.categories == 256
    assert set(file.FILE.idle(colours)) == {"binarisation", "levels", "epsilon"}


@pytest.mark.parametrize(
    ("array", "setting"), [(UNIT, "binarisation"), (COLOURS / 255, "dequantisation")], ids=["grey", "colours"]
)
def test_numbers_from_0_to_1_are_no_categories(tmp_path, array, setting):
    told = message_of(tmp_path, npz(tmp_path, **splits(array)), **{setting: "categories"})
    assert f"own.npz: train: got numbers from 0 to 1; expected: whole levels with data.{setting}: categories" in told


def test_numbers_from_0_to_1_are_probabilities_of_bits(tmp_path):
    shades = np.tile(np.array([0.0, 1 / 3, 0.9, 1.0]), (6000, 1))
    shades[0, 1] = 0.5
    name = npz(tmp_path, train=shades, valid=shades, test=shades)
    assert load(tmp_path, name).train.mean(0) == pytest.approx([0, 1 / 3, 0.9, 1], abs=0.02)
    assert (load(tmp_path, name, binarisation="threshold").train[1:] == [0, 0, 1, 1]).all()
    static, dynamic = load(tmp_path, name), load(tmp_path, name, binarisation="dynamic")
    assert (static.test == dynamic.test).all()
    assert (static.valid != static.test).any()


def test_a_draw_of_levels_and_of_numbers_has_the_same_mean():
    levels = np.full((20_000, 3), [51, 102, 204], np.uint8)
    whole = draw_bits(levels, 255, np.random.default_rng(0)).mean(0)
    assert whole == pytest.approx(
        draw_bits((levels / 255).astype(np.float32), 1, np.random.default_rng(1)).mean(0), abs=0.015
    )


def test_a_missing_validation_split_is_a_sixth_of_train_that_is_drawn_once(tmp_path):
    train = np.arange(60 * 2).reshape(60, 2) / 7.0
    name = npz(tmp_path, train=train, test=train[:3] + 500)
    dataset = load(tmp_path, name, kind="real")
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (50, 10, 3)
    rows = np.concatenate([dataset.train, dataset.valid])
    assert (np.sort(rows, axis=0) == train.astype(np.float32)).all()
    assert (np.diff(dataset.train[:, 0]) > 0).all(), "the order of the file"
    assert "valid: 10 of train, drawn once" in dataset.source
    assert (dataset.valid == load(tmp_path, name, kind="real").valid).all()
    assert resolved(tmp_path, npz(tmp_path, "few.npz", train=train[:3], test=train), kind="real").sizes == (2, 1, 60)


def test_a_share_for_testing_is_cut_first(tmp_path):
    spec = resolved(tmp_path, npz(tmp_path, train=BITS), test_share=0.2)
    assert spec.sizes == (47, 9, 14)
    dataset = load_dataset(spec, [tmp_path])
    rows = {name: {row.tobytes() for row in getattr(dataset, name)} for name in ("train", "valid", "test")}
    assert set.union(*rows.values()) == {row.tobytes() for row in BITS}


PUBLIC = {
    "Caltech 101 silhouettes": (
        {"train_data": BITS, "val_data": BITS[:20], "test_data": BITS[20:40], "train_labels": np.ones((70, 1))},
        {"train_key": "train_data", "valid_key": "val_data", "test_key": "test_data"},
        ("bits", (70, 20, 20)),
    ),
    "Frey faces": (
        {"ff": GREYS.reshape(70, 12).T},
        {"train_key": "ff", "test_share": 0.1, "example_axis": "last", "shape": (6, 2)},
        ("levels", (53, 10, 7)),
    ),
    "OMNIGLOT": (
        {"data": UNIT.T, "testdata": UNIT[:30].T, "target": np.eye(50)},
        {"train_key": "data", "test_key": "testdata", "example_axis": "last"},
        ("levels", (58, 12, 30)),
    ),
    "SVHN": (
        {"X": np.moveaxis(COLOURS, 0, -1), "y": np.ones((70, 1))},
        {"train_key": "X", "test_share": 0.2, "example_axis": "last"},
        ("patches", (47, 9, 14)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_files_of_matlab_as_they_are_published(tmp_path, name):
    contents, settings, expected = PUBLIC[name]
    savemat(tmp_path / "own.mat", contents)
    spec = resolved(tmp_path, "own.mat", **settings)
    assert (spec.kind, spec.sizes) == expected
    dataset = load_dataset(spec, [tmp_path])
    if name == "Caltech 101 silhouettes":
        assert (dataset.train == BITS).all()
    if name == "Frey faces":
        assert {row.tobytes() for row in load(tmp_path, "own.mat", **settings, binarisation="dynamic").train} <= {
            row.tobytes() for row in GREYS.reshape(70, 12)
        }


def test_the_shape_of_pictures(tmp_path):
    shape = {"own": (GREYS, {}, (6, 2)), "square": (BITS[:, :9], {}, (3, 3)), "row": (BITS, {}, (1, 12)),
             "of another split": (GREYS.reshape(70, 12), {"test_key": "greys"}, (6, 2)),
             "stated": (BITS, {"shape": (3, 4)}, (3, 4)), "one channel": (GREYS[..., None], {}, (6, 2))}  # fmt: skip
    for name, (array, settings, expected) in shape.items():
        found = load(tmp_path, npz(tmp_path, f"{name}.npz", **splits(array), greys=GREYS), **settings)
        assert found.shape == expected, name


def saved(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def header(shape, descr="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def raw_npz(folder, train, test=None, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / "own.npz", "w", method) as archive:
        archive.writestr("train.npy", train)
        archive.writestr("test.npy", test or saved(BITS))
    return "own.npz"


def with_value(array, row, value):
    changed = array.astype(float)
    changed[row, 3] = value
    return changed


BAD_ROWS = {
    "nan": (with_value(BITS, 17, np.nan), {}, ["own.npz: train: row 17: got nan; expected: finite numbers"]),
    "inf": (with_value(REAL, 69, -np.inf), {"kind": "real"}, ["own.npz: train: row 69: got -inf"]),
    "too large for single precision": (with_value(REAL, 4, 1e39), {"kind": "real"}, ["train: row 4:", "3.4e38"]),
    "no kind": (REAL, {}, ["own.npz: train: row 0: got", "numbers from 0 to 1", "data.kind: real"]),
    "one above 1": (with_value(UNIT, 5, 1.25), {}, ["train: row 5: got 1.25", "data.kind: real"]),
    "floats from 0 to 255": (with_value(BITS, 5, 200), {}, ["row 5: got 200", "data.kind: levels"]),
    "no bits": (with_value(BITS, 8, 0.5), {"kind": "bits"}, ["train: row 8: got 0.5; expected: 0 or 1"]),
    "negative": (-BITS.astype(int), {}, ["train: row 0: got -1", "0 to 255"]),
    "above the levels": (GREYS, {"levels": 16, "test_key": "greys"}, ["train: row 0: got", "numbers from 0 to 16"]),
    "broken levels": (with_value(GREYS.reshape(70, 12), 6, 7.5), {"kind": "levels"}, ["row 6: got 7.5"]),
    "no categories": (with_value(UNIT, 6, 7.5), {"kind": "categories"}, ["train: row 0: got", "whole numbers"]),
    "a broken category": (with_value(GREYS.reshape(70, 12), 6, 7.5), {"kind": "categories"}, ["row 6: got 7.5"]),
    "too many categories": (GREYS, {"kind": "categories", "levels": 16}, ["got", "whole numbers from 0 to 16"]),
    "beyond 255": (GREYS.astype(int) + 300, {"kind": "categories"}, ["row 0: got", "whole numbers from 0 to 255"]),
    "negative categories": (GREYS.astype(int) - 300, {"kind": "categories"}, ["train: row 0: got -"]),
    "one category": (np.full((70, 12), 3), {"kind": "categories"}, ["train: all values are 3; expected:"]),
    "all the same": (np.ones((70, 12)), {}, ["train: all values are 1; expected: data that vary"]),
    "text": (np.full((70, 12), "a"), {}, ["train: got text; expected: an array of whole or real numbers"]),
    "bytes": (np.full((70, 12), b"a"), {}, ["train: got text"]),
    "complex": (REAL + 0j, {}, ["train: got complex numbers"]),
    "dates": (np.full((70, 12), "2020-01-01", "datetime64[D]"), {}, ["train: got numbers of type datetime64[D]"]),
    "records": (np.zeros(70, [("a", int)]), {}, ["train: got records with named fields"]),
    "labels": (np.arange(70), {}, ["train: got 1 axes, of one number an example, as labels are", "2 to 4"]),
    "five axes": (np.zeros((2, 2, 2, 2, 2)), {}, ["train: got 5 axes"]),
    "a number": (np.array(3), {}, ["train: got 0 axes"]),
    "empty": (BITS[:0], {}, ["train: is empty, 0 x 12; expected: at least one example"]),
    "no variables": (BITS[:, :0], {}, ["train: is empty, 70 x 0"]),
    "one image": (BITS[:1], {}, ["train: got 1 examples, of which valid is to be cut off", "at least two"]),
    "widths": (BITS[:, :11], {}, ["test: got examples of 12 numbers; expected: 11, as in 'train'"]),
    "columns": (BITS[:15].T, {}, ["test: got examples of 12 numbers; expected: 15"]),
    "shape": (BITS, {"shape": (5, 5)}, ["examples of 12 numbers; expected: 5 x 5 = 25, as data.shape says"]),
    "turned": (GREYS.swapaxes(1, 2), {"test_key": "greys"}, ["greys: got examples of 6 x 2; expected: 2 x 6, as in"]),
    "levels of patches": (COLOURS, {"levels": 16, "test_key": "colours"}, ["levels: got 16 for patches", "go to 255"]),
    "told levels": (GREYS, {"levels": 16, "test_key": "greys"}, ["got", "expected: whole numbers from 0 to 16"]),
    "colours first": (np.moveaxis(COLOURS, 3, 1), {}, ["examples of 3 x 2 x 2", "move the colours"]),
    "scales": (GREYS, {"kind": "levels", "test_key": "unit"}, ["unit: got numbers from 0 to 1, where", "one scale"]),
    "stated digest": (BITS, {"sha256": "0" * 64}, ["holds other numbers, of SHA-256", "data.sha256, 0000"]),
    "stated sizes": (BITS, {"sizes": (1, 2, 3)}, ["holds (58, 12, 70) examples; expected: data.sizes, (1, 2, 3)"]),
    "test and share": (BITS, {"test_share": 0.5}, ["holds an array 'test'; expected: none with data.test_share"]),
    "one array twice": (BITS, {"test_key": "train"}, ["got train, train for the splits"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_mistake_names_file_array_row_and_what_is_expected(tmp_path, case):
    array, settings, words = BAD_ROWS[case]
    others = {"test": BITS, "unit": UNIT, "greys": GREYS, "colours": COLOURS}
    message = message_of(tmp_path, npz(tmp_path, train=array, **others), **settings)
    assert str(tmp_path / "own.npz") in message
    for word in words:
        assert word in message


def test_bits_beside_grey_levels_are_refused_unless_they_may_be_dark_ones(tmp_path):
    bits = npz(tmp_path, "bits.npz", train=GREYS.reshape(70, 12), valid=BITS, test=GREYS.reshape(70, 12))
    words = "valid: got only 0 and 1, where .*train has whole numbers to 255; expected: one scale for all splits"
    assert re.search(words, message_of(tmp_path, bits))
    assert "test: got only 0 and 1, where" in message_of(
        tmp_path, npz(tmp_path, "colours.npz", train=COLOURS, test=BITS.reshape(70, 2, 2, 3))
    )
    # Two of 70, which none is like; none at all; and as many as there are dark ones to train on.
    for few in (BITS[:2], np.zeros((70, 12), np.uint8)):
        assert resolved(tmp_path, npz(tmp_path, "few.npz", train=GREYS.reshape(70, 12), test=few)).kind == "levels"
    dark = np.concatenate([GREYS.reshape(70, 12), np.tile(BITS, (30, 1))])
    assert resolved(tmp_path, npz(tmp_path, "dark.npz", train=dark, test=BITS)).sizes == (1808, 362, 70)


def test_an_epsilon_is_one_that_single_precision_tells_from_0_and_1(tmp_path):
    with pytest.raises(SpecError, match=r"data.epsilon: got 1e-09; expected: greater than or equal to 0.000001"):
        parse_study(
            "study: s\ntitle: S\ndata: {name: photos, epsilon: 1e-9}\nexhibits: [summary]\n", str(tmp_path / "s.yaml")
        )
    settings = {"kind": "patches", "epsilon": LEAST_EPSILON, "dequantisation": "none"}
    ends = load(tmp_path, npz(tmp_path, **splits(255 * BITS)), **settings).test
    assert LEAST_EPSILON / 2 < 1 - ends.max() < 2 * LEAST_EPSILON


def test_a_valid_training_example_alone_is_not_enough(tmp_path):
    assert "train: got one example" in message_of(tmp_path, npz(tmp_path, train=BITS[:1], valid=BITS, test=BITS))


def test_missing_arrays_say_what_there_is_and_what_to_do(tmp_path):
    name = npz(tmp_path, training=BITS, tests=BITS[:9])
    message = message_of(tmp_path, name)
    assert "own.npz: holds no array 'train'; it holds training (70 x 12), tests (9 x 12)" in message
    assert "expected: data.train_key, the name of one of them; did you mean data.train_key: training?" in message
    message = message_of(tmp_path, name, train_key="training")
    assert "holds no array 'test'" in message
    assert "or data.test_share: 0.2 to keep a fifth of 'training' for testing" in message
    assert "did you mean data.test_key: tests?" in message
    assert "'valued'" in message_of(tmp_path, name, train_key="training", test_key="tests", valid_key="valued")
    assert "test: is empty, 0 x 12" in message_of(tmp_path, npz(tmp_path, train=BITS, test=BITS[:0]))


class Trap:
    """Would leave a file behind, were it unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_pickles_are_never_read(tmp_path):
    ragged = np.empty(3, object)
    ragged[:] = [[1], [2, 3], Trap()]
    np.savez(tmp_path / "own.npz", train=ragged, test=BITS)
    message = message_of(tmp_path, "own.npz")
    assert "own.npz: train: got Python objects, as ragged lists become, which only pickle could read" in message
    np.savez(tmp_path / "own.npz", train=BITS, test=BITS, notes=ragged)
    assert load(tmp_path, "own.npz").train.shape == (58, 12), "an array that is not used may be of anything"
    (tmp_path / "own.npz").write_bytes(b"\x80\x04cos\nmkdir\n(X\x09\x00\x00\x00unpickledtR.")
    assert "own.npz: cannot be read" in message_of(tmp_path, "own.npz")
    raw_npz(tmp_path, b"\x80\x04cos\nmkdir\n(X\x09\x00\x00\x00unpickledtR.")
    assert "train: got no array in numpy's format" in message_of(tmp_path, "own.npz")
    assert not (tmp_path / "unpickled").exists()


def test_bombs_are_told_by_what_they_declare(tmp_path):
    message = message_of(tmp_path, raw_npz(tmp_path, header((10**9, 784)), method=zipfile.ZIP_DEFLATED))
    assert f"train, test: declare {784 * 10**9 + BITS.size:,} bytes; expected: at most 2,147,483,648" in message
    message = message_of(tmp_path, raw_npz(tmp_path, header((10**30, 10**30))))
    assert "expected: at most 2,147,483,648 bytes" in message
    assert "train: got a header with the shape (-1, 4)" in message_of(tmp_path, raw_npz(tmp_path, header((-1, 4))))
    assert "got a header with the shape (10" in message_of(tmp_path, raw_npz(tmp_path, header((10**19, 0))))
    assert "train: cannot be read" in message_of(tmp_path, raw_npz(tmp_path, header((70, 12)) + bytes(100)))


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    npz(tmp_path, **splits(BITS))
    with zipfile.ZipFile(tmp_path / "own.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train.npy", saved(1 - BITS))
    assert "holds more than one array 'train'; expected: each name once" in message_of(tmp_path, "own.npz")


def test_the_bound_holds_for_files_too(tmp_path, monkeypatch):
    name = npz(tmp_path, **splits(BITS))
    for module in (arrays, file_arrays):
        monkeypatch.setattr(module, "MAX_BYTES", 800)
    assert "own.npz: has" in message_of(tmp_path, name)
    assert "expected: at most 800 bytes" in message_of(tmp_path, name)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "train.npy", GREYS.astype(float))
    np.save(tmp_path / "folder" / "test.npy", BITS[:5])
    assert "expected: at most 800 bytes" in message_of(tmp_path, "folder")


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_truncated_and_altered_files(tmp_path, cut):
    np.savez_compressed(tmp_path / "whole.npz", **splits(GREYS))
    savemat(tmp_path / "whole.mat", splits(GREYS), do_compression=True)
    for suffix in ("npz", "mat"):
        content = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"own.{suffix}").write_bytes(content[:cut])
        assert f"own.{suffix}: " in message_of(tmp_path, f"own.{suffix}")
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[150 + abs(cut)] ^= 0xFF
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(DataError):
        load(tmp_path, "own.npz")


def test_matlab_files_that_are_not_read(tmp_path):
    (tmp_path / "own.mat").write_bytes(
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b" ") + b"\x89HDF\r\n\x1a\n"
    )
    message = message_of(tmp_path, "own.mat")
    assert (
        "is a .mat file of version 7.3 (HDF5); expected: version 7 or older, as save(..., '-v7') writes it" in message
    )
    cells = np.empty((1, 2), object)
    cells[:] = [[BITS, BITS]]
    for value, words in ((cells, "a cell array"), ({"a": BITS}, "a struct array"), ("text", "a char array")):
        savemat(tmp_path / "own.mat", {"train": value, "test": BITS})
        assert f"own.mat: train: got {words} of MATLAB; expected: an array of" in message_of(tmp_path, "own.mat")
    savemat(tmp_path / "own.mat", {"train": REAL + 1j, "test": BITS})
    assert "train: got complex numbers" in message_of(tmp_path, "own.mat")
    savemat(tmp_path / "own.mat", {"train": BITS.T, "test": BITS[:9].T})
    message = message_of(tmp_path, "own.mat")
    assert "train: got 12 x 70, more columns than rows" in message
    assert "data.example_axis: last if each column is an example" in message
    (tmp_path / "own.mat").write_bytes(b"no matlab")
    assert "own.mat: cannot be read" in message_of(tmp_path, "own.mat")


def test_paths_that_are_no_data(tmp_path):
    name = npz(tmp_path, "silhouettes.npz", **splits(BITS))
    message = message_of(tmp_path, "silhouetes.npz")
    assert "silhouetes.npz: is not there; expected: a .npz file" in message
    assert f"did you mean '{tmp_path / name}'?" in message
    assert "nor is its folder" in message_of(tmp_path, "gone/own.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    for path in ("pipe.npz", "/dev/zero"):
        assert "is neither a file nor a folder, but a pipe, socket or device" in message_of(tmp_path, path)
    (tmp_path / "dangling.npz").symlink_to("nothing.npz")
    assert "dangling.npz: is not there" in (message := message_of(tmp_path, "dangling.npz"))
    assert "(it is a link to nothing.npz)" in message
    (tmp_path / "empty").mkdir()
    assert "is a folder without .npy files" in message_of(tmp_path, "empty")
    os.mkfifo(tmp_path / "empty" / "train.npy")
    np.save(tmp_path / "empty" / "test.npy", BITS)
    assert "is neither a file nor a folder" in message_of(tmp_path, "empty")
    (tmp_path / "own.csv").write_text("1,2")
    assert "got a file that ends in '.csv'; expected: a .npz file" in message_of(tmp_path, "own.csv")
    assert "cannot be read" in message_of(tmp_path, "nul\0.npz")
    assert "is missing" in message_of(tmp_path, None)
    assert "is missing" not in message_of(tmp_path, "x" * 300)


def test_a_file_that_cannot_be_opened(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read anything")
    (tmp_path / npz(tmp_path, **splits(BITS))).chmod(0)
    assert "own.npz: cannot be read: Permission denied" in message_of(tmp_path, "own.npz")


def test_a_file_that_changes_is_noticed_by_whoever_loads_it(tmp_path):
    spec = resolved(tmp_path, npz(tmp_path, **splits(BITS)))
    assert load_dataset(spec, [tmp_path / "data"]).fingerprint == load_dataset(spec, [tmp_path / "data"]).fingerprint
    npz(tmp_path, **splits(1 - BITS))
    with pytest.raises(DataError, match=r"own.npz: holds other numbers, of SHA-256 .*; expected: those of data.sha256"):
        load_dataset(spec, [tmp_path / "data"])
    assert resolved(tmp_path, "own.npz").sha256 != spec.sha256
    (tmp_path / "own.npz").unlink()
    with pytest.raises(DataError, match=r"own.npz: is not there"):
        load_dataset(spec, [tmp_path / "data"])
    (tmp_path / "data").mkdir()
    npz(tmp_path / "data", **splits(BITS))
    assert (load_dataset(spec, [tmp_path / "data"]).test == BITS[55:]).all(), "of its name in the data folder"


def test_a_file_is_read_once_for_each_state(tmp_path, monkeypatch):
    count = []
    monkeypatch.setattr(file, "read", lambda *arguments: count.append(1) or file_arrays.read(*arguments))
    name = npz(tmp_path, **splits(BITS))
    for _ in range(3):
        resolved(tmp_path, name)
    assert len(count) == 1
    npz(tmp_path, **splits(1 - BITS))
    resolved(tmp_path, name)
    assert len(count) == 2


def test_paths_are_recorded_relative_to_the_project(tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "studies").mkdir()
    npz(tmp_path / "studies", **splits(BITS))
    assert resolved(tmp_path / "studies", "own.npz").path == "studies/own.npz"
    assert resolved(tmp_path / "studies", "../studies/own.npz").path == "studies/own.npz"
    spec = resolved(tmp_path / "studies", "own.npz")
    assert load_dataset(spec, [tmp_path / "elsewhere", tmp_path / "data"]).train.shape == (40, 12)


def test_a_file_that_is_stated_need_not_be_there_to_read_a_study(tmp_path):
    spec = resolved(tmp_path, "gone.npz", kind="bits", sha256="ab" * 32)
    assert (spec.sha256, spec.sizes, spec.examples()) == ("ab" * 32, None, None)


def with_training_examples(array, count):
    """Return splits of which so many test examples are training examples too."""
    found = splits(array)
    return found | {"test": np.concatenate([found["train"][:count], found["test"][count:]])}


FEW_BITS = RNG.integers(2, size=(70, 3)).astype(np.uint8)
REPEATED = {
    "real numbers": (with_training_examples(REAL, 5), {"kind": "real"}, {"test": 5}),
    "one alone": (with_training_examples(REAL, 1), {"kind": "real"}, {"test": 1}),
    "bits": (with_training_examples(BITS, 15), {}, {"test": 15}),
    "none": (splits(REAL), {"kind": "real"}, {}),
    "bits so few that all repeat themselves": (splits(FEW_BITS), {}, {}),
    "levels, of which bits are drawn anew": (with_training_examples(GREYS, 15), {"binarisation": "dynamic"}, {}),
}


@pytest.mark.parametrize("case", REPEATED)
def test_held_out_examples_that_are_trained_on_are_counted_where_chance_does_not_explain_them(case, tmp_path):
    contents, settings, repeated = REPEATED[case]
    assert repeated_examples(load(tmp_path, npz(tmp_path, **contents), **settings)) == repeated


OWN = """\
study: own
title: Own
data: {name: file, path: own.npz, kind: real}
train: {batch: 10}
grid: {flow.length: [0]}
exhibits: [summary]
"""


def test_before_a_study_they_are_told_of(tmp_path):
    npz(tmp_path, **with_training_examples(REAL, 5))
    told = []
    prepare_data(parse_study(OWN, str(tmp_path / "own.yaml")).under(), Project(tmp_path), told.append)
    (words,) = told
    assert words.startswith("data file-real: 5 of 15 test examples are training examples too: what a model remembers")
