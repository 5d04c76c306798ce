"""Students with random weights, and the scoring formula written out naively."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson
import pytest

from serve.replica import Replica, ReplicaSettings, make_routes
from serve.system import System
from streamrec.config import parse_config
from streamrec.config.keys import ApiKey
from streamrec.log.connect import local_address, open_admin
from streamrec.serving.event_sink import Permit
from streamrec.state import pack_strings

CLUSTER = {
    "resources": [{"name": "CPU", "total": 2.0, "free": 1.0}],
    "nodes": [{"name": "n1", "is_alive": True, "is_head": True, "cpus": 2.0, "gpus": 0.0, "memory_bytes": 1e9, "store_bytes": 1e8}],
}

Version = tuple[dict[str, np.ndarray], dict[str, Any]]


def make_version(
    num_rows: int, dim: int = 8, history_length: int = 6, namespaces: tuple[str, ...] = ("default",), seed: int = 0, prefix: str = "item"
) -> Version:
    """Return random arrays whose rows keep their ids when ``num_rows`` grows."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids, id_offsets = pack_strings([f"{prefix}-{row}" if prefix != "i" else f"i{row}" for row in range(num_rows)])
    names, name_offsets = pack_strings(namespaces)
    arrays = {
        "item_vectors": vectors,
        "item_bias": rng.normal(scale=0.3, size=num_rows).astype(np.float32),
        "popularity": rng.integers(0, 1000, num_rows).astype(np.float32),
        "item_namespace": (np.arange(num_rows) % len(namespaces)).astype(np.int32),
        "item_id_bytes": ids,
        "item_id_offsets": id_offsets,
        "namespace_bytes": names,
        "namespace_offsets": name_offsets,
        "position_logits": (-0.3 * np.arange(history_length)).astype(np.float32),
        "own_bias": rng.normal(scale=2.0, size=history_length).astype(np.float32),
        "pool_projection": rng.normal(size=(dim, dim)).astype(np.float32),
        "last_projection": rng.normal(size=(dim, dim)).astype(np.float32),
    }
    counted = {"half_life_s": 604_800.0, "as_of_ms": 1_764_000_000_000, "factor": 1.0}
    return arrays, {"scale": 9.0, "history_length": history_length, "dim": dim, "popularity": counted}


def naive_scores(version: Version, history: list[int]) -> np.ndarray:
    """Return the score of every row, in float64, by the formula as it is written."""
    arrays, meta = version
    history = history[: meta["history_length"]]
    logits = arrays["position_logits"][: len(history)].astype(np.float64)
    weights = np.exp(logits) / np.exp(logits).sum()
    vectors = arrays["item_vectors"].astype(np.float64)
    pooled = sum(weight * vectors[row] for weight, row in zip(weights, history, strict=True))
    query = pooled @ arrays["pool_projection"] + vectors[history[0]] @ arrays["last_projection"]
    query /= max(np.linalg.norm(query), 1e-6)
    scores = meta["scale"] * (vectors @ query) + arrays["item_bias"]
    for place, row in enumerate(history):
        scores[row] += arrays["own_bias"][place]
    return scores


@pytest.fixture
def version() -> Callable[..., Version]:
    return make_version


@pytest.fixture
def naive() -> Callable[..., np.ndarray]:
    return naive_scores


@dataclass
class Asked:
    """An answer: status, headers, JSON."""

    status: int
    headers: dict[bytes, bytes]
    body: Any


class InProcess(Replica):
    """A replica without threads, Ray and a board: what is appended is followed at once."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings, "replica-1")
        self.system = System("replica-1", lambda: CLUSTER)
        self.routes = make_routes(self, settings)
        self.follow()

    def follow(self) -> None:
        """Take over what is in the log: the first steps load and open."""
        for _ in range(3):
            self._follow_once()

    def load(self, name: str, made: Version) -> None:
        """Make a version the live one."""
        self._slot.load({"version": name, "created_ms": 1}, *made)

    def submit_events(self, events: list[Any], permit: Permit | None = None) -> Future[list[dict[str, Any]]]:
        """Append at once."""
        waiting = super().submit_events(events, permit)
        assert self._sink is not None
        before = self._sink.num_accepted
        self._sink.step(0)
        if self._sink.num_accepted > before:  # Else the log has nothing new, and a look at it waits for that.
            self._follow_once()
        return waiting

    def append_impressions(self) -> int:
        """Append the impressions that wait."""
        return self._impression_sink.step(0)

    def ask(self, method: str, path: str, body: Any = None, headers: tuple[tuple[bytes, bytes], ...] = (), mount: str = "") -> Asked:
        """Answer one request."""
        return asyncio.run(self.asked(method, path, body, headers, mount))

    async def asked(self, method: str, path: str, body: Any = None, headers: tuple[tuple[bytes, bytes], ...] = (), mount: str = "") -> Asked:
        """Answer one request of several at once."""
        raw, _, query = f"{mount}{path}".partition("?")
        data = body if isinstance(body, bytes) else (b"" if body is None else orjson.dumps(body))
        parts, sent = [data], []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": parts.pop()} if parts else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        where = {"path": unquote(raw), "raw_path": raw.encode(), "root_path": mount, "query_string": query.encode()}
        scope = {"type": "http", "method": method, **where, "headers": headers}
        await self.routes(scope, receive, send)
        start, *rest = sent
        found = b"".join(message["body"] for message in rest)
        assert int(dict(start["headers"])[b"content-length"]) == len(found) or method == "HEAD"
        return Asked(start["status"], dict(start["headers"]), orjson.loads(found) if found else None)


def make_replica(
    folder: Path,
    *,
    is_local: bool = False,
    live: bool = True,
    keys: dict[str, ApiKey] | None = None,
    keys_file: str = "",
    has_state: bool = False,
    **settings: Any,
) -> InProcess:
    """Return a replica with a version of 40 items, a log and a registry."""
    config = parse_config({"serving": settings})
    address = local_address(folder / "log")
    open_admin(address, config.log).ensure_topic(config.log.events_topic, 1)
    registry = str(folder / "registry")
    state = str(folder) if has_state else None
    replica = InProcess(ReplicaSettings(config, address, state, registry, is_local=is_local, keys=keys or {}, keys_file=keys_file))
    if live:
        replica.load("v00000012", make_version(40, prefix="i"))
    return replica


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., InProcess]:
    """Return a function of serving settings that returns a replica in the test's folder; see `make_replica`."""
    return partial(make_replica, tmp_path)


@pytest.fixture(scope="module")
def made_replica(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., InProcess]:
    """Return a function of serving settings that returns a replica for all tests of a file; see `make_replica`."""
    return partial(make_replica, tmp_path_factory.mktemp("replica"))


@pytest.fixture(scope="module")
def open_replica(made_replica: Callable[..., InProcess]) -> InProcess:
    """Return a replica for all tests of a file, on which everybody may do everything."""
    return made_replica(is_local=True, accepts=["interaction", "impression", "item_update", "deletion"])
