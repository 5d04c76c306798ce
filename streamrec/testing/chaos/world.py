"""Make the small world that is disturbed: its settings and the plans that every run is given; `records` has what happens in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamrec.config import Config, parse_config
from streamrec.events.synthetic import START_MS
from streamrec.pipeline.plan import Plan, take_ranges, version_name
from streamrec.testing.chaos.records import LATENESS_S, NUM_EVENTS

NUM_BATCHES = 16
_SETTINGS: dict[str, Any] = {
    "log": {"num_partitions": 2, "connect_timeout_s": 5.0, "read_timeout_s": 10.0},
    "features": {"lateness_s": LATENESS_S, "history_length": 60, "words_per_item": 3, "word_buckets": 64},
    "student": {"dim": 8, "batch_size": 64, "replay_capacity": 400},
    "soft_labels": {"top_k": 8},
    "registry": {"gate_min_queries": 50},
    "teachers": {
        "transformer": {"dim": 8, "num_layers": 1, "num_heads": 1, "sequence_length": 8, "first_steps": 3, "refresh_steps": 2},
        "cpus_per_worker": 0.5,
    },
    "pipeline": {"batch_interval_s": "0s"},
    "lake": {"keep_for_s": 0.0},  # Its files go with the commits after a deletion.
}
# Batch that starts a refresh, and batch from which on its version is used; several batches and a commit lie between the two.
_REFRESHES = {"transformer": ((3, 10),), "linear": ((3, 6), (9, 12))}
_COMMIT_EVERY = 4
_PUBLISH_EVERY = 2


def make_config(state: str, broker: str) -> Config:
    """Return small settings for a state at an address, on the log of a broker; runs share the events and have a topic of dead letters each."""
    letters = f"streamrec.dead-letters.{state.rpartition('/')[2]}"
    return parse_config({**_SETTINGS, "state": state, "log": {**_SETTINGS["log"], "broker": broker, "dead_letter_topic": letters}})


def make_plans(config: Config, ends: Mapping[int, int], *, with_transformer: bool) -> list[Plan]:
    """Return plans that read everything up to the end offsets, refresh teachers, publish and commit.

    Args:
        config: Names the topic.
        ends: End offset (exclusive) of each partition.
        with_transformer: Refresh the transformer too; its fit takes longer than all else.
    """
    refreshes = {name: times for name, times in _REFRESHES.items() if with_transformer or name != "transformer"}
    offsets, left = dict.fromkeys(ends, 0), sum(ends.values())
    plans = []
    for batch in range(1, NUM_BATCHES + 1):
        ranges = take_ranges(config.log.events_topic, offsets, ends, -(-left // (NUM_BATCHES + 1 - batch)))
        offsets |= {part.partition: part.end for part in ranges}
        left -= sum(part.end - part.start for part in ranges)
        used = {name: [start for start, use in times if use <= batch] for name, times in refreshes.items()}
        plans.append(
            Plan(
                batch=batch,
                ranges=ranges,
                now_ms=START_MS + 1000 * 1000 * NUM_EVENTS,
                seed=1000 + batch,
                teachers={name: version_name(starts[-1]) for name, starts in used.items() if starts},
                start_refresh=tuple(name for name, times in refreshes.items() if batch in {start for start, _ in times}),
                publish=batch % _PUBLISH_EVERY == 0,
                checkpoint=batch % _COMMIT_EVERY == 0,
            )
        )
    return plans
