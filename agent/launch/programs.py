"""The programs of schedulers and launchers: where they are, and what they say when they are asked. Starts no job."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Optional

SGE_BINARIES_VARIABLE = "SGE_BINARY_PATH"
ASK_TIMEOUT_S = 15.0


def find_program(name: str) -> Optional[str]:
    """Where a program is: on PATH, or where the scheduler has its own. Jobs of Grid Engine are told, but do not get it on PATH."""
    return shutil.which(name) or shutil.which(name, path=os.environ.get(SGE_BINARIES_VARIABLE, ""))


def answer_of(words: Sequence[str]) -> str:
    """What a command says on its standard output. Raises OSError, also when it fails or takes too long."""
    return _told(words, stderr=subprocess.PIPE, check=True, timeout_s=ASK_TIMEOUT_S)


def version_of(words: Sequence[str], timeout_s: float = ASK_TIMEOUT_S) -> str:
    """What a command says, on either stream and however it ends: some tell their version as an error. Raises OSError likewise."""
    return _told(words, stderr=subprocess.STDOUT, check=False, timeout_s=timeout_s)


def _told(words: Sequence[str], *, stderr: int, check: bool, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            list(words),
            executable=find_program(words[0]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=timeout_s,
            check=check,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"{words[0]}: {error}") from error
    return done.stdout.decode("utf-8", "replace")
