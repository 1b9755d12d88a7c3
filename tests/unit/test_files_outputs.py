"""Files as data, and what jobs printed."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from lwfm.data import files
from lwfm.data.files import FileRecorder, checksum, file_url
from lwfm.data.outputs import OutputStore
from lwfm.errors import NotFound
from lwfm.models import JobDefn

from support.threads import Thread


def test_a_file_is_described_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a file.txt"
    path.write_bytes(b"content")
    sheet = FileRecorder().describe(path, "put")
    assert (sheet.site, sheet.op, sheet.path, sheet.size_bytes) == ("local", "put", str(path), 7)
    assert sheet.sha256 == hashlib.sha256(b"content").hexdigest()
    assert sheet.url is not None
    assert sheet.url.endswith("/a%20file.txt")


def test_what_is_no_regular_file_has_no_checksum(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        sheet = FileRecorder().describe(tmp_path / name, "put")
        assert (sheet.sha256, sheet.size_bytes) == (None, None)
    with pytest.raises(FileNotFoundError):
        FileRecorder().describe(tmp_path / "missing", "put")


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.log"))
    path.write_bytes(b"x")
    sheet = FileRecorder().describe(path, "put")
    assert sheet.url is not None
    assert sheet.url.endswith("/%FF.log")
    home = tmp_path / "home"
    home.mkdir()
    thread = Thread(home)
    found = thread.unit(thread.service.put_data, sheet)
    assert found["path"] == str(tmp_path) + "/\\udcff.log"
    assert thread.records()[-1].body["path"] == str(path), "the log keeps the exact bytes"
    assert thread.verify() == []
    thread.close()


def test_a_checksum_is_remembered_as_long_as_the_file_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return checksum(path)

    monkeypatch.setattr(files, "checksum", counted)
    path, recorder = tmp_path / "f", FileRecorder()
    path.write_bytes(b"one")
    assert recorder.checksum(str(path)) == recorder.checksum(str(path))
    assert len(read) == 2, "just changed: it may change again without its times telling"
    os.utime(path, (1000, 1000))
    digests = {recorder.checksum(str(path)) for _ in range(3)}
    assert len(read) == 3
    path.write_bytes(b"two")
    assert recorder.checksum(str(path)) not in digests


def test_declared_files_are_found_by_name_and_by_pattern(tmp_path: Path) -> None:
    for name in ("in.dat", "out-1.log", "out-2.log", "[odd]"):
        (tmp_path / name).write_bytes(name.encode())
    defn = JobDefn("x", cwd=str(tmp_path), inputs=["in.dat", "missing"], outputs=["out-*.log", "[odd]", "none*"])
    sheets = FileRecorder().declared(defn, "j")
    assert [(sheet.op, Path(sheet.path or "").name) for sheet in sheets] == [
        ("get", "in.dat"), ("put", "out-1.log"), ("put", "out-2.log"), ("put", "[odd]"),
    ]  # fmt: skip
    assert {(sheet.job_id, sheet.properties["declared"]) for sheet in sheets} == {("j", True)}


def test_urls_are_made_of_bytes() -> None:
    assert file_url("h", "/a b/ä\udcff#?") == "file://h/a%20b/%C3%A4%FF%23%3F"


@pytest.fixture
def thread(tmp_path: Path) -> Thread:
    (tmp_path / "home").mkdir()
    return Thread(tmp_path / "home")


def test_small_outputs_are_kept_once_and_read_in_pieces(thread: Thread) -> None:
    data = os.urandom(1000) + b"\0\xff"
    with thread.store.transaction() as transaction:
        kept = [thread.outputs.keep(transaction, data) for _ in range(3)]
    assert thread.connection.execute("select count(*) from local_blobs").fetchone() == (1,)
    read = thread.outputs.read
    assert read(thread.connection, kept[0], 0, 10_000) == data
    assert read(thread.connection, kept[0], 998, 3) == data[998:1001]
    assert read(thread.connection, kept[0], 5000, 3) == b""
    assert read(thread.connection, None, 0, 10) == b""
    assert read(thread.connection, {"size": 0}, 0, 10) == b""
    with pytest.raises(NotFound, match="not kept here"):
        read(thread.connection, {"size": 5, "sha256": "none"}, 0, 10)
    thread.close()


def test_large_outputs_are_moved_in_and_moving_again_gives_the_same(thread: Thread, tmp_path: Path) -> None:
    source = tmp_path / "spool.out"
    source.write_bytes(b"x" * 100_000)
    kept = thread.outputs.take_over(source, "0199-abcd", 1, "stdout")
    assert not source.exists()
    assert thread.outputs.take_over(source, "0199-abcd", 1, "stdout") == kept
    assert (kept["size"], kept["sha256"]) == (100_000, hashlib.sha256(b"x" * 100_000).hexdigest())
    assert thread.outputs.read(thread.connection, kept, 99_998, 10) == b"xx"
    (directory,) = (tmp_path / "home" / "outputs").iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (directory / "0199-abcd.1.stdout").unlink()
    with pytest.raises(NotFound, match="cannot be read"):
        thread.outputs.read(thread.connection, kept, 0, 10)
    thread.close()


def test_stdout_and_stderr_copied_across_file_systems_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a move is a copy, both once went through the same part file."""
    parts: list[str] = []
    replace = os.replace

    def other_device(source: Path, target: Path) -> None:
        if "spool" in str(source):
            raise OSError(18, "Invalid cross-device link")
        parts.append(os.path.basename(source))
        replace(source, target)

    monkeypatch.setattr("lwfm.data.outputs.os.replace", other_device)
    outputs = OutputStore(tmp_path / "outputs")
    for stream in ("stdout", "stderr"):
        source = tmp_path / f"spool.{stream}"
        source.write_text(stream)
        outputs.take_over(source, "job", 1, stream)
    assert len(set(parts)) == 2
    assert (tmp_path / "outputs" / "ob" / "job.1.stderr").read_text() == "stderr"
