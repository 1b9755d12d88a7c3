"""What all tests share: where skipping is not allowed (CI, or LWFM_NO_SKIP=1), a skipped test is an error.

A test that cannot run everywhere, and need not, says so with ``@pytest.mark.optin``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")  # a machine that is busy with something else is no mistake


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C reaches what tests start, also when they run in the background of a shell, which has it ignored there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def skipping_is_an_error() -> bool:
    return bool(os.environ.get("CI")) or os.environ.get("LWFM_NO_SKIP") == "1"


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn `report` of a skip into one of a failure that gives the reason of the skip."""
    where, line, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    report.outcome = "failed"
    report.longrepr = f"skipped where skipping is an error (CI or LWFM_NO_SKIP=1): {reason} [{where}:{line}]"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    if report.skipped and not expected_failure and skipping_is_an_error() and not item.get_closest_marker("optin"):
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield  # a module that skips itself whole, for instance for want of an import
    if report.skipped and skipping_is_an_error():
        refuse_skip(report)
    return report
