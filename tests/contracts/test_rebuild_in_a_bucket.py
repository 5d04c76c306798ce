"""A state in a bucket is bootstrapped, moved on, rebuilt with a larger student, and goes on, as one on a disk is."""

from __future__ import annotations

import importlib.util
import json
import uuid
from typing import Any

import pytest

from streamrec.clock import ManualClock
from streamrec.config import Config, parse_config
from streamrec.log.base import Record, TableReader
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.rebuild import Rebuild, remove_old
from streamrec.pipeline.wiring import build_local
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="buckets need `pip install 'streamrec[dev]'`: moto stands in for one"
)

NOW_MS = 1_700_000_000_000


def config(**student: Any) -> Config:
    values = {"log": {"num_partitions": 1}, "pipeline": {"max_batch_events": 40}, "teachers": {"enabled": []}}
    return parse_config({**values, "student": {"dim": 8, "control": False, **student}})


def events(start: int, stop: int) -> list[Record]:
    made = []
    for number in range(start, stop):
        event = {"event_id": f"e{number}", "user_id": f"u{number % 9}", "item_id": f"i{number * 5 % 13}", "event_type": "click"}
        made.append(Record(b"key", json.dumps(event | {"event_time": NOW_MS - 600_000 + 1000 * number}).encode()))
    return made


def play(controller: Controller, clock: ManualClock) -> None:
    while controller.step() is not None:
        clock.advance(1.0)
    controller.finish()


@pytest.mark.usefixtures("endpoint")
def test_a_state_in_a_bucket_is_rebuilt_beside_the_live_one_and_the_stream_goes_on_with_it() -> None:
    state, clock = f"s3://streamrec-tests/{uuid.uuid4().hex}", ManualClock(NOW_MS)
    small, large = config(), config(dim=12)
    topic = small.log.events_topic
    log = MemoryLog(clock)
    log.ensure_topic(topic, 1)
    log.ensure_topic(small.log.dead_letter_topic, 1)
    log.append(topic, events(0, 100))
    controller = build_local(small, log, current_url(state), clock, dead_letters=log)
    controller.recover()
    bootstrap(controller, log.latest(topic))
    log.append(topic, events(100, 150))
    play(controller, clock)
    registry = Registry(open_storage(registry_url(state)), clock=clock)
    before = registry.live()

    def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        made = build_local(large, reader, lineage_url, clock, dead_letters=log)
        if not publishes:
            made.parts.publisher = None
        return made

    rebuilt = Rebuild(large, state, log, build, dead_letters=log, on_step=lambda report: None, say=lambda text: None).run()
    assert rebuilt is not None
    assert rebuilt.books()["applied"] == 150
    assert current_url(state) == f"{state}/lineages/0002"
    live = registry.live()
    assert before is not None
    assert live is not None
    assert live > before
    assert registry.manifest(live).config["student"]["dim"] == 12
    log.append(topic, events(150, 170))
    again = build_local(large, log, current_url(state), clock, dead_letters=log)
    again.recover()
    play(again, clock)
    assert again.books()["applied"] == 170
    remove_old(state, lambda text: None)
    assert not open_storage(state).list("checkpoint"), "the first lineage lay there"
    assert registry.live() is not None
