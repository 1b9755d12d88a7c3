from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lwfm
from lwfm import LwfManager, errors
from lwfm.library import logs

from support.fake_api import FakeApi, Request
from support.waiting import wait_until


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    for name in ("LWFM_SOCKET", "LWFM_JOB_ID", "LWFM_WORKFLOW_ID"):
        monkeypatch.delenv(name, raising=False)
    with FakeApi(tmp_path / "home", {"POST /v1/logs": {}}) as fake:
        yield fake


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("a test's")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    yield made
    for handler in list(made.handlers):
        made.removeHandler(handler)
        handler.close()


def sent(api: FakeApi) -> list[dict[str, Any]]:
    return [line for request in api.asked("POST", "/v1/logs") for line in request.body["lines"]]


def test_lines_arrive_by_themselves(api: FakeApi, logger: logging.Logger) -> None:
    logger.addHandler(lwfm.logging_handler("j1", level="INFO", manager=LwfManager(api.home)))
    logger.debug("not this")
    logger.warning("step %d", 3)
    wait_until(lambda: sent(api), "the line")
    (line,) = sent(api)
    assert (line["level"], line["message"], line["job"]) == ("WARNING", "step 3", "j1")
    assert line["time"].endswith("Z")


def test_many_lines_go_together(api: FakeApi, logger: logging.Logger) -> None:
    handler = lwfm.logging_handler(manager=LwfManager(api.home))
    logger.addHandler(handler)
    for number in range(500):
        logger.info("%d", number)
    handler.close()
    assert [line["message"] for line in sent(api)] == [str(number) for number in range(500)]
    assert len(api.asked("POST", "/v1/logs")) < 50


def test_a_traceback_is_kept(api: FakeApi, logger: logging.Logger) -> None:
    handler = lwfm.logging_handler(manager=LwfManager(api.home))
    logger.addHandler(handler)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logger.exception("failed")
    handler.close()
    assert "ZeroDivisionError" in sent(api)[0]["message"]


def test_nothing_of_it_reaches_the_user(
    api: FakeApi, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    api.replies["POST /v1/logs"] = errors.StoreFull("no room")
    handler = lwfm.logging_handler(manager=LwfManager(api.home))
    logger.addHandler(handler)
    logger.info("%d", "not a number")
    logger.info("fine")
    handler.flush()
    assert capsys.readouterr() == ("", "")
    api.replies["POST /v1/logs"] = {}  # there is room again
    handler.flush()
    assert sent(api)[-1]["message"] == "fine"


def test_lines_that_are_refused_do_not_block_those_after_them(api: FakeApi, logger: logging.Logger) -> None:
    def refuse_first(request: Request) -> Any:
        if request.body["lines"][0]["message"] == "bad":
            raise errors.NotFound("no such job")
        return {}

    api.replies["POST /v1/logs"] = refuse_first
    handler = lwfm.logging_handler(manager=LwfManager(api.home))
    logger.addHandler(handler)
    logger.info("bad")
    handler.flush()
    logger.info("good")
    handler.flush()
    assert sent(api)[-1]["message"] == "good"


def test_waiting_lines_are_bounded(api: FakeApi, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    api.replies["POST /v1/logs"] = errors.AgentBusy("later")
    handler = lwfm.logging_handler(manager=LwfManager(api.home))
    logger.addHandler(handler)
    for number in range(100):
        logger.info("%d", number)
    api.replies["POST /v1/logs"] = {}
    handler.close()
    assert [line["message"] for line in sent(api)][-1] == "99"


def test_a_script_that_ends_at_once_loses_nothing(api: FakeApi) -> None:
    program = "import logging, lwfm; logging.basicConfig(level=20, handlers=[lwfm.logging_handler()]); logging.info('last words')"
    search = os.path.dirname(os.path.dirname(lwfm.__file__))
    environment = {**os.environ, "PYTHONPATH": search, "LWFM_HOME": str(api.home), "LWFM_JOB_ID": "j"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, check=True
    )
    assert done.stderr == b""
    assert [(line["message"], line["job"]) for line in sent(api)] == [("INFO:root:last words", "j")]


def test_a_forked_child_sends_its_own(api: FakeApi, logger: logging.Logger) -> None:
    handler = lwfm.logging_handler(manager=LwfManager(api.home))
    logger.addHandler(handler)
    logger.info("parent")
    handler.flush()
    pid = os.fork()
    if pid == 0:
        try:
            logger.info("child")
            handler.flush()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert [line["message"] for line in sent(api)] == ["parent", "child"]
