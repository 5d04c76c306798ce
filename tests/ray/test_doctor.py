from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from streamrec.config import Config, parse_config
from streamrec.errors import ResourcesShort
from streamrec.pipeline.cluster import check_resources
from streamrec.pipeline.examine import Finding, Verdict
from streamrec.pipeline.survey import survey


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which nobody listens, kept from others meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def of_ray(config: Config) -> list[Finding]:
    return [finding for finding in survey(config, "local", 86_400.0) if finding.check == "ray"]


def config_in(folder: Path, **teachers: object) -> Config:
    return parse_config({"state": str(folder / "state"), "teachers": teachers})


def test_without_a_cluster_the_local_one_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [finding.verdict for finding in of_ray(config_in(tmp_path))] == [Verdict.OK]
    (finding,) = of_ray(config_in(tmp_path, num_train_workers=32, cpus_per_worker=4))
    assert (finding.verdict, "128.9 or more" in finding.found) == (Verdict.FAIL, True)
    assert not ray.is_initialized()


def test_a_cluster_that_is_away_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed_port)
    (finding,) = of_ray(config_in(tmp_path))
    assert finding.verdict is Verdict.FAIL
    assert f"no cluster answers at RAY_ADDRESS = {closed_port}, got [Errno 111] Connection refused" in finding.found


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_is_judged_as_a_job_judges_it_and_stays_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    fits, too_large = config_in(tmp_path), config_in(tmp_path, cpus_per_worker=3)
    assert of_ray(fits)[0].verdict is Verdict.OK
    check_resources(fits)
    (finding,) = of_ray(too_large)
    with pytest.raises(ResourcesShort) as caught:
        check_resources(too_large)
    assert str(caught.value) == f"{finding.found.partition(': ')[2]}, {finding.remedy}"
    assert ray.is_initialized()
