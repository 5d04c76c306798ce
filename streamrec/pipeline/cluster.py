"""Connect to a Ray cluster, or start a local one that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
import ray.data
from ray._private import utils as ray_utils  # noqa: PLC2701 - ray.init sets its handler of SIGTERM by this function alone

from streamrec.config import Config
from streamrec.environment import ray_address
from streamrec.memory import FOR_CHILDREN, bound_heaps
from streamrec.pipeline.resources import Resources, needed, shortage
from streamrec.pipeline.temporary import temporary_folder
from streamrec.student.actor import NAMESPACE

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
    # As many processes may start at a time, and Ray prints a warning only beyond three times as many.
    "worker_maximum_startup_concurrency": 8,
}
"""Of a local cluster; a cluster that is there already has its own."""


# Ray's sockets live deep below its folder, and a socket's path may have 107 bytes.
_MAX_FOLDER_CHARS = 35


@contextmanager
def ray_cluster(num_cpus: int | None = None) -> Iterator[None]:
    """Be connected to Ray inside the block.

    `RAY_ADDRESS` is used when it is set, and a connection that is there already is kept. Otherwise a local cluster is started; it ends with
    the block and its temporary folder is removed. Handlers of SIGINT and SIGTERM that the caller has set stay in place; a signal that comes while
    Ray starts is handled once it has started.

    Args:
        num_cpus: Logical CPUs of a local cluster; None takes the machine's, but at least `LOCAL_CPUS`.
    """
    _quieten()
    bound_heaps()
    if ray.is_initialized():
        yield
        return
    if ray_address() is not None:
        # Between its connection and our handler Ray's native one would end this process with a stack trace, whatever it was doing.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        with _signals_wait():
            ray.init(namespace=NAMESPACE, log_to_driver=False)
        yield
        return
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", **FOR_CHILDREN}.items():
        os.environ.setdefault(name, value)
    with temporary_folder(longest=_MAX_FOLDER_CHARS) as folder:
        try:
            with _signals_wait():
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
            yield
        finally:
            ray.shutdown()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let the signals that the caller handles wait for the end of the block; a second one ends the process at once.

    A handler's exception must not leave `ray.init` half-way: Ray's connection to the GCS, once made and before it connects, waits for ever in
    its destructor. Ray's own handler of SIGTERM, which raises as well, is kept from taking the caller's place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled: dict[int, Callable[[int, FrameType | None], object]] = {}
    for one in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(one)):
            handled[one] = handler
    came: list[int] = []

    def wait(number: int, _: object) -> None:
        if came:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        came.append(number)

    set_rays_handler = ray_utils.set_sigterm_handler
    if signal.SIGTERM in handled:
        ray_utils.set_sigterm_handler = lambda _: None
    for number in handled:
        signal.signal(number, wait)
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = set_rays_handler
        for number, handler in handled.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _quieten() -> None:
    """Keep Ray's progress out of a stream job's output: a step has several executions a second."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Its warnings are about its own defaults; gaps and missing rows are errors of our readers.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A local cluster asks for a token by default, which is what we want; Ray warns about it at each start.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def check_resources(config: Config, actor_cpus: float, num_replicas: int = 0) -> None:
    """Compare what the plan needs with what the cluster has, so that nothing waits for ever.

    Raises:
        ResourcesShort: There are fewer CPUs or GPUs than needed.
    """
    short = shortage(config, needed(config, actor_cpus, num_replicas), cluster_resources())
    if short is not None:
        raise short


def cluster_resources() -> Resources:
    """Return what the connected Ray cluster has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray ships it untyped
    return Resources.of_nodes([node["Resources"] for node in nodes if node["Alive"]])
