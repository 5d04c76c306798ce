"""Measure a deployment for `streamrec.pipeline.examine`. Starts nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError

from streamrec.clock import SystemClock
from streamrec.config import Config, ServingConfig, student_names
from streamrec.environment import cache_folder, ray_address
from streamrec.errors import BrokerError, ConfigError, EmbeddedBrokerError, OperatorError, StorageError, StreamrecError
from streamrec.log.base import LogAddress, TableReader
from streamrec.log.connect import open_table_reader
from streamrec.log.kafka_facts import TopicFacts, kafka_facts
from streamrec.log.kafka_install import find_java, jars_folder
from streamrec.log.kafka_tls import certificate_end_s
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.cluster import LOCAL_CPUS, cluster_resources, ray_cluster
from streamrec.pipeline.examine import (
    Finding,
    Verdict,
    check_clock,
    check_connection,
    check_embedded,
    check_extras,
    check_free_space,
    check_lake,
    check_lateness,
    check_plan_time,
    check_python,
    check_readable,
    check_resources_of,
    check_storage,
    check_switches,
    check_topic,
    check_versions,
    failed,
)
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.lineage import current_url, known_lineage
from streamrec.pipeline.log_place import log_there
from streamrec.pipeline.lost_plans import check_stored_plans
from streamrec.pipeline.lost_records import lost_records, lost_topic
from streamrec.pipeline.places import misplaced
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.readable import Committed, committed, damaged_teachers, lost_versions, newest_plan_ms, unreadable, versions_of_students
from streamrec.pipeline.resources import Resources, needed
from streamrec.pipeline.session import state_address
from streamrec.pipeline.stream_state import StreamState
from streamrec.pipeline.switches import SwitchBoard
from streamrec.serving.stored_histories import look_at_redis
from streamrec.storage import open_storage
from streamrec.storage.bucket import HAS_OBSTORE
from streamrec.storage.trial import try_out
from streamrec.teachers.kinds import check_teachers
from streamrec.telemetry.traces import check_tracer

PATIENCE_S = 3.0
"""How long an address may take to answer: a check-up of a broker that is away still ends within seconds."""


def survey(config: Config, broker: str, downtime_s: float) -> Iterator[Finding]:
    """Give the findings of all checks, one after another.

    Args:
        config: The resolved configuration.
        broker: What ``log.broker`` may be.
        downtime_s: The longest time for which the stream may be down and lose nothing.
    """
    yield check_python((sys.version_info.major, sys.version_info.minor))
    wrong = misplaced(config, broker)
    yield from (failed(name, error, error.remedy) for name, error in wrong.items())
    if "state" not in wrong:
        yield check_extras(config.state, has_obstore=HAS_OBSTORE, shares_disk=ray_address() is None)
    if config.telemetry.traces_endpoint:
        yield _traces(config.telemetry.traces_endpoint)
    if config.serving.histories == "redis":
        yield _histories(config.serving)
    yield check_lateness(config.features.lateness_s, config.events.future_tolerance_s)
    held = committed(state_address(config))
    yield from _log(config, broker, downtime_s, held.state)
    yield from _storage(config, held)
    yield _teachers(config)
    yield from _lake(config, held)
    yield from _ray(config)


def _switches(address: str) -> Finding:
    try:
        return check_switches(SwitchBoard(open_storage(address)).now())
    except StreamrecError as error:
        return failed("switches", error, error.remedy or "restore it from a copy")


def _histories(serving: ServingConfig) -> Finding:
    """Judge the Redis that is to hold histories, as this machine reaches it."""
    try:
        redis = look_at_redis(serving)
    except (ConfigError, StorageError) as error:
        return failed("histories", error, error.remedy)
    found = f"{serving.redis_url}, Redis {redis.version}"
    if redis.is_cluster:
        return Finding("histories", Verdict.FAIL, f"{found} Cluster: a step would change keys of several machines", "give it one that is no cluster")
    if redis.max_bytes and redis.policy != "volatile-lru":
        found = f"{found}, which holds {redis.max_bytes} bytes with maxmemory-policy {redis.policy}"
        return Finding(
            "histories", Verdict.WARN, found, "set maxmemory-policy volatile-lru: others refuse events when it is full, or drop how far it reaches"
        )
    return Finding("histories", Verdict.OK, found)


def _traces(endpoint: str) -> Finding:
    try:
        check_tracer(endpoint)
    except ConfigError as error:
        return failed("traces", error, error.remedy or "leave telemetry.traces_endpoint out")
    return Finding("traces", Verdict.OK, f"go to {endpoint}, and where nobody takes them they are dropped")


def _teachers(config: Config) -> Finding:
    try:
        check_teachers(config.teachers)
    except StreamrecError as error:
        return failed("teachers", error, error.remedy or "correct teachers.enabled")
    return Finding("teachers", Verdict.OK, ", ".join(config.teachers.enabled) or "none: the student learns from events alone")


def _log(config: Config, broker: str, downtime_s: float, state: StreamState | None) -> Iterator[Finding]:
    try:
        there = log_there(config, broker)
    except ConfigError as error:
        yield failed("broker", error, error.remedy or "correct --broker (log.broker)")
        return
    if there is None:
        yield from _embedded(is_required=broker == "embedded")
    elif there.kind == "local":
        yield from _files(config, there.where, downtime_s, state)
    else:
        yield from _kafka(config, there.where, downtime_s, state)


def _files(config: Config, folder: str, downtime_s: float, state: StreamState | None) -> Iterator[Finding]:
    found = f"files of this machine in {folder}"
    if ray_address() is None:
        yield Finding("broker", Verdict.OK, found)
    else:
        yield Finding("broker", Verdict.WARN, found, "set log.broker to the HOST:PORT of a Kafka: Ray and Serve may run on other machines")
    with closing(open_table_reader(LogAddress("local", folder), config.log)) as reader:
        facts = {name: TopicFacts(len(reader.partitions(name))) for name in _topics(config) if (Path(folder) / name).is_dir()}
        lost = _lost_folders(config, Path(folder) / config.log.events_topic, state)
        yield from _topic_findings(config, facts, 0, downtime_s, lost)
        if not lost:
            yield from _records(config, reader, facts, state)
            yield from _torn_segments(config, reader, facts, state)


def _torn_segments(config: Config, reader: TableReader, facts: Mapping[str, TopicFacts], state: StreamState | None) -> Iterator[Finding]:
    """Read what the stream's next batch may take of each partition; that records are gone is told already."""
    events = config.log.events_topic
    if events not in facts:
        return
    earliest, latest = reader.earliest(events), reader.latest(events)
    for partition, end in latest.items():
        start = max(earliest[partition], state.offsets.get(partition, 0) if state is not None else 0)
        if start < end:
            try:
                reader.read_table([OffsetRange(events, partition, start, min(end, start + config.pipeline.max_batch_events))])
            except StreamrecError as error:
                yield failed(f"topic {events}", error, error.remedy or "restore it from a copy")


def _lost_folders(config: Config, topic: Path, state: StreamState | None) -> list[str]:
    """Return the folders of a local topic's partitions that are gone: what the state has read, or what lies before partitions that are there."""
    if not topic.is_dir():
        return []
    known = {partition for partition, offset in state.offsets.items() if offset > 0} if state is not None else set()
    known |= {number for number in range(config.log.num_partitions) if (topic / str(number)).is_dir()}
    folders = (topic / str(number) for number in range(max(known, default=-1) + 1))
    return [str(folder) for folder in folders if not folder.is_dir()]


def _records(config: Config, reader: TableReader, facts: Mapping[str, TopicFacts], state: StreamState | None) -> Iterator[Finding]:
    """Say what the state reads next and the log lacks."""
    if state is None:
        return
    events = config.log.events_topic
    gone = lost_topic(state, config) if events not in facts else None
    errors = lost_records(reader, state, config) if events in facts else filter(None, [gone])
    yield from (failed(f"topic {events}", error, error.remedy or "restore it from a copy") for error in errors)


def _embedded(*, is_required: bool) -> Iterator[Finding]:
    try:
        java, has_java = str(find_java()), True
    except EmbeddedBrokerError as error:
        java, has_java = str(error), False
    jars = jars_folder(cache_folder() / "kafka")
    yield from check_embedded(java, str(jars), has_java=has_java, has_jars=jars.is_dir(), is_required=is_required)


def _kafka(config: Config, servers: str, downtime_s: float, state: StreamState | None) -> Iterator[Finding]:
    try:
        num_brokers, facts = kafka_facts(servers, config.log, _topics(config), PATIENCE_S)
    except StreamrecError as error:
        yield failed("broker", error, error.remedy or "start it, or correct --broker (log.broker)")
        return
    yield Finding("broker", Verdict.OK, f"Kafka at {servers} answers, {num_brokers} broker{'s' if num_brokers > 1 else ''}")
    end_s = certificate_end_s(servers, config.log)
    yield from check_connection(config.log, None if end_s is None else end_s - SystemClock().now_ms() / 1000)
    yield from _topic_findings(config, facts, num_brokers, downtime_s)
    events = config.log.events_topic
    patience = config.log.model_copy(update={"connect_timeout_s": PATIENCE_S, "read_timeout_s": PATIENCE_S})
    with closing(open_table_reader(LogAddress("kafka", servers), patience)) as reader:
        yield from _records(config, reader, facts, state)
        if events in facts:
            yield from _newest(config, reader, facts[events])


def _newest(config: Config, reader: TableReader, facts: TopicFacts) -> Iterator[Finding]:
    whose = "the broker's" if facts.settings.get("message.timestamp.type") == "LogAppendTime" else "its producer's"
    measured = f"the newest record's time, {whose} clock, against ours (shows only a clock that is ahead)"
    try:
        times = _newest_times(reader, config.log.events_topic)
    except BrokerError as error:
        found = f"the newest record can't be read: {error}"
        yield Finding("clock", Verdict.WARN, found, "write the topic without transactions and keep it without compaction")
        return
    if times:
        yield check_clock(measured, max(0.0, (max(times) - SystemClock().now_ms()) / 1000), config.events.future_tolerance_s)


def _newest_times(reader: TableReader, topic: str) -> list[int]:
    earliest, latest = reader.earliest(topic), reader.latest(topic)
    ranges = [OffsetRange(topic, number, end - 1, end) for number, end in latest.items() if end > earliest[number]]
    times: list[int] = reader.read_table(ranges)["timestamp"].to_pylist() if ranges else []
    return times


def _topics(config: Config) -> dict[str, int]:
    """Return the topics with the partitions that jobs ask for."""
    return {config.log.events_topic: config.log.num_partitions, config.log.dead_letter_topic: 1}


def _topic_findings(config: Config, facts: dict[str, TopicFacts], num_brokers: int, downtime_s: float, lost: Sequence[str] = ()) -> Iterator[Finding]:
    for name, num_partitions in _topics(config).items():
        is_letters = name == config.log.dead_letter_topic
        yield from check_topic(
            name,
            facts.get(name),
            num_partitions=num_partitions,
            num_brokers=num_brokers,
            downtime_s=downtime_s,
            letters=is_letters,
            lost=() if is_letters else lost,
        )


def _storage(config: Config, held: Committed) -> Iterator[Finding]:
    address = state_address(config)
    made = [] if "://" in address else [folder for folder in (Path(address), *Path(address).parents) if not folder.exists()]
    try:
        trial = try_out(open_storage(address))
        free = shutil.disk_usage(address).free if "://" not in address else None
    except StreamrecError as error:
        yield failed("storage", error, "correct `state`, or let this process read, write and delete there")
        return
    finally:
        _remove_what_was_made(made)
    yield check_storage(address, trial)
    yield _switches(address)
    errors = [*unreadable(address, held), *damaged_teachers(address, held), *_lost_plans(config, held)]
    errors += lost_versions(address, held, student_names(config))
    yield from check_readable(address, list({str(error): error for error in errors}.values()))
    configured = student_names(config)
    for versions in versions_of_students(address, configured):
        yield from check_versions(versions, is_configured=versions.student in configured)
    planned_ms = newest_plan_ms(address, held)
    if planned_ms is not None:
        yield check_plan_time((planned_ms - SystemClock().now_ms()) / 1000, config.events.future_tolerance_s)
    if trial.ahead_s is not None:
        measured = "the storage, by the time it gave to an object that was written just now"
        yield check_clock(measured, trial.ahead_s, config.events.future_tolerance_s)
    if free is not None:
        yield check_free_space(address, free)


def _lost_plans(config: Config, held: Committed) -> Iterator[StreamrecError]:
    if held.error is not None:
        return
    in_lake, lake_address = 0, ""
    with suppress(StreamrecError):  # Of the lake; that is another finding.
        lineage = current_url(state_address(config))
        if config.lake.enabled:
            lake = open_lake(config, lineage, lambda: known_lineage(lineage))
            in_lake, lake_address = lake.last_batch() if lake.is_there() else 0, lake.address
    try:
        check_stored_plans(PlanStore(open_storage(current_url(state_address(config)))), held.batch, in_lake, lake_address)
    except StreamrecError as error:
        yield error


def _lake(config: Config, held: Committed) -> Iterator[Finding]:
    if not config.lake.enabled:
        return
    remedy = "set `lake.address` to a folder, s3://bucket/prefix or gs://bucket/prefix that this process may read, write and delete in"
    try:
        _try_out_lake(config.lake.address)
        if held.error is not None:  # What the checkpoint counts on is not known, nor, where it is lost, what the table is called.
            yield Finding("lake", Verdict.WARN, "not looked at, because the state can't be read", "mend that first, and look again")
            return
        lineage = current_url(state_address(config))
        lake = open_lake(config, lineage, lambda: known_lineage(lineage))
        last = lake.last_batch() if lake.is_there() else None
        yield check_lake(lake.address, last, _counted_on(held, config.lake.address))
    except StreamrecError as error:
        # What belongs to the config names `state`, whose address is opened the same way.
        yield failed("lake", error, remedy if isinstance(error, ConfigError) else error.remedy or remedy, config.lake.address)


def _try_out_lake(address: str) -> None:
    """Write and delete in a lake's place; that below the state is as writable as the state."""
    if not address or (address.startswith(("s3://", "gs://")) and not HAS_OBSTORE):
        return
    storage = open_storage(address)
    folder = Path(storage.address)
    made = [] if "://" in storage.address else [one for one in (folder, *folder.parents) if not one.exists()]
    has_lock = (folder / ".lock").exists()
    try:
        try_out(storage)
    finally:
        _remove_what_was_made(made)
        if not has_lock and folder.is_dir():
            (folder / ".lock").unlink(missing_ok=True)


def _counted_on(held: Committed, address: str) -> int:
    """Return the last batch whose rows the commit counts on at an address; what can't be read is another finding."""
    base = None if held.checkpoint is None else held.checkpoint.components.get("lake", (None,))[0]
    return int(base.meta["batch"]) if base is not None and base.meta.get("address") == address else 0


def _remove_what_was_made(folders: list[Path]) -> None:
    """Remove the folders, innermost first, that a trial has made; one that somebody has put something into meanwhile stays."""
    if folders and folders[0].is_dir():
        (folders[0] / ".lock").unlink(missing_ok=True)
        with suppress(OSError):
            for scratch in folders[0].iterdir():
                scratch.rmdir()
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _ray(config: Config) -> Iterator[Finding]:
    stream, with_serving = needed(config), needed(config, config.serving.num_replicas)
    cluster = ray_address()
    if cluster is None:
        num_cpus = float(max(LOCAL_CPUS, os.cpu_count() or 1))
        num_gpus = float(torch.cuda.device_count() if config.teachers.use_gpu else 0)
        have = Resources.of_nodes([{"CPU": num_cpus, "GPU": num_gpus}])
        yield from check_resources_of(config, have, stream, with_serving, "the local cluster that a job would start")
        return
    was_connected = ray.is_initialized()
    try:
        with ray_cluster():
            have = cluster_resources()
        if not was_connected:
            ray.shutdown()
    except (OperatorError, RayError) as error:
        yield failed("ray", error, "start it, or correct RAY_ADDRESS")
        return
    yield from check_resources_of(config, have, stream, with_serving, f"Ray at {cluster}")
