"""Kill the loop again and again: ``python -m streamrec.testing.chaos --kills 200 --seed 7``.

Eight kills share a run; each run is compared with an undisturbed one. The seed is printed, and with it the same kills are chosen again. What is done
is noted after each run in ``runs/chaos-SEED.json``: started again with the same seed, it goes on there. The last line is one JSON object; the exit
status is 1 when something differed, a run hung or failed, the comparison does not see a removed event or deletion, or a failpoint or a target was
never hit though all kills are done.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.testing.chaos.campaign import Campaign
from streamrec.testing.chaos.disturbed import Tally
from streamrec.testing.chaos.kills import OTHERS, Target, wanted_of_run
from streamrec.testing.chaos.rig import open_rig
from streamrec.testing.failpoints import Failpoint

# A fit costs more than the kills of a run.
_TRANSFORMER_EVERY = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run until so many kills are done and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m streamrec.testing.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="at least so many")
    parser.add_argument("--seed", type=int, help="chooses the kills; without it one is drawn")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so long")
    options = parser.parse_args(argv)
    seed = options.seed if options.seed is not None else secrets.randbelow(10**6)
    _say(f"SEED={seed}")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    notes = Path("runs") / f"chaos-{seed}.json"
    done: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() else {"seconds": 0.0}
    began = time.monotonic() - done["seconds"]
    with open_rig() as rig:
        campaign = Campaign(rig, _say)
        tally = campaign.tally
        for name in ("targets", "failpoints"):
            getattr(tally, name).update(done.get(name, {}))
        tally.mismatches, tally.runs = list(done.get("mismatches", [])), done.get("runs", 0)
        if not tally.runs:
            _say(f"comparison: {'; '.join(campaign.prove(with_transformer=False)) or 'sees lost events of both namespaces and a lost deletion'}")
        while tally.targets.total() < options.kills and time.monotonic() - began < options.seconds:
            run = tally.runs
            with_transformer = run % _TRANSFORMER_EVERY == 0
            wanted = wanted_of_run(seed, run, with_transformer=with_transformer)
            wrong = campaign.run(np.random.default_rng((seed, run)), wanted, with_transformer=with_transformer)
            _say(f"run {run}: {'; '.join(wrong) or 'as if nothing had happened'}")
            notes.parent.mkdir(exist_ok=True)
            notes.write_text(json.dumps({**vars(tally), "seconds": time.monotonic() - began}))
    result, status = verdict(tally, options.kills)
    if result["is_complete"]:
        notes.unlink(missing_ok=True)
    sys.stdout.write(json.dumps({**result, "seed": seed, "seconds": round(time.monotonic() - began, 1)}) + "\n")
    return status


def verdict(tally: Tally, num_kills: int) -> tuple[dict[str, Any], int]:
    """Return what was done and found as JSON values, and the exit status: 1 after a difference, or when all kills are done and one was never made.

    Args:
        tally: The counts.
        num_kills: Kills that were wanted.
    """
    is_complete = tally.targets.total() >= num_kills
    missed = [*(failpoint.name for failpoint in Failpoint if failpoint.name not in tally.failpoints)]
    missed += [target.value for target in (Target.CONTROLLER, *OTHERS) if target.value not in tally.targets]
    result = {
        "kills": tally.targets.total(),
        "by_target": dict(tally.targets),
        "failpoints_hit": dict(tally.failpoints),
        "missed": sorted(missed),
        "mismatches": tally.mismatches,
        "runs": tally.runs,
        "is_complete": is_complete,
    }
    return result, 1 if tally.mismatches or (missed and is_complete) else 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
