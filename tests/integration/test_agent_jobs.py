"""Jobs on a real agent: what they are told, what is kept of them, how they fail, and what is never kept."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm import errors
from lwfm.client.calls import path_of

from support.agents import Agent, environment, running_agent
from support.waiting import wait_until


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent('[local]\ndriver = "local"\ncores = 2\ngpus = 2\n') as running:
        yield running


# ---------------------------------------------------------------------------------------------- records


def test_a_job_is_recorded_with_all_that_is_known_of_it(agent: Agent, tmp_path: Path) -> None:
    job = agent.submit(
        ["sh", "-c", "exit 0"],
        name="full",
        cwd=str(tmp_path),
        meta={"T": 0.7, "kind": "thermo"},
        context={
            "host": "h",
            "user": "u",
            "cwd": "/",
            "env": {"PATH": os.environ["PATH"]},
            "git": {"commit": "abc", "dirty": True},
        },
    )
    found = agent.wait(job)
    assert (found["state"], found["exit_code"], found["attempt"], found["site"]) == ("COMPLETE", 0, 1, "local")
    assert found["submitted_at"] <= found["started_at"] <= found["ended_at"]
    assert found["host"]
    assert int(found["native_id"]) > 1
    assert found["cpu_seconds"] >= 0
    assert found["definition"]["command"] == ["sh", "-c", "exit 0"]
    assert found["definition"]["cwd"] == str(tmp_path)
    assert found["context"]["git"] == {"commit": "abc", "dirty": True}
    assert agent.states(job) == ["PENDING", "RUNNING", "COMPLETE"]
    assert [item["job_id"] for item in agent.client.get("/v1/jobs", {"match": ["T=0.70", "kind=th*"]})["jobs"]] == [job]
    assert [item["job_id"] for item in agent.client.get("/v1/jobs", {"name": "fu*"})["jobs"]] == [job]


def test_many_jobs_are_recorded_all_or_none(agent: Agent) -> None:
    before = agent.client.get("/v1/agent")["jobs"]
    with pytest.raises(errors.InvalidRecord, match="job 2 of 3"):
        agent.submit_many([{"command": "true"}, {"command": ""}, {"command": "true"}])
    assert agent.client.get("/v1/agent")["jobs"] == before
    ids = agent.submit_many([{"command": ["true"], "name": f"n{i}"} for i in range(120)])
    assert len(set(ids)) == 120
    assert {job["state"] for job in agent.wait_all(ids)} == {"COMPLETE"}
    listed = agent.client.get("/v1/jobs", {"name": "n*", "limit": 7})["jobs"]
    assert [job["job_id"] for job in listed] == ids[:-8:-1]


def test_submitting_with_a_job_id_can_be_repeated(agent: Agent, tmp_path: Path) -> None:
    job_id = "00000000-0000-7000-8000-00000000abcd"
    defn = {"command": f"echo once >> {tmp_path}/runs", "job_id": job_id}
    assert agent.submit_many([defn]) == [job_id]
    assert agent.submit_many([defn, defn]) == [job_id, job_id]
    agent.wait(job_id)
    assert agent.submit_many([defn]) == [job_id]
    assert agent.states(job_id) == ["PENDING", "RUNNING", "COMPLETE"]
    assert (tmp_path / "runs").read_text() == "once\n"


@pytest.mark.parametrize(
    "job_id", ["x" * 36, "../../../../../../../../../etc/passwd", 5, "A0000000-0000-7000-8000-00000000abcd"]
)
def test_a_job_id_that_is_none_is_refused(agent: Agent, job_id: object) -> None:
    with pytest.raises(errors.InvalidRecord, match="job id"):
        agent.submit_many([{"command": "true", "job_id": job_id}])
    with pytest.raises(errors.InvalidRecord, match="job id"):
        agent.client.post("/v1/jobs/attach", {"definition": {"command": "me", "job_id": job_id}, "pid": os.getpid()})


def test_ids_may_be_shortened(agent: Agent) -> None:
    job = agent.submit("true")
    agent.wait(job)
    prefix = next(job[:length] for length in range(8, 37) if _unique(agent, job[:length]))
    assert agent.job(prefix)["job_id"] == job
    assert agent.job("last")["job_id"] == job
    assert agent.wait_all([prefix])[0]["job_id"] == job
    with pytest.raises(errors.NotFound):
        agent.job("ffffffff")
    with pytest.raises(errors.AmbiguousId):
        agent.job("0")


def _unique(agent: Agent, prefix: str) -> bool:
    listed = agent.client.get("/v1/jobs", {"limit": 0})["jobs"]
    return sum(str(item["job_id"]).startswith(prefix) for item in listed) == 1


# ---------------------------------------------------------------------------------------------- failures


def test_why_a_job_failed(agent: Agent, tmp_path: Path) -> None:
    cases = {
        agent.submit("exit 3"): "exit code 3",
        agent.submit(["no-such-program"]): "no-such-program",
        agent.submit("no-such-command"): "127",
        agent.submit("kill -SEGV $$"): "SIGSEGV",
        agent.submit(["true"], cwd=str(tmp_path / "absent")): "absent",
    }
    for job, words in cases.items():
        found = agent.wait(job)
        assert found["state"] == "FAILED"
        assert words in found["reason"]
        assert any(words in line for line in agent.client.get(path_of("jobs", job, "why"))["explanation"])
    assert [agent.job(job).get("exit_code") for job in cases] == [3, None, 127, None, None]
    assert agent.job(list(cases)[3])["signal"] == "SIGSEGV"


def test_limits_stop_a_job_and_say_so_with_numbers(agent: Agent) -> None:
    hungry = "import time; held = bytearray(400 << 20); print('held', flush=True); time.sleep(600)"
    slow = agent.submit(["sleep", "600"], resources={"time_limit_s": 0.3}, grace_s=0.2)
    large = agent.submit(["python3", "-c", hungry], resources={"memory_bytes": 100 << 20}, grace_s=0.2)
    found = agent.wait(slow)
    assert found["state"] == "FAILED"
    assert found["native_status"] == "time_limit"
    assert "0.3" in found["reason"]
    found = agent.wait(large)
    assert found["state"] == "FAILED"
    assert found["native_status"] == "memory_limit"
    assert re.search(r"\d", found["reason"])


def test_what_can_never_fit_is_refused_with_the_numbers(agent: Agent) -> None:
    for resources, words in (
        ({"cores": 5000}, "5000 cores"),
        ({"gpus": 3}, "3 GPUs of 2"),
        ({"memory_bytes": 1 << 60}, "1073741824.0 GiB"),
    ):
        with pytest.raises(errors.ResourcesImpossible, match=words) as caught:
            agent.submit("true", resources=resources)
        assert caught.value.hint
    with pytest.raises(errors.ResourcesImpossible):
        agent.on_data({"never": 1}, "true", defn={"resources": {"cores": 5000}})


def test_an_unknown_site_is_refused(agent: Agent) -> None:
    for call in (
        lambda: agent.submit("true", site="nowhere"),
        lambda: agent.submit_many([{"command": "true", "site": "nowhere"}]),
        lambda: agent.on_data({"a": 1}, "true", site="nowhere"),
        lambda: agent.on_data({"a": 1}, notify={"command": "true"}, site="nowhere"),
    ):
        with pytest.raises(errors.UnknownSite, match="nowhere"):
            call()


# ---------------------------------------------------------------------------------------------- retries


def test_each_attempt_is_recorded_and_its_output_can_be_read(agent: Agent, tmp_path: Path) -> None:
    line = (
        f"echo out $LWFM_ATTEMPT; echo err $LWFM_ATTEMPT >&2; [ -e {tmp_path}/2 ] && exit 0;"
        f" if [ -e {tmp_path}/1 ]; then touch {tmp_path}/2; else touch {tmp_path}/1; fi; exit 9"
    )
    job = agent.submit(line, retries=4)
    after = agent.on_job(job, "true")
    failed = agent.on_job(job, "true", states=["FAILED"])
    found = agent.wait(job)
    assert (found["state"], found["attempt"]) == ("COMPLETE", 3)
    assert agent.states(job) == ["PENDING", "RUNNING", "PENDING", "RUNNING", "PENDING", "RUNNING", "COMPLETE"]
    ends = [status["ended_attempt"] for status in agent.statuses(job) if "ended_attempt" in status]
    assert [(end["attempt"], end["exit_code"]) for end in ends] == [(1, 9), (2, 9)]
    for attempt in (1, 2, 3):
        assert agent.output(job, attempt=attempt) == f"out {attempt}\n".encode()
        assert agent.output(job, "stderr", attempt=attempt) == f"err {attempt}\n".encode()
    assert agent.output(job) == b"out 3\n"
    for never in (0, 4):
        with pytest.raises(errors.NotFound, match=f"there is no attempt {never} of job"):
            agent.output(job, attempt=never)
    assert agent.wait(after["job_ids"][0])["state"] == "COMPLETE"
    assert agent.state(failed["job_ids"][0]) == "CANCELLED"


def test_handlers_fire_only_at_the_real_end(agent: Agent) -> None:
    job = agent.submit("exit 1", retries=2)
    failed = agent.on_job(job, "true", states=["FAILED"])
    complete = agent.on_job(job, "true")
    found = agent.wait(job)
    assert (found["state"], found["attempt"]) == ("FAILED", 3)
    assert agent.wait(failed["job_ids"][0])["state"] == "COMPLETE"
    assert agent.handler(failed["handler_id"])["fired"] == 1
    assert agent.states(job).count("FAILED") == 1
    assert agent.states(complete["job_ids"][0]) == ["READY", "CANCELLED"]
    assert "FAILED" in agent.job(complete["job_ids"][0])["reason"]


# ---------------------------------------------------------------------------------------------- environment


def variables(agent: Agent, job: str) -> dict[str, str]:
    assert agent.wait(job)["state"] == "COMPLETE"
    return dict(line.partition("=")[::2] for line in agent.output(job).decode().splitlines() if "=" in line)


def test_a_job_gets_the_allowed_variables_its_own_and_ours(agent: Agent, tmp_path: Path) -> None:
    workflow = agent.workflow()
    context = {"cwd": str(tmp_path), "env": {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "3", "PRIVATE_THING": "x"}}
    job = agent.submit(["env"], env={"MINE": "a b\nc"}, workflow=workflow, context=context)
    found = variables(agent, job)
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["MINE"] == "a b"
    assert "PRIVATE_THING" not in found
    assert found["LWFM_JOB_ID"] == job
    assert found["LWFM_WORKFLOW_ID"] == workflow
    assert found["LWFM_ATTEMPT"] == "1"
    assert found["LWFM_HOME"] == str(agent.home.root)
    assert found["LWFM_SOCKET"] == str(agent.home.socket)
    assert "PRIVATE_THING" not in json.dumps(agent.job(job))
    where = agent.submit("pwd", context=context)
    agent.wait(where)
    assert agent.output(where).decode().strip() == os.path.realpath(tmp_path)


def test_secrets_reach_the_job_and_nothing_else(agent: Agent, tmp_path: Path) -> None:
    secrets = ["s3cr3t-of-env", "s3cr3t-of-option", "s3cr3t-of-url", "ghp_" + "a1B2" * 9, "s3cr3t-of-hook"]
    env, option, url, token, hook = secrets
    script = f'test "$DB_PASSWORD" = {"$EXPECT1"} && printf "%s" "$*" | sha256sum > {tmp_path}/seen.$LWFM_JOB_ID'
    words = ["sh", "-c", script, "-", "--password", option, f"https://me:{url}@host/x", token]
    agent_env = {"DB_PASSWORD": env, "EXPECT1": ""}
    line = f"test \"$DB_PASSWORD\" = '' && exit 1; true --token={option} https://me:{url}@host/"
    jobs = [
        agent.submit(words, env={**agent_env, "EXPECT1": "$DB_PASSWORD"}, retries=1),
        agent.submit(line, env={"DB_PASSWORD": env}),
    ]
    handler = agent.on_data({"go": "secret"}, words, repeat=2, defn={"env": agent_env})
    repeated = agent.on_data({"go": "secret"}, line, repeat=True, defn={"env": {"DB_PASSWORD": env}})
    single = agent.on_job(jobs, line, states=["COMPLETE", "FAILED"], defn={"env": {"DB_PASSWORD": env}})
    told = agent.on_job(jobs, notify={"url": f"http://me:{hook}@127.0.0.1:9/"}, states=["COMPLETE", "FAILED"])
    agent.wait_all(jobs)
    agent.put({"go": "secret"})
    agent.put({"go": "secret"})
    repeats = wait_until(lambda: agent.handler(repeated["handler_id"])["job_ids"], "the firing")
    agent.wait_all([*jobs, *handler["job_ids"], *repeats, *single["job_ids"]])
    for job in (jobs[1], *repeats, *single["job_ids"]):
        assert agent.state(job) == "COMPLETE", agent.job(job)
    agent.cancel(told["job_ids"][0])
    answers = [json.dumps(agent.client.get("/v1/handlers", {"limit": 0}))]
    for job in [*jobs, *handler["job_ids"], *repeats, *single["job_ids"], *told["job_ids"]]:
        answers += [
            json.dumps(agent.client.get(path_of("jobs", job, *part)))
            for part in ((), ("statuses",), ("tree",), ("why",))
        ]
    kept = {
        str(path): path.read_bytes()
        for path in agent.home.root.iterdir()
        if re.match(r"thread\.db|agent\.log", path.name)
    }
    assert len(kept) >= 3
    for secret in secrets:
        assert not [name for name, data in kept.items() if secret.encode() in data], secret
        assert not [answer for answer in answers if secret in answer], secret
    agent.verify()


def test_the_vault_forgets_the_secrets_of_what_has_ended(agent: Agent) -> None:
    job = agent.submit('test "$API_TOKEN" = abc', env={"API_TOKEN": "abc"})
    assert agent.wait(job)["state"] == "COMPLETE"
    assert not (agent.home.sealed / f"{job}.json").exists()


def test_a_job_submits_jobs_of_its_own_workflow(agent: Agent) -> None:
    workflow = agent.workflow()
    code = (
        "import os\n"
        "from lwfm.client import Client, find_endpoint\n"
        "client = Client(find_endpoint())\n"
        "body = {'jobs': [{'command': 'true'}], 'parent': os.environ['LWFM_JOB_ID'], 'context': {'cwd': '/'}}\n"
        "print(client.post('/v1/jobs', body)['jobs'][0]['job_id'])\n"
    )
    python = environment()["PYTHONPATH"]
    parent = agent.submit([os.sys.executable, "-c", code], env={"PYTHONPATH": python}, workflow=workflow)  # type: ignore[attr-defined]
    assert agent.wait(parent)["state"] == "COMPLETE", agent.output(parent, "stderr")
    child = agent.output(parent).decode().strip()
    found = agent.wait(child)
    assert found["parent_id"] == parent
    assert found["workflow_id"] == workflow
    tree = agent.client.get(path_of("jobs", parent, "tree"))
    assert [item["job"]["job_id"] for item in tree["children"]] == [child]
    counts = agent.client.get(path_of("workflows", workflow))["job_counts"]
    assert counts == {"COMPLETE": 2}


def test_a_job_sees_its_gpus(agent: Agent) -> None:
    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
    both, none = agent.submit(["env"], resources={"gpus": 2}), agent.submit(["env"])
    found = variables(agent, both)
    assert [found[name] for name in names] == ["0,1"] * 3
    assert [variables(agent, none)[name] for name in names] == [""] * 3
    assert [status["gpus_used"] for status in agent.statuses(both) if "gpus_used" in status] == [[0, 1]]


def test_gpus_named_by_the_environment() -> None:
    with running_agent(env={"LWFM_GPUS": "4,6,7"}) as agent:
        assert agent.worker()["gpus"] == 3
        job = agent.submit(["env"], resources={"gpus": 3})
        assert variables(agent, job)["CUDA_VISIBLE_DEVICES"] == "4,6,7"


# ---------------------------------------------------------------------------------------------- files


def test_declared_files_are_recorded(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from")
    job = agent.submit("cp in.txt out.txt", cwd=str(tmp_path), inputs=["in.txt"], outputs=["out.txt"])
    assert agent.wait(job)["state"] == "COMPLETE"
    sheets = {sheet["op"]: sheet for sheet in agent.client.get("/v1/data", {"job": job})["data"]}
    assert sheets["get"]["path"] == str(tmp_path / "in.txt")
    assert sheets["put"]["path"] == str(tmp_path / "out.txt")
    assert sheets["get"]["sha256"] == sheets["put"]["sha256"]
    after = agent.submit("true", cwd=str(tmp_path), inputs=["out.txt"])
    agent.wait(after)
    nodes = agent.client.get("/v1/lineage", {"of": str(tmp_path / "out.txt")})
    assert {job, after} <= {node["id"] for node in nodes["nodes"]}


def test_a_missing_declared_output_fails_the_job(agent: Agent, tmp_path: Path) -> None:
    job = agent.submit("touch there", cwd=str(tmp_path), outputs=["there", "missing.dat"])
    handler = agent.on_job(job, "true")
    found = agent.wait(job)
    assert (found["state"], found["exit_code"]) == ("FAILED", 0)
    assert "missing.dat" in found["reason"]
    assert agent.state(handler["job_ids"][0]) == "CANCELLED"


def test_declared_outputs_trigger_data_handlers(agent: Agent, tmp_path: Path) -> None:
    workflow = agent.workflow()
    handler = agent.on_data({"declared": True}, "echo $LWFM_TRIGGER_PATH", of=workflow)
    agent.submit("touch out", cwd=str(tmp_path), outputs=["out"], workflow=workflow)
    fired = handler["job_ids"][0]
    assert agent.wait(fired)["state"] == "COMPLETE"
    assert agent.output(fired).decode().strip() == str(tmp_path / "out")


# ---------------------------------------------------------------------------------------------- output


def test_small_outputs_become_no_files(agent: Agent) -> None:
    job = agent.submit("printf '\\000\\377\\n\\r'; printf err >&2")
    found = agent.wait(job)
    assert agent.output(job) == b"\0\xff\n\r"
    assert agent.output(job, "stderr") == b"err"
    assert (found["stdout_bytes"], found["stderr_bytes"]) == (4, 3)
    assert not agent.home.outputs.exists() or not list(agent.home.outputs.rglob(f"*{job}*"))


def test_large_outputs_are_whole(agent: Agent) -> None:
    size = 3_000_000
    job = agent.submit(f"head -c {size} /dev/zero | tr '\\000' x; echo end; echo small >&2")
    found = agent.wait(job)
    assert found["stdout_bytes"] == size + 4
    whole = agent.output(job)
    assert whole == b"x" * size + b"end\n"
    assert agent.output(job, offset=size - 2, limit=4) == b"xxen"
    assert agent.output(job, offset=size * 2) == b""
    assert agent.output(job, "stderr") == b"small\n"
    left = list((agent.home.spool / "out").rglob("*")) if (agent.home.spool / "out").exists() else []
    assert not [path for path in left if path.is_file() and path.stat().st_size > size]


def test_output_can_be_followed_while_the_job_runs(agent: Agent, tmp_path: Path) -> None:
    line, go = (
        tmp_path / "line",
        tmp_path / "go",
    )  # not one twice: it may be opened again before its first end is closed
    os.mkfifo(line)
    os.mkfifo(go)
    job = agent.submit(f"echo first; read line < {line}; echo $line; read line < {go}", retries=1)
    agent.wait_state(job, "RUNNING")

    def answer(offset: int) -> tuple[bytes, int, str]:
        got = agent.client.get_bytes(path_of("jobs", job, "output"), {"offset": offset, "wait_s": 20})
        return got.body, int(got.headers["lwfm-offset"]), got.headers["lwfm-ended"]

    assert answer(0) == (b"first\n", 6, "0")
    line.write_text("second\n")
    assert answer(6) == (b"second\n", 13, "0")
    go.write_text("\n")
    assert agent.wait(job)["state"] == "COMPLETE"
    assert answer(13) == (b"", 13, "1")
    assert answer(0) == (b"first\nsecond\n", 13, "1")


def test_text_that_is_not_utf8_survives(agent: Agent, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.dat")
    job = agent.submit(["sh", "-c", f"echo data > '{name}'"], cwd=str(tmp_path), outputs=[name])
    assert agent.wait(job)["state"] == "COMPLETE"
    assert os.path.exists(os.fsencode(tmp_path) + b"/caf\xe9.dat")
    (sheet,) = agent.client.get("/v1/data", {"job": job})["data"]
    assert sheet["url"].endswith("caf%E9.dat")
    agent.verify()


def test_where_jobs_are_submitted_is_recorded_once_whoever_syncs_between(agent: Agent) -> None:
    reader = sqlite3.connect(f"{agent.home.database.absolute().as_uri()}?mode=ro", uri=True)
    first = agent.submit("true")
    agent.client.get("/v1/sync")
    second = agent.submit("true")
    contexts = reader.execute("select distinct context_id from jobs where id in (?, ?)", (first, second)).fetchall()
    reader.close()
    assert len(contexts) == 1
