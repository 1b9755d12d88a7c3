"""Logging in over fabric: which keys, questions and answers are tried, in which order, until the host is content.

As OpenSSH's client does: the keys, of the agent and in files, then the questions of the host (one-time codes among them), then a
password; and again with what the host still wants where one is not enough (``AuthenticationMethods``). A person is asked in the
thread that logs in, so that Ctrl-C ends it there. Answers are held no longer than they take to send.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Optional

from paramiko import PKey, Transport
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from ..errors import LoginRequired
from .fabric_keys import AgentKeys, Locked, Unusable, load, public_blob
from .fabric_settings import Hop
from .transport import Asker

TRIES = 3
MANY_KEYS = 4
ANSWER_TIMEOUT_S = 600.0
"""How long a host may take over one step; most end it themselves after two minutes."""
_SERVE_S = 0.2

Question = tuple[str, bool]


class Login:
    """Logging in to one host.

    Args:
        hop: the host. ``ask``: whom to ask; None to ask nobody.
    """

    def __init__(self, hop: Hop, ask: Optional[Asker]):
        self._hop = hop
        self._ask = None if hop.batch else ask
        self._tried: list[str] = []
        self._unasked: list[str] = []
        self._unusable: list[str] = []

    def authenticate(self, transport: Transport) -> None:
        """Log in; what fabric calls.

        Raises:
            LoginRequired: the host is not content. SSHException: the connection ended.
        """
        transport.auth_timeout = ANSWER_TIMEOUT_S
        try:
            transport.auth_none(self._hop.user)
            return
        except BadAuthenticationType as refused:
            allowed = list(refused.allowed_types)
        steps = {"publickey": self._keys(), "keyboard-interactive": self._questions(), "password": self._passwords()}
        try:
            while not transport.is_authenticated():
                allowed = self._step(transport, allowed, steps)
        finally:
            for step in steps.values():
                step.close()  # lets go of the agent

    def _step(self, transport: Transport, allowed: Sequence[str], steps: Mapping[str, _Attempts]) -> list[str]:
        """The next attempt that there is for what the host allows; what it allows then."""
        for method in self._hop.methods:
            if method not in allowed:
                continue
            for attempt in steps[method]:
                self._tried.append(method)
                try:
                    return attempt(transport) or list(allowed)  # a list: this was well, and more is wanted
                except BadAuthenticationType as refused:
                    return list(refused.allowed_types)
                except _Unasked:
                    raise self._refused(allowed) from None
                except SSHException as error:
                    if transport.is_active() and isinstance(error, AuthenticationException):
                        return list(allowed)  # not with this
                    if isinstance(error, AuthenticationException) or "uthentication failures" in str(error):
                        raise self._refused(allowed, " and ended the connection") from None
                    raise
        raise self._refused(allowed)

    def _refused(self, allowed: Sequence[str], more: str = "") -> LoginRequired:
        where = f"{self._hop.user}@{self._hop}"
        if self._unasked:
            return LoginRequired(
                f"{where} asks for {self._unasked[0]}, and there is nobody to ask",
                hint="run it on a terminal; or have an ssh-agent hold a key that lets you in there",
            )
        if self._unusable:
            more += f"; {self._unusable[0]}"
        tried = ", ".join(dict.fromkeys(self._tried)) or "nothing that it would take"
        if self._tried.count("publickey") > MANY_KEYS:
            return LoginRequired(
                f"{where} does not let you in{more} (tried: {tried})",
                hint="it was shown many keys, and hosts allow few: name the right one with --identity or IdentityFile",
            )
        others = [method for method in allowed if method not in ("publickey", "keyboard-interactive", "password")]
        hint = f"see whether `ssh {self._hop}` lets you in"
        if others:
            hint += f"; if it does, use it: --transport openssh (the host also takes {', '.join(others)})"
        else:
            hint += "; if it does, --transport openssh uses that"
        return LoginRequired(f"{where} does not let you in{more} (tried: {tried})", hint=hint)

    # ------------------------------------------------------------------------------------------ keys

    def _keys(self) -> _Attempts:
        """The keys that are named, then all others: of the agent before those in files; those that are locked last.

        Hosts allow few tries, six with OpenSSH's: a named key goes before the many that an agent may hold.
        """
        hop = self._hop
        named = {public_blob(path) for path in hop.identities}
        locked: list[Path] = []
        with AgentKeys(hop.agent) as keys:
            held = {key.asbytes() for key in keys}
            for key in keys:
                if key.asbytes() in named:
                    yield _with_key(hop.user, key)
            yield from self._in_files(hop.identities[: hop.given], held, locked)
            for key in keys:
                if key.asbytes() not in named and not hop.only_identities:
                    yield _with_key(hop.user, key)
        yield from self._in_files(hop.identities[hop.given :], held, locked)
        for path in locked:
            unlocked = self._unlock(path)
            if unlocked is not None:
                yield _with_key(hop.user, unlocked)

    def _in_files(self, paths: Sequence[Path], held: set[bytes], locked: list[Path]) -> _Attempts:
        """The keys of these files, but for those that the agent holds; what is locked goes to ``locked``."""
        for path in paths:
            if public_blob(path) in held or not path.is_file():
                continue
            try:
                key = load(path, None)
            except Locked:
                locked.append(path)
            except Unusable as error:
                self._unusable.append(f"{path} {error}")
            else:
                yield _with_key(self._hop.user, key)

    def _unlock(self, path: Path) -> Optional[PKey]:
        if self._ask is None:
            self._unasked.append(f"the passphrase of {path}")
            return None
        for _ in range(TRIES):
            passphrase = self._ask.ask(f"Passphrase for key '{path}' (none to go on without it): ", False)
            if not passphrase:
                return None
            with suppress(Locked):
                return load(path, passphrase)
        return None

    # ------------------------------------------------------------------------------------------ a person

    def _questions(self) -> _Attempts:
        """As often as one may be wrong: all that the host asks, in as many rounds as it likes."""
        for _ in range(TRIES):
            yield self._interview
            if self._unasked:
                return

    def _interview(self, transport: Transport) -> list[str]:
        """One attempt. The library hands over the host's questions in a thread of its own; they are asked in this one."""
        desk = _Desk()

        def in_thread() -> None:
            try:
                desk.end(transport.auth_interactive(self._hop.user, desk.questions), None)
            except BaseException as error:  # all of it is raised again where the desk is served
                desk.end([], error)

        threading.Thread(target=in_thread, name="lwfm-login", daemon=True).start()
        return desk.serve(self._answers)

    def _answers(self, title: str, instructions: str, questions: Sequence[Question]) -> list[str]:
        """What a person answers. ``questions``: with whether the answer may be seen."""
        if not questions:
            return []
        if self._ask is None:
            self._unasked.append(repr(" ".join(questions[0][0].split())[:80]))
            raise _Unasked
        about = [line for line in (title.strip(), instructions.strip()) if line]
        lead = "".join(f"{line}\n" for line in about)
        first = f"({self._hop.user}@{self._hop}) "
        answers = []
        for prompt, echo in questions:
            answers.append(self._ask.ask(f"{lead}{first}{prompt}", echo))
            lead = ""
        return answers

    def _passwords(self) -> _Attempts:
        hop = self._hop
        for _ in range(TRIES):
            if self._ask is None:
                self._unasked.append("a password")
                return
            yield _with_password(hop.user, self._ask.ask(f"{hop.user}@{hop}'s password: ", False))


_Attempt = Callable[[Transport], "list[str]"]
_Attempts = Generator[_Attempt, None, None]


class _Desk:
    """Where the thread that has questions and the one that has a person meet."""

    def __init__(self) -> None:
        self._in: queue.Queue[Any] = queue.Queue()
        self._out: queue.Queue[Optional[list[str]]] = queue.Queue()

    def questions(self, title: str, instructions: str, questions: Sequence[Question]) -> list[str]:
        """In the one thread: have them answered."""
        self._in.put((title, instructions, list(questions)))
        answers = self._out.get()
        if answers is None:
            raise SSHException("not answered")
        return answers

    def end(self, allowed: list[str], error: Optional[BaseException]) -> None:
        """In a thread: it is over."""
        self._in.put((allowed, error))

    def serve(self, answer: Callable[[str, str, Sequence[Question]], list[str]]) -> list[str]:
        """In the other thread: answer until it is over. What ``answer`` raises is raised here."""
        while True:
            try:
                came = self._in.get(timeout=_SERVE_S)
            except queue.Empty:
                continue
            if len(came) == 3:
                try:
                    self._out.put(answer(*came))
                except BaseException:
                    self._out.put(None)
                    raise
                continue
            allowed, error = came
            if error is not None:
                raise error
            return list(allowed)


class _Unasked(Exception):
    """There is nobody to ask."""


def _with_key(user: str, key: PKey) -> _Attempt:
    return lambda transport: list(transport.auth_publickey(user, key))


def _with_password(user: str, password: str) -> _Attempt:
    return lambda transport: list(transport.auth_password(user, password, fallback=False))
