"""Several `python -m serve` on one Ray cluster: none takes the place of another state's, and the last one out ends Serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

# Each server takes some ten seconds to start.
pytestmark = [pytest.mark.slow, pytest.mark.release]

ROOT = Path(__file__).resolve().parents[2]
NamedActors = Callable[[], list[tuple[str, str]]]


class Servers:
    """Start servers of states below a folder on this process's cluster, and end them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self, state: str, *options: str) -> tuple[subprocess.Popen[str], str]:
        """Return a server and its URL; "" where it ended instead."""
        words = [sys.executable, "-m", "serve", "--set", "log.broker=local", "--set", f"state={self._folder / state}", *options]
        words += ["--set", "serving.num_replicas=1"]
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
        with (self._folder / f"{len(self.running)}.err").open("w") as errors:
            self.running.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True))
        output = self.running[-1].stdout
        assert output is not None
        return self.running[-1], output.readline().strip()

    def errors(self, server: subprocess.Popen[str]) -> str:
        return (self._folder / f"{self.running.index(server)}.err").read_text()

    def end(self, server: subprocess.Popen[str]) -> None:
        server.send_signal(signal.SIGTERM)
        assert server.wait(90) == 0, self.errors(server)


@pytest.fixture
def servers(ray_cluster: None, tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    for server in made.running:
        server.kill()
        server.communicate()


def is_alive(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/healthz", timeout=20) as answer:
        return answer.status == 200


def test_servers_of_two_states_share_a_cluster_and_each_ends_alone(servers: Servers, named_actors: NamedActors) -> None:
    before = named_actors()
    shop, shop_url = servers.start("shop", "--set", "serving.port=0")
    assert is_alive(shop_url), servers.errors(shop)

    refused, nothing = servers.start("news", "--set", "serving.port=0")
    assert (refused.wait(60), nothing) == (1, "")
    assert "Serving: path / of this cluster's Serve is taken" in servers.errors(refused)
    assert "serving.path" in servers.errors(refused)
    assert is_alive(shop_url)

    news, news_url = servers.start("news", "--set", "serving.path=/news")
    assert news_url == f"{shop_url}/news"
    assert "listens on" in servers.errors(news)  # Not at its own serving.port, 8000.
    assert is_alive(news_url)

    again, again_url = servers.start("shop", "--set", "serving.port=0")
    assert again_url == shop_url
    servers.end(shop)  # Its application is the newer server's by now.
    assert is_alive(shop_url)
    servers.end(again)
    assert is_alive(news_url)
    servers.end(news)
    assert named_actors() == before
