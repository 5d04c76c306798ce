"""Run a real Apache Kafka as a child of this process: one node, KRaft, loopback only, data below the run's folder.

The broker lives no longer than the process that started it, even when that one is killed (`streamrec.log._supervise`). Started again on
the same folder it has the same records, cluster id and, where they are free, ports.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TextIO, cast

from streamrec.environment import cache_folder
from streamrec.errors import EmbeddedBrokerError
from streamrec.log.base import MAX_RECORD_BYTES, LogAddress
from streamrec.log.kafka_install import ALTERNATIVES, find_java, kafka_jars

with warnings.catch_warnings():
    # kafka-python reads its schemas with importlib.resources.read_text, which Python 3.11 and 3.12 call deprecated and 3.13 no longer does.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError
    from kafka.net import KafkaNetSocket
    from kafka.net.compat import KafkaNetClient

LOOPBACK = "127.0.0.1"

# A small heap and one compiler thread: the broker shares the machine with what it feeds. The first tier compiles soonest.
_JVM_OPTIONS = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:CICompilerCount=1", "-Djava.awt.headless=true")
_LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)
_SETTINGS: Mapping[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "BROKER",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "group.initial.rebalance.delay.ms": 0,
    # A record is larger than its key and value by its frame.
    "message.max.bytes": MAX_RECORD_BYTES + 65_536,
    # Replays carry old timestamps: retention by time would drop them as they arrive. The run's folder bounds the data.
    "log.retention.ms": -1,
    "log.cleaner.enable": "false",
    # After a kill the old session must run out before the broker is let in again; the default of 9 s makes a restart slow.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "num.network.threads": 1,
    "num.io.threads": 2,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 1,
}
_LISTS = ("listeners", "advertised.listeners", "listener.security.protocol.map")
_STOP_GRACE_S = 10.0
# A broker whose starter was killed leaves within the grace; one that stays longer is in use.
_LEAVE_S = _STOP_GRACE_S + 5.0
_MAX_PORT_ATTEMPTS = 3
_LOOK_EVERY_S = 0.02
# Longer than a slow machine needs: an admin client that gives up leaves its thread behind.
_BOOTSTRAP_MS = 5000
_SCHEME = "direct"
_QUOTED_LINES, _QUOTED_CHARS = 8, 200
_KILLED = 137
"""Status of a broker that SIGKILL ended, as its supervisor passes it on."""
_TROUBLE = ("ERROR", "FATAL", "Exception", "No space left")
"""Marks of the lines of a broker's log that say why it ended."""


@dataclass(frozen=True, slots=True)
class _Node:
    cluster_id: str
    broker_port: int
    controller_port: int


class EmbeddedKafka:
    """Hold a broker that runs; made by `start_embedded`."""

    def __init__(self, address: LogAddress, supervisor: subprocess.Popen[bytes], folder: Path, since: int) -> None:
        self.address = address
        self._supervisor = supervisor
        self._folder, self._since = folder, since

    @property
    def is_running(self) -> bool:
        """Tell whether the broker's process is there."""
        return self._supervisor.poll() is None

    def ended(self) -> EmbeddedBrokerError | None:
        """Return why the broker has ended by itself, in its own words; None while it runs."""
        if self.is_running:
            return None
        lines = _log_since(self._folder, self._since)
        quoted = _quoted([line for line in lines if any(mark in line for mark in _TROUBLE)] or lines)
        status, log = self._supervisor.returncode, self._folder / "broker.log"
        by = " (SIGKILL, by somebody or by the kernel for want of memory)" if status == _KILLED else ""
        what = f"Embedded Kafka: it ended by itself, with status {status}{by}, on {self._folder}{quoted}"
        return EmbeddedBrokerError(what, do=f"mend what ended it, such as a full disk, and start again; all is in {log}")

    def stop(self) -> None:
        """Stop the broker cleanly, by force after 10 s; returns when it is gone. Stopping twice is fine."""
        _stop(self._supervisor)


def start_embedded(
    folder: Path, say: Callable[[str], None], start_timeout_s: float = 60.0, settings: Mapping[str, str | int] | None = None
) -> EmbeddedKafka:
    """Start a broker on a folder and return when it answers.

    Args:
        folder: Data, settings and the broker's log file (``broker.log``); made when missing.
        say: Gets one line when jars must be fetched and there is no terminal for a progress bar.
        start_timeout_s: Bound of the wait for the broker's answer.
        settings: Further ones of the broker. What they say of `_LISTS` is added to ours, such as a listener with TLS beside the plain one.

    Raises:
        EmbeddedBrokerError: No jars, no Java, the folder is in use, or it did not start in time; says which and names the alternatives.
    """
    java = find_java()
    jars = kafka_jars(cache_folder() / "kafka", say)
    command = [str(java), *_JVM_OPTIONS, *_LOG_OPTIONS, "-cp", os.pathsep.join(str(jar) for jar in jars)]
    deadline = time.monotonic() + start_timeout_s
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a+") as lock, (folder / "broker.log").open("ab") as output:
            _take(lock, folder, deadline)
            for attempt in range(1, _MAX_PORT_ATTEMPTS + 1):
                node = _node(folder)
                _configure(folder, node, settings or {})
                _format(folder, node, command, output, deadline)
                started = _launch(folder, node, command, lock, output, deadline)
                if started is not None:
                    return started
                if attempt < _MAX_PORT_ATTEMPTS:
                    (folder / "node.json").write_text(json.dumps(asdict(_Node(node.cluster_id, 0, 0))))
    except OSError as error:
        what = f"Embedded Kafka: the disk refused ({error.strerror}) in {folder}"
        raise EmbeddedBrokerError(what, do=f"free some space or check its permissions, or {ALTERNATIVES}") from error
    raise _did_not_start(folder, "its ports were taken by others again and again", 0)


def running_at(folder: Path) -> str | None:
    """Return the HOST:PORT of the broker that some process of this machine runs on a folder; None where none answers. Changes nothing."""
    file = folder / ".lock"
    if not file.exists():
        return None
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            port = _port_of(folder)
            return f"{LOOPBACK}:{port}" if _answers(port) else None
    return None


def _take(lock: TextIO, folder: Path, deadline: float) -> None:
    """Lock the folder for the broker's life; refuse as soon as it is clear that another process's broker stays on it."""
    leaves_by = min(deadline, time.monotonic() + _LEAVE_S)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            is_used = time.monotonic() > deadline or (_answers(_port_of(folder)) if _is_alive(_starter(lock)) else time.monotonic() > leaves_by)
            if is_used:
                what, where = f"Embedded Kafka: another process runs one on {folder}", f"{LOOPBACK}:{_port_of(folder) or 'PORT'}"
                do = f"stop it, choose another run folder, or use it: log.broker = {where}"
                raise EmbeddedBrokerError(what, do=do, address=where) from error
            _pause()
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            return


def _starter(lock: TextIO) -> int:
    """Return the process that took the lock last; 0 where none has said."""
    lock.seek(0)
    return int(lock.read() or 0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _port_of(folder: Path) -> int:
    try:
        return int(json.loads((folder / "node.json").read_text())["broker_port"])
    except (OSError, ValueError):
        return 0


def _pause() -> None:
    time.sleep(_LOOK_EVERY_S)


def _node(folder: Path) -> _Node:
    """Return the node of the last start, with new ports where the old ones are taken."""
    file = folder / "node.json"
    node = _Node(**json.loads(file.read_text())) if file.exists() else _Node(_new_cluster_id(), 0, 0)
    with socket.socket() as broker, socket.socket() as controller:
        node = _Node(node.cluster_id, _bind(broker, node.broker_port), _bind(controller, node.controller_port))
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(node)))
    temporary.replace(file)
    return node


def _bind(probe: socket.socket, port: int) -> int:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((LOOPBACK, port))
    except OSError:
        probe.bind((LOOPBACK, 0))
    return int(probe.getsockname()[1])


def _new_cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _configure(folder: Path, node: _Node, more: Mapping[str, str | int]) -> None:
    controller = f"{LOOPBACK}:{node.controller_port}"
    broker = f"{LOOPBACK}:{node.broker_port}"
    settings = {
        **_SETTINGS,
        "listeners": f"BROKER://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"BROKER://{broker}",
        "controller.quorum.voters": f"1@{controller}",
    }
    settings |= {key: f"{settings[key]},{value}" if key in _LISTS else value for key, value in more.items()}
    for name in ("data", "formatting"):
        lines = [f"{key}={value}\n" for key, value in {**settings, "log.dirs": folder / name}.items()]
        (folder / f"{name}.properties").write_text("".join(lines))


def _format(folder: Path, node: _Node, command: list[str], output: IO[bytes], deadline: float) -> None:
    """Format the storage beside its place, so that a folder in place is a whole one."""
    if (folder / "data").exists():
        return
    shutil.rmtree(folder / "formatting", ignore_errors=True)
    # One word: an id may begin with a dash.
    arguments = ["kafka.tools.StorageTool", "format", f"--cluster-id={node.cluster_id}", "-c", str(folder / "formatting.properties")]
    since = output.tell()
    try:
        subprocess.run(  # noqa: S603 - our own command
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=max(1.0, deadline - time.monotonic()), check=True
        )
    except subprocess.SubprocessError as error:
        raise _did_not_start(folder, "its storage could not be formatted", since) from error
    (folder / "formatting").rename(folder / "data")


def _launch(folder: Path, node: _Node, command: list[str], lock: TextIO, output: IO[bytes], deadline: float) -> EmbeddedKafka | None:
    """Start the broker and wait for its answer; None when another process took a port meanwhile."""
    since = output.tell()
    script = str(Path(__file__).with_name("_supervise.py"))
    supervisor = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-I", "-S", script, str(lock.fileno()), str(_STOP_GRACE_S), *command, "kafka.Kafka", str(folder / "data.properties")],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=(lock.fileno(),),
        start_new_session=True,  # Ctrl-C in a terminal reaches this process, which then stops the broker last
    )
    try:
        while time.monotonic() < deadline:
            if supervisor.poll() is not None:
                _stop(supervisor)
                if any("Address already in use" in line for line in _log_since(folder, since)):
                    return None
                raise _did_not_start(folder, f"it ended with status {supervisor.returncode}", since)
            if _answers(node.broker_port):
                return EmbeddedKafka(LogAddress("kafka", f"{LOOPBACK}:{node.broker_port}"), supervisor, folder, since)
            _pause()
    except BaseException:
        _stop(supervisor)
        raise
    _stop(supervisor)
    raise _did_not_start(folder, "it did not answer in time", since)


class _Closing(KafkaNetSocket):  # type: ignore[misc] # kafka-python ships it untyped
    """Close a socket whose connection is refused; kafka-python 3.0 leaves that to the garbage collector. Asked for by the scheme of a proxy."""

    SCHEMES = (_SCHEME,)

    async def sock_connect(self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None) -> socket.socket:
        """Connect, or close the socket and raise."""
        try:
            return cast("socket.socket", await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at))
        except BaseException:
            sock.close()
            raise


def _answers(port: int) -> bool:
    networks: list[KafkaNetClient] = []

    def network(**settings: Any) -> KafkaNetClient:
        networks.append(KafkaNetClient(**settings))
        return networks[-1]

    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        where, direct = f"{LOOPBACK}:{port}", f"{_SCHEME}://"
        with KafkaAdminClient(bootstrap_servers=where, bootstrap_timeout_ms=_BOOTSTRAP_MS, kafka_client=network, proxy_url=direct) as admin:
            return bool(admin.describe_cluster()["brokers"])
    except (OSError, KafkaError):
        return False
    finally:
        for each in networks:  # A client that gave up in its constructor leaves a thread and connections, and nobody to close them.
            each.close()


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    assert supervisor.stdin is not None
    supervisor.stdin.close()
    try:
        supervisor.wait(_LEAVE_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()  # the kernel then kills the broker
        supervisor.wait()


def _did_not_start(folder: Path, reason: str, since: int) -> EmbeddedBrokerError:
    what = f"Embedded Kafka: it did not start on {folder} ({reason}{_quoted(_log_since(folder, since))})"
    return EmbeddedBrokerError(what, do=f"read {folder / 'broker.log'}, or {ALTERNATIVES}")


def _quoted(lines: list[str]) -> str:
    if not lines:
        return ""
    shown = (line if len(line) <= _QUOTED_CHARS else f"{line[:_QUOTED_CHARS]}…" for line in map(str.strip, lines[-_QUOTED_LINES:]))
    return f"; its last lines: {' | '.join(shown)}"


def _log_since(folder: Path, since: int) -> list[str]:
    """Return the log's lines from an offset on, without the frames of Java's stacks."""
    with (folder / "broker.log").open("rb") as file:
        file.seek(since)
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if not line.startswith("\tat ")]
