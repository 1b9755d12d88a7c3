"""The thread in a file, for where no ssh reaches: written by one instance, taken in by another."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.store.connection import connect

from support.agents import new_home
from support.hosts import make_hostname, on_host
from support.peers import Place


@pytest.fixture
def hostname(tmp_path: Path) -> Path:
    return make_hostname(tmp_path)


def place(name: str, hostname: Path) -> Iterator[Place]:
    made = Place(new_home(), name, env=on_host(name, hostname))
    try:
        yield made.start()  # type: ignore[misc]
    except BaseException:
        sys.stderr.write(made.log() + "\n")
        made.kill_everything()
        raise
    finally:
        made.leave()
        made.close()


@pytest.fixture
def there(hostname: Path) -> Iterator[Place]:
    yield from place("there", hostname)


@pytest.fixture
def here(hostname: Path) -> Iterator[Place]:
    yield from place("here", hostname)


def rows(instance: Place, table: str = "log") -> list[tuple[object, ...]]:
    reader = connect(f"{instance.home.database.absolute().as_uri()}?mode=ro", uri=True)
    found = reader.execute(f"select * from {table} order by origin, seq").fetchall()
    reader.close()
    return found


def of(instance: Place, origin: str) -> list[tuple[object, ...]]:
    return [row for row in rows(instance) if row[0] == origin]


def origin_of(instance: Place) -> str:
    return str(instance.client.get("/v1/agent")["origin"])


def work(instance: Place, directory: Path, name: str, content: bytes) -> tuple[str, str]:
    """A workflow with a job and a file of it, and a job beside it; the workflow and the data."""
    workflow = instance.workflow(name)
    job = instance.submit("echo printed", workflow=workflow)
    instance.wait_all([job, instance.submit("true")])
    path = directory / f"{name}.dat"
    path.write_bytes(content)
    body = {"op": "put", "path": str(path), "properties": {"kind": name}, "workflow": workflow, "job": job}
    return workflow, str(instance.client.post("/v1/data", body)["data_id"])


def test_all_that_one_has_comes_to_the_other_with_its_files(there: Place, here: Place, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    _, data = work(there, tmp_path, "study", content)
    file = tmp_path / "thread.lwfm"
    written = there.json("sync", "export", str(file), "--data", "all")
    assert (written["files"], written["bytes"]) == (1, len(content))
    assert written["records"] == len(rows(there))
    assert file.stat().st_mode & 0o777 == 0o600
    (tmp_path / "study.dat").unlink()

    taken = here.json("sync", "import", str(file))
    assert taken["records"] == written["records"]
    assert (taken["data"]["files"], taken["host"]) == (1, "there")
    assert of(here, origin_of(there)) == rows(there)
    assert here.lwfm("get", data, str(tmp_path / "back.dat")).returncode == 0
    assert (tmp_path / "back.dat").read_bytes() == content
    again = here.json("sync", "import", str(file))
    assert (again["records"], again["data"]["files"]) == (0, 0)
    here.verify()


def test_what_the_receiver_knows_is_left_out(there: Place, here: Place, tmp_path: Path) -> None:
    work(there, tmp_path, "first", b"1")
    assert here.json("sync", "import", str(export(there, tmp_path / "1"))) is not None
    known = here.lwfm("sync", "vector").stdout
    (tmp_path / "known.json").write_text(known)
    before = len(rows(there))
    work(there, tmp_path, "second", b"2")
    small = there.json("sync", "export", str(tmp_path / "2"), "--since", str(tmp_path / "known.json"))
    assert small["records"] == len(rows(there)) - before
    assert there.json("sync", "export", str(tmp_path / "3"), "--since", known)["records"] == small["records"]
    assert here.json("sync", "import", str(tmp_path / "2"))["records"] == small["records"]
    assert of(here, origin_of(there)) == rows(there)


def test_a_bundle_that_begins_too_late_is_refused_and_says_so(there: Place, here: Place, tmp_path: Path) -> None:
    work(there, tmp_path, "first", b"1")
    known = there.lwfm("sync", "vector").stdout
    work(there, tmp_path, "second", b"2")
    before = rows(here)
    done = here.lwfm("sync", "import", str(export(there, tmp_path / "late", "--since", known)))
    assert done.returncode == 4
    assert "begin behind record" in done.stderr
    assert "--since" in done.stderr
    assert rows(here) == before


def export(instance: Place, file: Path, *words: str) -> Path:
    instance.json("sync", "export", str(file), *words)
    return file


def test_one_workflow_alone_comes_whole_and_does_no_harm_to_later_syncs(
    there: Place, here: Place, tmp_path: Path
) -> None:
    workflow, data = work(there, tmp_path, "wanted", b"wanted")
    work(there, tmp_path, "other", b"other")
    handler = there.on_data({"kind": "wanted"}, "true", of=workflow)
    taken = here.json("sync", "import", str(export(there, tmp_path / "one", "--workflow", "wanted", "--data", "all")))
    assert taken["workflow"] == workflow
    assert "one workflow alone" in " ".join(taken["notices"])
    assert taken["data"]["files"] == 1
    assert rows(here, "fragments")
    assert of(here, origin_of(there)) == []

    listed = here.json("workflow", "list")
    assert [(item["name"], item["origin_host"]) for item in listed] == [("wanted", "there")]
    jobs = here.json("job", "list")
    assert sorted((job["state"], job["origin_host"]) for job in jobs) == [("COMPLETE", "there"), ("READY", "there")]
    assert [sheet["data_id"] for sheet in here.json("find", "kind=wanted")] == [data]
    assert here.json("handler", "list")[0]["handler_id"] == handler["handler_id"]
    here.verify()
    again = here.json("sync", "import", str(tmp_path / "one"))
    assert again["records"] == 0

    whole = here.json("sync", "import", str(export(there, tmp_path / "all")))
    assert whole["records"] == len(rows(there))
    assert rows(here, "fragments") == []
    assert of(here, origin_of(there)) == rows(there)
    here.verify()


def test_an_event_fires_once_for_what_comes_first_alone_and_then_with_the_rest(
    there: Place, here: Place, tmp_path: Path
) -> None:
    handler = here.on_data({"kind": "wanted"}, "true", repeat=True)
    work(there, tmp_path, "wanted", b"wanted")
    here.json("sync", "import", str(export(there, tmp_path / "one", "--workflow", "wanted")))
    here.json("sync", "import", str(export(there, tmp_path / "all")))
    assert here.handler(handler["handler_id"])["fired"] == 1
    jobs = here.json("job", "list", "--origin", "here")
    assert len(jobs) == 1
    here.wait_all([jobs[0]["job_id"]])


def test_a_bundle_cut_anywhere_leaves_a_sound_store(there: Place, here: Place, tmp_path: Path) -> None:
    for number in range(4):
        work(there, tmp_path, f"study{number}", os.urandom(20_000))
    whole = export(there, tmp_path / "whole", "--data", "all").read_bytes()
    draw = random.Random(7)
    cut = tmp_path / "cut"
    for end in sorted([0, 5, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(12))]):
        cut.write_bytes(whole[:end])
        done = here.lwfm("sync", "import", str(cut))
        assert done.returncode == (2 if end < 14 else 6), (end, done)
        assert ("is no bundle" if end < 14 else "ends too early") in done.stderr
    assert here.json("sync", "import", str(tmp_path / "whole"))["data"]["files"] == 4
    assert of(here, origin_of(there)) == rows(there)
    here.verify()


def test_a_changed_byte_is_found_out(there: Place, here: Place, tmp_path: Path) -> None:
    """Wherever it is: what is sound before it may be taken over, what is not is not."""
    content = os.urandom(200_000)
    work(there, tmp_path, "study", content)
    whole = export(there, tmp_path / "whole", "--data", "all").read_bytes()
    (tmp_path / "study.dat").unlink()
    draw = random.Random(8)
    for at in [draw.randrange(20, len(whole)) for _ in range(15)]:
        (tmp_path / "changed").write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        here.lwfm("sync", "import", str(tmp_path / "changed"))
        assert of(here, origin_of(there)) == rows(there)[: len(of(here, origin_of(there)))]
        for copy in (here.home.root / "contents").glob("*/*-*"):
            assert hashlib.sha256(copy.read_bytes()).hexdigest() == copy.name.partition("-")[0]
    assert here.json("sync", "import", str(tmp_path / "whole"))["data"]["files"] == 1
    assert len(list((here.home.root / "contents").glob("*/*-study.dat"))) == 1
    here.verify()


def test_what_cannot_be_is_said(there: Place, tmp_path: Path) -> None:
    file = export(there, tmp_path / "thread")
    for words, code, said in (
        (["sync", "export", str(file)], 4, "--force"),
        (["sync", "export", str(tmp_path / "no" / "where")], 2, "cannot use"),
        (["sync", "export", str(tmp_path / "x"), "--workflow", "nothing"], 3, "no workflow"),
        (["sync", "export", str(tmp_path / "x"), "--since", "nobody"], 3, "neither a peer nor a file"),
        (["sync", "export", str(tmp_path / "x"), "--since", "{}", "--workflow", "w"], 2, "do not go together"),
        (["sync", "import", str(tmp_path / "nothing")], 2, "does not exist"),
        (["sync", "import", sys.executable], 2, "is no bundle"),
    ):
        done = there.lwfm(*words)
        assert done.returncode == code, (words, done)
        assert said in done.stderr, (words, done.stderr)
    assert not (tmp_path / "x").exists()
    assert json.loads(there.lwfm("sync", "vector").stdout)
