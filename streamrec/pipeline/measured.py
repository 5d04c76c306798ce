"""Hold what was measured of a deployment's cost, each figure once and with its source: `streamrec.pipeline.capacity` calculates with nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_RESULTS, _EXPERIMENTS, _OPERATIONS = "benchmarks/results", "docs/experiments.md", "docs/operations.md"
_SOAK = f"{_RESULTS}/2026-11-27.md, soak"


@dataclass(frozen=True)
class Constant:
    """Hold a measured figure.

    Attributes:
        value: The figure.
        unit: What it counts.
        source: Where it is written down.
    """

    value: float
    unit: str
    source: str


MEASURED: Mapping[str, Constant] = {
    "driver": Constant(776e6, "bytes, few users and items", f"{_SOAK}, driver_mb_last"),
    "learner": Constant(483e6, "bytes of student or control, few items", f"{_SOAK}, student_mb_last"),
    "scorer": Constant(442e6, "bytes, few items", f"{_SOAK}, scorer_mb_last"),
    "statistics": Constant(433e6, "bytes, few items", f"{_SOAK}, statistics_mb_last"),
    "board": Constant(69e6, "bytes without versions", f"{_SOAK}, board_mb_last"),
    "replica": Constant(166e6, "bytes, few users and items", f"{_SOAK}, servereplica_mb_last"),
    "ray": Constant(20e6 + 40e6 + 75e6 + 50e6, "bytes of raylet, GCS and agents", f"{_OPERATIONS}, Memory"),
    "serve": Constant(117e6 + 117e6 + 5e6, "bytes of Serve's controller and proxies", f"{_SOAK}, servecontroller, proxyactor and proxy"),
    "workers": Constant(2.3e9, "bytes of other workers", f"{_EXPERIMENTS}, a soak's processes together, 7.5 GB, less the rest"),
    "broker": Constant(384e6 + 100e6, "bytes of an embedded broker", f"{_OPERATIONS}, Memory"),
    "fit": Constant(1e9, "bytes of a fit's processes without its tables", f"{_OPERATIONS}, An upgrade, and Ray Train's trivial fit"),
    "history_entry": Constant(12, "bytes an entry of a history, in the driver", f"{_OPERATIONS}, A large state"),
    "history_user": Constant(225, "bytes a user beside the entries, in the driver", f"{_EXPERIMENTS}, what a commit costs: 825 with 50"),
    "replica_user": Constant(491, "bytes a user beside the entries, in a replica", f"{_EXPERIMENTS}, what plan calculates with: 973 + 118 with 50"),
    "redis_entry": Constant(
        15, "bytes an entry of a history in Redis, with ids of three characters", f"{_OPERATIONS}, Histories in Redis: 850 with 50"
    ),
    "redis_user": Constant(110, "bytes a user beside the entries, in Redis", f"{_OPERATIONS}, Histories in Redis"),
    "vocabulary_item": Constant(328, "bytes an item, in the driver", f"{_EXPERIMENTS}, what plan calculates with"),
    "event_id": Constant(48, "bytes an event id that is remembered", f"{_OPERATIONS}, Duplicates and late events"),
    "label": Constant(1_100, "bytes a query in the store of labels", f"{_EXPERIMENTS}, the driver's memory over 4,000 micro-batches"),
    "table_item": Constant(884 - 12 * 64, "bytes an item beside 12 for each dimension, in a learner", f"{_EXPERIMENTS}, what labels cost: 884 at 64"),
    "version_item": Constant(291 - 4 * 64, "bytes an item beside 4 for each dimension, of a version", f"{_EXPERIMENTS}, what it takes to ship: 291"),
    "replica_peak": Constant(1_090 / 291, "sizes of a version, in a replica that builds one whole", f"{_EXPERIMENTS}, lists over shared slots"),
    "store_versions": Constant(2.5, "sizes of a version, in the object store", f"{_OPERATIONS}, Memory: two whole ones and half a one of deltas"),
    "transformer_item": Constant(16, "bytes an item beside 12 for each dimension, in a fit", f"{_RESULTS}/2026-11-26.md, gpu: 6,160 at 512"),
    "matrix_entry": Constant(8, "bytes an entry of two square matrices", f"{_OPERATIONS}, Memory: 134 MB at 4,096 items"),
    "sparse_entry": Constant(12, "bytes an entry of each of two sparse sums", f"{_OPERATIONS}, Memory"),
    "solve_entry": Constant(110, "bytes an entry while they are solved", f"{_OPERATIONS}, Memory: 1.8 GB at the bound"),
    "lake_event": Constant(54, "bytes an event with a random id, before files are merged", f"{_EXPERIMENTS}, what plan calculates with: 30 after"),
    "log_event": Constant(199, "bytes an event as JSON", f"{_EXPERIMENTS}, records of 199 bytes"),
    "touches": Constant(51.4, "item rows that an event touches", f"{_EXPERIMENTS}, what a commit costs: 190,000 of a million by 4,096"),
    "row_bytes": Constant(854 - 12 * 64, "bytes a changed row beside 12 for each dimension", f"{_EXPERIMENTS}, what a commit costs: 854 at 64"),
    "events_per_s": Constant(6_130, "events a second through the whole loop, on two cores", f"{_RESULTS}/2026-11-27.md, loop of cd14440"),
    "rps_10k": Constant(2_918, "requests a second of two replicas on two cores, 10,000 items", f"{_RESULTS}/2026-11-27.md, serve of e9a5968"),
    "rps_100k": Constant(2_120, "the same with 100,000", f"{_RESULTS}/2026-11-27.md, serve of 7f30c5d"),
    "rps_1m": Constant(1_497, "the same with a million", f"{_RESULTS}/2026-11-27.md, serve of 7f30c5d"),
    "train_step_s": Constant(
        0.065,
        "seconds a training step of 1,024 events, one core",
        f"{_RESULTS}/2026-11-27.md, train of e9a5968, one_step_ms, by 1.19",
    ),
    "fit_s": Constant(11, "seconds of a fit that trains nothing", "Ray Train's trivial fit with one worker, Ray 2.60"),
    "solve_s": Constant(8, "seconds of a solve, at 4,096 items or at the bound of entries", f"{_EXPERIMENTS}, a linear teacher of any size"),
}
"""All figures, by name."""


def measured(name: str) -> float:
    """Return a figure."""
    return MEASURED[name].value
