"""Kill the streaming driver in its middle and compare it with an undisturbed run that was given the same plans."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess

import pytest

from streamrec.pipeline.plan_store import PlanStore
from streamrec.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_FIRST, NUM_SECOND = 2000, 4000


def run_and_kill(jobs, state, batch):
    """Start the stream and kill it with SIGKILL as soon as it reports ``batch``."""
    words = jobs.command(state, "stream", "--until-idle", "3s")
    process = subprocess.Popen(words, cwd=jobs.root, env=jobs.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen, newest = "", 0
    for line in process.stderr:
        seen += line
        found = re.match(r"batch (\d+),", line)
        newest = int(found.group(1)) if found else newest
        if newest >= batch:  # Batches without records are not reported.
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert newest >= batch, seen[-2000:]


def test_a_killed_driver_ends_with_the_counts_and_the_bits_of_an_undisturbed_one(jobs):
    jobs.append(0, NUM_FIRST)
    jobs.run("planned", "bootstrap")
    for name in ("undisturbed", "killed"):
        shutil.copytree(jobs.folder / "planned", jobs.folder / name)
    jobs.append(NUM_FIRST, NUM_SECOND)
    jobs.run("planned", "stream", "--until-idle", "3s")
    jobs.run("planned", "refresh_teachers")  # Waits for the refreshes that the next events use.
    plans = PlanStore(open_storage(jobs.folder / "planned"))
    planned = {batch: plans.read(batch) for batch in plans.batches()}  # Later commits let go of the oldest.
    jobs.append(NUM_SECOND, jobs.num_events)
    jobs.run("planned", "stream", "--until-idle", "3s")
    planned |= {batch: plans.read(batch) for batch in plans.batches()}
    first, last = min(planned), max(planned)
    for name in ("undisturbed", "killed"):
        target = PlanStore(open_storage(jobs.folder / name))
        for batch in range(first, last):  # The last one is the closing commit.
            if batch not in target.batches():
                target.write({**planned[batch], "checkpoint": batch % 4 == 0}, batch)
    undisturbed = jobs.run("undisturbed", "stream", "--until-idle", "3s")
    run_and_kill(jobs, "killed", first + 5)
    run_and_kill(jobs, "killed", first + 9)
    survivor = jobs.run("killed", "stream", "--until-idle", "3s")
    assert undisturbed["books"]["received"] == jobs.num_events
    assert undisturbed["books"]["applied"] == jobs.num_events
    assert survivor["books"] == undisturbed["books"]
    assert survivor["labels"] == undisturbed["labels"]
    assert any(key.startswith("transformer") and int(key.split(" v")[1]) > first for key in survivor["labels"]), survivor["labels"]
    assert survivor["digests"] == undisturbed["digests"]
