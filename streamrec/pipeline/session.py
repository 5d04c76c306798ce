"""Open everything that a stream job needs, in order, and close it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from streamrec import local_node
from streamrec.code_version import code_version
from streamrec.config import Config, LogConfig
from streamrec.environment import has_tombstone_key, ray_address
from streamrec.errors import BrokerUnavailable, EmbeddedBrokerError
from streamrec.log.base import LogAddress, LogWriter, TableReader
from streamrec.log.broker import BrokerHandle, NothingToStop, resolve_broker
from streamrec.log.connect import kafka_address, open_admin, open_table_reader, open_writer
from streamrec.log.kafka_group import GroupOffsets
from streamrec.pipeline.checkpoint import has_commit
from streamrec.pipeline.cluster import check_resources, ray_cluster
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url, registry_url, run_folder
from streamrec.pipeline.lineage import current_url, named_lineage
from streamrec.pipeline.plan import STUDENT
from streamrec.pipeline.readable import check_not_lost
from streamrec.pipeline.reader_actor import RecycledReader
from streamrec.pipeline.stream_numbers import StreamNumbers
from streamrec.pipeline.tracing import VersionTraces
from streamrec.pipeline.wiring import build_on_ray
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.telling import STREAM
from streamrec.storage import open_storage
from streamrec.telemetry.traces import open_tracer

ONE_LOOK_S = 5.0
"""How long a server that can do without the log looks for it at its start."""


Progress = Callable[[str, Mapping[int, int]], None]


@dataclass
class Session:
    """Hold what is open.

    Attributes:
        config: The resolved configuration.
        state_url: Storage address of the state.
        lineage_url: That of its current lineage, as it was when this was opened.
        address: The event log.
        reader: Reads it, a Kafka through Ray Data.
        writer: Appends to it.
        boards: Hand promoted versions to replicas, by student.
        progress: Is told the offsets of each commit.
        broker_ended: Says why this process's own broker has ended; None while it runs, and where there is none.
        traces: Tell how versions come to be.
    """

    config: Config
    state_url: str
    lineage_url: str
    address: LogAddress
    reader: TableReader
    writer: LogWriter
    boards: Mapping[str, RemoteBoard]
    progress: Progress | None = None
    broker_ended: Callable[[], EmbeddedBrokerError | None] = lambda: None
    traces: VersionTraces = field(default_factory=VersionTraces)

    @property
    def board(self) -> RemoteBoard:
        """The student's."""
        return self.boards[STUDENT]

    def numbers(self) -> StreamNumbers:
        """Return what counts the stream's steps, and tells each student's board of them."""
        return StreamNumbers([partial(board.tell, STREAM) for board in self.boards.values()])

    def controller(self, name: str | None = None) -> Controller:
        """Build a controller of the current lineage on Ray actors, without restoring it."""
        return self._build(self.lineage_url, self.reader, name, self.progress)

    def controller_of(self, lineage_url: str, reader: TableReader) -> Controller:
        """Build a controller of another lineage, on actors of its own: lag tools hear nothing of it."""
        return self._build(lineage_url, reader, None)

    def _build(self, lineage_url: str, reader: TableReader, name: str | None, progress: Progress | None = None) -> Controller:
        writer, boards, traces = self.writer, self.boards, self.traces
        return build_on_ray(self.config, reader, lineage_url, dead_letters=writer, boards=boards, name=name, progress=progress, traces=traces)


def check_own(session: Session) -> None:
    """Raise why this process's own broker or Ray has ended: nobody brings them back, so waiting for them is in vain.

    Raises:
        EmbeddedBrokerError: Its broker has.
        OperatorError: Its Ray has.
    """
    if (ended := session.broker_ended()) is not None:
        raise ended
    local_node.check()


def has_commits(config: Config) -> bool:
    """Return whether the state has a commit that a job could go on from; asks the storage alone and changes nothing.

    Raises:
        Damaged: A pointer is torn or lost, the name by which the lake knows the state is torn or lost, or the checkpoint is gone and the rest is not.
    """
    lineage = current_url(state_address(config))
    check_not_lost(lineage)
    if config.lake.enabled:
        named_lineage(lineage)
    return has_commit(open_storage(checkpoint_url(lineage)))


def state_address(config: Config) -> str:
    """Return the state's storage address; a path becomes absolute, because actors have other working folders."""
    return config.state if "://" in config.state else str(Path(config.state).absolute())


def consumer_group(config: Config) -> str:
    """Return the group that lag tools look at: the configured one, or a name that no other state has."""
    state = state_address(config)
    words = re.sub(r"[^a-zA-Z0-9._-]+", "-", state.rstrip("/").rpartition("/")[2])
    return config.log.consumer_group or f"streamrec-{words}-{hashlib.sha256(state.encode()).hexdigest()[:8]}"


@contextmanager
def open_session(config: Config, say: Callable[[str], None], *, num_cpus: int | None = None, num_replicas: int = 0) -> Iterator[Session]:
    """Connect to the log and Ray, and create the topics. A signal ends the wait for a broker when its handler raises.

    Args:
        config: The resolved configuration.
        say: Gets a line for each thing that is found or started.
        num_cpus: Logical CPUs of a local Ray.
        num_replicas: Serving replicas that must fit beside the stream.

    Raises:
        BrokerUnavailable: No broker answers within ``log.connect_limit_s``.
        BrokerRefused: The broker does not let this process in.
        ResourcesShort: The cluster can't hold the plan.
        Damaged: As `has_commits`; nothing was started.
        ConfigError: Traces are switched on, and what sends them is not installed.
    """
    if not has_commits(config):
        tell_default_key(say)
    with ExitStack() as stack:
        traces = open_traces(config)
        stack.callback(traces.close)
        address, handle = log_address(config, say)
        stack.callback(handle.stop)
        stack.enter_context(told_why_it_ended(handle))
        stack.enter_context(ray_cluster(num_cpus))
        check_resources(config, num_replicas)
        admin = open_admin(address, config.log)
        admin.ensure_topic(config.log.events_topic, config.log.num_partitions)
        admin.ensure_topic(config.log.dead_letter_topic, 1)
        admin.close()
        reader, writer = stream_reader(address, config.log, config.telemetry.log_format), open_writer(address, config.log)
        stack.callback(reader.close)
        stack.callback(writer.close)
        state_url = state_address(config)
        students = (STUDENT, *config.students)
        were_there = {student for student in students if RemoteBoard.exists(registry_url(state_url), student)}
        boards = {student: RemoteBoard.get_or_create(registry_url(state_url), student, config.telemetry.log_format) for student in students}
        for student in sorted(were_there):  # One that has just been made runs this code, and takes seconds to answer.
            tell_other_code(boards[student], say)
        progress = None
        if address.kind == "kafka":
            group = GroupOffsets(address.where, consumer_group(config), config.log)
            stack.callback(group.close)
            progress = group.commit
        yield Session(config, state_url, current_url(state_url), address, reader, writer, boards, progress, handle.ended, traces)


def open_traces(config: Config) -> VersionTraces:
    """Return what tells how versions come to be; it makes nothing where traces are switched off.

    Raises:
        ConfigError: They are switched on, and what sends them is not installed.
    """
    telemetry = config.telemetry
    return VersionTraces(open_tracer(telemetry.traces_endpoint, "stream"), telemetry.traces_every_s)


def tell_other_code(board: RemoteBoard, say: Callable[[str], None]) -> None:
    """Say so loudly where the board runs other code than this driver; it is left alone, because servers may have made it with theirs."""
    other = board.other_code()
    if other:
        do = "deploy the servers with the same code and end it, see 'An upgrade' in docs/operations.md"
        say(f"WARNING: the board, which hands versions to the servers, runs other code ({other}) than this job ({code_version()}): {do}")


def tell_default_key(say: Callable[[str], None]) -> None:
    """Say so loudly where a state begins on a cluster under the key of deleted users that everybody knows."""
    if ray_address() is None or has_tombstone_key():
        return
    what = "STREAMREC_TOMBSTONE_KEY is not set in this process: deleted users are remembered under a key that everybody knows"
    do = "give it to this job, the stream and the servers before the first deletion, by --runtime-env-json or on the nodes"
    say(f"WARNING: {what}, and who has the state can try ids: {do}, see 'A job of ray job submit' in docs/operations.md")


def stream_reader(address: LogAddress, cfg: LogConfig, log_format: str = "plain") -> TableReader:
    """Return the reader of micro-batches: Ray Data in an actor for Kafka; files are read where the driver runs."""
    return RecycledReader(address, cfg, log_format=log_format) if address.kind == "kafka" else open_table_reader(address, cfg)


@contextmanager
def told_why_it_ended(handle: BrokerHandle) -> Iterator[None]:
    """Raise the end of this process's own broker instead of that it does not answer."""
    try:
        yield
    except BrokerUnavailable as error:
        if (ended := handle.ended()) is not None:
            raise ended from error
        raise


def log_address(config: Config, say: Callable[[str], None], *, must_answer: bool = True) -> tuple[LogAddress, BrokerHandle]:
    """Return the log's address, and what stops what was started for it.

    An embedded broker is started if the configuration says so; a Kafka elsewhere is waited for up to ``log.connect_limit_s``.

    Args:
        config: Says which log.
        say: Gets a line for what is found or started, and for each attempt that fails.
        must_answer: False asks a Kafka once, says what it finds, and returns its address in any case.

    Raises:
        BrokerUnavailable: No broker answers, and it must.
        BrokerRefused: It does not let this process in, whether it must answer or not.
    """
    log = config.log
    attempt_s, limit_s = (log.connect_timeout_s, log.connect_limit_s) if must_answer else (min(log.connect_timeout_s, ONE_LOOK_S), 0.0)
    try:
        address, handle = resolve_broker(log.broker, run_folder(config), say, cfg=log, connect_timeout_s=attempt_s, connect_limit_s=limit_s)
    except BrokerUnavailable as error:
        if must_answer:
            raise
        say(f"going on without the log until it answers: {error}")
        return kafka_address(error.facts["address"]), NothingToStop()
    return address, handle
