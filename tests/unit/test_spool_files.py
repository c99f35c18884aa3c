"""The spool's files: what they say of themselves, how a batch is cut, what is left when writing fails."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from shared import clock
from shared.telemetry import spool
from shared.telemetry.spool import SpoolStatus, batches, read_batch, spool_status, write_batch

ROWS = [b'{"SpanName":"a"}\n', b'{"SpanName":"b"}\n']


def test_a_file_is_a_header_and_the_rows(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "new" / "spool", ROWS)
    head, *rows = path.read_bytes().splitlines(keepends=True)
    assert rows == ROWS
    assert json.loads(head) == {"schema": 1, "rows": 2, "sha256": hashlib.sha256(b"".join(ROWS)).hexdigest()}
    assert read_batch(path) == (path.stem, 2, b"".join(ROWS))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_names_sort_by_time_and_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([*(1_795_000_000_000_000_000 + micro * 1_000 for micro in range(20)), 17_950_000_000_000_000_000])
    monkeypatch.setattr(clock, "wall_ns", lambda: next(times))
    written = [write_batch(tmp_path, ROWS) for _ in range(21)]
    assert written == sorted(written)
    monkeypatch.setattr(clock, "wall_ns", lambda: 1_795_000_000_000_000_000)
    assert len({write_batch(tmp_path, ROWS).name for _ in range(50)}) == 50


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b'"a"', b'"b"'),
        lambda data: data[:-1],
        lambda data: data + ROWS[0],
        lambda data: data.replace(b'"rows": 2', b'"rows": 3'),
        lambda data: data.replace(b'"schema": 1', b'"schema": 2'),
        lambda data: data.partition(b"\n")[2],
        lambda data: b"[]\n" + data,
        lambda data: b"\xff\xfe\n" + data,
        lambda data: b"",
    ],
)
def test_a_damaged_file_is_noticed(tmp_path: Path, damage: Any) -> None:
    path = write_batch(tmp_path, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r".+"):
        read_batch(path)


def test_batches_keep_to_both_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_SPANS", 3)
    monkeypatch.setattr(spool, "MAX_BYTES", 100)
    assert [len(batch) for batch in batches([b"x"] * 8)] == [3, 3, 2]
    lines = [b"x" * 60, b"y" * 60, b"z" * 40, b"w" * 500, b"v"]
    assert list(batches(lines)) == [lines[:1], lines[1:3], lines[3:4], lines[4:]]
    assert list(batches([])) == []


@pytest.mark.parametrize("step", ["rename", "fsync"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    calls = []

    def fail(*_: object) -> None:
        calls.append(step)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"rename": (Path, "rename"), "fsync": (os, "fsync")}[step], fail)
    with pytest.raises(OSError, match="No space"):
        write_batch(tmp_path, ROWS)
    assert calls
    assert list(tmp_path.iterdir()) == []


def test_what_is_renamed_but_not_synced_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_sync_directory", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OSError, match="I/O"):
        write_batch(tmp_path, ROWS)
    assert list(tmp_path.iterdir()) == []


def test_status_counts_files_and_the_age_of_the_oldest(tmp_path: Path) -> None:
    assert spool_status(tmp_path / "nowhere") == SpoolStatus(0, None, 0)
    first, _ = write_batch(tmp_path, ROWS), write_batch(tmp_path, ROWS)
    os.utime(first, (first.stat().st_mtime - 3600,) * 2)
    (tmp_path / "half.tmp").write_bytes(b"")
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "x.spool").write_bytes(b"")
    status = spool_status(tmp_path)
    assert (status.depth, status.quarantined) == (2, 1)
    assert status.oldest_seconds == pytest.approx(3600, abs=30)
