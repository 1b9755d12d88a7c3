"""What is a secret and what is not; that none reaches the store, and that the job still gets it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwfm.errors import StoreError
from lwfm.recording.requests import RequestBuilder
from lwfm.recording.sealing import Vault
from lwfm.redaction import REDACTED, is_secret, redact_environment, redact_text, redact_words, taken_over

from support.threads import Thread

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "name",
    [
        "PASSWORD", "DB_PASS", "db_password", "API_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_KEY", "AUTH", "SESSION_1",
        "OPENAI_API_KEY",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name, "x")


@pytest.mark.parametrize(
    "name", ["PATH", "OMP_NUM_THREADS", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PASSENGERS", "MONKEY", "XAUTHORITY_"]
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret(name, "/usr/bin:1")


@pytest.mark.parametrize(
    "value",
    [
        "ghp_" + "a" * 36, "AKIA" + "A" * 16, "hf_" + "b" * 30, "https://ada:pw@host/x",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
        "https://hooks.slack.com/services/T000/B000/" + "x" * 24, "https://discord.example/api/webhooks/1234/" + "y" * 40,
    ],
)  # fmt: skip
def test_values_that_are_secrets_under_any_name(value: str) -> None:
    assert is_secret("HARMLESS", value)
    assert value not in redact_text(f"use {value} now")
    assert value[-20:] not in redact_text(f"use '{value}' now")


@pytest.mark.parametrize(
    "line",
    [
        f"prog --password {SECRET}", f"prog --password={SECRET} x", f"prog -password '{SECRET} and more'",
        f'prog --db-password "{SECRET}"', f"prog --api-key={SECRET}", f"API_TOKEN={SECRET} prog",
        f"export DB_PASSWORD='{SECRET} and more'; prog", f"env PGPASSWORD={SECRET} psql",
        f"curl -H 'Authorization: Bearer {SECRET}' x", f"curl -H 'authorization: Basic {SECRET}'",
        f"git clone https://ada:{SECRET}@host/x",
    ],
)  # fmt: skip
def test_secrets_in_a_shell_line(line: str) -> None:
    redacted = redact_text(line)
    assert SECRET not in redacted
    assert "and more" not in redacted
    assert REDACTED in redacted


@pytest.mark.parametrize(
    "line",
    [
        "lmp -in in.melt -var T 0.7", "prog --token-file=/etc/x --max-tokens 5", "prog max_tokens=512 keys=3", "echo --password",
        "ssh -i ~/.ssh/id host", "http://host:80/path@v1",
    ],
)  # fmt: skip
def test_lines_without_secrets_stay_as_they_are(line: str) -> None:
    assert redact_text(line) == line


def test_a_word_that_follows_its_option_is_blotted_out_whole() -> None:
    words = [
        "prog",
        "--password",
        f"{SECRET} with spaces",
        "--token=a b",
        "env",
        "API_TOKEN=x y",
        "--password",
        "--secret",
        "plain",
    ]
    assert redact_words(words) == [
        "prog", "--password", REDACTED, f"--token={REDACTED}", "env", f"API_TOKEN={REDACTED}", "--password", REDACTED, "plain",
    ]  # fmt: skip


def test_an_environment() -> None:
    shown, secrets = redact_environment({"A": "1", "DB_PASSWORD": SECRET})
    assert shown == {"A": "1", "DB_PASSWORD": REDACTED}
    assert secrets == {"DB_PASSWORD": SECRET}


def test_of_a_submitters_environment_only_what_is_allowed_is_taken_over() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "SSH_AUTH_SOCK": "/x",
        "MY_VAR": "1",
        "OMP_NUM_THREADS": "2",
        "HOME": "/h\0",
        "LMOD_TOKEN": "x",
    }
    assert taken_over(given) == {"PATH": "/bin", "LC_ALL": "C", "OMP_NUM_THREADS": "2"}


@pytest.mark.parametrize(
    "command", [["prog", "--password", SECRET], f"prog --password {SECRET} | tail", ["prog", f"--token={SECRET} x"]]
)
def test_no_secret_reaches_the_store_and_the_job_gets_it(tmp_path: Path, command: Any) -> None:
    thread = Thread(tmp_path)
    event = {"match": {"kind": "a"}, "defn": {"command": command, "env": {"A_TOKEN": SECRET}}, "repeat": 2}
    job = thread.submit(command, env={"DB_PASSWORD": SECRET, "PLAIN": "1"})
    handler = thread.unit(thread.service.set_handler, {"kind": "data", "event": event})
    thread.unit(thread.service.log, [{"message": f"login --password {SECRET}"}])
    thread.put(properties={"kind": "a"})
    dump = "\n".join(thread.connection.iterdump())
    assert SECRET not in dump
    thread.crash()
    builder = RequestBuilder(thread.vault, {}, str(tmp_path))
    for owner in (job, handler["job_ids"][0]):
        (request,) = builder.build(thread.connection, {owner: None})
        defn = request.request.defn
        assert defn.command == (tuple(command) if isinstance(command, list) else command)
        assert SECRET in defn.env.values()
    thread.vault.forget(job)
    assert not list((tmp_path / "sealed").glob(f"{job}*"))
    (request,) = builder.build(thread.connection, {job: None})
    assert request.request.defn.env["DB_PASSWORD"] == REDACTED
    thread.close()


def test_secrets_lie_in_files_of_the_owner_alone(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    definition = {"command": ["x", os.fsdecode(b"\xff")], "env": {"A_TOKEN": SECRET + "\udcff"}}
    sealed = vault.seal("job", definition)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert vault.unseal(["other", "job"], sealed) == definition
    assert Vault(tmp_path).owners() == ["job"]
    assert vault.seal("none", {"command": "true"}) == {"command": "true"}
    vault.forget("job")
    vault.forget("job")
    assert list(tmp_path.iterdir()) == []
    assert json.loads(json.dumps(sealed)) == sealed


def test_a_secret_that_cannot_be_kept_is_an_error_not_a_job_without_it(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "gone")
    with pytest.raises(StoreError, match="cannot keep a secret"):
        vault.seal("job", {"command": "true", "env": {"A_TOKEN": SECRET}})


@settings(max_examples=400)
@given(
    words=st.lists(
        st.text("aA0_./-=: \n", max_size=18) | st.sampled_from(["--token", "-password", "x", "AKIAAAAAAAAAAAAAAA"])
    )
)
def test_short_plain_words_are_never_what_would_have_been_blotted_out(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lwfm.redaction._HARMLESS", re.compile(r"(?!)"))
        looked_at_in_all_detail = redact_words(words)
    assert redact_words(words) == looked_at_in_all_detail
