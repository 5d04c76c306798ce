"""A server on loopback that speaks S3, for each module that asks for one."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

VARIABLES = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}

# In a process of its own: delta-rs keeps Python's lock while it waits for an answer, so a server in this one could not give it.
# S3 answers a conditional put atomically; moto looks and then puts, and two of its threads may both find nothing: one at a time.
SERVER = """
import sys
from threading import Lock
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
sys.setswitchinterval(1e-6)  # threads change places where they can: what is not atomic is seen
put_object, one_at_a_time = S3Response.put_object, Lock()
def atomic_put_object(self):
    with one_at_a_time:
        return put_object(self)
S3Response.put_object = atomic_put_object
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().split()
        url = f"http://{host}:{port}"
        before = dict(os.environ)
        os.environ.update(VARIABLES | {"AWS_ENDPOINT_URL": url})
        with urllib.request.urlopen(urllib.request.Request(f"{url}/streamrec-tests", method="PUT")) as answer:
            assert answer.status == 200
        yield url
        os.environ.clear()
        os.environ.update(before)
        server.kill()
