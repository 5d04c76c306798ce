"""Estimate what a deployment takes, from measured figures, and say where one machine ends. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from streamrec.config import Config
from streamrec.pipeline.measured import measured
from streamrec.pipeline.resources import needed, told_places

DAY_S = 86_400

SPARE = 0.7
"""Use no more of a machine's cores than this: the rest is for refreshes, bursts and catching up."""

_MEASURED_CORES = 2
"""Loop and serving were measured on so many, the load's own processes among them."""

_MOST = 10**9


@dataclass(frozen=True)
class Workload:
    """Say what is asked of a deployment.

    Attributes:
        users: With a history.
        items: With a row.
        events_per_s: On average.
        requests_per_s: At the peak.
        retention_s: For how long the log keeps events; copies of it are not counted.
    """

    users: int
    items: int
    events_per_s: float
    requests_per_s: float = 10.0
    retention_s: float = 7 * DAY_S


@dataclass(frozen=True)
class Machine:
    """Say what one machine has."""

    cores: int
    memory_bytes: float


@dataclass(frozen=True)
class Part:
    """Say what one part takes, and what that is made of."""

    name: str
    bytes: float
    of: str


@dataclass(frozen=True)
class Estimate:
    """Hold what a deployment takes.

    Attributes:
        memory: Of each process or kind of processes.
        disk: What lies on storage after a day.
        object_store_bytes: Of Ray's, where the board lives.
        lake_bytes_per_day: By which the lake grows for ever.
        written_bytes_per_day: By commits, at most: most of it is replaced by later ones.
        replicas: That the requests need.
        cores: Of stream and replicas.
        refreshes_per_day: Of the transformer and the linear teacher.
        worker_minutes_per_day: What these take; ``teachers.budget_worker_min_per_day`` ends them there.
        gpu_hours_per_day: What train workers with a GPU take of these at the most, a step counted as long as on a CPU core: how much shorter it is
            on a GPU was not measured. None without ``teachers.use_gpu``.
        places: What processes ask of a node besides CPUs, a sentence each.
        ends: What of one machine is too small, and where one ends, a sentence each.
    """

    memory: tuple[Part, ...]
    disk: tuple[Part, ...]
    object_store_bytes: float
    lake_bytes_per_day: float
    written_bytes_per_day: float
    replicas: int
    cores: float
    refreshes_per_day: float
    worker_minutes_per_day: float
    gpu_hours_per_day: float | None
    places: tuple[str, ...]
    ends: tuple[str, ...]

    @property
    def memory_bytes(self) -> float:
        """Return the sum; the object store is apart."""
        return sum(part.bytes for part in self.memory)


def estimate(config: Config, load: Workload, machine: Machine) -> Estimate:
    """Estimate what a workload takes with a configuration.

    Users and items count up to the configuration's bounds. Ray on two machines or more has its own processes on each; they are counted once.
    """
    teachers, (refreshes, trained, solved) = config.teachers, _refreshes(config, load)
    memory, cores, minutes = _memory(config, load), _cores(load), trained + solved
    return Estimate(
        memory,
        _disk(config, load),
        measured("store_versions") * _version(config, load),
        measured("lake_event") * load.events_per_s * DAY_S if config.lake.enabled else 0.0,
        _written(config, load),
        _replicas(load),
        cores,
        refreshes,
        min(minutes, teachers.budget_worker_min_per_day),
        min(trained, teachers.budget_worker_min_per_day) * teachers.gpus_per_worker / 60 if teachers.use_gpu else None,
        tuple(told_places(config, needed(config, _replicas(load)))),
        tuple(_ends(config, load, machine, minutes)),
    )


def _items(config: Config, load: Workload) -> int:
    return min(load.items, config.features.max_items)


def _users(config: Config, load: Workload) -> int:
    return min(load.users, config.features.max_users)


def _version(config: Config, load: Workload, dim: int | None = None) -> float:
    return _items(config, load) * (4 * (dim or config.student.dim) + measured("version_item"))


def _table(config: Config, load: Workload, dim: int) -> float:
    return _items(config, load) * (12 * dim + measured("table_item"))


def _memory(config: Config, load: Workload) -> tuple[Part, ...]:
    items, dim, replicas = _items(config, load), config.student.dim, _replicas(load)
    in_redis = config.serving.histories == "redis"
    served = 0 if in_redis else min(load.users, config.serving.history_users)
    entries = config.features.history_length * measured("history_entry")
    histories = served * (entries + measured("replica_user"))
    parts = [_driver(config, load), _learner("student", config, load, dim)]
    parts += [_learner("control", config, load, dim)] if config.student.control else []
    parts += [_learner(f"student {name}", config, load, further.dim or dim) for name, further in config.students.items()]
    parts += _teachers(config, load)
    replica = measured("replica") + histories + measured("replica_peak") * _version(config, load)
    return (
        *parts,
        Part("board", measured("board"), "its versions are in the object store"),
        Part(f"{replicas} replicas", replicas * replica, f"each with {served} histories and, while one is built, three versions of {items} items"),
        *([_redis(config, load)] if in_redis else []),
        Part("Ray and Serve", measured("ray") + measured("serve"), "on one node"),
        Part("other workers", measured("workers"), "that read, and that Ray keeps ready"),
        *([Part("broker", measured("broker"), "embedded")] if config.log.broker in {"auto", "embedded"} else []),
    )


def _redis(config: Config, load: Workload) -> Part:
    each = config.features.history_length * measured("redis_entry") + measured("redis_user")
    return Part("Redis", load.users * each, f"{load.users} histories, wherever it runs")


def _driver(config: Config, load: Workload) -> Part:
    features, users, items = config.features, _users(config, load), _items(config, load)
    histories = users * (features.history_length * measured("history_entry") + measured("history_user"))
    ids = min(features.dedupe_horizon, load.events_per_s * max(features.dedupe_horizon_s, features.lateness_s)) * measured("event_id")
    labels = config.student.replay_capacity * measured("label")
    commit = _table(config, load, config.student.dim)
    made_of = f"{users} histories {_mb(histories)}, event ids {_mb(ids)}, labels {_mb(labels)}, a commit in the making {_mb(commit)}"
    return Part("driver", measured("driver") + histories + items * measured("vocabulary_item") + ids + labels + commit, made_of)


def _learner(name: str, config: Config, load: Workload, dim: int) -> Part:
    table, held = _table(config, load, dim), 3 * _version(config, load, dim)
    return Part(name, measured("learner") + table + held, f"tables {_mb(table)}, three held versions {_mb(held)}")


def _teachers(config: Config, load: Workload) -> list[Part]:
    teachers, items = config.teachers, _items(config, load)
    sums, entries = _linear(config, items)
    has_linear, has_transformer = "linear" in teachers.enabled, "transformer" in teachers.enabled
    rows = 2 * 4 * items * teachers.transformer.dim if has_transformer else 0
    versions = rows + (sums if has_linear else 0)
    parts = (
        [Part("scorer", measured("scorer") + versions, f"a version of each teacher and one that is compared {_mb(versions)}")]
        if teachers.enabled
        else []
    )
    if has_linear:
        solve = entries * measured("solve_entry")
        parts.append(Part("statistics", measured("statistics") + sums + solve, f"sums {_mb(sums)}, and while they are solved {_mb(solve)}"))
    if has_transformer:
        table = items * (12 * teachers.transformer.dim + measured("transformer_item"))
        workers = teachers.num_train_workers
        table = table / workers if teachers.transformer.shard_items else table
        parts.append(Part("refresh", measured("fit") + workers * table, f"while one runs: {workers} workers, tables of {_mb(table)} each"))
    return parts


def _linear(config: Config, items: int) -> tuple[float, float]:
    """Return the bytes of the linear teacher's sums, and the entries that a solve looks at: at most, because few items go with all others."""
    linear = config.teachers.linear
    items = min(items, linear.max_items)
    if items <= linear.dense_items:
        return measured("matrix_entry") * items**2, 0.0
    entries = min(float(items) ** 2, linear.max_entries)
    return 2 * measured("sparse_entry") * entries, entries


def _disk(config: Config, load: Workload) -> tuple[Part, ...]:
    users, keep = _users(config, load), config.registry.keep_last
    tables = _table(config, load, config.student.dim) * (2 if config.student.control else 1)
    histories = users * config.features.history_length * measured("history_entry")
    lake = measured("lake_event") * load.events_per_s * DAY_S if config.lake.enabled else 0.0
    return (
        Part("checkpoint", 2 * (tables + histories), "each component with deltas as large as itself"),
        Part("versions", keep * _version(config, load), f"{keep} are kept, whole at the most"),
        Part("lake, a day", lake, f"{measured('lake_event'):.0f} bytes an event, and no event is ever left out"),
        Part("log", measured("log_event") * load.events_per_s * load.retention_s, f"one copy, kept for {load.retention_s / DAY_S:g} days"),
    )


def _written(config: Config, load: Workload) -> float:
    interval_s, items = config.pipeline.checkpoint_interval_s, _items(config, load)
    rows = items * (1 - math.exp(-measured("touches") * load.events_per_s * interval_s / items))
    num_tables = (2 if config.student.control else 1) + len(config.students)
    return DAY_S / interval_s * rows * (12 * config.student.dim + measured("row_bytes")) * num_tables


def _rps(items: int) -> float:
    """Return what two replicas answer a second on two cores, between the sizes that were measured by the logarithm of the items."""
    known = [(4.0, measured("rps_10k")), (5.0, measured("rps_100k")), (6.0, measured("rps_1m"))]
    place = min(max(math.log10(max(items, 1)), 4.0), 6.0)
    low, high = known[:2] if place <= 5.0 else known[1:]
    return low[1] + (high[1] - low[1]) * (place - low[0])


def _serving_cores(load: Workload) -> float:
    return _MEASURED_CORES * load.requests_per_s / _rps(load.items)


def _replicas(load: Workload) -> int:
    """Return how many replicas the requests need: one answers what a core does, and none is alone."""
    return max(2, math.ceil(_serving_cores(load) / SPARE))


def _cores(load: Workload) -> float:
    return _MEASURED_CORES * load.events_per_s / measured("events_per_s") + _serving_cores(load)


def _refreshes(config: Config, load: Workload) -> tuple[float, float, float]:
    """Return refreshes a day by the counts of interactions, and the worker-minutes of those that are trained and solved without a budget."""
    teachers, per_day, number, trained, solved = config.teachers, load.events_per_s * DAY_S, 0.0, 0.0, 0.0
    if "transformer" in teachers.enabled:
        shape, num = teachers.transformer, per_day / teachers.transformer_refresh_events
        steps = min(shape.refresh_steps, 2 * shape.refresh_epochs * teachers.transformer_refresh_events / shape.batch_events)
        step_s = measured("train_step_s") * shape.batch_events / 1024
        number, trained = number + num, num * teachers.num_train_workers * (measured("fit_s") + steps * step_s) / 60
    if "linear" in teachers.enabled:
        num = per_day / teachers.linear_refresh_events
        share = min(1.0, _items(config, load) / teachers.linear.dense_items) ** 3
        number, solved = number + num, num * measured("solve_s") * share / 60
    return number, trained, solved


def _ends(config: Config, load: Workload, machine: Machine, minutes: float) -> list[str]:
    """Return what does not fit one machine, and where it ends by each quantity alone."""
    found = []
    needed, most = _total(config, load), measured("events_per_s")
    if needed > machine.memory_bytes:
        found.append(f"memory: {_mb(needed)} are needed, the machine has {_mb(machine.memory_bytes)}")
    if _cores(load) > SPARE * machine.cores:
        found.append(f"cores: {_cores(load):.1f} are needed, {SPARE:.0%} of the machine's {machine.cores} are to be used")
    if load.events_per_s > most:
        found.append(f"events: one stream took {most:.0f} a second at the most, its steps follow one another: divide events among several states")
    if minutes > (budget := config.teachers.budget_worker_min_per_day):
        found.append(f"refreshes by count would take {minutes:.0f} worker-minutes a day, teachers.budget_worker_min_per_day ends them at {budget:g}")
    for name, bound in (("items", config.features.max_items), ("users", config.features.max_users)):
        if getattr(load, name) > bound:
            found.append(f"{name}: features.max_{name} is {bound}; those that were used longest ago leave")
    empty = _total(config, replace(load, items=1, users=0))
    if empty > machine.memory_bytes:
        of = f"one machine of {machine.cores} cores and {_mb(machine.memory_bytes)}"
        return [*found, f"{of} is too small for any items and users: the processes alone take {_mb(empty)}"]
    items = _largest(lambda num: _total(config, replace(load, items=num)) <= machine.memory_bytes)
    users = _largest(lambda num: _total(config, replace(load, users=num)) <= machine.memory_bytes)
    rate = min(most, (SPARE * machine.cores - _serving_cores(load)) / _MEASURED_CORES * most)
    said = (_far(items, config.features.max_items), _far(users, config.features.max_users), f"{max(0.0, rate):.0f}")
    found.append(
        f"one machine of {machine.cores} cores and {_mb(machine.memory_bytes)} ends at {said[0]} items, {said[1]} users, or {said[2]} events/s"
    )
    return found


def _total(config: Config, load: Workload) -> float:
    return sum(part.bytes for part in _memory(config, load)) + measured("store_versions") * _version(config, load)


def _far(num: int, bound: int) -> str:
    return f"{num}" if num < bound else f"features' bound of {bound}"


def _largest(fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits, by halving; 0 where none does."""
    low, high = 0, _MOST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
