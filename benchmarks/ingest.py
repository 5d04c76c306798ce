"""Measure how fast events come in: bytes to validated events without duplicates, and broker to validated events through Ray Data.

    python -m benchmarks.ingest [--quick]

``decode`` runs on one core and takes blocks of 200-byte JSON records through decoding, validation and dedupe, beside a bare
``pyarrow.json.read_json`` of the same bytes, in turn; with 1 % bad records (ten kinds, from cut-off bytes to wrong types) beside the parse of the
good ones, because a bare parse fails as a whole on the first bad one. Its time is the processor's for this process, so that other work on the
machine does not count. The same is measured for three sorts of records with nested fields: interactions that all have a context of 3 to 5 keys,
impressions of 10 items, and a mix of all kinds (`benchmarks._records`). ``read`` takes one range of an embedded broker's topic through our reader
and the codec, beside ``ray.data.read_kafka`` of the same range with the same settings and nothing after it.
The last line is one flat JSON object: decode_records_per_s, decode_ratio_to_parse (both also with _1pct_bad), decode_ratio_context,
decode_ratio_impressions, decode_ratio_mixed, read_ratio_to_read_kafka (null where no broker starts). Ratios and rates are medians over rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pa_json
import ray

from benchmarks._common import arguments, facts, finish
from benchmarks._records import flat, make_context, make_impressions, make_mixed
from streamrec.config import EventsConfig, LogConfig
from streamrec.errors import EmbeddedBrokerError
from streamrec.events.codec import BLOCK_ROWS, EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.features.dedupe import Dedupe, EventKeys
from streamrec.log.base import Record
from streamrec.log.connect import open_admin, open_reader, open_writer
from streamrec.log.embedded import EmbeddedKafka, start_embedded
from streamrec.log.kafka import READ_TASK_CPUS
from streamrec.log.kafka_client import consumer_settings
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.cluster import ray_cluster

NOW_MS = 1_700_000_000_000
HORIZON = 1_000_000
TOPIC, NUM_PARTITIONS = "streamrec.bench", 2
BARS = {
    "decode_records_per_s": "at least 300,000 on one core",
    "decode_ratio_to_parse": "at least 0.5",
    "decode_ratio_to_parse_1pct_bad": "at least 0.5",
    "decode_ratio_context": "at least 0.5",
    "decode_ratio_impressions": "at least 0.5",
    "decode_ratio_mixed": "at least 0.5",
    "read_ratio_to_read_kafka": "at least 0.6",
}
_NESTED = {"context": make_context, "impressions": make_impressions, "mixed": make_mixed}
_SPOIL: list[Callable[[dict[str, object]], bytes]] = [
    lambda event: orjson.dumps(event)[:100],
    lambda event: orjson.dumps(event) * 2,
    lambda _: b"",
    lambda _: b"garbage",
    lambda event: orjson.dumps({**event, "user_id": 5}),
    lambda event: orjson.dumps({**event, "value": "1.5"}),
    lambda event: orjson.dumps({**event, "event_time": 1.5e12 + 0.5}),
    lambda event: orjson.dumps({**event, "item_id": None}),
    lambda event: orjson.dumps({**event, "event_type": "nonsense"}),
    lambda event: orjson.dumps({**event, "event_time": 2 * NOW_MS}),
]


def make(num: int, *, bad_every: int = 0) -> list[bytes]:
    """Return records of 200 bytes; every ``bad_every``-th is spoilt."""
    values = []
    for number in range(num):
        event = flat(number)
        values.append(_SPOIL[number // bad_every % len(_SPOIL)](event) if bad_every and number % bad_every == 0 else orjson.dumps(event))
    return values


def log_rows(values: list[bytes]) -> pa.Table:
    size = len(values)
    columns = [
        pa.repeat(pa.scalar(TOPIC), size), pa.array(np.zeros(size, np.int32)), pa.array(np.arange(size)), pa.array(np.zeros(size, np.int64)),
        pa.repeat(pa.scalar(b"key"), size), pa.array(values, pa.binary()),
    ]  # fmt: skip
    return pa.table(columns, schema=LOG_ROW)


def seconds_of(call: Callable[[], int], expected: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a call takes that must give ``expected``."""
    began = clock()
    found = call()
    took = clock() - began
    assert found == expected, (found, expected)
    return took


def bare_parse(text: bytes, schema: pa.Schema | None = None) -> int:
    options = pa_json.ReadOptions(use_threads=False)
    return int(pa_json.read_json(pa.BufferReader(text), options, pa_json.ParseOptions(explicit_schema=schema)).num_rows)


def decode_all(rows: pa.Table) -> int:
    """Decode, validate and dedupe block by block, and return how many events are new."""
    codec, dedupe, num = EventCodec(EventsConfig()), Dedupe(HORIZON), 0
    for start in range(0, rows.num_rows, BLOCK_ROWS):
        keys = EventKeys.of(codec.decode(rows.slice(start, BLOCK_ROWS), NOW_MS).valid)
        fresh = dedupe.fresh(keys, None)
        dedupe.remember(keys.select(fresh))
        num += int(np.count_nonzero(fresh))
    return num


def measure_decode(num: int, rounds: int) -> tuple[dict[str, float], dict[str, object]]:
    """Return the figures of one core, and facts beside them."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    good = make(num)
    text, rows, rows_bad = b"\n".join(good), log_rows(good), log_rows(make(num, bad_every=100))
    typed = pa_json.read_json(pa.BufferReader(text)).schema
    took: dict[str, list[float]] = {"parse": [], "typed": [], "decode": [], "bad": []}
    for number in range(rounds + 1):
        round_s = {
            "parse": seconds_of(lambda: bare_parse(text), num, time.process_time),
            "decode": seconds_of(lambda: decode_all(rows), num, time.process_time),
            "bad": seconds_of(lambda: decode_all(rows_bad), num - len(range(0, num, 100)), time.process_time),
            "typed": seconds_of(lambda: bare_parse(text, typed), num, time.process_time),
        }
        if number:  # The first round warms up.
            for name, value in round_s.items():
                took[name].append(value)
    parse, typed_parse, decode, bad = (np.asarray(took[name]) for name in ("parse", "typed", "decode", "bad"))
    figures = {
        "decode_records_per_s": num / float(np.median(decode)),
        "decode_records_per_s_1pct_bad": num / float(np.median(bad)),
        "decode_ratio_to_parse": float(np.median(parse / decode)),
        "decode_ratio_to_parse_1pct_bad": float(np.median(parse / bad)),
    }
    about = {
        "parse_records_per_s": round(num / float(np.median(parse))),
        "ratio_to_parse_with_types": round(float(np.median(typed_parse / decode)), 3),
    }
    return figures, {"record_bytes": len(good[0]), "records": num, "rounds": rounds, **about}


def measure_nested(num: int, rounds: int) -> tuple[dict[str, float], dict[str, object]]:
    """Return the figures of one core for records with nested fields, and facts beside them."""
    figures: dict[str, float] = {}
    about: dict[str, object] = {"nested_records": num}
    for name, make_values in _NESTED.items():
        values = make_values(num)
        text, rows, took = b"\n".join(values), log_rows(values), []
        for _ in range(rounds + 1):
            parse = seconds_of(partial(bare_parse, text), num, time.process_time)
            took.append((parse, seconds_of(partial(decode_all, rows), num, time.process_time)))
        parses, decodes = np.asarray(took[1:]).T  # The first round warms up.
        figures[f"decode_ratio_{name}"] = float(np.median(parses / decodes))
        about |= {f"{name}_record_bytes": len(text) // num, f"{name}_records_per_s": round(num / float(np.median(decodes)))}
    return figures, about


def measure_read(broker: EmbeddedKafka, num: int, rounds: int) -> tuple[float, dict[str, object]]:
    """Return bare ``ray.data.read_kafka``'s seconds over ours for the same range."""
    cfg = LogConfig()
    admin, writer = open_admin(broker.address, cfg), open_writer(broker.address, cfg)
    admin.ensure_topic(TOPIC, NUM_PARTITIONS)
    writer.append(TOPIC, [Record(None, value, partition=number % NUM_PARTITIONS) for number, value in enumerate(make(num))])
    writer.close()
    admin.close()
    reader = open_reader(broker.address, cfg)
    ranges = [OffsetRange(TOPIC, partition, 0, num // NUM_PARTITIONS) for partition in range(NUM_PARTITIONS)]
    codec = EventCodec(EventsConfig())

    def bare() -> int:
        starts: dict[int, int | str] = {part.partition: part.start for part in ranges}
        ends: dict[int, int | str] = {part.partition: part.end for part in ranges}
        dataset = ray.data.read_kafka(
            TOPIC, bootstrap_servers=[broker.address.where], start_offset={TOPIC: starts}, end_offset={TOPIC: ends},
            consumer_config=consumer_settings(broker.address.where, cfg, fetch_wait_max_ms=10), num_cpus=READ_TASK_CPUS,
            override_num_blocks=NUM_PARTITIONS, timeout_ms=round(cfg.read_timeout_s * 1000),
        )  # fmt: skip
        return int(dataset.materialize().count())

    took: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(rounds + 1):
        round_s = {
            "bare": seconds_of(bare, num),
            "ours": seconds_of(lambda: int(codec.decode(reader.read_table(ranges), NOW_MS).valid.num_rows), num),
        }
        if number:
            for name, value in round_s.items():
                took[name].append(value)
    reader.close()
    ratio = statistics.median(one / other for one, other in zip(took["bare"], took["ours"], strict=True))
    return ratio, {"read_records": num, "read_kafka_records_per_s": round(num / statistics.median(took["bare"]))}


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    figures, about = measure_decode(65_536 if options.quick else 400_000, 5 if options.quick else 11)
    nested, more = measure_nested(32_768 if options.quick else 200_000, 5 if options.quick else 11)
    about |= more
    os.sched_setaffinity(0, cores)
    result: dict[str, float | int | None] = {**figures, **nested, "read_ratio_to_read_kafka": None}
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as folder:
        try:
            broker = start_embedded(Path(folder) / "kafka", lambda _: None)
        except EmbeddedBrokerError as error:
            about["broker"] = str(error)
        else:
            with ray_cluster(2):
                result["read_ratio_to_read_kafka"], more = measure_read(broker, 80_000 if options.quick else 400_000, 3 if options.quick else 7)
            about |= {"broker": "embedded", **more}
            broker.stop()
    finish(result, facts(**about), BARS)


if __name__ == "__main__":
    main()
