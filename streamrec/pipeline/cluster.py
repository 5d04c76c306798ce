"""Connect to a Ray cluster, or start a local one that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import ray
import ray.data
from ray._private import utils as ray_utils  # noqa: PLC2701 - ray.init sets its handler of SIGTERM by this function alone
from ray._private import worker as ray_worker  # noqa: PLC2701 - Ray prints a cluster's warnings by its function alone
from ray.exceptions import RayError

from streamrec import local_node
from streamrec.config import Config
from streamrec.environment import ray_address
from streamrec.errors import OperatorError
from streamrec.memory import FOR_CHILDREN, bound_heaps
from streamrec.pipeline.resources import Resources, needed, shortage
from streamrec.pipeline.temporary import temporary_folder
from streamrec.student.actor import NAMESPACE

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 512 * 2**20
"""A laptop's object store: weights and batches are a few MiB each."""

LOCAL_CPUS = 4
"""Logical CPUs of a local cluster at least: they isolate nothing, and Ray warns when it starts many more processes than these."""

RAY_SETTINGS = {
    # By default all workers, replicas among them, run at nice 15, and any other program of the machine (a producer, a test) starves them.
    "worker_niceness": 0,
    # Each execution of Ray Data names new time series, which are kept and sent again for ever by its statistics actor and by each node's agent.
    # Nobody collects them from a local cluster.
    "enable_metrics_collection": False,
    # The GCS remembers each call of an actor for those who ask what ran: 4 KB, up to 100,000 of them, some ten a micro-batch.
    "task_events_report_interval_ms": 0,
    # It also remembers the last 100,000 actors that ended, each with what its constructor was given, and 1,000 workers: a refresh ends some four.
    "maximum_gcs_destroyed_actor_cached_count": 100,
    "maximum_gcs_dead_worker_cached_count": 100,
    # As many processes may start at a time, and Ray prints a warning only beyond three times as many.
    "worker_maximum_startup_concurrency": 8,
}
"""Of a local cluster; a cluster that is there already has its own."""


# Ray's sockets live deep below its folder, and a socket's path may have 107 bytes.
_MAX_FOLDER_CHARS = 35

_LOOK_S = 1.0
_NOTICE_S = 3.0
"""In so long a job that is not in a call has found that its cluster is gone; Ray's own code may end it five seconds after its raylet."""

GRACE_S = 15.0
"""Ray starts within a few seconds; on a busy machine it may take so long to obey a signal."""
STUCK = 130
"""Exit status of a process that a signal ended while Ray did not come back, as a shell gives it for Ctrl-C."""
_PATIENCE_S = 5.0
_SLOW_S = 20.0
_LATE = "timed out during startup"
_FAREWELL_S = 3.0
"""Ray's processes end within a second of their node's end, if at all."""


@contextmanager
def ray_cluster(num_cpus: int | None = None) -> Iterator[None]:
    """Be connected to Ray inside the block.

    `RAY_ADDRESS` is used when it is set, and a connection that is there already is kept. Otherwise a local cluster is started; it ends with
    the block, all its processes with it, and its temporary folder is removed. Handlers of SIGINT and SIGTERM that the caller has set stay in
    place; a signal that comes while Ray starts is handled once it has started.

    Args:
        num_cpus: Logical CPUs of a local cluster; None takes the machine's, but at least `LOCAL_CPUS`.

    Raises:
        OperatorError: No cluster answers at `RAY_ADDRESS`, or a local one did not start in time.
    """
    _quieten()
    bound_heaps()
    if ray.is_initialized():
        yield
        return
    if (address := ray_address()) is not None:
        # Between its connection and our handler Ray's native one would end this process with a stack trace, whatever it was doing.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        _connect(address)
        yield
        return
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", **FOR_CHILDREN}.items():
        os.environ.setdefault(name, value)
    ends = threading.Event()
    with temporary_folder(longest=_MAX_FOLDER_CHARS) as folder:
        try:
            with _signals_wait(), _in_a_paragraph():
                ray.init(
                    address="local",
                    namespace=NAMESPACE,
                    num_cpus=num_cpus or max(LOCAL_CPUS, os.cpu_count() or 1),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    _temp_dir=str(folder),
                    _system_config=RAY_SETTINGS,
                )
            local_node.began()
            threading.Thread(target=_last_resort, args=(folder, ends), daemon=True).start()
            try:
                yield
            except RayError:
                local_node.check()  # It says what has happened; a call that failed for it says only whom it asked.
                raise
        finally:
            ends.set()
            local_node.ends()
            _end_local(folder)


@contextmanager
def _in_a_paragraph() -> Iterator[None]:
    """Say in our words that Ray did not start in its time, as where other programs take the machine: it raises a bare `Exception` then."""
    try:
        yield
    except Exception as error:
        if _LATE not in str(error):
            raise
        what, do = "Ray: its processes did not start within 30 s", "see what else takes this machine's cores, then start again"
        raise OperatorError(what, do=do) from error


def _end_local(folder: Path) -> None:
    """End the local cluster and kill what stays of it: a worker whose node goes while it ends itself, or is killed, may hang for ever."""
    started: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # It has just ended.
            started += child.children(recursive=True) if local_node.name_of(child) == "raylet" else []
    ray.shutdown()
    _, left = psutil.wait_procs([*started, *_writers(folder, orphans=True)], timeout=_FAREWELL_S)
    for process in left:
        logger.debug("Ray: killing process %d, which outlived its node", process.pid)
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_FAREWELL_S)


def _last_resort(folder: Path, ends: threading.Event) -> None:
    """End this process where its cluster is gone and nobody has taken note, as in a call that waits; until ``ends`` is set.

    Ray's own code does so up to a minute later, says nothing of why, and leaves processes.
    """
    while not ends.wait(_LOOK_S):
        try:
            local_node.check()
        except OperatorError as gone:
            if ends.wait(_NOTICE_S):
                return
            logger.error("%s", gone)
            for process in _writers(folder):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)


def _writers(folder: Path, *, orphans: bool = False) -> list[psutil.Process]:
    """Return who writes into a cluster's folder, with those that they have started: all of them, or those that lost their parents.

    Never this process: who started it may have ended, too, and then its parent is that of all orphans.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # It has just ended, or is another user's.
            is_wanted = process.pid != os.getpid() and (not orphans or process.ppid() == 1)
            if is_wanted and any(file.path.startswith(f"{folder}/") for file in process.open_files()):
                found += [process, *process.children(recursive=True)]
    return found


def _connect(address: str) -> None:
    """Connect to the cluster that is there.

    Raises:
        OperatorError: None answers, or it refuses.
    """
    still = "Ray: still waiting for the cluster at RAY_ADDRESS = %s, are all its processes there?"
    waiting = threading.Timer(_SLOW_S, logger.warning, [still, address])
    waiting.start()
    try:
        _reach(address)
        with _signals_wait():
            ray.init(namespace=NAMESPACE, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"Ray: no cluster answers at RAY_ADDRESS = {address}"
        do = "start it, or correct RAY_ADDRESS; where it asks for tokens, give RAY_AUTH_MODE and the token to this process, too"
        raise OperatorError(what, got=" ".join(str(error).split())[:300] or type(error).__name__, do=do) from error
    finally:
        waiting.cancel()


def _reach(address: str) -> None:
    """Open a plain connection where the address is one: Ray itself would try for minutes, without a word that can be understood."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let the signals that the caller handles wait for the end of the block, but not for ever.

    A handler's exception must not leave `ray.init` half-way: Ray's connection to the GCS, once made and before it connects, waits for ever in
    its destructor. Ray's own handler of SIGTERM, which raises as well, is kept from taking the caller's place. Where Ray does not come back
    within `GRACE_S` of a signal, or a second one comes, the process ends at once: handlers can't run meanwhile, so a thread sees to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled: dict[int, Callable[[int, FrameType | None], object]] = {}
    for one in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(one)):
            handled[one] = handler
    came: list[int] = []
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_end_if_stuck, args=(ours, frozenset(handled)), name="ray-signals", daemon=True)
    set_rays_handler = ray_utils.set_sigterm_handler
    if signal.SIGTERM in handled:
        ray_utils.set_sigterm_handler = lambda _: None
    for number in handled:
        signal.signal(number, lambda number, _: came.append(number))
    fd_before = signal.set_wakeup_fd(theirs.fileno())
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        theirs.close()
        watcher.join()
        ours.close()
        ray_utils.set_sigterm_handler = set_rays_handler
        for number, handler in handled.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _end_if_stuck(signals: socket.socket, handled: Collection[int]) -> None:
    """End this process on the second handled signal, or `GRACE_S` after the first; return when the other side closes."""
    try:
        for limit_s in (None, GRACE_S):
            signals.settimeout(limit_s)
            while (received := signals.recv(1)) and received[0] not in handled:
                pass
            if not received:
                return
    except TimeoutError:
        pass  # The grace is over.
    os.write(2, b"stopped by a signal while Ray did not answer\n")
    os._exit(STUCK)


_print = ray_worker.print_to_stdstream


def _print_as_error(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Print what Ray has to say to the error output: the last line of a job's output is its JSON."""
    _print({**data, "is_err": True}, ignore_prefix)


def _quieten() -> None:
    """Keep Ray's progress and warnings out of a stream job's output: a step has several executions a second."""
    ray_worker.print_to_stdstream = _print_as_error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Its warnings are about its own defaults; gaps and missing rows are errors of our readers.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A local cluster asks for a token by default, which is what we want; Ray warns about it at each start.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def check_resources(config: Config, num_replicas: int = 0) -> None:
    """Compare what the plan needs with what the cluster has, so that nothing waits for ever.

    Raises:
        ResourcesShort: There are fewer CPUs or GPUs than needed, or no node has what a process is placed by.
    """
    short = shortage(config, needed(config, num_replicas), cluster_resources())
    if short is not None:
        raise short


def cluster_resources() -> Resources:
    """Return what the connected Ray cluster has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray ships it untyped
    return Resources.of_nodes([node["Resources"] for node in nodes if node["Alive"]])
