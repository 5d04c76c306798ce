"""Run the demo as a user does, bounded, and look at what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = {
    "events": {"bootstrapped", "received", "applied", "duplicate", "rejected", "late", "quarantined", "pending"},
    "versions": {"published", "promoted", "rejected"},
    "swaps": {"count", "all_replicas_ms_p50", "all_replicas_ms_max"},
    "requests": {"sent", "failed", "p50_ms", "p99_ms"},
    "freshness": {"state_ms_p50", "state_ms_p99", "model_s_p50", "model_s_p95"},
    "recall20": {"student", "student_events_only", "popular", "teachers"},
}


def processes_in(folder) -> list[str]:
    """Return the processes that work in a folder; Ray's do so in their driver's."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # It ended, or is not ours to look at.
            if process.cwd() == str(folder):
                found.append(" ".join(process.cmdline()) or process.name())
    return found


def test_a_bounded_demo_on_files_ends_by_itself_with_all_figures_and_leaves_nothing(jobs):
    words = [
        sys.executable,
        "-m",
        "jobs.demo",
        "--broker",
        "local",
        "--max-events",
        "20000",
        "--seconds",
        "20",
        "--set",
        "teachers.transformer.first_steps=40",
    ]
    done = subprocess.run(words, cwd=jobs.folder, env=jobs.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((jobs.folder / "runs" / "demo" / "summary.json").read_text())
    for name, keys in KEYS.items():
        assert keys <= summary[name].keys()
    assert summary["broker"].startswith("local")
    assert summary["input"] == "ml-100k"
    events = summary["events"]
    assert events["bootstrapped"] == 10_000
    assert events["received"] == events["applied"] == events["produced"] + events["probes"]
    assert summary["swaps"]["count"] >= 5
    assert set(summary["recall20"]["teachers"]) == {"linear", "transformer", "repeats", "ensemble"}
    assert summary["recall20"]["student"] > summary["recall20"]["popular"]
    assert "(raylet)" not in done.stdout
    assert processes_in(jobs.folder) == []
    assert jobs.names() == {"runs"}  # TMPDIR is the folder, too.
