"""How a log is cut into micro-batches makes no difference to what a deletion takes away, whatever the event times of requests are."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from streamrec.config import parse_config
from streamrec.events.schema import LOG_ROW
from streamrec.pipeline.ingest import Ingest, Request

NOW_MS = 1_700_000_000_000
CONFIG = parse_config({"features": {"lateness_s": 3600.0, "history_length": 8}, "teachers": {"enabled": []}})


def event(number: int, user: str, item: str, time_ms: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": user, "item_id": item, "event_type": "click", "event_time": NOW_MS - 600_000 + time_ms}


def deletion(number: int, user: str, time_ms: int) -> dict[str, Any]:
    return {"kind": "deletion", "event_id": f"d{number}", "user_id": user, "event_time": NOW_MS - 600_000 + time_ms}


def played(log: list[dict[str, Any]], cut: int) -> tuple[Counter[str], dict[str, list[str]], list[str]]:
    """Apply a log in lots of ``cut`` records; return the counts, users' histories and the requests that were carried out."""
    ingest, watermarks, counts, asked = Ingest(CONFIG), {}, Counter[str](), []

    def delete(request: Request) -> None:
        asked.append(request.event_id)
        for component in (ingest.histories, ingest.dedupe):
            component.delete_user(request.namespace, request.user_id)

    for start in range(0, len(log), cut):
        values = [json.dumps(each).encode() for each in log[start : start + cut]]
        num = len(values)
        columns = [["t"] * num, [0] * num, [*range(start, start + num)], [0] * num, [b"k"] * num, values]
        done = ingest.apply(pa.table(columns, schema=LOG_ROW), NOW_MS, watermarks, delete, lambda rows: None)
        watermarks = done.watermarks_ms
        counts.update(done.counts)
    items = [*(f"i{number}" for number in range(5)), "secret", "new"]
    name_of = dict(zip(ingest.vocabulary.rows_for(["default"] * len(items), items).tolist(), items, strict=True))
    histories = {user: [name_of[row] for row in ingest.histories.get("default", user).tolist()] for user in "ab"}
    return counts, histories, sorted(asked)


def test_a_second_request_with_an_older_time_is_carried_out_and_a_copy_of_one_is_not() -> None:
    log = [event(1, "a", "i1", 10_000), deletion(1, "a", 60_000), event(2, "a", "secret", 70_000), deletion(2, "a", 30_000)]
    for cut in (1, 3, 4):
        counts, histories, asked = played([*log, event(3, "a", "new", 80_000), deletion(1, "a", 60_000)], cut)
        assert histories["a"] == ["new"], cut
        assert asked == ["d1", "d2"]
        assert counts["received"] == sum(counts[name] for name in ("applied", "duplicate", "rejected", "late"))


@pytest.mark.matrix(3)
@pytest.mark.parametrize("seed", range(25))
def test_any_log_with_deletions_and_copies_ends_the_same_however_it_is_cut(seed: int) -> None:
    rng, log = random.Random(seed), []
    for number in range(30):
        time_ms = 1000 * number + rng.choice([0, 0, -5000, -20_000, 3000])
        made = deletion(number, rng.choice("ab"), time_ms)
        log.append(made if rng.random() < 0.15 else event(number, rng.choice("ab"), f"i{rng.randrange(5)}", time_ms))
        if rng.random() < 0.2:
            log.append(rng.choice(log))
    whole = played(log, 1000)
    assert played(log, 1) == whole
    assert played(log, 5) == whole
