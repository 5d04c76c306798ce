"""What a killed server looks like to the client, on real connections: closed before the answer, in its middle, reset, or gone while kept open."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import anyio
import pytest

from streamrec.client import AsyncClient, Client, NoAnswer, TimedOut, TimeOuts

BODY = b'{"status": "ok", "replica": "r1"}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
Behaviour = Callable[[socket.socket], None]


def close(connection: socket.socket) -> None:
    """Close without an answer."""


def reset(connection: socket.socket) -> None:
    """Reset the connection, as a kernel does for a killed process."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(connection: socket.socket) -> None:
    """Close in the middle of the answer."""
    connection.sendall(ANSWER[:-5])


def answer(connection: socket.socket) -> None:
    """Answer, and close a connection that the client keeps."""
    connection.sendall(ANSWER)


class Server:
    """Do with one connection after the other as told, and with further ones as with the last."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours, self.num_requests = list(behaviours), 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65_536):
                    self.num_requests += 1
                    (self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0])(connection)


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(*behaviours: Behaviour) -> Server:
        servers.append(Server(*behaviours))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def ask(kind: type[Client | AsyncClient], url: str, num: int = 1) -> list[str]:
    """The status of several requests over one client."""
    if kind is Client:
        with Client(url) as client:
            return [client.healthz().status for _ in range(num)]

    async def main() -> list[str]:
        async with AsyncClient(url) as client:
            return [(await client.healthz()).status for _ in range(num)]

    return anyio.run(main)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("death", [close, reset, half], ids=lambda one: one.__name__)
def test_a_server_that_dies_costs_one_more_request(serving: Callable[..., Server], kind: type[Client | AsyncClient], death: Behaviour) -> None:
    server = serving(death, answer)
    assert (ask(kind, server.url), server.num_requests) == (["ok"], 2)
    dying = serving(death)
    with pytest.raises(NoAnswer, match="the connection broke during GET /healthz"):
        ask(kind, dying.url)
    assert dying.num_requests == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_kept_connection_that_the_server_has_closed_costs_nothing(serving: Callable[..., Server], kind: type[Client | AsyncClient]) -> None:
    server = serving(answer)
    assert ask(kind, server.url, num=5) == ["ok"] * 5


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeouts=TimeOuts(read_s=0.1)) as client, pytest.raises(TimedOut):
            client.healthz()
