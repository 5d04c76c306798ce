"""Run the streaming loop in a process that stops at every failpoint until its starter lets it go on, or kills it.

The loop is that of ``python -m jobs.stream``: the same session, driver and actors. It starts from a process that has imported everything, so that a
kill costs the connections and not the imports.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from streamrec.config import Config, parse_config
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.session import open_session
from streamrec.testing.failpoints import Failpoint, observed


@dataclass(frozen=True)
class Hit:
    """A failpoint at which the victim waits.

    Attributes:
        failpoint: Which.
        batch: Of the step in progress; 0 while a controller recovers.
    """

    failpoint: Failpoint
    batch: int


@dataclass(frozen=True)
class Adopted:
    """The actors of a controller that was built: role to process id and node id."""

    places: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Ended:
    """The loop is through, or failed for good with ``error``."""

    error: str = ""


class Victim:
    """Hold a streaming process from outside.

    Args:
        config: Its settings.
        ray_address: The cluster to connect to.
        last_batch: It ends after this one.
        log: Gets its output.
    """

    def __init__(self, config: Config, ray_address: str, last_batch: int, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._connection, theirs = context.Pipe()
        arguments = (config.model_dump_json(), ray_address, last_batch, str(log), theirs)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._is_waiting = False
        self.places: dict[str, tuple[int, str]] = {}

    def next(self, timeout_s: float) -> Hit | Ended | None:
        """Let it go on if it waits, and return its next hit or its end; None when neither came in time."""
        self.go()
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if not self._connection.poll(left):
                break
            try:
                message: Hit | Adopted | Ended = self._connection.recv()
            except EOFError:
                return Ended("the process is gone")
            if isinstance(message, Adopted):
                self.places = message.places
                continue
            self._is_waiting = isinstance(message, Hit)
            return message
        return None

    def go(self) -> None:
        """Let it go on if it waits at a failpoint."""
        if self._is_waiting:
            self._is_waiting = False
            with contextlib.suppress(OSError):
                self._connection.send("go")

    def kill(self) -> None:
        """Kill it with SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _run(settings: str, ray_address: str, last_batch: int, log: str, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starter's, which kills this process.
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.WARNING, force=True)
    os.environ["RAY_ADDRESS"] = ray_address
    try:
        _stream(parse_config(json.loads(settings)), last_batch, connection)
        connection.send(Ended())
    except BaseException as error:  # Whatever it is, the starter must hear of it.
        logging.exception("the loop failed")
        connection.send(Ended(f"{type(error).__name__}: {error}"))
        raise


def _stream(config: Config, last_batch: int, connection: Connection) -> None:
    def reach(failpoint: Failpoint, batch: int) -> None:
        connection.send(Hit(failpoint, batch))
        connection.recv()

    with open_session(config, _say) as session:

        def build() -> Controller:
            plain = session.controller()
            connection.send(Adopted(_places(plain)))
            return Controller(observed(plain.parts, session.state_url, session.board, reach))

        driver = Driver(build, time.sleep, _say)
        while driver.controller.state.batch < last_batch:
            driver.step()


def _places(controller: Controller) -> dict[str, tuple[int, str]]:
    parts = controller.parts
    workers = {"student": parts.student, "control": parts.control, "linear": parts.linear, "scorer": parts.scorer}
    return {role: worker.submit(_place).result() for role, worker in workers.items() if worker is not None}


def _place(_: Any) -> tuple[int, str]:
    return os.getpid(), ray.get_runtime_context().get_node_id()


def _say(line: str) -> None:
    logging.warning(line)
