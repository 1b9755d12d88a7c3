"""The loop is killed at each single step it makes: before and after every system call that matters.

Chance finds the wide windows, this finds the narrow ones: each moment of a job's life, of the taking over and of the
writing anew is a moment at which the loop dies once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support import mortal_worker
from support.fake_agent import FakeAgent, printed, run_message

LINK = Path(__file__).resolve().parents[2] / "build" / "link"
SLICES = 6


def run_with_deaths(steps: list[int]) -> bool:
    """Run some jobs through a worker whose loops die at ``steps``, and check what became of them.

    Returns:
        Whether as many loops have died.
    """
    with tempfile.TemporaryDirectory(prefix="lwfm-") as directory:
        place = Path(directory)
        agent = FakeAgent(place / "s")
        # stdout: none, little, much; ends: at once, later, by a signal, with a child left behind.
        lines = {
            "quick": "exit 3",
            "late": "echo little; sleep 0.05; exit 4",
            "much": "head -c 70000 /dev/zero; exit 5",
            "killed": "echo before; kill -9 $$",
            "leaves": "sleep 100 & exit 6",
        }
        own = f".{place.name}"  # a worker looks for a job's processes by the job's id: no other run shall have the same
        messages = [
            run_message(name + own, shell=f"echo {name} >> {place}/ran; {line}") for name, line in lines.items()
        ]
        worker = subprocess.Popen(
            [sys.executable, mortal_worker.__file__, str(agent.path), str(place / "spool"), *map(str, steps)],
            env={**os.environ, "PYTHONPATH": str(LINK)},
            start_new_session=True,
        )
        try:
            seen = 0
            while len(agent.ended) < len(lines):
                agent.wait(lambda n=seen: len(agent.hellos) > n or len(agent.ended) == len(lines), "progress")  # type: ignore[misc]
                if len(agent.hellos) > seen:
                    seen = len(agent.hellos)
                    named = {job[0] for job in agent.hellos[-1]["jobs"]}
                    agent.send(*[m for m in messages if m["job"] not in named and (m["job"], 1) not in agent.ended])
            ends = {
                key[0].partition(".")[0]: (event["cause"], event["exit_code"], event["signal"])
                for key, event in agent.ended.items()
            }
            assert ends == {
                "quick": ("exit", 3, None),
                "late": ("exit", 4, None),
                "much": ("exit", 5, None),
                "killed": ("exit", None, "SIGKILL"),
                "leaves": ("exit", 6, None),
            }
            assert printed(agent.ended["late" + own, 1]) == b"little\n"
            assert printed(agent.ended["killed" + own, 1]) == b"before\n"
            much = agent.ended["much" + own, 1]["stdout"]
            assert much["size"] == Path(much["path"]).stat().st_size == 70000
            assert sorted((place / "ran").read_text().split()) == sorted(lines)
            assert not agent.duplicates
            return text_of(place / "spool" / "worker.log").count("the loop died (signal 9)") == len(steps)
        except AssertionError as error:
            files = "\n".join(text_of(place / "spool" / name) for name in ("worker.log", "journal"))
            raise AssertionError(f"deaths at steps {steps}: {error}\n{agent.hellos}\n{files}") from None
        finally:
            agent.close()
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(SLICES))
def test_killed_at_every_step(part: int) -> None:
    step = 1 + part
    while run_with_deaths([step]):
        step += SLICES
    assert step > 60  # it takes that many at the very least


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", [25, 38, 51, 64])
def test_killed_again_while_taking_over(first: int) -> None:
    for second in range(1, 30):
        run_with_deaths([first, second])
