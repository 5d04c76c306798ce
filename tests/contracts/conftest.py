"""A server on loopback that speaks S3, for each module that asks for one."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator

import pytest

try:
    from moto.server import ThreadedMotoServer
except ImportError:  # the extra `dev` is not installed: who asks for the server checks that
    ThreadedMotoServer = None

VARIABLES = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    before = dict(os.environ)
    os.environ.update(VARIABLES | {"AWS_ENDPOINT_URL": url})
    with urllib.request.urlopen(urllib.request.Request(f"{url}/streamrec-tests", method="PUT")) as answer:
        assert answer.status == 200
    yield url
    os.environ.clear()
    os.environ.update(before)
    server.stop()
