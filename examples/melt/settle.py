"""Runs when all points of the study have ended: gives up the analyses of those that left no log.

Each log fires one analysis, and the summary waits for all of them. A point that failed never puts a log; its analysis
would wait for ever, and the summary with it. When all points have ended no more logs will come: unsetting the handler
cancels the analyses still waiting (and no other), and the summary can be made of those there are.
"""

from __future__ import annotations

import sys

from lwfm import LwfManager


def main() -> None:
    """Unset the handler named as the argument, if it is still waiting."""
    manager = LwfManager()
    waiting = manager.events(workflow=manager.context().workflow_id, state="waiting")
    handler = next((each for each in waiting if each.handler_id == sys.argv[1]), None)
    if handler is None:
        print("every point has put its log")
        return
    missing = len(handler.job_ids) - handler.fired
    manager.log(f"{missing} points put no log: their analyses are given up", level="WARNING")
    manager.unset_event(handler, reason="all points have ended: no more logs will come")
    print(f"{missing} analyses given up")


if __name__ == "__main__":
    main()
