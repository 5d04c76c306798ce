"""Play one run that is disturbed by kills: let the process go on to each kill's window, kill, and let the rest of the world answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamrec.config import Config
from streamrec.testing.chaos.kills import ACTORS, Kill, Target
from streamrec.testing.chaos.rig import Rig, kill, wait_for
from streamrec.testing.chaos.victim import Ended, Hit, Victim
from streamrec.testing.chaos.world import NUM_BATCHES

LONGEST_S = 120.0
"""A run that passes no failpoint for so long hangs."""

OVER_WITHIN_S = 2.0
"""A read that did not appear within this time is over, or its worker is only being started: then any idle one dies, or the first that comes."""

APPEARS_WITHIN_S = 30.0
"""Time that a busy machine may take to start a worker or an actor."""

_READ_TITLES = ("Read", "MapBatches")
_REFRESH_TITLES = ("RayTrainWorker", "BackgroundRefresh.carry_out")
_ANY_TITLES = ("IDLE",)
_BOARD_TITLES = ("Board",)


class Missed(Exception):
    """A kill's window went by, or the run hangs or failed; the text says which."""


@dataclass
class Tally:
    """Count what was done and what was found.

    Attributes:
        targets: Kills by target.
        failpoints: Kills of the controller by failpoint.
        mismatches: One sentence per difference, and per run that failed.
        runs: Runs that were compared.
    """

    targets: Counter[str] = field(default_factory=Counter)
    failpoints: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)
    runs: int = 0


class Disturbed:
    """Hold one run: the process that streams, and what happens to it.

    Args:
        rig: Broker and cluster.
        config: Settings of the run, whose plans lie in its state.
        tally: Counts the kills.
        say: Gets a line per kill.
        start: Starts the process that streams, also after each kill of it.
    """

    def __init__(
        self, rig: Rig, config: Config, tally: Tally, say: Callable[[str], None], start: Callable[[Config, str, int, Path], Victim] = Victim
    ) -> None:
        self._rig = rig
        self._config = config
        self._tally = tally
        self._say = say
        self._log = Path(f"{config.state}.log")
        self._start_victim = start
        self._victim = self._start()

    def play(self, kills: Sequence[Kill]) -> None:
        """Do all the kills, then let the run end.

        Raises:
            Missed: A kill's window was not reached, or the run did not end.
        """
        for one in kills:
            began = time.monotonic()
            while (hit := self._next(f"{one} was never reached")) != Hit(one.failpoint, one.batch):
                if hit.batch > one.batch:
                    what = f"the window of {one} went by"
                    raise Missed(what)
            self._do(one)
            self._tally.targets[one.target.value] += 1
            if one.target is Target.CONTROLLER and not one.delay_s:
                self._tally.failpoints[one.failpoint.name] += 1
            where = f"in batch {one.batch} when {one.failpoint.value}" + (f", {one.delay_s:.1f} s later" if one.delay_s else "")
            self._say(f"killed {one.target.value} {where} ({time.monotonic() - began:.1f} s)")
        while not self._has_ended():
            pass

    def output(self) -> str:
        """Return what the process said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """Leave no process behind."""
        self._victim.kill()

    def _start(self) -> Victim:
        return self._start_victim(self._config, self._rig.ray_address, NUM_BATCHES, self._log)

    def _next(self, otherwise: str) -> Hit:
        found = self._victim.next(LONGEST_S)
        if isinstance(found, Hit):
            return found
        reason = "nothing happens any more" if found is None else found.error or "the run is over"
        what = f"{otherwise}: {reason}"
        raise Missed(what)

    def _has_ended(self) -> bool:
        found = self._victim.next(LONGEST_S)
        if found is None or (isinstance(found, Ended) and found.error):
            what = f"the run did not end: {found.error if found is not None else 'nothing happens any more'}"
            raise Missed(what)
        return isinstance(found, Ended)

    def _do(self, one: Kill) -> None:
        if one.target is Target.CONTROLLER:
            self._kill_controller(one)
        elif one.target is Target.JOB:
            self._kill_job()
        elif one.target in ACTORS:
            kill(self._victim.places[ACTORS[one.target]][0])
            time.sleep(one.delay_s)
        elif one.target is Target.BOARD:
            self._kill_worker(_BOARD_TITLES, APPEARS_WITHIN_S, ())
            time.sleep(one.delay_s)
        elif one.target is Target.DATA_WORKER:
            self._victim.go()
            self._kill_worker(_READ_TITLES, OVER_WITHIN_S)
        elif one.target is Target.REFRESH:
            self._kill_worker(_REFRESH_TITLES, 60.0)
        elif one.target is Target.BROKER:
            self._rig.kill_broker()
            self._victim.go()
            self._rig.restart_broker()
        else:
            self._rig.kill_node(self._victim.places["student"][1])
            self._victim.go()
            self._rig.add_node()

    def _kill_controller(self, one: Kill) -> None:
        deadline = time.monotonic() + one.delay_s
        while (left := deadline - time.monotonic()) > 0:
            found = self._victim.next(left)
            if found is not None and (isinstance(found, Ended) or found.batch > one.batch):
                break
        self._victim.kill()
        self._victim = self._start()

    def _kill_worker(self, titles: Sequence[str], timeout_s: float, otherwise: Sequence[str] = _ANY_TITLES) -> None:
        pid = wait_for(lambda: self._rig.worker_of(*titles), timeout_s)
        if pid is None:
            pid = wait_for(lambda: self._rig.worker_of(*titles, *otherwise), APPEARS_WITHIN_S)
        if pid is None:
            what = f"no worker process runs any of {titles}"
            raise Missed(what)
        kill(pid)

    def _kill_job(self) -> None:
        """Go on as ``python -m jobs.stream``, kill that as soon as it reports a batch, start it again, and once more when it has gone on."""
        self._victim.kill()
        path = Path(f"{self._config.state}.json")
        path.write_text(self._config.model_dump_json(), encoding="utf-8")
        path = path.rename(path.with_suffix(".yaml"))
        for _ in range(2):
            self._kill_after_a_batch([sys.executable, "-m", "jobs.stream", "--config", str(path)])
        self._victim = self._start()

    def _kill_after_a_batch(self, words: Sequence[str]) -> None:
        environment = {**os.environ, "RAY_ADDRESS": self._rig.ray_address}
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if re.match(r"batch \d+,", line):
                break
        process.kill()
        process.wait()
        process.stderr.close()
        if "batch" not in seen:
            what = f"jobs.stream ended before it reported a batch: {seen[-1000:]}"
            raise Missed(what)
