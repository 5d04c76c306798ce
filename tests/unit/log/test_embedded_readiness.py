from __future__ import annotations

import gc
import socket
import threading

import pytest

from streamrec.log import embedded


def test_a_client_that_got_no_answer_leaves_neither_thread_nor_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_BOOTSTRAP_MS", 300)
    before = set(threading.enumerate())
    with socket.socket() as deaf:  # As a broker that listens and does not answer yet.
        deaf.bind((embedded.LOOPBACK, 0))
        deaf.listen(50)
        assert not embedded._answers(deaf.getsockname()[1])
        assert set(threading.enumerate()) == before
    gc.collect()  # A connection that nobody closed is a warning, and so an error.
