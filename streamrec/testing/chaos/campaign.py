"""Play runs that are disturbed by kills, and compare each with its undisturbed reference."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.config import Config
from streamrec.log.connect import kafka_address, open_table_reader
from streamrec.testing.chaos.compare import Reader, differences, fingerprint
from streamrec.testing.chaos.kills import Kill, Target, choose
from streamrec.testing.chaos.reference import USERS, Reference, play, write_plans
from streamrec.testing.chaos.rig import Rig, kill, wait_for
from streamrec.testing.chaos.victim import Ended, Hit, Victim
from streamrec.testing.chaos.world import NUM_BATCHES, make_config, make_plans
from streamrec.testing.failpoints import Failpoint

LONGEST_S = 120.0
"""A run that passes no failpoint for so long hangs."""

_READ_TITLES = ("Read", "MapBatches")
_REFRESH_TITLES = ("RayTrainWorker", "_carry_out_task")
_ANY_TITLES = ("IDLE",)
Wanted = Sequence[tuple[Target, Failpoint | None]]


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


class Campaign:
    """Disturb run after run on one rig.

    Args:
        rig: Broker and cluster.
        say: Gets a line per kill and run.
        readers: What a comparison reads besides the checkpoint and the registry, by name.
    """

    def __init__(self, rig: Rig, say: Callable[[str], None], readers: Mapping[str, Reader] | None = None) -> None:
        self.tally = Tally()
        self._rig = rig
        self._say = say
        self._readers = dict(readers or {})
        self._references: dict[bool, Reference] = {}
        self._num_states = 0

    def reference(self, *, with_transformer: bool) -> Reference:
        """Return what nothing disturbed, made at the first call."""
        if with_transformer not in self._references:
            self._references[with_transformer] = self.replayed(lambda reader: reader, with_transformer=with_transformer)
        return self._references[with_transformer]

    def replayed(self, through: Callable[[Any], Any], *, with_transformer: bool) -> Reference:
        """Play the plans in this process, the log read through a wrapper."""
        config = self._new_config()
        reader = open_table_reader(kafka_address(self._rig.broker.removeprefix("kafka://")), config.log)
        try:
            return play(config, make_plans(config, self._rig.ends, with_transformer=with_transformer), through(reader), self._readers)
        finally:
            reader.close()

    def run(self, rng: np.random.Generator, wanted: Wanted, *, with_transformer: bool) -> list[str]:
        """Play one disturbed run, compare it, and return what is wrong with it."""
        reference = self.reference(with_transformer=with_transformer)
        kills = choose(rng, wanted, reference.windows)
        config = self._new_config()
        write_plans(config, make_plans(config, self._rig.ends, with_transformer=with_transformer))
        disturbed = _Disturbed(self._rig, config, self.tally, self._say)
        try:
            disturbed.play(kills)
            got = fingerprint(config, config.state, USERS, self._readers)
            wrong = [f"{name}: {text}" for name, text in differences(reference.fingerprint, got).items()]
        except Missed as error:
            wrong = [f"{error}; its output ends with {disturbed.output()[-1500:]!r}"]
        finally:
            disturbed.close()
        self.tally.runs += 1
        self.tally.mismatches += wrong
        return wrong

    def _new_config(self) -> Config:
        self._num_states += 1
        return make_config(str(self._rig.states / f"{self._num_states}"), self._rig.broker)


class _Disturbed:
    """One run: the process that streams, and what happens to it."""

    def __init__(self, rig: Rig, config: Config, tally: Tally, say: Callable[[str], None]) -> None:
        self._rig = rig
        self._config = config
        self._tally = tally
        self._say = say
        self._log = Path(f"{config.state}.log")
        self._victim = self._start()

    def play(self, kills: Sequence[Kill]) -> None:
        """Do all the kills, then let the run end."""
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
        return Victim(self._config, self._rig.ray_address, NUM_BATCHES, self._log)

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
        elif one.target in {Target.STUDENT, Target.SCORER}:
            kill(self._victim.places["student" if one.target is Target.STUDENT else "scorer"][0])
            time.sleep(one.delay_s)
        elif one.target is Target.DATA_WORKER:
            self._victim.go()
            self._kill_worker(_READ_TITLES, 2.0)
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

    def _kill_worker(self, titles: Sequence[str], timeout_s: float) -> None:
        pid = wait_for(lambda: self._rig.worker_of(*titles), timeout_s) or self._rig.worker_of(*_ANY_TITLES)
        if pid is None:
            what = f"no worker process runs any of {titles}"
            raise Missed(what)
        kill(pid)

    def _kill_job(self) -> None:
        """Go on as ``python -m jobs.stream`` and kill that as soon as it reports a batch."""
        self._victim.kill()
        path = Path(f"{self._config.state}.json")
        path.write_text(self._config.model_dump_json(), encoding="utf-8")
        path = path.rename(path.with_suffix(".yaml"))
        words = [sys.executable, "-m", "jobs.stream", "--config", str(path)]
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
        self._victim = self._start()
