"""The service of the site author's guide, while a test runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rest_site"
USER, PASSWORD = "ada", "sesame"


def answer(prompt: str, secret: bool) -> str:
    """What a person says to it."""
    return PASSWORD if secret else USER


@contextmanager
def rest_service() -> Iterator[str]:
    """Its address."""
    command = [sys.executable, str(EXAMPLE / "service.py"), USER, PASSWORD]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    try:
        yield service.stdout.readline().strip()
    finally:
        service.terminate()
        service.wait(20)
        service.stdout.close()
