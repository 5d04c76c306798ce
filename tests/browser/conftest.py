"""A real small server, asked by a real browser: one replica with its threads, a log and a registry in folders, and a board in this process."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import uvicorn

from serve.replica import Replica, ReplicaSettings, make_routes
from serve.system import System
from streamrec.clock import SystemClock
from streamrec.config import RegistryConfig, parse_config
from streamrec.config.keys import ApiKey
from streamrec.log.connect import local_address, open_admin, open_writer
from streamrec.pipeline.dead_letters import dead_letters
from streamrec.registry.gate import Decision, Gate, Health, Window
from streamrec.registry.registry import Registry
from streamrec.registry.swaps import BoardState
from streamrec.registry.telling import STREAM, Telling
from streamrec.registry.version import VersionFacts
from streamrec.serving.slot import ModelSlot
from streamrec.state import pack_strings
from streamrec.storage import open_storage
from streamrec.telemetry.numbers import Numbers, Taken

CHROMIUM = which("chromium") or which("chromium-browser")

HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
KINDS = ("lamp", "chair", "table", "shelf", "rug", "vase", "clock", "mirror")
NAMES = ("River", "Oak", "Harbour", "Linen", "Copper", "Meadow")
ITEMS = [(f"{kind}-{name.lower()}", f"{name} {kind}") for kind in KINDS for name in NAMES]
HISTORY_S = 1200
LATE = b'{"event_id": "late-1", "user_id": "u-late", "item_id": "clock-oak", "event_type": "click", "event_time": 1764000000000}'
REJECTED = [
    (
        "not_json",
        f"unexpected character at byte 0: {HOSTILE[:40]}",
        HOSTILE.encode() + b"\x1b[2J \xe2\x80\xae" + b'<a href="javascript:hurt()">free lamps</a> ' * 120,
    ),
    ("unknown_event_type", "event_type: got wishlist, allowed click, view, buy", LATE.replace(b"click", b"wishlist")),
    ("missing_field", "item_id: absent", b'{"event_id": "e-9", "user_id": "u-7", "event_type": "click"}'),
    ("not_json", "not UTF-8 at byte 2", bytes(range(128, 200))),
    ("missing_field", "user_id: absent", b'{"event_id": "e-10", "item_id": "rug-linen", "event_type": "click"}'),
    ("future_time", "event_time: got 1795622400000, later than now by 31 days", LATE),
]
"""Reason, detail and bytes of records that were rejected; the last one is valid by now."""
REPLICA = "replica-1"
PARTITIONS = (0.31, 0.22, 0.28, 0.19)
"""The share of the events that each has."""
GB = 10**9


class PastClock(SystemClock):
    """A clock that is behind until it has caught up."""

    behind_s = 0.0

    def now_ms(self) -> int:
        return super().now_ms() - round(self.behind_s * 1000)

    def monotonic_s(self) -> float:
        return super().monotonic_s() - self.behind_s


class BoardHere:
    """What `serve.subscription.BoardSubscription` does, with the registry and the pure parts of the board instead of an actor."""

    def __init__(self, registry: Registry, slot: ModelSlot) -> None:
        self.registry, self.slot = registry, slot
        self.clock = PastClock()
        self.state = BoardState(self.clock)
        self.telling = Telling(self.clock, self.state)
        self.counts = {"whole": 0, "deltas": 0}

    async def step(self, timeout_s: float) -> bool:
        self.state.saw(REPLICA)
        move = self.registry.alias()
        if move is not None and move.number > self.state.seq:
            if move.decision is None:
                self.telling.course.mark(move.action, move.version)
            version = self.registry.load_named(move.version)
            self.state.publish(move.version, move.number)
            self.slot.load(version.manifest.model_dump(mode="json"), version.arrays, version.meta)
            self.state.ack(REPLICA, move.number, "")
        return True

    async def run(self) -> None:
        while True:
            await self.step(0)
            await asyncio.sleep(0.05)

    def look(self) -> None:
        pass

    def tell(self, numbers: Taken) -> None:
        self.telling.tell(REPLICA, numbers)

    async def told(self) -> list[Taken]:
        return self.telling.told(REPLICA)

    async def course(self, after_ms: int) -> dict[str, Any]:
        return self.telling.course_after(after_ms)

    def facts(self) -> dict[str, Any]:
        return {"seq": self.state.seq, **self.counts, "last_error": None}


TAUGHT_BY = {"transformer": "v00000001", "linear": "v00000001"}


class Stream:
    """The numbers of a stream that learns: better at first quickly, then slowly; teachers are refreshed now and then."""

    def __init__(self, board: BoardHere) -> None:
        self.board, self.numbers = board, Numbers()
        self._rng, self._lag = np.random.default_rng(7), 90.0
        self._wobble = dict.fromkeys(("student", "student_events_only", "ensemble", "transformer", "linear", "popular", "recent_popular"), 0.0)

    def tell_history(self) -> None:
        for behind in range(HISTORY_S, 0, -2):
            self.board.clock.behind_s = behind
            self.tell(HISTORY_S - behind, 2.0)
        self.board.clock.behind_s = 0.0

    def tell(self, at_s: float, passed_s: float) -> None:
        numbers = self.numbers
        grown = 1 - math.exp(-at_s / 240)
        tops = {
            "student": 0.12 + 0.15 * grown, "student_events_only": 0.12 + 0.128 * grown, "teachers.ensemble": 0.2 + 0.05 * grown,
            "teachers.transformer": 0.17 + 0.05 * grown, "teachers.linear": 0.19 + 0.03 * grown, "popular": 0.08, "recent_popular": 0.086,
        }  # fmt: skip
        for model, top in tops.items():
            self._wobble[model] = 0.95 * self._wobble.get(model, 0.0) + float(self._rng.normal(scale=0.0012))
            numbers.put("streamrec_score", top + self._wobble[model], model=model, measure="recall@20")
        numbers.put("streamrec_teachers_gain", 0.022 * grown + 0.3 * self._wobble["student"])
        numbers.put("streamrec_teachers_gain_error", 0.004 + 0.01 * (1 - grown))
        say = 0.62 - 0.2 * grown + 0.4 * self._wobble["student"]
        numbers.put("streamrec_teacher_weight", say, teacher="transformer")
        numbers.put("streamrec_teacher_weight", 1 - say, teacher="linear")
        learned = round(300 * passed_s + float(self._rng.normal(scale=8)))
        numbers.add("streamrec_events_total", learned, outcome="applied")
        numbers.add("streamrec_queries_total", learned)
        numbers.series("streamrec_books_records", column="applied").value += learned
        # Batches take what waits, now and then a burst comes.
        self._lag = max(4.0, 0.9 * self._lag + float(self._rng.gamma(1.2, 7.0)) + 260 * (self._rng.random() < 0.004))
        lag = round(self._lag)
        numbers.put("streamrec_lag_records", lag)
        self._tell_log(learned, lag)
        for _ in range(max(1, round(passed_s))):
            numbers.add("streamrec_steps_total")
            numbers.observe("streamrec_step_seconds", 0.31 + float(self._rng.uniform(0, 0.15)))
        numbers.add("streamrec_versions_total", int(at_s) % 40 < passed_s, student="default", outcome="promoted")
        numbers.put("streamrec_versions_total", 2, student="default", outcome="rejected")
        for what, at, every in (("choices_moved", 300, 1200), ("teacher_fell", 830, 1200)):
            numbers.add("streamrec_alarms_total", int(at_s - at) % every < passed_s, what=what)
        for teacher, at, every in (("transformer", 200, 420), ("linear", 90, 300)):
            numbers.add("streamrec_refreshes_total", int(at_s - at) % every < passed_s, teacher=teacher, outcome="used")
        for switch in ("pause", "freeze-publishing", "pin"):
            numbers.put("streamrec_held", 0, switch=switch)
        self.board.telling.tell(STREAM, numbers.taken())

    def _tell_log(self, learned: int, lag: int) -> None:
        """The books, and how far each partition is read."""
        numbers = self.numbers
        for column, share in (("duplicate", 0.021), ("late", 0.004), ("quarantined", 0.011), ("rejected", 0.0006)):
            numbers.series("streamrec_books_records", column=column).value += round(learned * share + float(self._rng.uniform(-0.5, 0.5)))
        numbers.put("streamrec_books_records", 300, column="pending")
        read = 1_200_000 + sum(one.value for one in numbers.taken()["streamrec_books_records"].values())
        for partition, share in enumerate(PARTITIONS):
            where = {"topic": "streamrec.events", "partition": str(partition)}
            numbers.put("streamrec_read_offset", round(read * share), **where)
            numbers.put("streamrec_end_offset", round(read * share) + round(lag * share), **where)


# As a foreign site's DNS may say, and a company's own.
NAMES = "--host-resolver-rules=MAP *.example 127.0.0.1, MAP shop.internal 127.0.0.1"


class Machine(System):
    """A machine that is the same for everybody who makes pictures, with this process among others."""

    def _look(self) -> dict[str, Any]:
        found = super()._look()
        others = [
            ("jobs.stream", 0.61), ("student", 0.44), ("control", 0.36), ("RayReads", 0.19), ("Kafka", 0.52), ("ServeController", 0.13),
            ("ProxyActor", 0.12), ("Board", 0.15), ("IDLE", 0.06), ("Ray: raylet", 0.04), ("Ray: control (GCS)", 0.05),
        ]  # fmt: skip
        own = [one for one in found["processes"] if one["name"] == "Server"]
        made = [{"name": name, "pid": 4100 + place, "bytes": round(size * GB), "kind": "pss"} for place, (name, size) in enumerate(others)]
        host = {**found["host"], "name": "laptop", "cpus": 2, "load": 1.3, "memory_bytes": 16 * GB, "available_bytes": 9.4 * GB}
        return {**found, "host": host, "processes": sorted([*own, *made], key=lambda one: -one["bytes"])}


def a_cluster() -> dict[str, Any]:
    sizes = {"CPU": (2.0, 0.6), "memory": (9 * GB, 9 * GB), "object_store_memory": (0.5 * GB, 0.38 * GB)}
    node = {"name": "laptop", "is_alive": True, "is_head": True, "cpus": 2.0, "gpus": 0.0, "memory_bytes": 9 * GB, "store_bytes": 0.5 * GB}
    return {"resources": [{"name": name, "total": total, "free": free} for name, (total, free) in sizes.items()], "nodes": [node]}


class Server:
    """A replica behind uvicorn, with a stream that tells and clients that ask."""

    def __init__(self, folder: Path, keys: dict[str, ApiKey] | None = None, *, is_local: bool = True, serving: dict[str, Any] | None = None) -> None:
        config = parse_config({"serving": {"accepts": ["interaction", "item_update"], **(serving or {})}})
        address = local_address(folder / "log")
        open_admin(address, config.log).ensure_topic(config.log.events_topic, 1)
        self.registry = Registry(open_storage(str(folder / "registry")))
        self.log = (address, config.log)
        settings = ReplicaSettings(config, address, str(folder / "state"), str(folder / "registry"), is_local=is_local, keys=keys or {})
        self.replica = replica = Replica(settings, REPLICA)
        replica.system = Machine(REPLICA, a_cluster)
        self.board = BoardHere(self.registry, replica._slot)
        replica._subscription = self.board  # type: ignore[assignment]
        replica.moves._moved = self.board.look
        self.routes = make_routes(replica, settings)
        self.stream = Stream(self.board)
        self.num_versions = 0
        self._stopping = threading.Event()
        self._uvicorn = uvicorn.Server(uvicorn.Config(self.routes, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=1))
        self._threads = [threading.Thread(target=self._uvicorn.run, daemon=True)]

    def start(self) -> None:
        self.promote()
        self.stream.tell_history()
        self._threads[0].start()
        while not self._uvicorn.started:
            time.sleep(0.01)
        self.port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def begin_work(self) -> None:
        """Let the stream tell and clients ask, until the end."""
        self._threads += [threading.Thread(target=work, daemon=True) for work in (self._tell, self._ask_on)]
        for thread in self._threads[1:]:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._uvicorn.should_exit = True
        for thread in self._threads:
            thread.join(10)

    def ask(self, method: str, path: str, value: Any = None, key: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            body = None if value is None else json.dumps(value).encode()
            connection.request(method, path, body, {"x-api-key": key} if key else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def wait_for(self, path: str, field: str) -> None:
        """Return when the replica has read what a user did (items), or what was said of an item (title)."""
        deadline = time.monotonic() + 10
        while not self.ask("GET", path)[1].get(field):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def promote(self) -> str:
        """Publish and promote a version, as the stream does."""
        version = self.publish()
        decision = self.decide(version, lead=0.004)
        self.registry.promote(version, decision.reason, decision)
        return version

    def decide(self, version: str, lead: float, num_queries: int = 900) -> Decision:
        """Let the gate decide on a version that finds more, or less, than the live one."""
        rng, live = np.random.default_rng(self.num_versions), self.registry.live()
        theirs = (rng.random(num_queries) < 0.26).astype(float)
        ours = np.where(rng.random(num_queries) < 0.4, rng.random(num_queries) < 0.26 + lead / 0.4, theirs).astype(float)
        window = Window.from_scores(self.num_versions, ours, None if live is None else theirs)
        return self.registry.record_decision(Gate(RegistryConfig()).decide(Health(version), None if live is None else Health(live), window))

    def reject(self, *records: tuple[str, str, bytes]) -> None:
        """Let records stand among the dead letters: reason, detail and bytes of each."""
        address, cfg = self.log
        open_admin(address, cfg).ensure_topic(cfg.dead_letter_topic, 1)
        writer = open_writer(address, cfg)
        for offset, (reason, detail, value) in enumerate(records, 4711):
            where = {"topic": cfg.events_topic, "partition": 0, "offset": offset, "key": b"u-late"}
            writer.append(cfg.dead_letter_topic, dead_letters({**where, "reason": reason, "detail": detail, "value": value}))
        writer.close()

    def publish(self) -> str:
        """Publish a version."""
        self.num_versions += 1
        version, parent = f"v{self.num_versions:08d}", f"v{self.num_versions - 1:08d}" if self.num_versions > 1 else None
        facts = VersionFacts(
            offsets={"streamrec.events": {0: 300 * self.num_versions}},
            parent=parent,
            metrics={"popular.recall@20": 0.08, "student.recall@20": 0.26 + 0.001 * self.num_versions},
            teachers=TAUGHT_BY,
        )
        self.registry.publish(version, *make_version(self.num_versions), facts)
        return version

    def describe(self) -> None:
        """Say what the items are called; one has a title that means harm."""
        for item, title in [*ITEMS, ("lamp-hostile", HOSTILE)]:
            assert self.ask("PUT", f"/v1/items/{item}", {"title": title})[0] == 200
        self.wait_for("/v1/items/lamp-hostile", "title")

    def _tell(self) -> None:
        began_s = time.monotonic()
        while not self._stopping.wait(0.5):
            self.stream.tell(HISTORY_S + time.monotonic() - began_s, 0.5)
            for state_s, model_s in ((0.011, 1.2), (0.018, 1.7), (0.04, 2.6)):
                self.replica.numbers.observe("streamrec_state_freshness_seconds", state_s)
                self.replica.numbers.observe("streamrec_model_freshness_seconds", model_s)

    def _ask_on(self) -> None:
        number = 0
        while not self._stopping.wait(0.05):
            number += 1
            self.ask("POST", "/v1/recommend", {"history": [ITEMS[number % len(ITEMS)][0]], "n": 5})


def make_version(seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A student that finds things of one kind alike, and each time a little differently."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
    ids = [item for item, _ in ITEMS] + ["lamp-hostile"]
    kinds, looks = fixed.normal(size=(len(KINDS), 12)), fixed.normal(size=(len(NAMES), 12))
    rows = [kinds[KINDS.index(item.split("-")[0])] + 0.6 * looks[place % len(NAMES)] for place, item in enumerate(ids)]
    vectors = (np.array(rows) + 0.25 * rng.normal(size=(len(ids), 12))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    id_bytes, id_offsets = pack_strings(ids)
    name_bytes, name_offsets = pack_strings(["default"])
    arrays = {
        "item_vectors": vectors,
        "item_bias": (0.3 * fixed.normal(size=len(ids))).astype(np.float32),
        "popularity": fixed.permutation(len(ids)).astype(np.float32),
        "item_namespace": np.zeros(len(ids), np.int32),
        "item_id_bytes": id_bytes,
        "item_id_offsets": id_offsets,
        "namespace_bytes": name_bytes,
        "namespace_offsets": name_offsets,
        "position_logits": (-0.3 * np.arange(10)).astype(np.float32),
        "own_bias": np.full(10, -4.0, np.float32),
        "pool_projection": np.eye(12, dtype=np.float32),
        "last_projection": np.zeros((12, 12), np.float32),
        "label_rows": np.arange(len(ids), dtype=np.int32),
        "label_parts": np.stack([said := np.round(fixed.random(len(ids)), 2), 1 - said], 1).astype(np.float16),
    }
    return arrays, {"scale": 9.0, "history_length": 10, "dim": 12, "labels": {"teachers": TAUGHT_BY, "queries": 2048}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where there is none. Its loop runs in this thread until it is closed, so it lives no longer than its tests."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: install Debian's package chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", NAMES])
        yield started
        started.close()


@pytest.fixture(scope="module")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server; see `Server`."""
    started: list[Server] = []

    def make(**options: Any) -> Server:
        server = Server(tmp_path_factory.mktemp("dashboard"), **options)
        server.start()
        started.append(server)
        return server

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def server(make_server: Callable[..., Server]) -> Server:
    """One server for all, on which everybody may do everything."""
    made = make_server()
    made.describe()
    made.promote()
    made.decide(made.publish(), lead=-0.09)
    made.promote()
    made.decide(made.publish(), lead=0.002, num_queries=40)
    made.reject(*REJECTED)
    made.begin_work()
    return made


class Opened:
    """A page and what went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))


@pytest.fixture
def open_page(browser: Any, server: Server) -> Iterator[Callable[..., Opened]]:
    """Return a function of a page's id that opens it in a window of its own."""
    contexts: list[Any] = []

    def opened(name: str, *, width: int = 1280, height: int = 900, scheme: str = "light", url: str | None = None) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", locale="en-GB")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        found = Opened(page)
        page.goto(f"{url or server.url}#{name}")
        return found

    yield opened
    for context in contexts:
        context.close()
