"""Assemble one serving replica: model slot, history view, board subscription and event sink, with their threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from serve.access import Access
from serve.appending import APPEND_TIMEOUT_S
from serve.cors import Cors
from serve.guards import Guards
from serve.histories import RENEW_EVERY_S, LogPlace, SharedHistories, share_histories
from serve.keys import LOOK_EVERY_S, KeyFile
from serve.letters import Letters
from serve.limits import Backlog, Deadlines, Gate
from serve.metrics import put_facts
from serve.moves import Moves
from serve.routes import Routes
from serve.subscription import BoardSubscription
from serve.system import System
from serve.tracing import SwapTraces
from streamrec.clock import SystemClock
from streamrec.config import MIN_SENT_TIME_MS, Config
from streamrec.config.keys import ApiKey
from streamrec.environment import tombstone_key
from streamrec.errors import BrokerUnavailable, OperatorError
from streamrec.evaluation.worth import Worth
from streamrec.events.codec import EventCodec
from streamrec.events.schema import Kind
from streamrec.features.dedupe import Dedupe
from streamrec.features.tombstones import Tombstones
from streamrec.log.base import LogAddress, LogTail, LogWriter
from streamrec.log.connect import open_table_reader, open_tail, open_writer
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.worth_view import load_worth, worth_facts
from streamrec.registry.version import digest_arrays
from streamrec.serving.answers import POPULAR, STUDENT
from streamrec.serving.checks import RequestLimits
from streamrec.serving.event_sink import EventSink, Permit
from streamrec.serving.exploring import Exploration
from streamrec.serving.follower import FollowerState, LogFollower
from streamrec.serving.freshness import Freshness
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.impressions import ImpressionLog
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import LiveModel, ModelSlot
from streamrec.telemetry.logs import set_up
from streamrec.telemetry.numbers import Numbers, Taken
from streamrec.telemetry.traces import open_tracer

logger = logging.getLogger(__name__)

# A Python loop in a background thread may hold the interpreter this long while a request waits; the default is 5 ms.
_SWITCH_INTERVAL_S = 0.001
_RETRY_S = 0.5
# Adds half of itself to the freshness of histories, and bounds what a busy log costs a replica.
_GATHER_S = 0.02
_SINK_POLL_S = 0.5
# About as often as a stream commits.
_WORTH_EVERY_S = 10.0
_TELL_EVERY_S = 1.0
_CONNECT_TIMEOUT_S = 0.8 * APPEND_TIMEOUT_S
# How long a new replica keeps out of traffic to get a model and histories before it answers with what it has.
_WARM_START_S = 10.0


@dataclass(frozen=True)
class ReplicaSettings:
    """Say what a replica needs; travels to it by pickle.

    Attributes:
        config: The resolved configuration.
        log_address: Where the event log is; None follows no log and takes no events.
        state_url: Where the pipeline's state is, for the first histories; None starts them from the log.
        registry_url: Where the registry is, for the board; None when versions are published to the board only.
        student: Whose versions are served.
        is_local: Whether Serve is known to listen on loopback alone.
        keys: Keys of the HTTP interface by name, as they were when the server started; none asks nobody for one.
        keys_file: Where they came from, absolute; a replica that finds it there takes what has changed since.
    """

    config: Config
    log_address: LogAddress | None = None
    state_url: str | None = None
    registry_url: str | None = None
    student: str = "default"
    is_local: bool = False
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    keys_file: str = ""


class Replica:
    """Answer for one process; the back end of `serve.routes.Routes`.

    Args:
        settings: What to serve.
        replica_id: This replica's name.

    Raises:
        ConfigError: Traces are switched on, and what sends them is not installed here.
    """

    def __init__(self, settings: ReplicaSettings, replica_id: str) -> None:
        self.replica_id = replica_id
        self._settings = settings
        config = settings.config
        clock, telemetry = SystemClock(), config.telemetry
        set_up(telemetry.log_format, "replica")
        self._traces = SwapTraces(open_tracer(telemetry.traces_endpoint, "serve", replica_id), replica_id, clock)
        # A client that waits should hear which broker is away, before its route gives up without knowing why.
        connect_timeout_s = min(config.log.connect_timeout_s, _CONNECT_TIMEOUT_S)
        self._log_config = config.log.model_copy(update={"connect_timeout_s": connect_timeout_s})
        self._codec = EventCodec(config.events)
        self.numbers = Numbers(replica=replica_id)
        self._freshness = Freshness(self.numbers, config.log.events_topic, clock)
        self._view: HistoryView | None = None
        self._follower: LogFollower | None = None
        self.histories: SharedHistories | None = None
        self._sink: EventSink | None = None
        if settings.log_address is not None:
            features, tombstones = config.features, Tombstones(tombstone_key())
            users, meanings = config.serving.history_users, config.events.meanings
            self._view = HistoryView(features.history_length, users, meanings, self._codec, clock, tombstones=tombstones)
            self._view.max_items, self._view.dedupe = features.max_items, Dedupe(features.dedupe_horizon)
            shared = config.serving.histories == "redis"
            self._view.keeps_histories = not shared
            if shared:
                place = LogPlace(settings.log_address, self._log_config, settings.state_url)
                self.histories = share_histories(config, place, self._view, self._open_tail, self._freshness.in_histories)
            heard = self._freshness.awaits_model if shared else self._freshness.heard
            self._follower = LogFollower(self._view, self._load_histories, self._open_tail, heard=heard)
            topic, waiting = config.log.events_topic, config.serving.max_waiting
            self._sink = EventSink(self._codec, self._open_writer, topic, waiting, kinds=config.serving.accepts, earliest_ms=MIN_SENT_TIME_MS)
        self.shown: Callable[[RecommendRequest, Mapping[str, Any]], None] | None = None
        self._impressions: ImpressionLog | None = None
        if settings.log_address is not None and config.serving.log_impressions:
            # A sink of its own: impressions never take the place of events that somebody waits for.
            self._impression_sink = EventSink(self._codec, self._open_writer, config.log.events_topic, kinds=(Kind.IMPRESSION,))
            self._impressions = ImpressionLog(config.serving.log_impressions, self._impression_sink.submit, clock, student=settings.student)
            self.shown = self._impressions.shown
        self._worth = Worth()
        self.access = Access(settings.keys, settings.is_local, config.serving.remote_promotion, origins=config.serving.cors_origins)
        self._key_file = KeyFile(settings.keys_file, self.access.replace, clock) if settings.keys_file else None
        explored = config.serving.explore_share, config.serving.explore_among, config.serving.explore_temperature
        self.answerer = FullAnswerer(self._view, clock, exploration=Exploration(*explored) if explored[0] else None)
        self._slot = ModelSlot(self.answerer.prepare, lambda model: self._freshness.answers_with(model.offsets), digest_of=digest_arrays)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="model-loader")
        followed = settings.registry_url, settings.student
        self._subscription = BoardSubscription(replica_id, *followed, self._slot, self._loader, self._traces, telemetry.log_format)
        self.moves = Moves(settings.registry_url, settings.state_url, settings.student, self._subscription.look, clock)
        letters_config = config.model_copy(update={"log": self._log_config})
        self.letters = Letters(letters_config, settings.log_address, settings.state_url, clock)
        self.system = System(replica_id)
        self.gate, self.deadlines, self.backlog = Gate(config.serving.max_waiting), Deadlines(), Backlog(config.serving.shed_after_s or math.inf)
        self._stopping = threading.Event()
        self._histories_tried = threading.Event()
        self._threads: list[threading.Thread] = []
        self._board_task: asyncio.Task[None] | None = None
        self._tell_task: asyncio.Task[None] | None = None
        self._num_answers = {STUDENT: 0, POPULAR: 0}

    async def start(self) -> None:
        """Follow the board and the log; returns with a model and histories if they are there within a few seconds."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        if self._key_file is not None:
            # Before the first answer: a replica that is made later was given the keys of the server's start.
            self._look_for_keys(0.0)
            self._spawn("keys", self._look_for_keys, lambda: None)
        if self._follower is not None and self._sink is not None:
            sink = self._sink
            self._spawn("log-follower", self._follow_once, self._follower.close)
            self._spawn("event-sink", lambda: sink.step(_SINK_POLL_S), sink.close)
            if (histories := self.histories) is not None:
                self._spawn("history-reader", histories.answer_reads, lambda: None)
                self._spawn("history-lease", lambda: self._keep_lease(histories), lambda: None)
                self._spawn("history-writer", lambda: self._write_histories(histories), histories.stop_writing)
            if self._impressions is not None:
                self._spawn("impression-sink", lambda: self._impression_sink.step(_SINK_POLL_S), self._impression_sink.close)
                self._spawn("worth", self._look_at_worth, lambda: None)
        # The model comes while histories are read; requests wait for both.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._subscription.step(timeout_s=0), _WARM_START_S)
        if self._threads:
            await asyncio.to_thread(self._histories_tried.wait, _WARM_START_S)
        if self.histories is not None:
            self.histories.note()
        if self.model is not None:  # Now that it is known which items histories hold.
            await asyncio.get_running_loop().run_in_executor(self._loader, self.answerer.prepare, self.model)
        self._board_task = asyncio.create_task(self._subscription.run())
        self._tell_task = asyncio.create_task(self._tell())

    async def stop(self) -> None:
        """Stop the background work and let go of the log."""
        self._stopping.set()
        for task in (self._tell_task, self._board_task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._subscription.end()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 2.0)
        self._loader.shutdown(wait=False)
        await asyncio.to_thread(self._traces.close)

    def check(self) -> None:
        """Raise when a background loop has died, so that Serve replaces this replica.

        Raises:
            RuntimeError: With the loop's name.
        """
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        tasks = {"board": self._board_task, "numbers": self._tell_task}
        dead += [name for name, task in tasks.items() if task is not None and task.done()]
        if dead and not self._stopping.is_set():
            msg = f"Replica: background loops have ended, got {', '.join(dead)}, replace this replica"
            raise RuntimeError(msg)

    @property
    def model(self) -> LiveModel | None:
        """Return the live version."""
        return self._slot.current

    def recommend(self, request: RecommendRequest, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the answer's JSON object."""
        answer = self.answerer.answer(request, model, request_id)
        self._num_answers[answer["source"]] += 1
        if self._traces.awaited:
            self._traces.answered(answer)
        return answer

    def submit_events(self, events: list[Any], permit: Permit | None = None) -> Future[list[dict[str, Any]]]:
        """Hand over events to append, each if ``permit`` lets it.

        Raises:
            BrokerUnavailable: This replica has no log, or too many requests wait for it.
        """
        if self._sink is None:
            what = "Events: this server was started without a log"
            raise BrokerUnavailable(what, do="start it with the log's address")
        return self._sink.submit(events, permit)

    def taken(self) -> Taken:
        """Return this replica's numbers."""
        put_facts(self.numbers, self.facts(), self.deadlines.num_late, self.gate.num_refused + self.backlog.num_refused)
        return self.numbers.taken()

    async def all_numbers(self) -> list[Taken]:
        """Return the numbers of the stream, of all replicas and of the board."""
        return [self.taken(), *await self._subscription.told()]

    async def course(self, after_ms: int) -> dict[str, Any]:
        """Return how the stream has fared of late."""
        return await self._subscription.course(after_ms)

    async def _tell(self) -> None:
        while True:
            self._subscription.tell(self.taken())
            await asyncio.sleep(_TELL_EVERY_S)

    def facts(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` shows."""
        slot, model = self._slot, self._slot.current
        return {
            "replica": self.replica_id,
            "live": _model_facts(slot.current),
            "previous": _model_facts(slot.previous),
            "last_rejection": asdict(slot.last_rejection) if slot.last_rejection else None,
            "slot": asdict(slot.counters),
            "board": self._subscription.facts(),
            "answers": dict(self._num_answers),
            "history_view": self._view_facts(),
            "events": {"accepted": self._sink.num_accepted, "rejected": self._sink.num_rejected} if self._sink else None,
            "worth": None if self._impressions is None else worth_facts(self._worth, self._settings.student, model.version if model else None),
            "key_file": self._key_file and self._key_file.facts(),
            "impressions": self._impressions and {"logged": self._impressions.num_logged, "dropped": self._impressions.num_dropped},
        }

    def _view_facts(self) -> dict[str, Any] | None:
        if self._view is None or self._follower is None:
            return None
        return {
            "log": str(self._settings.log_address),
            "state": self._follower.state.value,
            "last_error": self._follower.last_error or None,
            "gaps": self._follower.num_gaps,
            "users": len(self._view),
            "unavailable": len(self._view.table.availability.codes),
            "described": len(self._view.table.attributes),
            "offsets": self._view.offsets,
            **asdict(self._view.counters),
            **({} if self.histories is None else {"shared": self.histories.facts()}),
        }

    def _look_at_worth(self) -> None:
        """Read what the newest commit says, and wait; where it can't be read the last one is shown on."""
        if self._settings.state_url is not None:
            try:
                self._worth = load_worth(self._settings.state_url)
            except OperatorError as error:
                logger.warning("what answers came to can't be read: %s", error)
        self._stopping.wait(_WORTH_EVERY_S)

    def _load_histories(self) -> HistoryColumns | None:
        url = self._settings.state_url
        return None if url is None else load_history_columns(url, with_users=self.histories is None)

    def _keep_lease(self, histories: SharedHistories) -> None:
        histories.keep_lease()
        self._stopping.wait(RENEW_EVERY_S)

    def _write_histories(self, histories: SharedHistories) -> None:
        self._stopping.wait(_GATHER_S if histories.write() else _RETRY_S)

    def _open_tail(self, offsets: Mapping[int, int]) -> LogTail:
        address, cfg = self._settings.log_address, self._log_config
        assert address is not None
        reader = open_table_reader(address, cfg)
        try:
            earliest = reader.earliest(cfg.events_topic)
        finally:
            reader.close()
        return open_tail(address, cfg.events_topic, {**earliest, **offsets}, cfg)

    def _open_writer(self) -> LogWriter:
        assert self._settings.log_address is not None
        return open_writer(self._settings.log_address, self._log_config)

    def _follow_once(self) -> None:
        assert self._follower is not None
        was_following = self._follower.state is FollowerState.FOLLOW
        is_well = self._follower.step()
        if was_following or not is_well:
            self._histories_tried.set()
        # A pause after rows came lets the next ones gather: decoding two at once costs as much as decoding one.
        self._stopping.wait(_GATHER_S if is_well else _RETRY_S)

    def _look_for_keys(self, pause_s: float = LOOK_EVERY_S) -> None:
        assert self._key_file is not None
        self._stopping.wait(pause_s)
        self._key_file.step()

    def _spawn(self, name: str, step: Callable[[], object], close: Callable[[], None]) -> None:
        def run() -> None:
            try:
                while not self._stopping.is_set():
                    step()
            except Exception:
                logger.exception("Replica: the loop %s has ended", name)
                raise
            finally:
                close()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def make_routes(replica: Replica, settings: ReplicaSettings) -> Routes:
    """Return a replica's routes with the configured bounds and access."""
    config = settings.config
    limits = RequestLimits(config.events.namespace, config.serving.max_n, config.serving.max_history, config.events.max_id_bytes)
    guards = Guards(replica.access, replica.gate, Cors(config.serving.cors_origins), replica.deadlines, replica.backlog)
    return Routes(replica, limits, config.serving.max_body_bytes, str(settings.log_address), guards)


def _model_facts(model: LiveModel | None) -> dict[str, Any] | None:
    if model is None:
        return None
    shown = ("metrics", "teachers", "parent", "seed", "student")
    return {
        "model_version": model.version,
        "model_age_s": (SystemClock().now_ms() - model.created_ms) / 1000,
        "created_ms": model.created_ms,
        "digest": model.digest,
        "offsets": model.offsets,
        "items": model.recommender.num_rows,
        "dim": model.recommender.dim,
        "namespaces": model.recommender.namespaces,
        "index": model.recommender.index_facts(),
        **{name: model.manifest[name] for name in shown if name in model.manifest},
    }
