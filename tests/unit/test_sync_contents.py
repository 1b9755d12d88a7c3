"""Contents between two instances: the right files, whole, once, recorded, whatever happens to the connection or the other side."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import random
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from lwfm.data.contents import ContentStore, Incoming
from lwfm.errors import InvalidRecord, StoreFull
from lwfm.store import queries
from lwfm.sync import contents, transfer
from lwfm.sync.contents import Moved, Pace
from lwfm.sync.frames import Cut, Line, Refused
from lwfm.sync.receiver import Receiver
from lwfm.sync.sender import Sender
from lwfm.sync.wanted import DataRequest

from support.sides import ALL, Side, beside, move, moved

JSON = dict[str, Any]
MIB = 1024 * 1024


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Side]:
    with Side(tmp_path / "near", "near") as side:
        yield side


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Side]:
    with Side(tmp_path / "far", "far") as side:
        yield side


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestMoving:
    def test_files_of_all_sizes_come_and_are_recorded(self, near: Side, far: Side) -> None:
        sizes = (0, 1, 4096, contents.SMALL_BYTES, contents.SMALL_BYTES + 1, 3 * MIB + 17)
        sent = {far.file(f"{size}.dat", os.urandom(size), workflow_id="w1"): size for size in sizes}
        near.hear(far)
        paces: list[Pace] = []
        came, told = move(far, near, tell=paces.append)
        assert isinstance(came, Moved)
        assert (came.files, came.bytes, came.complete) == (len(sizes), sum(sizes), True)
        assert told == came
        assert {key: len(content) for key, content in near.copies().items()} == sent
        assert sorted(near.arrivals()) == sorted(sent)
        assert paces[-1].files == paces[-1].total_files == len(sizes)
        assert paces[-1].bytes == paces[-1].total_bytes == sum(sizes)
        for sheet in queries.list_data(near.thread.connection, op="get"):
            assert (sheet["site"], sheet["host"], sheet["workflow_id"]) == ("local", "near", "w1")
            assert not sheet.get("properties")
            assert Path(sheet["path"]).name == f"{sheet['sha256']}-{sheet['size_bytes']}.dat"
            assert sheet["source_url"].startswith("file://far/")
        assert not near.missing()

    def test_a_second_time_nothing_moves(self, near: Side, far: Side) -> None:
        far.file("a", b"a" * 10)
        near.hear(far)
        assert moved(far, near).files == 1
        assert moved(far, near).to_json() == Moved().to_json()
        assert len(near.arrivals()) == 1

    def test_one_content_under_many_names_comes_once(self, near: Side, far: Side) -> None:
        for name in ("first.txt", "second.txt", "third.txt"):
            far.file(name, b"the same", properties={"name": name})
        near.hear(far)
        assert moved(far, near).files == 1
        ((path,),) = [list(found) for found in [near.home.contents.glob("*/*")]]
        assert path.name == f"{digest(b'the same')}-third.txt", "the newest record names it"

    def test_only_what_matches_moves(self, near: Side, far: Side) -> None:
        wanted = far.file("a", b"wanted", properties={"kind": "thermo", "T": 0.7})
        far.file("b", b"another", properties={"kind": "dump"})
        far.file("c", b"x" * 1000, properties={"kind": "thermo"})
        near.hear(far)
        request = DataRequest.parse(["kind=thermo"], max_size="100")
        assert moved(far, near, request).files == 1
        assert list(near.copies()) == [wanted]
        assert moved(far, near, DataRequest.parse(["all"], min_size="1000")).files == 1
        assert moved(far, near, DataRequest.parse(["none"])).files == 0

    def test_a_record_that_does_not_match_hides_no_older_one_that_does(self, near: Side, far: Side) -> None:
        far.file("a", b"content", properties={"kind": "thermo"})
        far.file("a", b"content", properties={"kind": "other"})
        near.hear(far)
        assert moved(far, near, DataRequest.parse(["kind=thermo"])).files == 1

    def test_many_pages(self, near: Side, far: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lwfm.api.contents.PAGE_FILES", 7)
        monkeypatch.setattr("lwfm.sync.missing.REMEMBERED_FILES", 20)
        monkeypatch.setattr("lwfm.sync.receiver.PORTION_FILES", 5)
        sent = {far.file(f"f{number}", b"%d" % (number % 60)) for number in range(100)}
        near.hear(far)
        assert moved(far, near).files == len(sent) == 60
        assert set(near.copies()) == sent

    def test_relayed(self, near: Side, far: Side, tmp_path: Path) -> None:
        """What came to one instance goes on from there to the next, under the name it had."""
        sent = far.file("a.log", os.urandom(300_000))
        with Side(tmp_path / "third", "third") as third:
            for side in (near, third):
                side.hear(far)
            moved(far, near)
            (far.files / "a.log").unlink()
            third.hear(near)
            assert moved(near, third).files == 1
            assert set(third.copies()) == {sent}
            (path,) = third.home.contents.glob("*/*")
            assert path.name.endswith("-a.log")

    def test_what_is_here_already_is_verified_and_not_fetched(self, near: Side, far: Side) -> None:
        """Two instances of one host: the file is where the other has recorded it."""
        far.host = near.host
        far.file("a", b"content")
        far.file("b", b"other 1")
        (far.files / "b").write_bytes(b"other 2")
        near.hear(far)
        result = moved(far, near)
        assert (result.found, result.files, result.refused_files) == (1, 0, 1)
        assert not near.copies()
        assert len(near.arrivals()) == 1
        (sheet,) = queries.list_data(near.thread.connection, op="get")
        assert "source_url" not in sheet
        assert [item["path"] for item in near.missing()] == [str(far.files / "b")]

    def test_what_came_but_was_not_recorded_is_found_again(self, near: Side, far: Side) -> None:
        content = os.urandom(1000)
        far.file("a", content)
        near.hear(far)
        store = ContentStore(near.home.contents)
        incoming = store.begin(digest(content), len(content), "a")
        assert incoming is not None
        incoming.write(content)
        incoming.finish()
        assert moved(far, near).found == 1
        assert near.arrivals() == [digest(content)]

    def test_a_name_that_is_no_unicode(self, near: Side, far: Side) -> None:
        sent = far.file(os.fsdecode(b"\xff\xfe.log"), b"content")
        near.hear(far)
        assert moved(far, near).files == 1
        assert set(near.copies()) == {sent}

    def test_text_is_compressed_on_a_slow_connection_alone(self, near: Side, far: Side) -> None:
        text = b"step temperature pressure\n" * 400_000
        far.file("log", text)
        near.hear(far)
        received: list[int] = []

        def receive(line: Line) -> Any:
            result = Receiver(line, near, near.home, ALL).run()
            received.append(line.bytes_received)
            return result

        def send(line: Line) -> Any:
            sender = Sender(line, far, ALL)
            sender._squeeze._sent_s_per_byte = 1e-6  # 1 MB/s, as if it had been seen
            return sender.run()

        beside(receive, send)
        assert received[0] < len(text) / 5
        assert set(near.copies()) == {digest(text)}


class TestOutputs:
    def test_small_and_large_outputs_of_all_attempts_can_be_read_here(
        self, near: Side, far: Side, tmp_path: Path
    ) -> None:
        job = far.thread.submit("true", retries=1)
        early, late, large = b"the first attempt", b"the second", os.urandom(200_000)
        far.thread.run(job, code=1, stdout={"size": len(early), "data": base64.b64encode(early).decode()})
        spooled = tmp_path / "spooled"
        spooled.write_bytes(large)
        kept = far.thread.outputs.take_over(spooled, job, 2, "stderr")
        far.thread.run(job, stdout={"size": len(late), "data": base64.b64encode(late).decode()}, stderr=kept)
        near.hear(far)
        assert moved(far, near, DataRequest(data=True)).files == 0
        assert len(near.missing(kind="outputs")) == 3
        assert moved(far, near).files == 3
        assert not near.missing(kind="outputs")
        details = near.thread.job(job)
        read = near.thread.outputs.read
        assert read(near.thread.connection, details["stdout"], 0, 100) == late
        assert read(near.thread.connection, details["stderr"], 10, 100) == large[10:110]
        assert read(near.thread.connection, {"size": len(early), "sha256": digest(early)}, 0, 100) == early
        assert not near.arrivals(), "outputs have no metasheets"
        assert moved(far, near).files == 0

    def test_an_output_whose_record_names_a_file_elsewhere_is_not_read_from_there(self, near: Side) -> None:
        secret = near.files / "secret"
        secret.write_bytes(b"secret")
        for name in (str(secret), "../files/secret", f"../../{secret}", "ab/../../files/secret"):
            assert near.thread.outputs.path_of({"size": 6, "sha256": "0" * 64, "file": name}) is None

    def test_what_is_data_and_output_at_once(self, near: Side, far: Side) -> None:
        content = b"both"
        far.file("a", content)
        job = far.thread.submit("true")
        far.thread.run(job, stdout={"size": 4, "data": base64.b64encode(content).decode()})
        near.hear(far)
        assert moved(far, near).files == 2
        assert not near.missing()
        assert not near.missing(kind="outputs")


class TestCuts:
    def test_cut_anywhere_it_goes_on_and_ends_right(self, tmp_path: Path) -> None:
        """Five hundred cuts at random bytes: each side has what it should in the end, and nothing else."""
        cuts = 0
        for seed in range(50):
            chance = random.Random(seed)
            with Side(tmp_path / f"n{seed}", "near") as near, Side(tmp_path / f"f{seed}", "far") as far:
                sizes = [
                    chance.choice((0, 10, 5000, 100_000, 200_000, 1_500_000)) for _ in range(chance.randint(1, 12))
                ]
                sent = {far.file(f"{number}", chance.randbytes(size)) for number, size in enumerate(sizes)}
                near.hear(far)
                came_before = 0
                for _ in range(200):
                    came, _ = move(far, near, cut_after=chance.randint(0, 700_000))
                    assert isinstance(came, (Moved, Cut)), came
                    there = len(near.arrivals())
                    assert there >= came_before, "a cut loses no file that came whole"
                    came_before = there
                    if isinstance(came, Moved):
                        break
                    cuts += 1
                else:
                    pytest.fail(f"seed {seed}: no end after 200 cuts")
                assert set(near.copies()) == sent
                assert sorted(near.arrivals()) == sorted(sent), "each recorded once"
        assert cuts > 100

    def test_a_large_file_is_gone_on_with(self, near: Side, far: Side) -> None:
        content = os.urandom(8 * MIB)
        far.file("large", content)
        near.hear(far)
        assert isinstance(move(far, near, cut_after=5 * MIB)[0], Cut)
        there = ContentStore(near.home.contents).part_bytes(digest(content))
        assert there >= 3 * MIB
        read: list[int] = []

        def receive(line: Line) -> Moved:
            result = Receiver(line, near, near.home, ALL).run()
            read.append(line.bytes_received)
            return result

        came, _ = beside(receive, lambda line: Sender(line, far, ALL).run())
        assert came.files == 1
        assert read[0] < len(content) - there + 10_000
        assert set(near.copies()) == {digest(content)}

    def test_a_part_of_something_else_costs_a_second_try_and_no_more(self, near: Side, far: Side) -> None:
        content = os.urandom(MIB)
        far.file("large", content)
        near.hear(far)
        part = near.home.contents / digest(content)[:2] / f"{digest(content)}.part"
        part.parent.mkdir(parents=True, mode=0o700)
        for wrong in (b"x" * 1000, b"x" * MIB, b"x" * (MIB + 1)):
            part.write_bytes(wrong)
            result = moved(far, near)
            assert (result.files, result.refused_files) == (1, 0)
            assert set(near.copies()) == {digest(content)}
            near.thread.connection.execute("delete from metasheets where op = 'get'")
            part.with_name(f"{digest(content)}-large").unlink()


class TestSenders:
    def test_a_file_that_has_gone_or_changed(self, near: Side, far: Side) -> None:
        for name in ("gone", "grown", "changed", "well"):
            far.file(name, name.encode() * 50_000)
        (far.files / "gone").unlink()
        (far.files / "grown").write_bytes(b"g" * 1_000_000)
        (far.files / "changed").write_bytes(b"CHANGED" * 50_000)
        near.hear(far)
        result = moved(far, near)
        assert result.files == 1
        assert sorted(name for name, _ in result.absent) == ["gone", "grown"]
        assert [name for name, _ in result.refused] == ["changed"]
        assert set(near.copies()) == {digest(b"well" * 50_000)}
        assert len(near.missing()) == 3

    def test_only_what_the_request_means_is_sent(self, near: Side, far: Side) -> None:
        """A receiver that asks for more than its side was told to get."""
        secret = far.file("secret", b"secret" * 10, properties={"kind": "secret"})
        far.file("open", b"open", properties={"kind": "open"})

        def ask(line: Line) -> list[Any]:
            line.send({"t": "wanted", "files": 1, "bytes": 60})
            line.send({"t": "fetch", "files": [[secret, 60, 0], ["0" * 64, 5, 0]]})
            answers = [line.receive().head, line.receive().head]
            line.send({"t": "enough"})
            return answers

        answers, _ = beside(ask, lambda line: Sender(line, far, DataRequest.parse(["kind=open"])).run())
        assert [answer["t"] for answer in answers] == ["absent", "served"]
        assert [name for name, _ in answers[0]["files"]] == [secret, "0" * 64]

    def test_a_record_of_a_peers_makes_us_send_no_other_file(self, near: Side, far: Side) -> None:
        """The peer records one of our paths under a checksum of its choice, then asks for it."""
        key = near.files / "id_rsa"
        key.write_bytes(b"private" * 10)
        for size in (70, 200_000):
            key.write_bytes(b"p" * size)
            claimed = digest(b"%d" % size)
            far.record(key, size, claimed, host=near.host, url=f"file://{near.host}{key}")
            near.hear(far)

            def ask(line: Line) -> list[Any]:
                line.send({"t": "fetch", "files": [[claimed, size, 0], [claimed, size, size - 1]]})  # noqa: B023
                answers = [line.receive() for _ in range(2)]
                line.send({"t": "enough"})
                return answers

            answers, _ = beside(ask, lambda line: Sender(line, near, ALL).run())
            assert [answer.head["t"] for answer in answers] == ["absent", "served"]

    def test_nothing_that_is_no_file_is_opened(self, near: Side, far: Side) -> None:
        os.mkfifo(far.files / "pipe")
        for number, path in enumerate((far.files / "pipe", "/dev/zero", far.files, "/dev/stdin")):
            far.record(path, 0, digest(b"%d" % number))
        near.hear(far)
        result = moved(far, near)
        assert (result.files, result.absent_files) == (0, 4)

    @pytest.mark.parametrize(
        "head",
        [
            {"t": "fetch"},
            {"t": "fetch", "files": []},
            {"t": "fetch", "files": [["0" * 64, 5, 0]] * 1000},
            {"t": "fetch", "files": [["../../etc/passwd", 5, 0]]},
            {"t": "fetch", "files": [["0" * 64, -5, 0]]},
            {"t": "fetch", "files": [["0" * 64, 5, 6]]},
            {"t": "fetch", "files": [["0" * 64, 1.5, True]]},
            {"t": "fetch", "files": [["0" * 64, 5, 0, 7]]},
            {"t": "wanted", "files": -1},
            {"t": "enough", "absent": [["a"] * 7]},
            {"t": "enough", "absent": [["a", "b"]] * 1000},
            {"t": "piece"},
        ],
        ids=str,
    )
    def test_a_receiver_that_talks_nonsense_is_refused(self, far: Side, head: JSON) -> None:
        _, refused = beside(lambda line: line.send(head), lambda line: Sender(line, far, ALL).run())
        assert isinstance(refused, Refused), refused


Talk = Callable[[Line, list[Any]], None]


def large_of(size: int, start: int = 0) -> Talk:
    def talk(line: Line, file: list[Any]) -> None:
        line.send({"t": "large", "sha256": file[0], "size": size, "from": start})
        line.send({"t": "piece"}, b"x" * min(size, MIB))

    return talk


def pieces(*bodies: bytes) -> Talk:
    def talk(line: Line, file: list[Any]) -> None:
        line.send({"t": "large", "sha256": file[0], "size": file[1], "from": file[2]})
        for body in bodies:
            line.send({"t": "piece"}, body)

    return talk


def endless(line: Line, file: list[Any]) -> None:
    line.send({"t": "large", "sha256": file[0], "size": file[1], "from": file[2]})
    for _ in range(1000):
        line.send({"t": "piece"}, b"x" * MIB)


def frame(body: bytes = b"", **head: Any) -> Talk:
    return lambda line, file: line.send({"t": "small", **head}, body)


class TestHostileSenders:
    """Each is refused, with a reason; nothing of it is kept or recorded, and little is read of it."""

    @pytest.mark.parametrize(
        "talk",
        [
            large_of(5 * MIB),
            large_of(2 * MIB, 1),
            pieces(b"x" * MIB, b"x" * MIB, b"x"),
            pieces(b"x" * MIB, b"x" * (MIB + 1)),
            pieces(b""),
            endless,
            frame(files=[]),
            frame(b"x", files=[["0" * 64, 1]]),
            frame(b"x", files=[["../../../etc/cron.d/x", 1]]),
            frame(b"x", files=[["n" * 10_000_00, 1]]),
            frame(b"x", files=[[{"a": 1}, 1]]),
            frame(b"x", files=[None]),
            frame(files={"a": 1}),
            frame(t="served"),
            frame(t="absent", files=[["0" * 64, "unasked"]]),
            frame(t="absent", files=[["a"]]),
            frame(t="absent", files=[]),
            frame(t="absent"),
            frame(t="contents", way="push"),
            frame(t="wanted"),
            frame(t="piece"),
        ],
    )
    def test_it_is_refused(self, near: Side, far: Side, talk: Talk) -> None:
        wanted = far.file("large", os.urandom(2 * MIB))
        near.hear(far)

        def send(line: Line) -> None:
            line.receive("wanted")
            (file,) = line.receive("fetch").head["files"]
            assert file[0] == wanted
            talk(line, file)
            line.receive()

        read: list[int] = []

        def receive(line: Line) -> Any:
            try:
                return Receiver(line, near, near.home, ALL).run()
            finally:
                read.append(line.bytes_received)

        refused, _ = beside(receive, send)
        assert isinstance(refused, Refused), refused
        assert read[0] < 5 * MIB
        assert not near.copies()
        assert not near.arrivals()
        assert near.missing()

    def test_wrong_content_is_refused_and_the_rest_goes_on(self, near: Side, far: Side) -> None:
        far.file("bad", b"right" * 100)
        far.file("large", b"right" * 100_000)
        good = far.file("good", b"good" * 100)
        near.hear(far)
        (far.files / "bad").write_bytes(b"wrong" * 100)
        (far.files / "large").write_bytes(b"wrong" * 100_000)
        result = moved(far, near)
        assert (result.files, result.refused_files) == (1, 2)
        assert all("checksum" in reason for _, reason in result.refused)
        assert set(near.copies()) == {good}
        assert near.arrivals() == [good]

    def test_small_files_of_another_size_or_with_more_behind(self, near: Side, far: Side) -> None:
        first, second = far.file("a", b"12345"), far.file("b", b"67890")
        near.hear(far)
        for files, body in (
            ([[first, 4]], b"1234"),
            ([[first, 5]], b"12345 and more"),
            ([[first, 5], [first, 5]], b"1234512345"),
            ([[first, 5], [second, 5], ["0" * 64, 1]], b"1234567890x"),
            ([[first, 5], [second, 5, 1]], b"1234567890x"),
        ):

            def send(line: Line) -> None:
                line.receive("wanted")
                line.receive("fetch")
                line.send({"t": "small", "files": files}, body)  # noqa: B023
                line.receive()

            refused, _ = beside(lambda line: Receiver(line, near, near.home, ALL).run(), send)
            assert isinstance(refused, Refused), refused
            near.copies()
            for copy in near.home.contents.glob("*/*"):
                copy.unlink()
            near.thread.connection.execute("delete from metasheets where op = 'get'")

    @pytest.mark.parametrize(
        "path",
        [
            "/../../../../tmp/evil",
            "/a/..",
            "/a/.",
            "//",
            "/a/.bashrc",
            "/a/-rf",
            "/a/.part",
            "/a/\x1b[31mred\nline",
            "/a/" + "n" * (1 << 20),
            "/a/" + "\u00e9" * 500 + ".tar.gz",
            "/a/\u202egpj.exe",
            "relative",
        ],
        ids=lambda path: repr(path[:20]),
    )
    def test_names_can_do_nothing_but_name(self, near: Side, far: Side, path: str) -> None:
        content = b"content"
        real = far.files / "real"
        real.write_bytes(content)
        far.record(real, 7, digest(content), path=path)
        before = set(os.listdir(near.home.root.parent))
        near.hear(far)
        assert moved(far, near).files == 1
        (copy,) = near.home.contents.glob("*/*")
        assert copy.parent == near.home.contents / digest(content)[:2]
        name = copy.name[len(f"{digest(content)}-") :]
        assert copy.name == f"{digest(content)}-{name}"
        assert len(os.fsencode(name)) <= 180
        assert name.isprintable()
        assert name[0] not in ".-"
        assert set(os.listdir(near.home.root.parent)) == before

    def test_records_that_are_no_data(self, near: Side, far: Side) -> None:
        for size, sha256 in (
            (-1, "0" * 64),
            (5, "../" * 20),
            (5, "0" * 63),
            (5, "Z" * 64),
            (1.5, "0" * 64),
            ("five", "0" * 64),
        ):
            far.record("/a", size, sha256)
        near.hear(far)
        assert near.missing() == []

    def test_it_costs_little_memory(self, near: Side, far: Side) -> None:
        far.file("large", os.urandom(64 * MIB))
        near.hear(far)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert moved(far, near).files == 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


class TestRoom:
    def test_too_little_of_it_is_told_before_anything_moves(
        self, near: Side, far: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        far.file("a", b"x" * 1000)
        far.file("b", b"x" * 9000)
        near.hear(far)
        room = SimpleNamespace(f_bavail=10_400, f_frsize=1)
        monkeypatch.setattr(os, "statvfs", lambda _: room)
        full, told = move(far, near)
        assert isinstance(full, StoreFull)
        assert all(word in full.message for word in ("10500", "10400", "2 files", "b with 9000"))
        assert isinstance(told, Cut), "the receiver goes without a word; who runs it tells"
        assert not near.home.contents.exists()
        room.f_bavail = 10_500
        assert moved(far, near).files == 2

    def test_it_runs_out_on_the_way(self, near: Side, far: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        far.file("large", os.urandom(3 * MIB))
        small = far.file("small", b"small")
        near.hear(far)
        write = Incoming.write

        def full(self: Incoming, data: bytes) -> None:
            if self.offset >= 2 * MIB:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Incoming, "write", full)
            error, _ = move(far, near)
        assert isinstance(error, StoreFull)
        assert set(near.copies()) <= {small}, "what there was of it makes room"
        assert set(near.arrivals()) == set(near.copies())
        assert moved(far, near).complete

    @pytest.mark.root
    @pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
    @pytest.mark.optin
    def test_a_disk_that_is_full(self, near: Side, far: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        """A real one, of which more room is promised than there is, as under a quota."""
        for number in range(4):
            far.file(f"large{number}", os.urandom(MIB))
        for number in range(100):
            far.file(f"small{number}", b"%d" % number * 1000)
        near.hear(far)
        near.home.contents.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "size=2500k,mode=700", "tmpfs", str(near.home.contents)]
        subprocess.run(mount, check=True)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(ContentStore, "room_bytes", lambda _: 1 << 40)
                full, _ = move(far, near)
            assert isinstance(full, StoreFull), full
            there = near.copies()
            assert sorted(near.arrivals()) == sorted(there), "what came whole is recorded, and nothing else"
            subprocess.run(["mount", "-o", "remount,size=20m", str(near.home.contents)], check=True)
            assert moved(far, near).complete
            assert len(near.copies()) == 104
        finally:
            subprocess.run(["umount", "-l", str(near.home.contents)], check=True)


class TestTwoAtOnce:
    def test_two_receivers_of_one_home_do_not_meet(self, near: Side, far: Side) -> None:
        content = os.urandom(MIB)
        far.file("large", content)
        far.file("small", b"small")
        near.hear(far)
        store = ContentStore(near.home.contents)
        other = store.begin(digest(content), MIB, "large")
        another = store.begin(digest(b"small"), 5, "small")
        assert other is not None
        assert another is not None
        result = moved(far, near)
        assert (result.files, result.busy, result.complete) == (0, 2, False)
        other.write(content)
        other.finish()
        another.leave()
        result = moved(far, near)
        assert (result.files, result.found) == (1, 1)
        assert len(near.copies()) == 2

    def test_two_receivers_at_the_same_time_end_with_one_copy_of_each(
        self, near: Side, far: Side, tmp_path: Path
    ) -> None:
        """Threads stand for processes: each opens the parts for itself. Who lost a race goes again."""
        sent = {far.file(f"{number}", os.urandom(150_000 * (number % 3) + number)) for number in range(30)}
        near.hear(far)
        missing = near.missing()
        lock = threading.Lock()
        results: list[Any] = []

        class Taken:
            """One agent for both, which answers one at a time."""

            def post(self, path: str, body: Any, **_: Any) -> Any:
                with lock:
                    if path.endswith("missing"):
                        return {"files": missing if body["kind"] == "data" else [], "after": None}
                    return near.post(path, body)

        def fetch() -> None:
            results.append(
                beside(
                    lambda line: Receiver(line, Taken(), near.home, ALL).run(),
                    lambda line: Sender(line, LockedSide(far, lock), ALL).run(),
                )[0]
            )

        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(isinstance(result, Moved) and not result.refused_files for result in results), results
        assert set(near.copies()) == sent
        assert sorted(near.arrivals()) == sorted(sent)


class LockedSide:
    """An agent that answers one at a time."""

    def __init__(self, side: Side, lock: threading.Lock) -> None:
        self._side = side
        self._lock = lock

    def post(self, path: str, body: Any, **_: Any) -> Any:
        with self._lock:
            return self._side.post(path, body)


class TestRequests:
    def test_a_request_travels(self) -> None:
        request = DataRequest.parse(["kind=thermo", "T>=0.7"], outputs=True, min_size="1K", max_size="2G")
        assert request == DataRequest(True, ("kind=thermo", "T>=0.7"), True, 1024, 2 * 2**30)
        assert DataRequest.from_json(request.to_json()) == request
        assert DataRequest.parse(["all"]) == DataRequest(True)
        assert DataRequest.parse(["none"]).empty
        assert DataRequest.parse().empty

    @pytest.mark.parametrize("words", [["all", "kind=a"], ["none", "all"], ["kind"], ["a~("]])
    def test_what_makes_no_sense(self, words: list[str]) -> None:
        with pytest.raises(InvalidRecord):
            DataRequest.parse(words)

    @pytest.mark.parametrize("size", ["big", "-1", ""])
    def test_sizes_that_are_none(self, size: str) -> None:
        with pytest.raises(InvalidRecord, match="size"):
            DataRequest.parse(["all"], max_size=size)

    @pytest.mark.parametrize(
        "body",
        [7, None, {"match": "a"}, {"match": [7]}, {"match": ["a=b"] * 1000}, {"max_bytes": -1}, {"min_bytes": "5"}],
    )
    def test_what_comes_from_elsewhere(self, body: Any) -> None:
        if body is None:
            assert DataRequest.from_json({}).empty
            return
        with pytest.raises(InvalidRecord):
            DataRequest.from_json(body)

    def test_both_directions_from_the_near_side(self, near: Side, far: Side) -> None:
        there, here = far.file("there", b"there"), near.file("here", b"here")
        near.hear(far)
        far.hear(near)

        def serve(line: Line) -> list[Moved]:
            return [transfer.answer(line, line.receive("contents"), far, far.home) for _ in range(2)]

        def ask(line: Line) -> list[Moved]:
            return [transfer.pull(line, near, near.home, ALL), transfer.push(line, near, ALL)]

        said, served = beside(ask, serve)
        assert [result.files for result in said] == [1, 1]
        assert said == served
        assert set(near.copies()) == {there}
        assert set(far.copies()) == {here}

    @pytest.mark.parametrize("head", [{"way": "sideways"}, {"way": "pull", "request": {"match": 7}}, {}])
    def test_what_no_side_can_answer(self, far: Side, head: JSON) -> None:
        _, refused = beside(
            lambda line: line.send({"t": "contents", **head}),
            lambda line: transfer.answer(line, line.receive("contents"), far, far.home),
        )
        assert isinstance(refused, Refused)
