"""A Redis of a test's own, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from streamrec.serving.redis_connection import HAS_REDIS

needs_redis = pytest.mark.skipif(
    not HAS_REDIS or shutil.which("redis-server") is None,
    reason="Redis needs `pip install 'streamrec[redis]'` and `apt-get install redis-server`",
)


class RedisServer:
    """Start and end `redis-server` at one port, without files.

    Args:
        folder: Its working folder.
        options: Further arguments.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder, self._options = folder, options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self._process = subprocess.Popen(["redis-server", *place, *self._options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.02)
        msg = "redis-server did not answer"
        raise AssertionError(msg)

    def kill(self) -> None:
        """End it at once; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
