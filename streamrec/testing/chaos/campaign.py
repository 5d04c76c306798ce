"""Play runs that are disturbed by kills, and compare each with its undisturbed reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, cast

import numpy as np

from streamrec.config import Config
from streamrec.log.base import TableReader
from streamrec.log.connect import kafka_address, open_table_reader
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.session import state_address
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.testing.chaos.compare import differences, fingerprint
from streamrec.testing.chaos.disturbed import Disturbed, Missed, Tally
from streamrec.testing.chaos.kills import Target, choose
from streamrec.testing.chaos.records import DEFAULT, PLANTED, SHOP, place_of
from streamrec.testing.chaos.reference import Reference, Without, play, write_plans
from streamrec.testing.chaos.replica import Replica
from streamrec.testing.chaos.rig import Rig
from streamrec.testing.chaos.world import make_config, make_plans
from streamrec.testing.failpoints import Failpoint

Wanted = Sequence[tuple[Target, Failpoint | None]]

REMOVED = {"an event": (DEFAULT, "e500"), "an event of the second namespace": (SHOP, "e250"), "a deletion": (DEFAULT, f"forget-{PLANTED}")}
"""Namespace and id of what is removed, one at a time, and must be missed by the comparison."""

_OF_EVENT = ("books", "events by item", "events by user", "events by namespace", "lake rows", "component student")
MUST_DIFFER = {
    "an event": _OF_EVENT,
    "an event of the second namespace": _OF_EVENT,
    "a deletion": ("books", "vocabulary", "events by user", "tombstones", "receipts", "lake rows", "component student"),
}
"""What the loss of each must change in a comparison."""

_CRASHES = ("Fatal Python error", "*** SIG", "Check failed")
"""How Python and Ray begin to say why a process dies by itself; lists of a hundred modules and frames follow."""


def last_words(output: str) -> str:
    """Return what a process that is gone said at last: from its crash on, where it says that it crashed."""
    begins = [place for place in map(output.find, _CRASHES) if place >= 0]
    return f"its output ends with {output[min(begins) :][:3000] if begins else output[-1500:]!r}"


class Campaign:
    """Disturb run after run on one rig.

    Args:
        rig: Broker and cluster.
        say: Gets a line per kill and run.
    """

    def __init__(self, rig: Rig, say: Callable[[str], None]) -> None:
        self.tally = Tally()
        self.rig = rig
        self._say = say
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
        with self._opened_log(config) as reader:
            return play(config, make_plans(config, self.rig.ends, with_transformer=with_transformer), through(reader))

    def run(self, rng: np.random.Generator, wanted: Wanted, *, with_transformer: bool) -> list[str]:
        """Play one disturbed run, compare it, and return what is wrong with it."""
        reference = self.reference(with_transformer=with_transformer)
        kills = choose(rng, wanted, reference.windows)
        config = self._new_config()
        write_plans(config, make_plans(config, self.rig.ends, with_transformer=with_transformer))
        replica = Replica(registry_url(state_address(config)))
        disturbed = Disturbed(self.rig, config, self.tally, self._say)
        try:
            disturbed.play(kills)
            with self._opened_log(config) as log:
                got = fingerprint(config, config.state, log)
            wrong = [f"{name}: {text}" for name, text in differences(reference.fingerprint, got).items()]
            wrong += replica.differences(Registry(open_storage(registry_url(config.state))))
        except Missed as error:
            wrong = [f"{error}; {last_words(disturbed.output())}"]
        finally:
            disturbed.close()
            replica.close()
            self.rig.end_actors()
        self.tally.runs += 1
        self.tally.mismatches += wrong
        return wrong

    def prove(self, *, with_transformer: bool) -> list[str]:
        """Play the undisturbed run again, and once without each of `REMOVED`; return what speaks against the comparison."""
        reference = self.reference(with_transformer=with_transformer)
        again = differences(reference.fingerprint, self.replayed(lambda reader: reader, with_transformer=with_transformer).fingerprint)
        wrong = [f"two undisturbed runs differ in {name}: {text}" for name, text in again.items()]
        for what, names in MUST_DIFFER.items():
            seen = self.without(what, with_transformer=with_transformer)
            wrong += [f"the comparison still passes for {name} when {what} is removed" for name in names if name not in seen]
        self.tally.mismatches += wrong
        return wrong

    def without(self, what: str, *, with_transformer: bool) -> dict[str, str]:
        """Return what differs from the undisturbed run when one of `REMOVED` had been lost."""

        def through(reader: TableReader) -> TableReader:
            return cast("TableReader", Without(reader, *place_of(reader, Config().log.events_topic, *REMOVED[what])))

        removed = self.replayed(through, with_transformer=with_transformer)
        return differences(self.reference(with_transformer=with_transformer).fingerprint, removed.fingerprint)

    def _opened_log(self, config: Config) -> AbstractContextManager[TableReader]:
        return closing(open_table_reader(kafka_address(self.rig.broker.removeprefix("kafka://")), config.log))

    def _new_config(self) -> Config:
        self._num_states += 1
        return make_config(str(self.rig.states / f"{self._num_states}"), self.rig.broker)
