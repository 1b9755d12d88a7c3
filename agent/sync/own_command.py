"""A command of lwfm that the agent starts for itself: it never asks anybody, and the agent outlives whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import NamedTuple

from ..paths import HOME_VARIABLE, Home, self_command

COMPLAINT_BYTES = 4096


class Ended(NamedTuple):
    """How a command ended: its exit code; the first line of the end of what it complained of; what it printed."""

    code: int
    complaint: str
    printed: bytes


async def run_own_command(home: Home, *words: str, limit_s: float) -> Ended:
    """Run ``lwfm WORDS`` for the instance of ``home``; when cancelled, or after ``limit_s`` seconds, it is ended.

    Raises:
        OSError: it cannot be started. TimeoutError of asyncio: it took too long.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LWFM_TRIGGER_")}
    environment[HOME_VARIABLE] = str(home.root)
    process = await asyncio.create_subprocess_exec(
        *self_command(),
        "--home",
        str(home.root),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        printed, said = await asyncio.wait_for(process.communicate(), limit_s)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        raise
    lines = said[-COMPLAINT_BYTES:].decode("utf-8", "replace").strip().splitlines()
    return Ended(process.returncode or 0, lines[0] if lines else "", printed)
