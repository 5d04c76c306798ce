from __future__ import annotations

import contextlib
import gc
import socket
import threading
from pathlib import Path

import pytest

from streamrec.log import embedded


def open_sockets() -> set[int]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # The listing's own is closed by now.
            if str(fd.readlink()).startswith("socket:"):
                found.add(int(fd.name))
    return found


def test_a_client_that_got_no_answer_leaves_neither_thread_nor_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_BOOTSTRAP_MS", 300)
    before = set(threading.enumerate())
    with socket.socket() as deaf:  # As a broker that listens and does not answer yet.
        deaf.bind((embedded.LOOPBACK, 0))
        deaf.listen(50)
        assert not embedded._answers(deaf.getsockname()[1])
        assert set(threading.enumerate()) == before
    gc.collect()  # A connection that nobody closed is a warning, and so an error.


def test_a_broker_that_goes_away_after_the_first_look_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_BOOTSTRAP_MS", 1000)  # Some tries.
    leaving = socket.create_server((embedded.LOOPBACK, 0))

    def leave() -> None:
        with leaving:
            leaving.accept()[0].close()

    away, port = threading.Thread(target=leave), leaving.getsockname()[1]
    away.start()
    before = open_sockets() - {leaving.fileno()}
    assert not embedded._answers(port)
    away.join()
    assert open_sockets() == before  # kafka-python's own are closed when the garbage collector comes by, with a warning.
