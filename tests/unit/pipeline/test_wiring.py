"""Each of the stream's actors is made with what the configuration says that it takes of its node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamrec.config import RefreshPlacement, parse_config
from streamrec.pipeline import wiring

PLACED = {
    "teachers": {"enabled": ["linear"]},
    "students": {"small": {"dim": 16}},
    "placement": {
        "learners": {"cpus": 1.5, "resources": {"stays": 0.01}},
        "scorer": {"resources": {"large": 0.5}},
        "linear": {"cpus": 0.0, "resources": {"small": 0.25}},
        "refreshes": {"cpus": 0.3, "resources": {"stays": 0.02}},
    },
}


class Wired(Exception):
    """All actors are made."""


def test_actors_are_placed_by_their_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, tuple[float, dict[str, float]]] = {}
    refreshes: list[Any] = []

    def host(name: str, num_cpus: float, check_owner: Any, niceness: int, resources: dict[str, float], role: str) -> None:
        made[role] = num_cpus, resources
        assert name == f"ours-{role}"

    def all_there(_: Any) -> None:
        raise Wired

    monkeypatch.setattr(wiring, "host", host)
    monkeypatch.setattr(wiring, "RayWorker", lambda *_, **__: None)
    monkeypatch.setattr(wiring, "RayRefresher", lambda *arguments: refreshes.append(arguments[-1]))
    monkeypatch.setattr(wiring, "wait_until_adopted", all_there)
    reader: Any = None
    with pytest.raises(Wired):
        wiring.build_on_ray(parse_config(PLACED), reader, str(tmp_path), dead_letters=None, name="ours")
    learner = (1.5, {"stays": 0.01})
    others = {"scorer": (0.1, {"large": 0.5}), "linear": (0.0, {"small": 0.25})}
    assert made == {**dict.fromkeys(("student", "control", "students-small"), learner), **others}
    assert refreshes == [RefreshPlacement(cpus=0.3, resources={"stays": 0.02})]
