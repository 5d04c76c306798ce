"""Turn skipped tests into failures where `STREAMREC_NO_SKIPS` is 1: a machine that judges changes has every tool and dataset.

A pytest plugin, loaded with ``-p no_skips`` and ``PYTHONPATH=tests``; without the variable it does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

ALLOWED: frozenset[str] = frozenset()
"""Node ids that may skip. Empty, and an entry needs a reason beside it."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skip as a failure with the skip's reason; an expected failure stays one."""
    report = yield
    if _forbidden(report, item.nodeid):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which is a failure here: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a whole module that skips itself."""
    report = yield
    if _forbidden(report, collector.nodeid):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, which is a failure here: {_reason(report.longrepr)}"
    return report


def _forbidden(report: Any, nodeid: str) -> bool:
    return os.environ.get("STREAMREC_NO_SKIPS") == "1" and report.outcome == "skipped" and not hasattr(report, "wasxfail") and nodeid not in ALLOWED


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
