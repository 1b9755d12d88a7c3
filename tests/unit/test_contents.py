"""The directory of copies: what gets in, under which name, and what is in the way."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from lwfm.data.contents import (
    ContentStore,
    Incoming,
    WrongContent,
    harmless_name,
    has_content,
    is_file_of,
    name_of,
    open_file,
)
from lwfm.errors import InsecureState

CONTENT = b"content" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "contents")


def begun(store: ContentStore, name: str = "name.txt", *, resume: bool = True) -> Incoming:
    incoming = store.begin(SHA256, len(CONTENT), name, resume=resume)
    assert incoming is not None
    return incoming


def finished(incoming: Incoming, content: bytes = CONTENT) -> Path:
    incoming.write(content)
    incoming.verify()
    incoming.sync()
    return incoming.finish()


def test_a_copy_is_found_and_private(store: ContentStore) -> None:
    assert store.find(SHA256, len(CONTENT), "name.txt") is None
    path = finished(begun(store))
    assert path == store.directory / SHA256[:2] / f"{SHA256}-name.txt"
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(place.stat().st_mode) for place in (path.parent, store.directory)} == {0o700}
    assert store.find(SHA256, len(CONTENT), "name.txt") == path
    assert store.find(SHA256, 5, "name.txt") is None
    assert os.listdir(path.parent) == [path.name]


def test_small_contents_are_kept_together(store: ContentStore) -> None:
    contents = [(hashlib.sha256(data).hexdigest(), f"{len(data)}.txt", data) for data in (b"a", b"", b"c" * 5000)]
    other = store.begin(contents[1][0], 0, "other")
    assert other is not None
    paths = store.keep(contents)
    assert paths[1] is None, "another receives it"
    other.discard()
    for path, (sha256, name, data) in zip(paths, contents):
        if path is not None:
            assert path == store.find(sha256, len(data), name)
            assert path.read_bytes() == data
    part = begun(store)
    part.write(CONTENT[:100])
    part.leave()
    (kept,) = store.keep([(SHA256, "whole", CONTENT)])
    assert kept is not None
    assert kept.read_bytes() == CONTENT, "a part of it was in the way"
    assert sorted(path.name.rpartition("-")[2] for path in store.directory.glob("*/*")) == [
        "1.txt",
        "5000.txt",
        "whole",
    ]


def test_of_contents_kept_together_none_stays_in_part(store: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [(hashlib.sha256(data).hexdigest(), "name", data) for data in (b"a", b"b")]

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lwfm.data.contents.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.keep(contents)
    assert list(store.directory.glob("*/*")) == []


def test_a_part_is_gone_on_with_or_not(store: ContentStore) -> None:
    incoming = begun(store)
    incoming.write(CONTENT[:100])
    incoming.leave()
    assert store.part_bytes(SHA256) == 100
    assert store.find(SHA256, 100, "name.txt") is None
    incoming = begun(store)
    assert incoming.offset == 100
    incoming.leave()
    incoming = begun(store, resume=False)
    assert incoming.offset == store.part_bytes(SHA256) == 0
    incoming.write(CONTENT[:10])
    incoming.leave()
    assert finished(begun(store), CONTENT[10:]).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], b"x" * len(CONTENT)])
def test_what_is_wrong_is_gone(store: ContentStore, content: bytes) -> None:
    incoming = begun(store)
    incoming.write(content)
    with pytest.raises(WrongContent):
        incoming.verify()
    assert list(store.directory.glob("*/*")) == []


def test_more_than_there_should_be_is_not_written(store: ContentStore) -> None:
    incoming = begun(store)
    incoming.write(CONTENT)
    with pytest.raises(WrongContent, match="more came"):
        incoming.write(b"x")
    incoming.leave()
    assert store.part_bytes(SHA256) == len(CONTENT)


def test_one_at_a_time(store: ContentStore) -> None:
    first = begun(store)
    assert store.begin(SHA256, len(CONTENT), "other") is None
    first.write(CONTENT)
    first.finish()
    second = begun(store)
    assert second.offset == 0, "what was finished is no part any more"
    second.discard()
    assert store.find(SHA256, len(CONTENT), "name.txt") is not None, "and stays"


def test_links_lead_nowhere(store: ContentStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    place = store.directory / SHA256[:2]
    place.mkdir(parents=True, mode=0o700)
    part, copy = place / f"{SHA256}.part", place / f"{SHA256}-name.txt"
    part.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        store.begin(SHA256, len(CONTENT), "name.txt")
    part.unlink()
    copy.symlink_to(victim)
    assert store.find(SHA256, len(b"precious"), "name.txt") is None
    path = finished(begun(store))
    assert not path.is_symlink()
    path.unlink()
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(InsecureState):
        ContentStore(store.directory).begin(SHA256, len(CONTENT), "name.txt")
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["contents", "victim"]


def test_what_is_no_file_in_the_place_of_a_part(store: ContentStore) -> None:
    place = store.directory / SHA256[:2]
    place.mkdir(parents=True, mode=0o700)
    os.mkfifo(place / f"{SHA256}.part", 0o600)
    with pytest.raises(InsecureState):
        store.begin(SHA256, len(CONTENT), "name.txt")


@pytest.mark.parametrize("sha256", ["", "..", "../" * 22, "A" * 64, SHA256 + "\n", SHA256[:-1]])
def test_what_is_no_checksum_is_no_path(store: ContentStore, sha256: str) -> None:
    with pytest.raises(ValueError, match="checksum"):
        store.begin(sha256, 1, "name")
    with pytest.raises(ValueError, match="checksum"):
        store.find(sha256, 1, "name")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/result.csv", "result.csv"),
        ("result.csv", "result.csv"),
        ("/a/b/", "b"),
        ("/a/..", "data"),
        ("/a/.", "data"),
        ("", "data"),
        (None, "data"),
        (7, "data"),
        ("/a/.bashrc", "bashrc"),
        ("/a/--help", "help"),
        ("/a/ .-~x ", "x"),
        ("/a/.part", "part"),
        ("/a/x\0y\nz\x1b[1m", "x_y_z_[1m"),
        ("/a/\u202egpj.exe", "_gpj.exe"),
        ("/a/" + os.fsdecode(b"\xff") + ".log", "_.log"),
        ("/a/" + "x" * 5000 + ".tar", "x" * 176 + ".tar"),
        ("/a/" + "\u00e9" * 300 + ".gz", "\u00e9" * 88 + ".gz"),
        ("/a/" + "x" * 300 + "." + "y" * 100, "x" * 180),
        ("/a/Größe 1.txt", "Größe 1.txt"),
        (f"/contents/ab/{SHA256}-result.csv", "result.csv"),
        (f"/contents/ab/{SHA256}-.bashrc", "bashrc"),
        (SHA256, SHA256),
    ],
)
def test_names(path: object, name: str) -> None:
    assert harmless_name(path) == name
    assert len(harmless_name(path).encode()) <= 180


def test_a_copy_has_the_name_of_what_it_is_a_copy_of() -> None:
    assert name_of(f"/contents/ab/{SHA256}-.bashrc") == ".bashrc"
    assert name_of("/a/b.csv/") == "b.csv"
    assert name_of("/") == ""


def test_files_are_looked_at_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(CONTENT)
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing", Path("/dev/null")):
        assert open_file(str(path), 0) is None
        assert not is_file_of(str(path), 0)
    assert open_file("/a\0b", 0) is None
    assert not is_file_of("/a\0b", 0)
    assert open_file(str(tmp_path / "file"), 5) is None
    descriptor = open_file(str(tmp_path / "file"), len(CONTENT))
    assert descriptor is not None
    assert has_content(descriptor, SHA256)
    assert not has_content(descriptor, "0" * 64)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    os.close(descriptor)
