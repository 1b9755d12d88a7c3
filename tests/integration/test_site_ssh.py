"""The site ``ssh`` for real: jobs handed to the agent of another instance over a real sshd, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.client.calls import path_of
from lwfm.data.contents import ContentStore
from lwfm.errors import LwfmError, UnknownSite
from lwfm.testing import SiteContract, SiteUnderTest

from support.agents import LINK
from support.peers import Network, Place, a_network, kill, site_through_ssh
from support.ssh_server import make_key, sshd_program
from support.waiting import wait_until

SITE = """\
[cluster]
driver = "ssh"
host = "{host}"
ssh_config = "{config}"
remote_path = "{script}"
remote_home = "{home}"
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    if sshd_program() is None:
        pytest.skip("there is no sshd")
    with a_network(tmp_path) as made:
        yield made


def configure(network: Network, near: Place, far: Place, more: str = "") -> None:
    """Make ``far`` the site ``cluster`` of ``near``."""
    near.configure(SITE.format(host=far.name, config=network.config, script=network.script, home=far.home.root) + more)


@pytest.fixture
def places(network: Network) -> tuple[Place, Place]:
    near, far = network.place("near"), network.place("far")
    configure(network, near, far)
    return near, far


def ran(directory: Path, job: str) -> int:
    """How often a job has been started, by its own word."""
    return len(list(directory.glob(f"{job}.*")))


def witness(directory: Path, body: str = ":") -> str:
    """A command that leaves a file for each time that it is started."""
    return f'mktemp -q "{directory}/$LWFM_JOB_ID.XXXXXX" > /dev/null; {body}'


def host_of(place: Place) -> list[int]:
    """The processes of the drivers of a place."""
    return [pid for pid, words in place.processes().items() if " site-host " in words]


class TestContract(SiteContract):
    """The driver by itself: what comes of jobs is asked of the agent here, to which their records come."""

    @pytest.fixture(scope="class")
    def site(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteUnderTest]:
        if sshd_program() is None:
            pytest.skip("there is no sshd")
        directory = tmp_path_factory.mktemp("ssh")
        with a_network(directory) as network:
            near, far = network.place("near"), network.place("far")
            here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
            with site_through_ssh(network, near, far.home.root, here, there) as made:
                yield made


def test_a_job_there_looks_like_one_here(places: tuple[Place, Place]) -> None:
    near, far = places
    job = near.submit("echo out; echo err >&2; pwd; exit 3", site="cluster", meta={"kind": "there"})
    ended = near.wait(job)
    assert (ended["state"], ended["exit_code"], ended["site"]) == ("FAILED", 3, "cluster")
    assert ended["runner"] == far.client.get("/v1/agent")["origin"]
    assert "started_at" in ended
    assert near.output(job) == f"out\n{Path.home()}\n".encode()
    assert near.output(job, "stderr") == b"err\n"
    assert [found["job_id"] for found in near.client.get("/v1/jobs", {"match": "kind=there"})["jobs"]] == [job]
    assert far.job(job)["state"] == "FAILED"
    assert far.output(job) == near.output(job)
    for place in places:
        assert place.json("store", "check")["ok"]


def test_many_are_run_once_each_and_secrets_stay_out_of_the_stores(places: tuple[Place, Place], tmp_path: Path) -> None:
    near, _ = places
    env = {"API_TOKEN": "hunter2hunter2", "GREETING": "hello"}
    jobs = near.submit_many(
        [{"command": witness(tmp_path, 'echo "$GREETING $API_TOKEN"'), "env": env}] * 200, site="cluster"
    )
    assert {job["state"] for job in near.wait_all(jobs)} == {"COMPLETE"}
    assert {ran(tmp_path, job) for job in jobs} == {1}
    assert near.output(jobs[7]) == b"hello hunter2hunter2\n"
    for place in places:
        text = place.home.database.read_bytes() + Path(f"{place.home.database}-wal").read_bytes()
        assert b"GREETING" in text
        bodies = "".join(row[0] for row in place.query("select body from log"))
        assert "hunter2" not in bodies


def test_cancelled_while_it_runs_and_before_it_is_there(places: tuple[Place, Place], network: Network) -> None:
    near, far = places
    job = near.submit("sleep 600", site="cluster")
    near.wait_state(job, "RUNNING")
    near.client.post(f"/v1/jobs/{job}/cancel", {"reason": "enough"})
    assert (near.wait(job)["state"], far.wait(job)["state"]) == ("CANCELLED", "CANCELLED")
    network.server.stop()
    waiting = near.submit("true", site="cluster")
    wait_until(lambda: any("cluster" in (s.get("reason") or "") for s in near.statuses(waiting)), "the trouble is told")
    near.client.post(f"/v1/jobs/{waiting}/cancel", {"reason": "never mind"})
    assert near.state(waiting) in ("FINISHING", "CANCELLED")


def test_what_happens_there_fires_here_and_the_other_way(places: tuple[Place, Place], tmp_path: Path) -> None:
    """A job's end there starts one here; data put there by it does; and a job's end here starts one there."""
    near, _ = places
    gate = tmp_path / "gate"
    workflow = near.workflow()
    data = tmp_path / "result.csv"
    body = f"while [ ! -e {gate} ]; do sleep 0.02; done; echo 1,2 > {data}; lwfm put {data} --meta kind=result"
    there = near.submit(body, site="cluster", workflow=workflow)
    by_end = near.on_job(there, 'echo "after $LWFM_TRIGGER_JOB"')
    by_data = near.on("data", {"match": {"kind": "result"}}, 'echo "got $LWFM_TRIGGER_PATH"')
    gate.touch()
    assert near.wait(there)["state"] == "COMPLETE", near.output(there, "stderr")
    (after,) = by_end["job_ids"]
    assert near.wait(after)["state"] == "COMPLETE"
    assert near.output(after) == f"after {there}\n".encode()
    (got,) = by_data["job_ids"]
    assert near.wait(got)["state"] == "COMPLETE"
    assert near.output(got) == f"got {data}\n".encode()
    handler = near.on_job(after, "echo back there", site="cluster")
    (back,) = handler["job_ids"]
    assert near.wait(back)["state"] == "COMPLETE"
    assert near.output(back) == b"back there\n"
    (sheet,) = near.client.get("/v1/data", {"match": "kind=result", "op": "put"})["data"]
    assert sheet["job_id"] == there
    assert sheet["workflow_id"] == workflow


@pytest.mark.parametrize("victim", ["near agent", "far agent", "driver", "connection", "far side"])
def test_a_death_in_the_middle_costs_nothing(
    places: tuple[Place, Place], network: Network, tmp_path: Path, victim: str
) -> None:
    near, far = places
    gate = tmp_path / "gate"
    body = witness(tmp_path, f"while [ ! -e {gate} ]; do sleep 0.05; done")
    jobs = near.submit_many([{"command": body}] * 20, site="cluster")
    wait_until(lambda: sum(ran(tmp_path, job) for job in jobs) >= 1, "a job to run", on_timeout=far.log)
    if victim == "near agent":
        near.kill()
        gate.touch()
        near.start()
    elif victim == "far agent":
        kill(far.agent_pids())
        gate.touch()
    elif victim == "driver":
        kill(host_of(near))
        gate.touch()
    elif victim == "connection":
        network.server.cut()
        gate.touch()
    else:
        kill(far.serving())
        gate.touch()
    assert {job["state"] for job in near.wait_all(jobs)} == {"COMPLETE"}
    assert {ran(tmp_path, job) for job in jobs} == {1}
    for job in jobs:
        states = [status["state"] for status in near.statuses(job) if status["state"] in ("COMPLETE", "FAILED")]
        assert states == ["COMPLETE"]


def test_who_submits_does_not_wait_for_a_far_side_that_hangs(places: tuple[Place, Place], tmp_path: Path) -> None:
    near, far = places
    assert near.wait(near.submit("true", site="cluster"))["state"] == "COMPLETE"
    (serving,) = far.serving()
    os.kill(serving, signal.SIGSTOP)
    try:
        began = time.monotonic()
        jobs = [near.submit(witness(tmp_path), site="cluster") for _ in range(3)]
        assert time.monotonic() - began < 60, "which is what the far side may take before it counts as hung"
    finally:
        os.kill(serving, signal.SIGCONT)
    assert {job["state"] for job in near.wait_all(jobs)} == {"COMPLETE"}
    assert [ran(tmp_path, job) for job in jobs] == [1, 1, 1]


def test_a_home_that_is_lost_there(places: tuple[Place, Place], tmp_path: Path) -> None:
    """A scratch file system is emptied while the line is open: another instance answers on it, and runs what comes."""
    near, far = places
    gate = tmp_path / "gate"
    body = witness(tmp_path, f"while [ ! -e {gate} ]; do sleep 0.05; done")
    first, second = (near.submit(body, site="cluster") for _ in range(2))
    for job in (first, second):
        near.wait_state(job, "RUNNING")
    kill(far.agent_pids())
    far.home.root.rename(tmp_path / "lost")
    for job in (first, second):
        near.wait_state(job, "UNKNOWN")
        assert "another instance answers at site cluster" in near.job(job)["reason"]
    new = near.submit(witness(tmp_path), site="cluster")
    assert near.wait(new)["state"] == "COMPLETE"
    near.client.post(f"/v1/jobs/{second}/cancel", {"reason": "enough"})
    assert near.wait(second)["state"] == "CANCELLED"
    assert near.state(first) == "UNKNOWN"
    gate.touch()
    assert [ran(tmp_path, job) for job in (first, second, new)] == [1, 1, 1]


def test_another_instance_answers_for_a_while(places: tuple[Place, Place], network: Network, tmp_path: Path) -> None:
    """As where the home is not mounted on one of the hosts that a name leads to."""
    near, far = places
    gate = tmp_path / "gate"
    job = near.submit(witness(tmp_path, f"while [ ! -e {gate} ]; do sleep 0.05; done"), site="cluster")
    near.wait_state(job, "RUNNING")
    configure(network, near, network.place("other"))
    near.wait_state(job, "UNKNOWN")
    configure(network, near, far)
    near.wait_state(job, "RUNNING")
    gate.touch()
    assert near.wait(job)["state"] == "COMPLETE"
    assert ran(tmp_path, job) == 1


def test_its_output_is_followed_through_trouble(places: tuple[Place, Place], network: Network, tmp_path: Path) -> None:
    near, far = places
    body = f"for i in 1 2 3 4 5; do echo line $i; while [ ! -e {tmp_path}/$i ]; do sleep 0.05; done; done"
    job = near.submit(body, site="cluster")
    near.wait_state(job, "RUNNING")
    printed = []
    with near.running("job", "output", "--follow", job) as process:
        out = process.stdout
        assert out is not None

        def step(number: int) -> None:
            printed.append(out.readline())
            (tmp_path / str(number)).touch()

        step(1)
        kill(far.serving())
        step(2)
        kill(far.agent_pids())
        step(3)
        network.server.cut()
        step(4)
        near.kill()
        near.start()
        step(5)
        printed += out.readlines()
        assert process.wait(60) == 0
    assert printed == [f"line {number}\n" for number in range(1, 6)]


def test_who_follows_an_output_waits_for_news(places: tuple[Place, Place], tmp_path: Path) -> None:
    """It is not asked for over and over."""
    near, _ = places
    job = near.submit(f"echo first; while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done", site="cluster")
    wait_until(lambda: near.output(job) == b"first\n", "the first line", on_timeout=near.log)
    began = time.monotonic()
    assert near.output(job, offset=6, wait_s=2.0) == b""
    assert time.monotonic() - began > 1.9
    (tmp_path / "gate").touch()
    near.wait(job)
    answer = near.client.get_bytes(path_of("jobs", job, "output"), {"offset": 6, "wait_s": 30.0})
    assert (answer.body, answer.headers["lwfm-ended"]) == (b"", "1")


def test_the_laptop_sleeps_and_what_was_missed_fires_once(places: tuple[Place, Place], tmp_path: Path) -> None:
    near, far = places
    job = near.submit(f"while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done", site="cluster")
    handler = near.on_job(job, witness(tmp_path))
    near.wait_state(job, "RUNNING")
    near.kill()
    kill(host_of(near))
    (tmp_path / "gate").touch()
    far.wait(job)
    near.start()
    (fired,) = handler["job_ids"]
    assert near.wait(fired)["state"] == "COMPLETE"
    assert ran(tmp_path, fired) == 1
    assert len(near.query("select 1 from firings")) == 1


def test_files_go_there_and_come_back(places: tuple[Place, Place], tmp_path: Path) -> None:
    near, far = places
    source = tmp_path / "input.dat"
    source.write_bytes(os.urandom(3 << 20))
    body = {"site": "cluster", "path": str(source), "site_path": "in/input.dat", "properties": {"kind": "input"}}
    put = near.client.post("/v1/data", body)
    lies = far.home.repository / "in" / "input.dat"
    assert lies.read_bytes() == source.read_bytes()
    assert (put["site"], put["path"]) == ("cluster", str(lies))
    back = tmp_path / "back.dat"
    near.client.post("/v1/data/fetch", {"data": put["data_id"], "path": str(back)})
    assert back.read_bytes() == source.read_bytes()
    back.unlink()
    lies.write_bytes(b"changed")
    done = near.lwfm("get", put["data_id"], str(tmp_path / "again"))
    assert done.returncode != 0
    assert "checksum" in done.stderr
    assert not (tmp_path / "again").exists()
    lies.unlink()
    assert "gone" in near.lwfm("get", put["data_id"], str(tmp_path / "again")).stderr


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_a_long_transfer_holds_up_nothing_else(network: Network, tmp_path: Path, transport: str) -> None:
    near, far = network.place("near"), network.place("far")
    configure(network, near, far, f'transport = "{transport}"\n')
    assert near.wait(near.submit("true", site="cluster"))["state"] == "COMPLETE"
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(512 * 1024 * 1024)
    before = far.serving()
    assert len(before) == 1
    with near.running("put", str(large), "large", "--site", "cluster") as moving:
        wait_until(lambda: len(far.serving()) == 2, "a line of its own", on_timeout=near.log)
        (apart,) = set(far.serving()) - set(before)
        os.kill(apart, signal.SIGSTOP)
        try:
            assert near.wait(near.submit(witness(tmp_path), site="cluster"))["state"] == "COMPLETE"
            assert moving.poll() is None
        finally:
            os.kill(apart, signal.SIGCONT)
        out, complaint = moving.communicate(timeout=120)
        assert moving.returncode == 0, complaint
    copy = far.home.repository / "large"
    assert copy.stat().st_size == large.stat().st_size
    wait_until(lambda: far.serving() == before, "the line to end")
    back = tmp_path / "back"
    near.lwfm("get", out.strip(), str(back))
    assert back.stat().st_size == large.stat().st_size


def test_a_copy_that_a_sync_has_brought_stays_when_the_file_is_put_there(
    places: tuple[Place, Place], network: Network, tmp_path: Path
) -> None:
    near, far = places
    (source := tmp_path / "shared.dat").write_bytes(b"known there already")
    near.client.post("/v1/data", {"path": str(source), "properties": {"kind": "shared"}})
    copies = ContentStore(far.home.contents)
    (digest,) = [sheet["sha256"] for sheet in near.client.get("/v1/data", {"match": "kind=shared"})["data"]]
    copies.keep([(digest, "shared.dat", source.read_bytes())])
    near.client.post("/v1/data", {"site": "cluster", "path": str(source), "site_path": "shared.dat", "properties": {}})
    assert (far.home.repository / "shared.dat").read_bytes() == source.read_bytes()
    assert copies.find(digest, source.stat().st_size, "shared.dat") is not None


def test_its_sites_and_their_nodes_are_listed(places: tuple[Place, Place]) -> None:
    near, _ = places
    found = near.json("spin", "list", "--site", "cluster")
    assert any(item["resource_id"] == "local" and item["kind"] == "site" for item in found), json.dumps(found)
    assert any(item["resource_id"].startswith("local/") and item["kind"] == "node" for item in found)


def test_its_sites_are_sites_here(network: Network, tmp_path: Path) -> None:
    """``cluster/NAME`` is the site NAME of the other instance: also one that has to be asked, and one that is not there."""
    near, far = network.place("near"), network.place("far", started=False)
    far.env["PYTHONPATH"] = os.pathsep.join([str(LINK), str(Path(__file__).resolve().parents[1])])
    (traces := tmp_path / "traces").mkdir()
    far.configure(f'[queue]\ndriver = "support.shell_site:ShellSite"\ndirectory = "{traces}"\n')
    far.start()
    configure(network, near, far)
    job = near.submit("echo queued", site="cluster/queue")
    assert near.wait(job)["state"] == "COMPLETE"
    assert near.output(job) == b"queued\n"
    assert list(traces.glob(f"{job}*")), "it ran there"
    assert near.job(job)["site"] == "cluster/queue"
    lost = near.wait(near.submit("true", site="cluster/nowhere"))
    assert lost["state"] == "FAILED"
    assert "there is no site 'nowhere'" in lost["reason"]
    with pytest.raises(UnknownSite):
        near.submit("true", site="local/nowhere")


def test_jobs_wait_for_a_login_and_go_on_after_it(
    places: tuple[Place, Place], network: Network, tmp_path: Path
) -> None:
    near, _ = places
    key = make_key(tmp_path / "locked", passphrase="open sesame")
    network.server.authorize(key)
    network.config.write_text(network.config.read_text().replace(str(network.server.identity), str(key)))
    job = near.submit("echo after the login", site="cluster")
    wait_until(
        lambda: any("lwfm site login cluster" in (item.get("reason") or "") for item in near.statuses(job)),
        "the job to say what it waits for",
        on_timeout=near.log,
    )
    assert near.client.get("/v1/sites/cluster")["state"] == "login"
    asked = near.client.post("/v1/sites/cluster/login", {"answers": []})
    assert [question["secret"] for question in asked["questions"]] == [True]
    assert str(key) in asked["questions"][0]["prompt"]
    with pytest.raises(LwfmError):
        near.client.post("/v1/sites/cluster/login", {"answers": ["wrong"] * 5})
    assert near.client.post("/v1/sites/cluster/login", {"answers": ["open sesame"]})["current"] is True
    assert near.wait(job)["state"] == "COMPLETE"
    assert "open sesame" not in near.log()


def test_a_host_without_lwfm_is_told_as_that(network: Network) -> None:
    near, far = network.place("near"), network.place("far", started=False)
    near.configure(SITE.format(host="far", config=network.config, script="/nowhere/lwfm", home=far.home.root))
    job = near.submit("true", site="cluster")
    wait_until(
        lambda: any("no lwfm at /nowhere/lwfm" in (item.get("reason") or "") for item in near.statuses(job)),
        "the job to say what is wrong",
        on_timeout=lambda: f"{near.statuses(job)}",
    )
    near.client.post(f"/v1/jobs/{job}/cancel", {})
    assert near.wait(job)["state"] == "CANCELLED"


def test_data_that_trigger_a_job_are_where_it_runs(network: Network, tmp_path: Path) -> None:
    """Put here, there, or at a third host: the job is told of a path where it finds them, and can get them by their id."""
    near, far, third = (network.place(name) for name in ("near", "far", "third"))
    near.configure(
        SITE.format(host="far", config=network.config, script=network.script, home=far.home.root)
        + SITE.replace("[cluster]", "[other]").format(
            host="third", config=network.config, script=network.script, home=third.home.root
        )
    )
    (here := tmp_path / "here.csv").write_text("from here")
    show = 'echo "$LWFM_TRIGGER_PATH"; cat "$LWFM_TRIGGER_PATH"'
    (taken,) = near.on("data", {"match": {"kind": "here"}, "site": "cluster"}, show)["job_ids"]
    near.client.post("/v1/data", {"path": str(here), "properties": {"kind": "here"}})
    assert near.wait(taken)["state"] == "COMPLETE", near.job(taken)
    path, content = near.output(taken).decode().splitlines()
    assert content == "from here"
    assert far.home.repository in Path(path).parents

    there = tmp_path / "there.csv"
    get = f'lwfm get "$LWFM_TRIGGER_DATA" {tmp_path}/got && cat {tmp_path}/got'
    (got,) = near.on("data", {"match": {"kind": "there"}}, get)["job_ids"]
    near.submit(f"echo from third > {there}; lwfm put {there} --meta kind=there", site="other")
    assert near.wait(got)["state"] == "COMPLETE", near.output(got, "stderr")
    assert near.output(got).decode().splitlines()[-1] == "from third"


def test_its_driver_goes_with_the_agent(places: tuple[Place, Place]) -> None:
    near, _ = places
    near.wait(near.submit("true", site="cluster"))
    (driver,) = host_of(near)
    near.kill()
    wait_until(lambda: driver not in host_of(near), "the driver to leave")
    near.start()
