from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lwfm.library import submission
from lwfm.library.submission import capture_context, git_state


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_git_answers", {})
    monkeypatch.delenv("GIT_DIR", raising=False)


@pytest.fixture
def working_copy(tmp_path: Path) -> Path:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *words], check=True)

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    (tmp_path / "below").mkdir()
    return tmp_path


def test_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MY_API_KEY", "secret")
    monkeypatch.setenv("LWFM_COMMAND", '["lwfm"]')
    context = capture_context()
    assert context["cwd"] == str(tmp_path)
    assert context["env"]["OMP_NUM_THREADS"] == "3"
    assert context["env"]["LWFM_COMMAND"] == '["lwfm"]'
    assert "MY_API_KEY" not in context["env"]
    assert "git" not in context
    assert all(context[key] for key in ("host", "user", "python", "version"))


def test_git(working_copy: Path) -> None:
    state = git_state(str(working_copy / "below"))
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (working_copy / "new").write_text("")
    submission._git_answers.clear()
    assert (git_state(str(working_copy)) or {})["dirty"] is False  # untracked files are not changes
    (working_copy / "a").write_text("2")
    submission._git_answers.clear()
    assert (git_state(str(working_copy)) or {})["dirty"] is True


def test_git_is_asked_once(working_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = git_state(str(working_copy))
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(str(working_copy)) == first


def test_before_the_first_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert git_state(str(tmp_path)) is None


def test_without_git(working_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(str(working_copy)) is None


def test_git_that_takes_too_long(working_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "git"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ncase "$*" in *status*) exec sleep 20;; *) echo abc;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(submission, "GIT_TIMEOUT_S", 0.3)
    assert git_state(str(working_copy)) == {"commit": "abc"}
