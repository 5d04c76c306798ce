"""Stop jobs with SIGTERM, as a cluster does, and go on."""

from __future__ import annotations

import json
import signal

import pytest

from streamrec.cli.replay import INTERRUPTED

pytestmark = [pytest.mark.slow, pytest.mark.release, pytest.mark.timeout(600)]

NUM_FIRST, NUM_ALL = 2000, 5500
# What this asks of teachers is that there are some.
QUICK = {"teachers": {"enabled": ["linear"], "linear_refresh_events": 700}, "student": {"control": False}}
OWN = {"log", "one", "one.yaml"}


def test_sigterm_ends_a_stream_with_a_commit_and_its_json_and_nothing_is_left_or_applied_twice(jobs):
    jobs.changes = QUICK
    jobs.append(0, NUM_FIRST)
    status, output, errors = jobs.signalled(signal.SIGTERM, 1, "one", "bootstrap")
    assert (status, output) == (INTERRUPTED, ""), errors[-2000:]
    assert errors.endswith("stopped by a signal before its end\n")
    assert jobs.names() == OWN
    first = jobs.run("one", "bootstrap")
    assert (first["books"]["applied"], first["versions"]) == (NUM_FIRST, {"published": 1, "promoted": 1, "rejected": 0})
    jobs.append(NUM_FIRST, NUM_ALL)

    status, output, errors = jobs.signalled(signal.SIGTERM, 1, "one", "stream")
    assert status == 0, errors[-2000:]
    stopped = json.loads(output.splitlines()[-1])
    assert jobs.names() == OWN
    books = stopped["books"]
    assert NUM_FIRST < books["received"] == books["applied"]
    assert books["pending"] == 0

    last = jobs.run("one", "stream", "--until-idle", "2s")
    assert last["books"] == {"received": NUM_ALL, "applied": NUM_ALL, "duplicate": 0, "rejected": 0, "late": 0, "quarantined": 0, "pending": 0}
    assert last["batch"] > stopped["batch"]
    assert sum(last["offsets"].values()) == NUM_ALL
