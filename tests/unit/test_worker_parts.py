"""The parts of the worker that need no process: books, options, timers, reports, output files."""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwfm.errors import InvalidRecord, UsageError
from lwfm.host.logfiles import WORKER_LOG
from lwfm.worker import node as node_module
from lwfm.worker import reaped, waited
from lwfm.worker.files import JobFiles
from lwfm.worker.jobs import Exit, Job, outcome, signal_name
from lwfm.worker.launcher import Launcher, NotStarted, TryAgain
from lwfm.worker.ledger import Grant, Ledger, Needs
from lwfm.worker.log import Log
from lwfm.worker.node import node_capacity
from lwfm.worker.options import Options, parse
from lwfm.worker.outputs import INLINE_BYTES, Outputs
from lwfm.worker.report import describe_end
from lwfm.worker.timers import Timers


def job(**keys: Any) -> Job:
    return Job({"t": "run", "job": "j", "attempt": 1, "argv": ["true"], **keys})


# ------------------------------------------------------------------------------------------------- ledger


def test_ledger_gives_neighbours() -> None:
    ledger = Ledger([0, 1, 3, 4, 5, 8], 100, 2)
    assert ledger.take(Needs(3)) == Grant(3, (3, 4, 5))
    assert ledger.take(Needs(2)) == Grant(2, (0, 1))
    assert ledger.take(Needs(2)) is None
    assert ledger.take(Needs(None)) == Grant(1)
    assert ledger.take(Needs(None)) is None
    assert ledger.take(Needs(0)) == Grant(0)


def test_ledger_knows_what_can_never_be() -> None:
    ledger = Ledger([0, 1], 100, 1)
    assert ledger.impossible(Needs(2, 100, 1)) is None
    assert ledger.impossible(Needs(3)) == "it needs 3 cores, the node has 2 for jobs"
    assert "memory" in str(ledger.impossible(Needs(1, 101)))
    assert ledger.impossible(Needs(1, None, 2)) == "it needs 2 GPUs, the node has 1"


_NEEDS = st.builds(Needs, st.none() | st.integers(0, 4), st.none() | st.integers(1, 60), st.integers(0, 3))


@given(st.lists(_NEEDS | st.integers(0, 5), max_size=40))
def test_ledger_never_gives_twice_and_gets_all_back(steps: list[Needs | int]) -> None:
    ledger, held = Ledger(range(4), 100, 2), list[Grant]()
    for step in steps:
        if isinstance(step, int):
            if step < len(held):
                ledger.give_back(held.pop(step))
            continue
        grant = ledger.take(step)
        if grant is not None:
            held.append(grant)
        cores = [core for each in held for core in each.cores]
        gpus = [gpu for each in held for gpu in each.gpus]
        assert len(cores) == len(set(cores))
        assert len(gpus) == len(set(gpus))
        assert sum(each.taken for each in held) <= 4
        assert sum(each.memory_bytes for each in held) <= 100
    again = Ledger(range(4), 100, 2)
    for grant in held:
        again.retake(grant)
    for grant in held:
        ledger.give_back(grant)
        again.give_back(grant)
    for books in (ledger, again):
        assert books.take(Needs(4, 100, 2)) == Grant(4, (0, 1, 2, 3), 100, (0, 1))


# ------------------------------------------------------------------------------------------------- options, jobs


def test_options() -> None:
    assert parse(["--connect", "/s", "--spool=/d"]) == Options("/s", "/d")
    given = parse(
        ["--connect", "/s", "--spool", "/d", "--cores", "3", "--gpus", "0", "--memory", "99", "--linger-s", "1.5"]
    )
    assert given == Options("/s", "/d", 3, 0, 99, 1.5)


@pytest.mark.parametrize(
    "line",
    ["", "--connect /s", "--connect /s --spool", "--connect /s --spool /d --cores x", "--connect /s --spool /d --bad 1",
     "--connect /s --spool /d --linger-s soon"],
)  # fmt: skip
def test_options_that_make_no_sense(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line.split())


@pytest.mark.parametrize(
    "keys",
    [{"job": ""}, {"job": "a/b"}, {"job": ".hidden"}, {"job": 'a"b'}, {"job": "ü"}, {"attempt": "1"}, {"argv": []},
     {"argv": "true"}, {"argv": None}, {"shell": 3}, {"cores": -1}, {"cores": "2"}, {"grace_s": -1}, {"cwd": "relative"},
     {"env": []}, {"outputs": "x"}, {"time_limit_s": "1"}],
)  # fmt: skip
def test_messages_that_make_no_sense(keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecord):
        job(**keys)


def test_how_processes_end() -> None:
    assert outcome(3 << 8) == (3, None)
    assert outcome(9) == (None, "SIGKILL")
    assert outcome(11 | 0x80) == (None, "SIGSEGV")
    assert signal_name(signal.SIGRTMIN + 3) == "SIGRTMIN+3"
    assert signal_name(signal.SIGRTMAX) == "SIGRTMAX"
    assert waited.wait_status(1, 3) == 3 << 8
    assert waited.wait_status(2, 9) == 9
    assert waited.wait_status(3, 11) == 11 | 0x80


def test_reaped_records_survive_as_text(tmp_path: Path) -> None:
    first = reaped.Reaped(10, 3 << 8)
    first.start_s, first.session = 12.34, 10
    second = reaped.Reaped(10, 3 << 8)
    second.start_s, second.session, second.cpu_seconds, second.max_rss_bytes = 12.34, 10, 0.5, 4096
    found = reaped.parse(first.line() + "torn by\n" + second.line() + "10 3")
    assert [(each.pid, each.status, each.cpu_seconds, each.max_rss_bytes) for each in found] == [(10, 768, 0.5, 4096)]
    assert reaped.parse(first.line())[0].cpu_seconds is None
    for number in (10, 2):
        Path(reaped.file_of(str(tmp_path), number)).touch()
    (tmp_path / "reaped.x").touch()
    assert reaped.generations(str(tmp_path)) == [2, 10]


def test_report_is_json_whatever_stands_in_it(tmp_path: Path) -> None:
    over = job(outputs=['a"b'], cwd=str(tmp_path))
    over.ended_at = "2026-01-01T00:00:00.000000Z"
    over.exit = Exit(0, 0.1234567891, 1, 2, 3)
    told = json.loads("{" + describe_end(over, ['{"size":0}', '{"size":0}']) + "}")
    assert told["missing_outputs"] == ['a"b']
    assert told["cpu_seconds"] == 0.123457
    assert (told["cause"], told["exit_code"], told["signal"], told["started"]) == ("exit", 0, None, None)
    over.cause, over.reason, over.exit = "cancel", 'said "no"\n', Exit(15)
    told = json.loads("{" + describe_end(over, ['{"size":0}', '{"size":0}']) + "}")
    assert (told["cause"], told["reason"], told["signal"]) == ("cancel", 'said "no"\n', "SIGTERM")
    assert told["missing_outputs"] == []
    assert told["cpu_seconds"] is None


def test_usage_of_orphans_is_added() -> None:
    assert Exit(0, 1.0, 10, 1, 1).plus(Exit(9, 0.5, 20, 2, 3)) == Exit(0, 1.5, 20, 3, 4)
    assert Exit(0).plus(Exit(9, 0.5, 20, 2, 3)) == Exit(0)


# ------------------------------------------------------------------------------------------------- timers, log


def test_the_far_future_can_be_waited_for() -> None:
    """The system's call takes no more than 25 days of milliseconds."""
    timers = Timers()
    timers.after(1e9, lambda: None)
    reading, writing = os.pipe()
    os.close(writing)  # so that it is readable, and nothing is waited for
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        assert len(selector.select(timers.wait_s())) == 1
    os.close(reading)


def test_timers_run_in_order_and_not_when_cancelled() -> None:
    timers, done = Timers(), list[str]()
    assert timers.wait_s() is None
    timers.after(0.0, lambda: done.append("first"))
    gone = timers.after(0.0, lambda: done.append("gone"))
    timers.after(0.0, lambda: (done.append("second"), timers.after(0.0, lambda: done.append("later"))))  # type: ignore[arg-type,func-returns-value]
    late = timers.after(1000.0, lambda: done.append("late"))
    gone.cancel()
    timers.run_due()
    assert done == ["first", "second"]
    timers.run_due()
    assert done == ["first", "second", "later"]
    wait = timers.wait_s()
    assert wait is not None
    assert 990 < wait <= 1000
    late.cancel()
    assert timers.wait_s() is None


def test_log_is_bounded_and_never_raises(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), "test")
    for _ in range(30):
        log("x" * 50_000)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) <= 2 * (WORKER_LOG.max_bytes + 60_000)
    Log("/nowhere/at/all", "test")("lost")


# ------------------------------------------------------------------------------------------------- launcher


def test_jobs_do_not_get_what_a_launcher_set_for_the_worker(tmp_path: Path) -> None:
    files = JobFiles(str(tmp_path / "files"))
    mine = {"PATH": "/p", "OMPI_MCA_btl": "tcp"}  # a node's setting
    assert Launcher(mine, [], [0], files).environment(job()).items() >= mine.items()
    launched = {  # by Open MPI 4.1, MPICH 4.0 and Grid Engine 8.1
        "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_orte_hnp_uri": "u", "OMPI_UNIVERSE_SIZE": "6", "OMPI_ARGV": "-m lwfm",
        "PMIX_RANK": "0", "PMI_FD": "5", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1", "QRSH_PORT": "n1:46639",
    }  # fmt: skip
    kept = {"PATH": "/p", "OMPI_ALLOW_RUN_AS_ROOT": "1", "PE_HOSTFILE": "/h"}
    seen = Launcher({**launched, **kept}, [], [0], files).environment(job())
    assert {name: value for name, value in seen.items() if not name.startswith("LWFM_")}.keys() - {"PWD"} == kept.keys()


def test_environment_of_a_job() -> None:
    launcher = Launcher(
        {"PATH": "/p", "SLURM_PROCID": "1", "SLURM_JOB_ID": "2", "LWFM_SOCKET": "s"}, ["a", "b"], [0], JobFiles("f")
    )
    launcher.add_context(1, {"C": "context", "D": "context"})
    asked = job(env={"D": "job", "E": "job"}, unset=["C"], cwd="/tmp")
    asked.context, asked.grant = 1, Grant(gpus=(1,))
    assert launcher.environment(asked) == {
        "PATH": "/p", "SLURM_JOB_ID": "2", "D": "job", "E": "job", "PWD": "/tmp", "LWFM_JOB_ID": "j", "LWFM_ATTEMPT": "1",
        "LWFM_WORKER": "",
        "CUDA_VISIBLE_DEVICES": "b", "ROCR_VISIBLE_DEVICES": "b", "ZE_AFFINITY_MASK": "b",
    }  # fmt: skip
    launcher.keep_contexts({2})
    assert "C" not in launcher.environment(asked)


def test_passing_failures_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher = Launcher(dict(os.environ), [], [0], JobFiles(str(tmp_path / "files")))

    def refuse(number: int) -> None:
        def spawn(*args: object) -> int:
            raise OSError(number, os.strerror(number))

        launcher._spawn = spawn

    for number in (11, 12):
        refuse(number)
        with pytest.raises(TryAgain, match="could not start a process"):
            launcher.start(job(), "/dev/null", "/dev/null")
    refuse(1)
    with pytest.raises(NotStarted, match="Operation not permitted"):
        launcher.start(job(), "/dev/null", "/dev/null")
    launcher.step_out()


def test_without_setsid_in_posix_spawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pythons built against an old C library, such as the portable ones, cannot give posix_spawn a session."""
    launcher = Launcher(dict(os.environ), [], [0], JobFiles(str(tmp_path / "files")))

    def spawn(*args: object, **keys: object) -> int:
        raise NotImplementedError("setsid")

    monkeypatch.setattr(os, "posix_spawn", spawn)
    out, err = tmp_path / "out", tmp_path / "err"
    pid = launcher.start(job(argv=["sh", "-c", "echo $$; ps -o sid= -p $$ >&2 || echo $$ >&2"]), str(out), str(err))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert int(out.read_text()) == int(err.read_text()) == pid
    with pytest.raises(NotStarted, match="no such program"):
        launcher.start(job(argv=["/no/such"]), str(out), str(err))
    launcher.step_out()


# ------------------------------------------------------------------------------------------------- outputs


def test_output_files_are_used_again(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    one = job()
    one.slot = outputs.acquire()
    out, err = outputs.slot_files(one.slot)
    Path(out).write_bytes(b"some")
    Path(err).touch()
    told = [json.loads(text) for text in outputs.collect(one, shared=False)]
    assert told == [{"size": 4, "data": base64.b64encode(b"some").decode()}, {"size": 0}]
    assert Path(out).read_bytes() == b"some"  # until the journal has it
    assert outputs.acquire() == 1
    outputs.empty_collected()
    assert outputs.acquire() == 0
    assert Path(out).read_bytes() == b""


def test_output_files_that_may_be_held_open_are_not_used_again(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    one = job()
    one.slot = outputs.acquire()
    out, _ = outputs.slot_files(one.slot)
    with open(out, "ab", buffering=0) as held:
        held.write(b"some")
        assert json.loads(outputs.collect(one, shared=True)[0])["size"] == 4
        outputs.empty_collected()
        held.write(b"late")
        assert outputs.acquire() == 0
        assert not Path(out).exists()


def test_large_output_is_kept_and_found_again(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path))
    one = job()
    one.slot = outputs.acquire()
    Path(outputs.slot_files(one.slot)[0]).write_bytes(b"a" * (INLINE_BYTES + 1))
    told = json.loads(outputs.collect(one, shared=False)[0])
    assert told["path"] == one.output_paths["stdout"] == str(tmp_path / "j.1.stdout")
    # The loop died before it could tell: the next one finds the file under its new name.
    again = job()
    again.slot, again.adopted = 0, True
    (tmp_path / "stray").touch()
    outputs = Outputs(str(tmp_path))
    outputs.restore([again])
    assert not (tmp_path / "stray").exists()
    assert json.loads(outputs.collect(again, shared=False)[0]) == told


def test_restore_keeps_what_is_of_use(tmp_path: Path) -> None:
    for name in ("0.out", "1.out", "1.err", "k.1.stdout", "old.1.stdout"):
        (tmp_path / name).write_text("x")
    outputs, runs, kept = Outputs(str(tmp_path)), job(), job(job="k")
    runs.slot = 1
    kept.output_paths = {"stdout": str(tmp_path / "k.1.stdout")}
    outputs.restore([runs, kept])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.err", "1.out", "k.1.stdout"]
    assert outputs.acquire() == 0
    assert outputs.acquire() == 2


# ------------------------------------------------------------------------------------------------- capacity


def test_capacity_is_within_the_affinity() -> None:
    node = node_capacity()
    assert set(node.cores) <= os.sched_getaffinity(0)
    assert 0 < node.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("variable", "value", "gpus"),
    [
        ("LWFM_GPUS", "0,2", ["0", "2"]),
        ("LWFM_GPUS", "", []),
        ("CUDA_VISIBLE_DEVICES", "GPU-1a,GPU-2b", ["GPU-1a", "GPU-2b"]),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", []),
        ("ROCR_VISIBLE_DEVICES", "1", ["1"]),
    ],
)
def test_gpus_that_were_given_to_us(
    variable: str, value: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LWFM_GPUS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert node_capacity().gpus == gpus


def test_limits_of_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(controller: str, name: str, name_in_v1: str) -> list[str]:
        known = {"memory.max": ["max", "2000000"], "memory.limit_in_bytes": ["9223372036854771712"]}
        known |= {
            "cpu.max": ["150000 100000", "max 100000"],
            "cpu.cfs_quota_us": ["-1"],
            "cpu.cfs_period_us": ["100000"],
        }
        return known.get(name, []) + known.get(name_in_v1, [])

    monkeypatch.setattr(node_module, "_group_files", files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    node = node_capacity()
    assert node.memory_bytes == 2_000_000
    assert node.cores == [0, 1]


def test_a_share_of_the_node_is_kept_to() -> None:
    books = Ledger([0, 1, 2, 3], 100, 2)
    first = books.take(Needs(3, 60, 1))
    assert first == Grant(3, (0, 1, 2), 60, (0,))
    books.limit(2, 50, 1)
    assert books.impossible(Needs(3)) is not None
    assert books.take(Needs(1)) is None  # three are out, two are ours
    books.give_back(first)
    assert books.take(Needs(2, 50, 1)) == Grant(2, (0, 1), 50, (0,))
    assert books.take(Needs(0, None, 1)) is None
    books.limit(None, None, None)
    books.limit(4, 100, 2)  # never raised again
    assert books.take(Needs(1)) is None
