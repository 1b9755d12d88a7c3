"""What any site driver has to do, as tests: subclass :class:`SiteContract` and give it a fixture ``site``.

::

    from lwfm.sites.base import SiteContext
    from lwfm.testing import SiteContract, SiteUnderTest

    class TestMySite(SiteContract):
        @pytest.fixture(scope="class")
        def site(self, tmp_path_factory):
            home = tmp_path_factory.mktemp("home")
            driver = MySite(SiteContext("my", {"url": "…"}, home, home / "repository"))
            yield SiteUnderTest(driver, tmp_path_factory.mktemp("here"), "/scratch/me")
            driver.close()

Everything goes through the interface in :mod:`lwfm.sites.base`. A pillar that the site does not have (None) is not judged. The
checks share one site: they leave files in its directories, and jobs that have ended.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

import pytest

from ..errors import LwfmError, NotFound, NotSupported, ResourcesImpossible, SiteError
from ..models import JobDefn, Resources
from ..sites.base import (
    Auth,
    JobRequest,
    Observation,
    Repo,
    Resource,
    Run,
    SiteContext,
    SiteDriver,
    Spin,
    StoredData,
)
from ..sites.process import ProcessSite
from ..states import JobState

Pillar = TypeVar("Pillar")
Ask = Callable[[Sequence[str]], Mapping[str, Observation]]


def refuse(prompt: str, secret: bool) -> str:  # noqa: ARG001 (the interface's signature)
    """Nobody is there to answer."""
    raise AssertionError(f"the site asked a question: {prompt}")


def in_own_process(driver: str, context: SiteContext) -> SiteDriver:
    """A site whose driver runs in a process of its own, as ``process = true`` has it: what it answers must then be JSON.

    Args:
        driver: its name as in ``sites.toml``, such as ``FILE.py:Class``.

    Raises:
        ConfigError: there is no such driver, or it cannot be made.
    """
    site = ProcessSite(context, driver)
    try:
        site.start()  # which tells what pillars there are
    except BaseException:
        site.close()
        raise
    return site


@dataclass
class SiteUnderTest:
    """A site and what its tests need to know of it.

    Args:
        driver: the site.
        directory: a directory here, for the tests' own files.
        site_directory: an absolute directory on the site where files may be put and jobs may run and write.
        reported: for a site that reports statuses by itself: the last observation reported of each of these jobs.
        answer: answers the questions of a login.
        patience_s: how long a small job may take there from submission to end.
        impossible: resources that the site can never give.
    """

    driver: SiteDriver
    directory: Path
    site_directory: str
    reported: Optional[Ask] = None
    answer: Callable[[str, bool], str] = refuse
    patience_s: float = 60.0
    impossible: Resources = field(default_factory=lambda: Resources(cores=10**6))

    @property
    def run(self) -> Run:
        """The pillar; the test is skipped where there is none. ``repo``, ``auth``, ``spin``: likewise."""
        return _offered(self.driver.run, "run")

    @property
    def repo(self) -> Repo:
        return _offered(self.driver.repo, "repo")

    @property
    def auth(self) -> Auth:
        return _offered(self.driver.auth, "auth")

    @property
    def spin(self) -> Spin:
        return _offered(self.driver.spin, "spin")

    def ask(self, *job_ids: str) -> Mapping[str, Observation]:
        """What is known of jobs, however the site tells it."""
        return self.reported(job_ids) if self.reported else self.run.status(job_ids)

    def request(self, command: Any, *, job_id: str = "", attempt: int = 1, **keys: Any) -> JobRequest:
        """A job, as the agent would hand it over."""
        keys.setdefault("cwd", self.site_directory)
        environment = keys.pop("environment", {"PATH": "/usr/local/bin:/usr/bin:/bin"})
        job_id = job_id or str(uuid.uuid4())
        variables = {"LWFM_JOB_ID": job_id, "LWFM_ATTEMPT": str(attempt)}
        context = hashlib.sha256(repr(sorted(environment.items())).encode()).hexdigest()
        return JobRequest(job_id, attempt, JobDefn(command, **keys), context, environment, variables)

    def submit(self, command: Any, **keys: Any) -> str:
        """Submit one job; its id."""
        request = self.request(command, **keys)
        seen = self.run.submit([request])
        assert set(seen) == {request.job_id}
        return request.job_id

    def until(self, job_id: str, *states: JobState) -> Observation:
        """The first observation of a job in one of these states, or in a terminal one."""
        deadline = time.monotonic() + self.patience_s
        pause_s, last = 0.01, None
        while time.monotonic() < deadline:
            last = self.ask(job_id).get(job_id)
            if last is not None and (last.state in states or last.state.terminal):
                return last
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 1.0)
        raise AssertionError(f"job {job_id} is {last} after {self.patience_s} s, not {states or 'ended'}")

    def output(self, job_id: str, stream: str = "stdout") -> bytes:
        """All that a job has printed so far, read in small pieces."""
        whole = b""
        while True:
            piece = self.run.output(job_id, stream, len(whole), 7)
            assert len(piece) <= 7, "more than was asked for"
            if not piece:
                return whole
            whole += piece

    def printed(self, job_id: str, wanted: bytes) -> bytes:
        """What a running job has printed, once it is ``wanted``."""
        deadline = time.monotonic() + self.patience_s
        while (whole := self.output(job_id)) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        return whole

    def shell_path(self, name: str) -> str:
        """A path on the site, quoted for a shell there."""
        return shlex.quote(f"{self.site_directory}/{name}")


def _offered(pillar: Optional[Pillar], name: str) -> Pillar:
    if pillar is None:
        pytest.skip(f"the site has no {name} pillar")
    return pillar


class SiteContract:
    """The checks. Subclasses give a fixture ``site``: a :class:`SiteUnderTest`."""

    # ------------------------------------------------------------------------------------------ the driver

    def test_its_pillars_are_of_the_interface(self, site: SiteUnderTest) -> None:
        pillars = {"auth": Auth, "run": Run, "repo": Repo, "spin": Spin}
        offered = {name: getattr(site.driver, name) for name in pillars}
        assert any(pillar is not None for pillar in offered.values())
        for name, pillar in offered.items():
            assert pillar is None or isinstance(pillar, pillars[name])

    def test_it_is_told_how_it_reports(self, site: SiteUnderTest) -> None:
        assert bool(site.run.reports_itself or site.run.records_come) == (site.reported is not None)

    # ------------------------------------------------------------------------------------------ auth

    def test_after_a_login_it_is_current(self, site: SiteUnderTest) -> None:
        site.auth.login(site.answer)
        assert site.auth.is_auth_current() is True
        site.auth.login(site.answer)

    # ------------------------------------------------------------------------------------------ run

    def test_it_takes_a_small_job_and_refuses_an_impossible_one(self, site: SiteUnderTest) -> None:
        site.run.check(JobDefn("true"))
        with pytest.raises(ResourcesImpossible, match=r"\d"):
            site.run.check(JobDefn("true", resources=site.impossible))

    def test_a_job_runs_to_its_end(self, site: SiteUnderTest) -> None:
        job_id = site.submit(["echo", "two words", "and 'quotes' $HOME"])
        seen = site.until(job_id)
        assert seen.state is JobState.COMPLETE, seen
        assert seen.facts.get("exit_code") == 0
        assert seen.native_id
        assert json.loads(json.dumps(dict(seen.facts))) == dict(seen.facts), "facts are JSON values"
        assert site.output(job_id) == b"two words and 'quotes' $HOME\n"

    def test_a_line_is_for_the_shell(self, site: SiteUnderTest) -> None:
        job_id = site.submit("for n in 1 2; do echo $n; done; echo oops >&2")
        assert site.until(job_id).state is JobState.COMPLETE
        assert site.output(job_id) == b"1\n2\n"
        assert site.output(job_id, "stderr") == b"oops\n"

    def test_output_is_bytes(self, site: SiteUnderTest) -> None:
        job_id = site.submit("printf 'a\\000\\377\\r\\nb'")
        site.until(job_id)
        assert site.output(job_id) == b"a\0\xff\r\nb"
        assert site.run.output(job_id, "stdout", 2, 2) == b"\xff\r"
        assert site.run.output(job_id, "stdout", 1000, 10) == b""

    def test_output_can_be_read_while_the_job_runs(self, site: SiteUnderTest) -> None:
        job_id = site.submit("echo begun; sleep 600")
        assert site.until(job_id, JobState.RUNNING).state is JobState.RUNNING
        assert site.printed(job_id, b"begun\n") == b"begun\n"
        site.run.cancel(job_id, 1, "enough")
        site.until(job_id)

    @pytest.mark.parametrize(
        ("command", "exit_code"),
        [("exit 3", 3), ("kill -9 $$", None), (["/no/such/program"], None), ("no-such-command", 127)],
    )
    def test_a_failure_is_not_called_complete(
        self, site: SiteUnderTest, command: Any, exit_code: Optional[int]
    ) -> None:
        seen = site.until(site.submit(command))
        assert seen.state is JobState.FAILED, seen
        assert seen.reason
        if exit_code is not None:
            assert seen.facts.get("exit_code") == exit_code

    def test_directory_and_environment(self, site: SiteUnderTest) -> None:
        environment = {"PATH": "/usr/bin:/bin", "FROM_CONTEXT": "a b"}
        line = 'echo "$FROM_CONTEXT|$OWN|$LWFM_JOB_ID|$LWFM_ATTEMPT"; pwd -P'
        job_id = site.submit(line, env={"OWN": "ü 'x' $y \" \\"}, environment=environment)
        assert site.until(job_id).state is JobState.COMPLETE
        first, second = site.output(job_id).decode().splitlines()
        assert first == f"a b|ü 'x' $y \" \\|{job_id}|1"
        assert second == site.site_directory

    def test_handing_over_the_same_job_again_is_harmless(self, site: SiteUnderTest) -> None:
        request = site.request(f"echo ran >> {site.shell_path('runs')}; sleep 0.3")
        site.run.submit([request])
        site.run.submit([request, request])
        site.until(request.job_id)
        site.run.submit([request])
        counting = site.submit(f"wc -l < {site.shell_path('runs')}")
        assert site.until(counting).state is JobState.COMPLETE
        assert int(site.output(counting)) == 1

    def test_another_attempt_is_another_run(self, site: SiteUnderTest) -> None:
        job_id = site.submit("exit 1")
        assert site.until(job_id).state is JobState.FAILED
        site.run.submit([site.request("echo attempt $LWFM_ATTEMPT", job_id=job_id, attempt=2)])
        deadline = time.monotonic() + site.patience_s
        while site.until(job_id).state is JobState.FAILED and time.monotonic() < deadline:
            time.sleep(0.02)
        assert site.until(job_id).state is JobState.COMPLETE
        assert site.output(job_id) == b"attempt 2\n"

    def test_many_in_one_call(self, site: SiteUnderTest) -> None:
        requests = [site.request(["echo", str(number)]) for number in range(30)]
        seen = site.run.submit(requests)
        assert set(seen) == {request.job_id for request in requests}
        for number, request in enumerate(requests):
            assert site.until(request.job_id).state is JobState.COMPLETE
            assert site.output(request.job_id) == f"{number}\n".encode()

    def test_nothing_in_one_call(self, site: SiteUnderTest) -> None:
        assert dict(site.run.submit([])) == {}
        assert dict(site.run.status([])) == {}

    def test_of_an_unknown_job_nothing_is_said(self, site: SiteUnderTest) -> None:
        unknown = str(uuid.uuid4())
        assert unknown not in site.run.status([unknown])
        assert list(site.run.homes(unknown)) == []
        try:
            site.run.cancel(unknown, 1, "there is none")
        except NotFound:
            assert site.run.records_come
        try:
            assert site.run.output(unknown, "stdout", 0, 10) == b""
        except NotFound:
            pass

    def test_cancelling_a_running_job(self, site: SiteUnderTest) -> None:
        job_id = site.submit("sleep 600 & sleep 601", grace_s=0.5)
        assert site.until(job_id, JobState.RUNNING).state is JobState.RUNNING
        for _ in range(2):
            site.run.cancel(job_id, 1, "no longer wanted")
        seen = site.until(job_id)
        assert seen.state is JobState.CANCELLED, seen
        site.run.cancel(job_id, 1, "again")
        assert site.until(job_id).state is JobState.CANCELLED

    def test_cancelling_at_once(self, site: SiteUnderTest) -> None:
        requests = [site.request("sleep 600", grace_s=0.5) for _ in range(8)]
        site.run.submit(requests)
        for request in requests:
            site.run.cancel(request.job_id, 1, "changed my mind")
        assert {site.until(request.job_id).state for request in requests} == {JobState.CANCELLED}

    def test_cancelling_what_has_ended_changes_nothing(self, site: SiteUnderTest) -> None:
        job_id = site.submit("true")
        assert site.until(job_id).state is JobState.COMPLETE
        site.run.cancel(job_id, 1, "too late")
        assert site.until(job_id).state is JobState.COMPLETE

    def test_a_time_limit_is_kept(self, site: SiteUnderTest) -> None:
        job_id = site.submit("sleep 600", resources=Resources(time_limit_s=1.0), grace_s=0.5)
        seen = site.until(job_id)
        assert seen.state is JobState.FAILED
        assert seen.reason

    def test_it_may_be_called_from_any_thread(self, site: SiteUnderTest) -> None:
        states: list[JobState] = []
        thread = threading.Thread(target=lambda: states.append(site.until(site.submit("true")).state))
        thread.start()
        thread.join(site.patience_s)
        assert states == [JobState.COMPLETE]

    # ------------------------------------------------------------------------------------------ repo

    def test_what_is_put_can_be_got(self, site: SiteUnderTest) -> None:
        source, target = site.directory / "a file ü.bin", site.directory / "back" / "again.bin"
        content = bytes(range(256)) * 1000
        source.write_bytes(content)
        stored = site.repo.put(source, f"{site.site_directory}/deep/er/a file ü.bin", {"kind": "test"})
        assert (stored.size_bytes, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert "://" in stored.url
        got = site.repo.get(stored, target)
        assert target.read_bytes() == content
        assert (got.path, got.size_bytes, got.sha256) == (str(target), len(content), stored.sha256)
        assert sorted(path.name for path in target.parent.iterdir()) == ["again.bin"]

    def test_putting_again_replaces(self, site: SiteUnderTest) -> None:
        source, target = site.directory / "changing", site.directory / "changed"
        for text in ("one", "another"):
            source.write_text(text)
            stored = site.repo.put(source, f"{site.site_directory}/changing", {})
            site.repo.get(stored, target)
            assert target.read_text() == text

    def test_a_directory_is_put_and_got(self, site: SiteUnderTest) -> None:
        tree = site.directory / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "one").write_text("1")
        (tree / "sub" / "two").write_text("2")
        stored = site.repo.put(tree, f"{site.site_directory}/tree", {})
        assert stored.sha256 is None
        site.repo.get(stored, site.directory / "tree-back")
        assert (site.directory / "tree-back" / "one").read_text() == "1"
        assert (site.directory / "tree-back" / "sub" / "two").read_text() == "2"

    def test_what_is_not_there_is_not_found(self, site: SiteUnderTest) -> None:
        with pytest.raises(NotFound):
            site.repo.put(site.directory / "absent", f"{site.site_directory}/absent", {})
        source = site.directory / "gone"
        source.write_text("x")
        stored = site.repo.put(source, f"{site.site_directory}/gone-on-site", {})
        away = StoredData(stored.url + "-away", stored.path + "-away", stored.host, stored.size_bytes, stored.sha256)
        with pytest.raises(NotFound):
            site.repo.get(away, site.directory / "never")
        assert not (site.directory / "never").exists()

    def test_what_has_changed_since_is_not_passed_off_as_what_it_was(self, site: SiteUnderTest) -> None:
        source, target = site.directory / "first", site.directory / "not-there"
        source.write_text("first")
        stored = site.repo.put(source, f"{site.site_directory}/subject-to-change", {})
        source.write_text("other")
        site.repo.put(source, f"{site.site_directory}/subject-to-change", {})
        with pytest.raises(SiteError):
            site.repo.get(stored, target)
        assert not list(site.directory.glob("not-there*")), "something was left behind"

    def test_what_is_removed_is_gone(self, site: SiteUnderTest) -> None:
        source = site.directory / "fleeting"
        source.write_text("x")
        stored = site.repo.put(source, f"{site.site_directory}/fleeting", {})
        try:
            site.repo.remove(stored)
        except NotSupported:
            return
        with pytest.raises(NotFound):
            site.repo.get(stored, site.directory / "fleeting-back")
        site.repo.remove(stored)

    def test_a_relative_path_has_a_place(self, site: SiteUnderTest) -> None:
        source = site.directory / "somewhere"
        source.write_text("somewhere")
        stored = site.repo.put(source, "lwfm-contract/somewhere", {})
        site.repo.get(stored, site.directory / "somewhere-back")
        assert (site.directory / "somewhere-back").read_text() == "somewhere"
        try:
            site.repo.remove(stored)
        except NotSupported:
            pass

    def test_where_it_is_it_stays_if_the_site_can_see_it(self, site: SiteUnderTest) -> None:
        source = site.directory / "in place"
        source.write_text("x")
        try:
            stored = site.repo.put(source, None, {})
        except (SiteError, NotSupported):
            return
        assert stored.path == str(source)
        assert stored.sha256 == hashlib.sha256(b"x").hexdigest()

    def test_jobs_see_what_was_put_and_what_they_write_can_be_got(self, site: SiteUnderTest) -> None:
        _offered(site.driver.run, "run")
        source = site.directory / "input"
        source.write_text("three\nlines\nhere\n")
        site.repo.put(source, f"{site.site_directory}/input", {})
        job_id = site.submit("wc -l < input > output")
        assert site.until(job_id).state is JobState.COMPLETE
        place = f"{site.site_directory}/output"
        url = site.repo.put(source, f"{site.site_directory}/other", {}).url.replace("/other", "/output")
        site.repo.get(StoredData(url, place), site.directory / "result")
        assert int((site.directory / "result").read_text()) == 3

    # ------------------------------------------------------------------------------------------ spin

    def test_resources_are_listed(self, site: SiteUnderTest) -> None:
        found = site.spin.list()
        assert all(isinstance(resource, Resource) for resource in found)
        assert len({resource.resource_id for resource in found}) == len(found)
        assert all(resource.kind and resource.state for resource in found)

    def test_what_makes_no_sense_is_refused_by_name(self, site: SiteUnderTest) -> None:
        with pytest.raises(LwfmError):
            site.spin.create("a kind that no site has", {})
        with pytest.raises(LwfmError):
            site.spin.destroy("a resource that no site has")
