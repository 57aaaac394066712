"""Data sets: what is in them, how they are told apart, and how their files are found, checked and downloaded."""

import contextlib
import gzip
import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nfstudy.core.errors import DataError
from nfstudy.data import cifar10, load_dataset, mnist
from nfstudy.data.dataset import Splits, binarise, draw_bits, fingerprint, make_dataset
from nfstudy.data.files import DataFile, locate, read_files, read_members
from nfstudy.study.sections import DataSpec

BINARISATIONS = ("static", "dynamic", "threshold")

# Part of every logged run: a change here means that old runs were trained on other bits.
FINGERPRINTS = {
    "digits-static": "76713e93c6046a78c219f78cc2841b06a558b413322dc68f8a627af67e0653ca",
    "digits-dynamic": "9baa567dc8855169d6802e42e130fa9b1d72a1deb98f234889cb7df0cb1052ea",
    "digits-threshold": "8da496bd97a250a398c6c5294bd88489f35045453ea800610a00a16fe032b684",
    "mnist-static": "ebf27448d927d8704f2c9709930f46230fa0d7ca9f8f485fb1bc22ddbdd94258",
    "mnist-dynamic": "2a6836b75d50ac613f8e1773294110f29ee9fe8b8cd7b6375eb161b643c9f0ff",
    "mnist-threshold": "f58533e977f154ddd257783c7cbd6628aac5ddbef2d0c49c485ca6276df18cf5",
}

# The sums that come with MNIST everywhere, of the .gz and of the .amat text, and those of the files of CIFAR-10's
# binary version; written down before this code was.
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "binarized_mnist_train.amat": "db28b1a6ae0fe70cbd3da91acf46e477",
    "binarized_mnist_valid.amat": "bf37822a04e94123630de6a7dfd9c9ef",
    "binarized_mnist_test.amat": "14e41ae11040adba6ab8cb291eda0dd8",
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}

T10K_LABEL_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def digits(binarisation="static", **values):
    return load_dataset(DataSpec(name="digits", binarisation=binarisation, **values), [])


def mnist_of(binarisation, folders):
    return load_dataset(DataSpec(name="mnist", binarisation=binarisation), folders, download=False)


@pytest.fixture(scope="module")
def mnist_sets(mnist_folders):
    return {binarisation: mnist_of(binarisation, mnist_folders) for binarisation in BINARISATIONS}


def check_shape_and_values(dataset, name, binarisation, pixels, levels):
    assert dataset.name == f"{name}-{binarisation}"
    assert dataset.shape[0] * dataset.shape[1] == pixels
    for split, images in zip(("train", "valid", "test"), DataSpec(name=name).examples(), strict=True):
        array = getattr(dataset, split)
        assert (array.shape, array.dtype) == ((images, pixels), np.uint8), split
        most = levels if split == "train" and binarisation == "dynamic" else 1
        assert (array.min(), array.max()) == (0, most), split
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    assert dataset.levels == (levels if binarisation == "dynamic" else 1)
    assert dataset.fingerprint == FINGERPRINTS[dataset.name]


# --- digits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binarisation", BINARISATIONS)
def test_digits_have_the_splits_of_the_spec_and_the_pinned_bytes(binarisation):
    dataset = digits(binarisation)
    check_shape_and_values(dataset, "digits", binarisation, 64, 16)
    assert "scikit-learn" in dataset.source
    with pytest.raises(FrozenInstanceError):
        dataset.name = "other"


@pytest.mark.parametrize("binarisation", BINARISATIONS)
def test_loading_twice_gives_the_same_bytes(binarisation):
    first, second = digits(binarisation), digits(binarisation)
    for split in Splits._fields:
        np.testing.assert_array_equal(getattr(first, split), getattr(second, split))
    assert first.fingerprint == second.fingerprint


def test_a_limit_on_training_images_is_left_to_the_training():
    assert digits(train_images=10).fingerprint == digits().fingerprint


def test_threshold_digits_are_scikit_learns_images_each_once():
    dataset = digits("threshold")
    ours = np.concatenate([dataset.train, dataset.valid, dataset.test])
    theirs = (load_digits().data >= 8).astype(np.uint8)
    assert not np.array_equal(ours, theirs), "the splits are shuffled: scikit-learn's order goes by writer"
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_dynamic_digits_keep_the_grey_levels_that_static_ones_are_drawn_from():
    grey, static = digits("dynamic"), digits("static")
    assert not static.train[grey.train == 0].any()
    assert static.train[grey.train == 16].all()
    p = grey.train / 16
    assert abs(static.train.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    np.testing.assert_array_equal(static.test, grey.test)


def test_data_needs_no_torch():
    code = (
        "import sys; from nfstudy.data import load_dataset; from nfstudy.study.sections import DataSpec; "
        "load_dataset(DataSpec(name='digits'), []); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- binarisation and fingerprint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [16, 255])
def test_bits_are_drawn_with_probability_v_over_levels(levels):
    draws = 20_000
    greys = np.repeat(np.arange(levels + 1, dtype=np.uint8)[:, None], draws, axis=1)
    bits = draw_bits(greys, levels, np.random.default_rng(0))
    p = np.arange(levels + 1) / levels
    assert bits[0].sum() == 0
    assert bits[-1].sum() == draws
    z = (bits[1:-1].mean(axis=1) - p[1:-1]) / np.sqrt(p[1:-1] * (1 - p[1:-1]) / draws)
    assert np.abs(z).max() < 4.5
    assert 0.5 < np.mean(z**2) < 1.5


@pytest.mark.parametrize(("levels", "first_ink"), [(16, 8), (255, 128)])
def test_threshold_is_at_half_of_full_ink(levels, first_ink):
    greys = np.array([[0, first_ink - 1, first_ink, levels]], dtype=np.uint8)
    splits, train_levels = binarise(Splits(greys, greys, greys), levels, "any", "threshold")
    for bits in splits:
        assert bits.tolist() == [[0, 0, 1, 1]]
    assert train_levels == 1


def test_splits_are_drawn_independently():
    greys = np.full((100, 10), 8, dtype=np.uint8)
    splits, _ = binarise(Splits(greys, greys, greys), 16, "any", "static")
    assert len({bits.tobytes() for bits in splits}) == 3


TINY = Splits(*(np.arange(8, dtype=np.uint8).reshape(2, 4) + shift for shift in (0, 10, 20)))


def test_fingerprint_is_the_sha256_of_name_shapes_and_bytes():
    text = b"tiny 2x2\n"
    text += b"train 2x4 uint8\n\0\1\2\3\4\5\6\7"
    text += b"valid 2x4 uint8\n\n\x0b\x0c\r\x0e\x0f\x10\x11"
    text += b"test 2x4 uint8\n\x14\x15\x16\x17\x18\x19\x1a\x1b"
    assert fingerprint("tiny", (2, 2), TINY) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("split", range(3), ids=Splits._fields)
@pytest.mark.parametrize("pixel", [(0, 0), (1, 3)], ids=["first pixel", "last pixel"])
def test_one_flipped_bit_changes_the_fingerprint(split, pixel):
    changed = [images.copy() for images in TINY]
    changed[split][pixel] ^= 1
    assert fingerprint("tiny", (2, 2), Splits(*changed)) != fingerprint("tiny", (2, 2), TINY)


@pytest.mark.parametrize(
    ("name", "shape", "splits"),
    [
        ("other", (2, 2), TINY),
        ("tiny", (1, 4), TINY),
        ("tiny", (2, 2), Splits(TINY.valid, TINY.train, TINY.test)),
        ("tiny", (2, 2), Splits(np.vstack([TINY.train, TINY.valid[:1]]), TINY.valid[1:], TINY.test)),
    ],
    ids=["name", "height and width", "splits exchanged", "an image moved to another split"],
)
def test_fingerprint_depends_on_more_than_the_bytes_in_a_row(name, shape, splits):
    assert fingerprint(name, shape, splits) != fingerprint("tiny", (2, 2), TINY)


def test_digits_keep_scikit_learns_17_levels():
    dataset = digits("categories")
    ours = np.concatenate([dataset.train, dataset.valid, dataset.test])
    assert (ours.dtype, dataset.levels, dataset.name) == (np.uint8, 0, "digits-categories")
    assert sorted(map(bytes, ours)) == sorted(map(bytes, load_digits().data.astype(np.uint8)))
    assert (dataset.train == digits("dynamic").train).all()


@pytest.mark.parametrize(
    "wrong", [np.full((2, 4), 17), np.full((2, 4), -1), np.full((2, 4), 0.5), np.full((2, 4), 3.0)]
)
def test_levels_that_a_source_has_not_declared_are_refused(monkeypatch, wrong):
    good = np.zeros((2, 4), np.uint8)
    made = make_dataset("own", (2, 2), 0, Splits(good, good, wrong), "made here")
    monkeypatch.setattr("nfstudy.data.digits.load", lambda data, folders, download: made)
    with pytest.raises(DataError, match=r"data own: test: got .*; expected: whole numbers from 0 to 16"):
        digits("categories")


def test_each_binarisation_is_a_data_set_of_its_own():
    assert len(set(FINGERPRINTS.values())) == len(FINGERPRINTS) == 6


# --- files: finding and checking ------------------------------------------------------------------------------------

CONTENT = b"0 1 1 0\n" * 5000
PACKED = gzip.compress(CONTENT, mtime=0)


def data_file(content=CONTENT, name="tiny.amat", mirrors=(), unpacked=None):
    return DataFile(name, len(content), hashlib.sha256(content).hexdigest(), "mnist", tuple(mirrors), unpacked)


def packed_file(mirrors=()):
    return data_file(PACKED, "tiny.gz", mirrors, unpacked=data_file(CONTENT, "tiny"))


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_under(folder):
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("subfolder", ["", "mnist", "binarized_mnist", "MNIST/raw", "cifar-10-batches-bin"])
@pytest.mark.parametrize(("name", "content"), [("tiny.gz", PACKED), ("tiny", CONTENT)], ids=["packed", "unpacked"])
def test_files_are_found_in_any_subfolder_and_form(tmp_path, subfolder, name, content):
    put(tmp_path / "second" / subfolder / name, content)
    assert read_files([packed_file()], [tmp_path / "first", tmp_path / "second"], download=False) == [CONTENT]


def test_the_first_folder_wins(tmp_path):
    paths = [put(tmp_path / folder / "tiny.amat", CONTENT) for folder in ("first", "second")]
    assert locate(data_file(), [tmp_path / "first", tmp_path / "second"]) == (data_file(), paths[0])


DAMAGES = {
    "truncated": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "one bit flipped": lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
    "one byte more": lambda content: content + b"\n",
}


def check_refused_and_left(path, damaged, expected, load):
    word = "truncated" if len(damaged) < expected.size else "altered"
    with pytest.raises(DataError) as caught:
        load()
    for part in (
        f"{path} is {word}",
        f"{len(damaged):,} bytes",
        hashlib.sha256(damaged).hexdigest(),
        f"expected: {expected.size:,} bytes, SHA-256 {expected.sha256}",
    ):
        assert part in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_and_neither_touched_nor_replaced(tmp_path, server, damage):
    put(server.folder / "tiny.amat", CONTENT)
    path = put(tmp_path / "first" / "tiny.amat", damage(CONTENT))
    put(tmp_path / "second" / "tiny.amat", CONTENT)
    file = data_file(mirrors=[server.address])
    check_refused_and_left(
        path, damage(CONTENT), file, lambda: read_files([file], [tmp_path / "first", tmp_path / "second"])
    )
    assert server.asked == []


def test_a_damaged_unpacked_file_is_measured_against_the_unpacked_sum(tmp_path):
    file = packed_file()
    path = put(tmp_path / "tiny", CONTENT[:-1])
    check_refused_and_left(path, CONTENT[:-1], file.unpacked, lambda: read_files([file], [tmp_path]))


@pytest.mark.parametrize(
    "occupy", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "dangling link"]
)
def test_what_stands_in_the_place_of_a_file_is_refused_and_left(tmp_path, server, occupy):
    put(server.folder / "tiny.amat", CONTENT)
    path = tmp_path / "mnist" / "tiny.amat"
    path.parent.mkdir()
    occupy(path)
    with pytest.raises(DataError, match=r"tiny\.amat cannot be read .*expected: 40,000 bytes"):
        read_files([data_file(mirrors=[server.address])], [tmp_path])
    assert server.asked == []
    assert path.is_symlink() or path.is_dir()


# --- files: downloading ---------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1 and remembers what it was asked for.

    Files under cut/ break off half-way; those under labelled/ are declared as gzip-encoded to clients that accept it.
    """

    def __init__(self, folder):
        self.folder, self.asked, self.sent = folder, [], 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, request, client_address, server):
        super().__init__(request, client_address, server, directory=str(server.folder))

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/endless/"):
            return self.send_endlessly()
        if not self.path.startswith(("/cut/", "/labelled/")):
            return super().do_GET()
        content = (self.server.folder / self.path.strip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if self.path.startswith("/labelled/") and "gzip" in self.headers["Accept-Encoding"]:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path.startswith("/cut/") else content)
        return None

    def send_endlessly(self):
        """Send what has no end, until nobody takes it any more."""
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                self.wfile.write(bytes(2**16))
                self.server.sent += 2**16

    def log_message(self, *arguments):
        """Keep the tests' output clean."""


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(tmp_path_factory.mktemp("served")) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def dead_mirror(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(Path()) as stopped:
        address = stopped.address
    return address


def test_a_missing_file_is_downloaded_into_the_last_folder_and_kept(tmp_path, server, capfd):
    put(server.folder / "tiny.gz", PACKED)
    file = packed_file([server.address])
    folders = [tmp_path / "first", tmp_path / "last"]
    assert read_files([file], folders) == [CONTENT]
    assert files_under(tmp_path) == [tmp_path / "last/mnist/tiny.gz"]
    assert (tmp_path / "last/mnist/tiny.gz").read_bytes() == PACKED
    assert read_files([file], folders, download=False) == [CONTENT]
    assert server.asked == ["/tiny.gz"]
    assert capfd.readouterr().out == ""


def test_a_packed_file_arrives_packed_from_a_mirror_that_would_have_it_unpacked_on_the_way(tmp_path, server):
    put(server.folder / "labelled/tiny.gz", PACKED)
    assert read_files([packed_file([f"{server.address}labelled/"])], [tmp_path]) == [CONTENT]
    assert (tmp_path / "mnist/tiny.gz").read_bytes() == PACKED


@pytest.mark.parametrize("failure", ["absent", "another", "cut", "dead"])
def test_the_next_mirror_is_tried(tmp_path, server, dead_mirror, failure):
    put(server.folder / "another/tiny.amat", b"<html>Please log in</html>")
    put(server.folder / "cut/tiny.amat", CONTENT)
    put(server.folder / "good/tiny.amat", CONTENT)
    first = dead_mirror if failure == "dead" else f"{server.address}{failure}/"
    assert read_files([data_file(mirrors=[first, f"{server.address}good/"])], [tmp_path]) == [CONTENT]
    assert server.asked == [f"/{failure}/tiny.amat"] * (failure != "dead") + ["/good/tiny.amat"]
    assert files_under(tmp_path) == [tmp_path / "mnist/tiny.amat"]


def test_when_all_mirrors_fail_the_error_says_why_and_nothing_is_left(tmp_path, server, dead_mirror):
    put(server.folder / "another/tiny.amat", b"<html>Please log in</html>")
    put(server.folder / "cut/tiny.amat", CONTENT)
    mirrors = [f"{server.address}absent/", f"{server.address}another/", f"{server.address}cut/", dead_mirror]
    with pytest.raises(DataError) as caught:
        read_files([data_file(mirrors=mirrors)], [tmp_path])
    message = str(caught.value)
    assert "absent/tiny.amat: HTTP 404" in message
    assert "another/tiny.amat: not the expected file" in message
    assert f"{dead_mirror}tiny.amat: ConnectionError" in message
    assert "cut/tiny.amat: " in message
    assert files_under(tmp_path) == []


def test_a_download_that_does_not_end_is_ended(tmp_path, server):
    put(server.folder / "good/tiny.amat", CONTENT)
    mirrors = [f"{server.address}endless/", f"{server.address}good/"]
    assert read_files([data_file(mirrors=mirrors)], [tmp_path]) == [CONTENT]
    assert server.sent < 50 * 2**20, "no more than the network's buffers took"
    assert files_under(tmp_path) == [tmp_path / "mnist/tiny.amat"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, server):
    put(server.folder / "tiny.amat", CONTENT)
    blocked = put(tmp_path / "data", b"a file where the folder should be")
    with pytest.raises(DataError, match=r"tiny\.amat: .*data"):
        read_files([data_file(mirrors=[server.address])], [blocked])


@pytest.mark.parametrize(
    ("binarisation", "names"),
    [
        ("static", ["binarized_mnist_train.amat", "binarized_mnist_valid.amat", "binarized_mnist_test.amat"]),
        ("dynamic", ["train-images-idx3-ubyte.gz (or train-images-idx3-ubyte)", "t10k-images-idx3-ubyte.gz"]),
        ("threshold", ["train-images-idx3-ubyte.gz (or train-images-idx3-ubyte)", "t10k-images-idx3-ubyte.gz"]),
    ],
)
@pytest.mark.parametrize("download", [True, False], ids=["mirrors dead", "downloading off"])
def test_without_files_and_network_the_error_names_files_folders_and_the_offline_study(
    tmp_path, dead_mirror, monkeypatch, binarisation, names, download
):
    for files in ("AMAT_FILES", "IMAGE_FILES"):
        dead = tuple(replace(file, mirrors=(dead_mirror,)) for file in getattr(mnist, files))
        monkeypatch.setattr(mnist, files, dead)
    folders = [tmp_path / "first", tmp_path / "last"]
    with pytest.raises(DataError) as caught:
        load_dataset(DataSpec(name="mnist", binarisation=binarisation), folders, download)
    message = str(caught.value)
    assert message.startswith("data files not found:")
    for name in names:
        assert name in message
    for folder in folders:
        for subfolder in ("", "mnist", "binarized_mnist", "MNIST/raw", "cifar-10-batches-bin"):
            assert f"  {folder / subfolder}\n" in message
    assert ("ConnectionError" if download else "disabled") in message
    assert message.endswith("python -m nfstudy run studies/quickstart.yaml")
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "mirrors"),
    [
        (mnist.AMAT_FILES[0], ["http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"]),
        (
            mnist.IMAGE_FILES[0],
            [
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "http://yann.lecun.com/exdb/mnist/",
            ],
        ),
    ],
    ids=["fixed binarisation", "grey levels"],
)
def test_files_come_from_their_authors_and_known_copies(file, mirrors):
    assert list(file.mirrors) == mirrors


# --- files: an archive ----------------------------------------------------------------------------------------------

MEMBERS = {"one.bin": b"1" * 3000, "two.bin": b"2" * 2000}


def packed_members():
    """Return a .tar.gz of the members and of one more file, in a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in {"readme.html": b"read me", **MEMBERS}.items():
            info = tarfile.TarInfo(f"inside/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def archive_file(content, mirrors=()):
    members = tuple(replace(data_file(text, name), folder="inside") for name, text in MEMBERS.items())
    return replace(data_file(content, "both.tar.gz", mirrors), folder="", members=members)


def test_members_are_read_from_an_archive_that_is_found_and_nothing_is_unpacked(tmp_path):
    content = packed_members()
    path = put(tmp_path / "both.tar.gz", content)
    assert read_members(archive_file(content), [tmp_path], download=False) == list(MEMBERS.values())
    assert files_under(tmp_path) == [path]


def test_members_are_read_unpacked_where_all_of_them_are(tmp_path, server):
    for name, text in MEMBERS.items():
        put(tmp_path / "mnist" / name, text)
    archive = archive_file(packed_members(), [server.address])
    assert read_members(archive, [tmp_path]) == list(MEMBERS.values())
    assert server.asked == []


def test_an_archive_is_downloaded_where_a_member_is_missing(tmp_path, server):
    content = packed_members()
    put(server.folder / "both.tar.gz", content)
    member = put(tmp_path / "one.bin", MEMBERS["one.bin"])
    assert read_members(archive_file(content, [server.address]), [tmp_path]) == list(MEMBERS.values())
    assert files_under(tmp_path) == [tmp_path / "both.tar.gz", member]
    assert (tmp_path / "both.tar.gz").read_bytes() == content


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["both.tar.gz", "two.bin"])
def test_a_damaged_archive_or_member_is_refused_and_left(tmp_path, name, damage):
    content = packed_members()
    archive = archive_file(content)
    put(tmp_path / "one.bin", MEMBERS["one.bin"])
    good, file = (content, archive) if name == "both.tar.gz" else (MEMBERS[name], archive.members[1])
    path = put(tmp_path / name, damage(good))
    check_refused_and_left(path, damage(good), file, lambda: read_members(archive, [tmp_path]))


def test_an_archive_that_cannot_be_had_is_named_with_its_members_and_its_address(tmp_path, dead_mirror):
    with pytest.raises(DataError) as caught:
        read_members(archive_file(packed_members(), [dead_mirror]), [tmp_path])
    message = str(caught.value)
    assert "  both.tar.gz (or one.bin and two.bin), " in message
    assert f"{dead_mirror}both.tar.gz: ConnectionError" in message
    assert files_under(tmp_path) == []


def test_cifar10_comes_from_its_authors():
    # Size and SHA-256 of the published archive are known from elsewhere: no copy of it is at hand.
    archive = cifar10.ARCHIVE
    assert [mirror + archive.name for mirror in archive.mirrors] == [
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    ]
    assert archive.size == 170_052_171
    assert archive.sha256 == "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


# --- MNIST's own files ----------------------------------------------------------------------------------------------

AUTHORS_FILES = (*mnist.AMAT_FILES, *mnist.IMAGE_FILES, *mnist.LABEL_FILES)


@pytest.mark.real_data
@pytest.mark.parametrize("file", AUTHORS_FILES, ids=lambda file: file.name)
def test_sizes_and_sums_are_those_of_the_published_files(mnist_folders, file):
    form, path = locate(file, mnist_folders)
    stored = path.read_bytes()
    assert (len(stored), hashlib.md5(stored).hexdigest()) == (form.size, MD5[form.name])
    content = read_files([file], mnist_folders, download=False)[0]
    inner = file.unpacked or file
    assert (len(content), hashlib.md5(content).hexdigest()) == (inner.size, MD5[inner.name])
    assert hashlib.sha256(content).hexdigest() == inner.sha256


@pytest.mark.real_data
@pytest.mark.parametrize("binarisation", BINARISATIONS)
def test_mnist_has_the_splits_of_the_spec_and_the_pinned_bytes(mnist_sets, binarisation):
    check_shape_and_values(mnist_sets[binarisation], "mnist", binarisation, 784, 255)


@pytest.mark.real_data
def test_grey_mnist_begins_with_the_well_known_five(mnist_sets):
    first = mnist_sets["dynamic"].train[0].reshape(28, 28)
    assert first[5, 12:24].tolist() == [3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127]
    assert not first[:5].any()
    assert not first[25:].any()


@pytest.mark.real_data
def test_grey_valid_is_the_last_ten_thousand_of_the_training_file(mnist_folders, mnist_sets):
    content = read_files(mnist.IMAGE_FILES[:1], mnist_folders, download=False)[0]
    last = np.frombuffer(content[-10_000 * 784 :], np.uint8).reshape(10_000, 784)
    valid, test = mnist_sets["dynamic"].valid, mnist_sets["dynamic"].test
    assert not valid[last == 0].any()
    assert valid[last == 255].all()
    np.testing.assert_array_equal(mnist_sets["threshold"].valid, last > 127)
    # Sums of the two grey files, known beforehand: 1,567,298,545 and 264,923,200.
    grey_sum = mnist_sets["dynamic"].train.sum(dtype=int) + last.sum(dtype=int)
    assert grey_sum == 1_567_298_545
    assert abs(test.sum(dtype=int) - 264_923_200 / 255) < 4 * 382


@pytest.mark.real_data
def test_static_mnist_has_as_much_ink_as_the_grey_images_say(mnist_sets):
    static = mnist_sets["static"]
    assert [int(images.sum(dtype=int)) for images in (static.train, static.valid, static.test)] == [
        5_118_041,
        1_028_036,
        1_038_896,
    ]
    # Expected Σ v/255 over train + valid and over test, with the standard deviations 937 and 382 of Bernoulli bits.
    assert abs(5_118_041 + 1_028_036 - 1_567_298_545 / 255) < 4 * 937
    assert abs(1_038_896 - 264_923_200 / 255) < 4 * 382


@pytest.mark.real_data
def test_static_test_images_are_samples_of_the_t10k_file_sorted_by_label(mnist_folders, mnist_sets):
    images, labels = read_files((mnist.IMAGE_FILES[1], mnist.LABEL_FILES[1]), mnist_folders, download=False)
    labels = np.frombuffer(labels, np.uint8, offset=8)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert tuple(np.bincount(labels)) == T10K_LABEL_COUNTS
    greys = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)[np.argsort(labels, kind="stable")]
    bits = mnist_sets["static"].test
    assert not bits[greys == 0].any()
    assert bits[greys == 255].all()
    for low, high in ((1, 63), (64, 127), (128, 191), (192, 254)):
        band = (greys >= low) & (greys <= high)
        assert bits[band].mean() == pytest.approx(greys[band].mean() / 255, abs=0.0025), f"grey {low} to {high}"


@pytest.mark.real_data
def test_static_test_images_look_like_their_digits(mnist_sets):
    by_digit = np.split(mnist_sets["static"].test, np.cumsum(T10K_LABEL_COUNTS)[:-1])
    ink = [images.sum() / len(images) for images in by_digit]
    centre = [images.reshape(-1, 28, 28)[:, 12:16, 12:16].mean() for images in by_digit]
    assert np.argmin(ink) == 1, "ones need the least ink"
    assert np.argmax(ink) == 0, "zeros need the most"
    assert np.argmin(centre) == 0, "zeros are hollow"
    assert centre[1] > 0.6, "ones pass through the centre"


def link_files(files, folders, target, but=()):
    """Link all files but some into a folder."""
    target.mkdir()
    for file in files:
        if file not in but:
            form, path = locate(file, folders)
            (target / form.name).symlink_to(path)
    return target


@pytest.mark.real_data
@pytest.mark.parametrize("binarisation", ["dynamic", "threshold"])
def test_unpacked_files_without_labels_give_the_same_data_set(mnist_folders, mnist_sets, tmp_path, binarisation):
    for file, content in zip(
        mnist.IMAGE_FILES, read_files(mnist.IMAGE_FILES, mnist_folders, download=False), strict=True
    ):
        put(tmp_path / "MNIST/raw" / file.unpacked.name, content)
    assert mnist_of(binarisation, [tmp_path]).fingerprint == mnist_sets[binarisation].fingerprint


@pytest.mark.real_data
@pytest.mark.parametrize("damage", [DAMAGES["truncated"], DAMAGES["one bit flipped"]], ids=["truncated", "altered"])
@pytest.mark.parametrize(
    ("files", "damaged", "binarisation"),
    [
        (mnist.AMAT_FILES, mnist.AMAT_FILES[2], "static"),
        (mnist.IMAGE_FILES, mnist.IMAGE_FILES[1], "dynamic"),
        ((*mnist.IMAGE_FILES, *mnist.LABEL_FILES), mnist.LABEL_FILES[1], "threshold"),
    ],
    ids=["fixed bits", "grey images", "labels"],
)
def test_a_damaged_copy_of_mnist_is_refused_and_left(mnist_folders, tmp_path, files, damaged, binarisation, damage):
    folder = link_files(files, mnist_folders, tmp_path / "data", but=[damaged])
    form, original = locate(damaged, mnist_folders)
    content = damage(original.read_bytes())
    path = put(folder / form.name, content)
    spec = DataSpec(name="mnist", binarisation=binarisation)
    check_refused_and_left(path, content, form, lambda: load_dataset(spec, [folder]))


@pytest.mark.real_data
def test_a_downloaded_mnist_is_the_found_one(mnist_folders, mnist_sets, server, tmp_path, monkeypatch):
    for file in mnist.IMAGE_FILES:
        form, path = locate(file, mnist_folders)
        if form is not file:
            pytest.skip(f"{file.name} is only there unpacked, and mirrors serve it packed")
        shutil.copy(path, server.folder)
    served = tuple(replace(file, mirrors=(server.address,)) for file in mnist.IMAGE_FILES)
    monkeypatch.setattr(mnist, "IMAGE_FILES", served)
    dataset = load_dataset(DataSpec(name="mnist", binarisation="threshold"), [tmp_path])
    assert dataset.fingerprint == mnist_sets["threshold"].fingerprint
    assert files_under(tmp_path) == sorted(tmp_path / "mnist" / file.name for file in served)


# --- CIFAR-10's own files -------------------------------------------------------------------------------------------

# Part of every logged run, with the patches of the default settings.
CIFAR10_FINGERPRINT = "f9d83b56efa6ce4d64f33d544fdfa55506fa8ee0239f83cdbf244991ba963009"


@pytest.fixture(scope="module")
def cifar_images(cifar10_folders):
    return cifar10.read_images(cifar10_folders, download=False)[0]


@pytest.mark.real_data
@pytest.mark.parametrize("file", cifar10.BATCHES, ids=lambda file: file.name)
def test_sizes_sums_and_labels_are_those_of_the_published_batches(cifar10_folders, file):
    (content,) = read_files([file], cifar10_folders, download=False)
    assert (len(content), hashlib.md5(content).hexdigest()) == (30_730_000, MD5[file.name])
    labels = np.frombuffer(content, np.uint8)[::3073]
    assert len(labels) == 10_000
    assert labels.max() == 9
    if file.name == "test_batch.bin":
        assert np.bincount(labels).tolist() == [1000] * 10
        assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    if file.name == "data_batch_1.bin":
        assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]


@pytest.mark.real_data
def test_the_mean_colours_of_all_training_images_are_the_well_known_ones(cifar_images):
    everything = np.concatenate([cifar_images.train, cifar_images.valid])
    means = everything.mean((0, 1, 2), dtype=np.float64) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    red = everything[..., 0].astype(np.float32)
    assert red.std(dtype=np.float64) / 255 == pytest.approx(0.2470, abs=5e-5)


@pytest.mark.real_data
def test_the_last_five_thousand_training_images_validate(cifar10_folders, cifar_images):
    assert [images.shape for images in cifar_images] == [(count, 32, 32, 3) for count in cifar10.IMAGES]
    (last,) = read_files([cifar10.BATCHES[4]], cifar10_folders, download=False)
    record = last[-3073:]
    # The last record's first and last pixel: red, green and blue stand 1,024 bytes apart.
    assert cifar_images.valid[-1, 0, 0].tolist() == [record[1], record[1025], record[2049]]
    assert cifar_images.valid[-1, 31, 31].tolist() == [record[1024], record[2048], record[3072]]
    assert cifar_images.valid[-1, 0, 1].tolist() == [record[2], record[1026], record[2050]]


@pytest.mark.real_data
def test_neighbouring_pixels_are_alike_so_that_rows_and_colours_are_read_in_their_order(cifar_images):
    images = cifar_images.test.astype(np.float32)
    down, right = np.abs(np.diff(images, axis=1)).mean(), np.abs(np.diff(images, axis=2)).mean()
    far = np.abs(images - np.roll(images, 1, axis=0)).mean()
    assert max(down, right) < far / 4


@pytest.mark.real_data
def test_cifar10_patches_have_the_pinned_bytes_and_lie_in_images_of_their_split(cifar10_folders, cifar_images):
    dataset = load_dataset(DataSpec(name="cifar10"), cifar10_folders, download=False)
    assert (dataset.name, dataset.shape) == ("cifar10-uniform", (8, 8, 3))
    assert dataset.fingerprint == CIFAR10_FINGERPRINT
    assert [len(images) for images in (dataset.train, dataset.valid, dataset.test)] == [180_000, 5000, 10_000]
    for number in (0, 44_999, 45_000, 179_999):
        windows = np.lib.stride_tricks.sliding_window_view(cifar_images.train[number % 45_000], (8, 8), axis=(0, 1))
        patch = dataset.train[number].reshape(8, 8, 3).transpose(2, 0, 1)
        assert (windows == patch).all((2, 3, 4)).any()
