"""No archive fills memory or disk beyond what is stated, and no export replaces anything but an archive."""

import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
from support.fake_copies import CONTENTS, consistent, copy, points, small_archive

from nfstudy.__main__ import main
from nfstudy.core.errors import StoreError
from nfstudy.runs.archive import reader, transfer
from nfstudy.runs.archive.manifest import ArchiveError
from nfstudy.runs.archive.reader import is_archive, read_archive, read_manifest
from nfstudy.runs.archive.transfer import import_runs, require_replaceable
from nfstudy.runs.frame import param_text
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.sql_export import read_copies
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.whole_run import DataRecord, most_points
from nfstudy.study.cells import Cell, settings_digest
from nfstudy.study.settings import Settings

DIGITS = DataRecord.of("digits", "ab" * 32, "", {"train": (1438, 8, 8), "valid": (179, 8, 8), "test": (180, 8, 8)})


@pytest.mark.parametrize(
    ("params", "datasets", "most"),
    [
        # 1,438 images make 28 batches of 50: 60 updates are 2.1 epochs, and there is a point at the end.
        ({"train.updates": "60", "train.batch": "50"}, [DIGITS], 4),
        ({"train.updates": "60", "train.batch": "50", "data.train_images": "100"}, [DIGITS], 31),
        ({"train.updates": "60", "train.batch": "5000"}, [DIGITS], 61),
        ({"train.updates": "60"}, [DIGITS.model_copy(update={"profile": "no JSON"})], 61),
        # On the plane, an epoch is 250 updates.
        ({"train.updates": "501", "train.batch": "50"}, [], 4),
        ({"train.updates": "1000000000"}, [DIGITS], 695412),
        ({"train.updates": "1000000000000000"}, [], 1_000_000),
        ({"train.updates": "-1"}, [], 1000),
        ({}, [], 1000),
    ],
)
def test_a_history_has_as_many_points_as_the_settings_make_epochs(params, datasets, most):
    assert most_points(params, datasets) == most


def of_points(path, number, **params):
    """Write an archive of a run with so many points of a metric, 15 updates apart; `params` are those of `train`."""
    history = points(*((15 * (place + 1), 1, 0.5) for place in range(number)))
    settings = Settings.model_validate({"data": {"name": "digits"}, "train": params})
    line = json.loads(copy(1).record.model_dump_json())
    line["params"] = {path: param_text(value) for path, value in settings.flat().items()}
    line["tags"] |= {
        Tag.CELL: Cell(settings.normalized(), "default").key,
        Tag.SETTINGS: settings_digest(settings),
        Tag.UPDATE: str(settings.train.updates),
    }
    line |= {"points": {"train/elbo": number}, "datasets": [json.loads(DIGITS.model_dump_json())]}
    return consistent(path, [json.dumps(line, separators=(",", ":")).encode()], [history], CONTENTS)


def test_more_points_than_the_settings_allow_are_refused(tmp_path):
    assert len(read_archive(of_points(tmp_path / "good", 4, updates=60, batch=50)).runs) == 1
    with pytest.raises(ArchiveError, match=r"train/elbo: 50,000 points; expected: at most 4, by its settings"):
        read_archive(of_points(tmp_path / "bad", 50_000, updates=60, batch=50))


def test_a_large_archive_waits_in_a_file_and_reads_the_same(tmp_path, monkeypatch, store):
    path = small_archive(tmp_path / "x")
    small = read_archive(path)
    monkeypatch.setattr(reader, "IN_MEMORY", 100)
    large = read_archive(path)
    assert [run.record for run in large.runs] == [run.record for run in small.runs]
    for one, other in zip(small.runs, large.runs, strict=True):
        assert list(one.histories) == list(other.histories)
        for metric in one.histories:
            assert one.histories[metric].tobytes() == other.histories[metric].tobytes()
    assert dict(large.files()) == dict(small.files()) == CONTENTS
    monkeypatch.setattr("nfstudy.runs.tracking.sql_export.POINTS_AT_ONCE", 3)
    assert import_runs(large, store.uri).new == 3
    for one, other in zip(small.runs, read_copies(SqlStore(store.uri), "s"), strict=True):
        assert one.same_numbers(other)


Room = namedtuple("Room", "free")


def test_an_archive_is_refused_where_the_disk_has_no_room_for_it(tmp_path, monkeypatch, store):
    path = small_archive(tmp_path / "x")
    archive = read_archive(path)
    size = sum(map(len, CONTENTS.values()))
    # The same two files for each of three runs, and ten points.
    assert archive.stored_bytes(archive.runs) == 3 * size
    needed = 3 * size + 15 * transfer.POINT_BYTES
    monkeypatch.setattr("nfstudy.core.reading.shutil.disk_usage", lambda folder: Room(needed - 1))
    with pytest.raises(StoreError, match=rf"the 3 new runs of .*x need some {needed:,} bytes, and {needed - 1:,} are"):
        import_runs(archive, store.uri)
    assert read_copies(SqlStore(store.uri), "s") == []
    monkeypatch.setattr(reader, "IN_MEMORY", 100)
    monkeypatch.setattr("nfstudy.core.reading.shutil.disk_usage", lambda folder: Room(10))
    with pytest.raises(ArchiveError, match=r"unpacks to [\d,]+ bytes, and .* has 10 left; hint: .*TMPDIR"):
        read_archive(path)
    monkeypatch.setattr("nfstudy.core.reading.shutil.disk_usage", lambda folder: Room(needed))
    assert import_runs(archive, store.uri).new == 3


def test_one_file_that_many_runs_share_cannot_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_STORED", 3 * sum(map(len, CONTENTS.values())) - 1)
    with pytest.raises(ArchiveError, match=r"its runs' files take \d+ bytes in a store; expected: at most"):
        read_archive(small_archive(tmp_path / "x"))


def test_the_size_of_an_archive_is_said_before_it_is_read(tmp_path, monkeypatch, capsys):
    path = small_archive(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:-60])
    monkeypatch.chdir(tmp_path)
    assert read_manifest(path).points == 15
    assert main(["import", "x", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 2
    out, err = capsys.readouterr()
    assert out == "x: 3 runs with 15 points, 0.01 MB unpacked\n"
    assert "x: is truncated" in err or "x: not a valid .xz" in err
    assert not (tmp_path / "mlflow.db").exists()


def test_a_pipe_or_a_huge_file_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(40 * 10**9)
    with pytest.raises(ArchiveError, match=r"cannot be read: is a pipe, socket or device; expected: a regular file"):
        read_archive(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match=r"cannot be read: has 40,000,000,000 bytes; expected: at most"):
        read_archive(tmp_path / "sparse")


def test_only_an_archive_or_an_empty_place_is_replaced(tmp_path, store):
    (tmp_path / "tiny.yaml").write_text("study: tiny")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    (tmp_path / "link.yaml").symlink_to("tiny.yaml")
    small_archive(tmp_path / "archive")
    (tmp_path / "link").symlink_to("archive")
    os.mkfifo(tmp_path / "pipe")
    for name in ("new", "empty", "archive", "link", "new/folder/x"):
        require_replaceable(tmp_path / name)
    assert is_archive(tmp_path / "archive")
    for name in ("tiny.yaml", "folder", "dangling", "link.yaml", "pipe", "mlruns/mlflow.db", "tiny.yaml/x"):
        with pytest.raises(ArchiveError, match=f"{name}: (is|cannot be written)"):
            require_replaceable(tmp_path / name)
    with pytest.raises(ArchiveError, match="/dev/null: is there already"):
        require_replaceable(Path("/dev/null"))


STUDY = "study: s\ntitle: T\ndata: {name: digits}\nexhibits: [summary]\n"


def test_export_leaves_a_study_file_and_a_store_as_they_are(tmp_path, store, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(STUDY)
    import_runs(read_archive(small_archive(tmp_path / "x")), store.uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = (tmp_path / "mlruns" / "mlflow.db").read_bytes()
    for name in ("s.yaml", "mlruns/mlflow.db"):
        assert main(["export", "s.yaml", name]) == 2
        assert f"{name}: is there already, and no archive of nfstudy" in capsys.readouterr().err
    assert (tmp_path / "s.yaml").read_text() == STUDY
    assert (tmp_path / "mlruns" / "mlflow.db").read_bytes() == before
    (tmp_path / "link").symlink_to("x")
    assert main(["export", "s.yaml", "link"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert len(read_archive(tmp_path / "x").runs) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("images", ["1e999", "[]", '"x"', "null", "NaN"])
def test_a_number_of_images_that_cannot_be_read_is_none(images):
    from nfstudy.runs.whole_run import DataRecord, _training_images

    data = DataRecord.model_construct(profile=f'{{"train": [{images}]}}')
    assert _training_images(data) == 0
