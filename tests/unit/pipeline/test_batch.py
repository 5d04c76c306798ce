"""Recommend for many users: as the interface answers, in parts that are whole or not there, and on from where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs import recommend_batch
from streamrec.errors import ConfigError, RequestError
from streamrec.pipeline.answering import StorageAnswerer
from streamrec.pipeline.batch import DONE, META, PartMaker, Wish, begun, finish, is_done, missing_parts
from streamrec.storage import LocalStorage

World = Any


@pytest.fixture
def out(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "out")


@pytest.fixture
def config(plain: World) -> Any:
    return plain.config.model_copy(update={"state": str(plain.folder)})


def rows(folder: Path | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ds.dataset(folder, format="parquet").to_table().to_pylist()
    return sorted(found, key=lambda row: row["user_id"])


def test_every_user_gets_what_the_interface_answers_by_the_same_version(config: Any, out: LocalStorage, plain: World) -> None:
    plan = begun(config, Wish(n=4), out, part_users=5)
    maker = PartMaker(config, out.address, plan)
    assert plan.num_users > 10
    assert [maker.make(part) for part in range(plan.num_parts)] == [5] * (plan.num_parts - 1) + [plan.num_users - 5 * (plan.num_parts - 1)]
    finish(plan, out)
    found = rows(out.address)
    assert len({row["user_id"] for row in found}) == len(found) == plan.num_users
    assert {row["model_version"] for row in found} == {plain.registry().live()}
    for row in found:
        answer = StorageAnswerer(config, "default", None, row["user_id"]).recommend({"user_id": row["user_id"], "n": 4})
        assert row["items"] == answer["items"]
        assert (row["source"], row["user_events"], row["namespace"]) == (answer["source"], answer["user_events"], "default")
    assert any(row["source"] == "student" for row in found)
    facts = json.loads(pq.read_schema(Path(out.address) / plan.key(1)).metadata[META])
    assert (facts["version"], facts["part"], facts["parts"], len(facts["offsets"])) == (plan.version, 1, plan.num_parts, 2)


def test_an_interrupted_one_goes_on_with_its_version_and_makes_what_is_missing_alone(config: Any, out: LocalStorage, plain: World) -> None:
    plan = begun(config, Wish(n=3), out, part_users=7)
    PartMaker(config, out.address, plan).make(1)
    made = (Path(out.address) / plan.key(1)).stat().st_mtime_ns
    assert not is_done(out)
    assert missing_parts(plan, out) == [0, *range(2, plan.num_parts)]
    live = plain.registry().load(plain.registry().live())
    plain.registry().publish("v00000099", live.arrays, live.meta)
    plain.registry().promote("v00000099", "a test")
    again = begun(config, Wish(n=3), out, part_users=7)
    assert again == plan
    maker = PartMaker(config, out.address, again)
    counts = maker({"part": np.arange(plan.num_parts)})
    assert counts["users"].sum() == plan.num_users
    assert {row["model_version"] for row in rows(out.address)} == {live.id}
    assert (Path(out.address) / plan.key(1)).stat().st_mtime_ns == made


def test_a_name_says_how_many_parts_there_must_be(config: Any, out: LocalStorage) -> None:
    plan = begun(config, Wish(), out, part_users=5)
    assert plan.key(2) == f"part-00002-of-{plan.num_parts:05d}.parquet"
    with pytest.raises(AssertionError):
        finish(plan, out)
    assert not out.exists(DONE)


@pytest.mark.parametrize(
    ("other", "named"),
    [({"n": 5}, "n 4"), ({"version": "v9"}, "version v"), ({"users": ("a",)}, "listed users"), ({"namespace": "shop"}, "namespace")],
)
def test_other_words_for_the_same_folder_are_refused(config: Any, out: LocalStorage, other: dict[str, Any], named: str) -> None:
    begun(config, Wish(n=4), out)
    with pytest.raises(ConfigError, match=rf"holds others, got {named}.*choose another --out"):
        begun(config, Wish(**{"n": 4, **other}), out)


def test_listed_users_come_in_their_order_and_unknown_ones_get_popular_items(config: Any, out: LocalStorage) -> None:
    plan = begun(config, Wish(users=("u3", "nobody", "u3")), out)
    PartMaker(config, out.address, plan).make(0)
    found = pq.read_table(Path(out.address) / plan.key(0)).to_pylist()
    assert [row["user_id"] for row in found] == ["u3", "nobody"]
    assert found[1]["source"] == "popular"
    with pytest.raises(ConfigError, match="other users"):
        begun(config, Wish(users=("u4",)), out)


def test_a_number_out_of_bounds_is_refused_before_anything_is_written(config: Any, out: LocalStorage) -> None:
    with pytest.raises(RequestError, match="n"):
        begun(config, Wish(n=100_000), out)
    assert out.list() == []


@pytest.fixture
def run(config: Any, tmp_path: Path) -> Callable[..., int]:
    (tmp_path / "settings.yaml").write_text(config.model_dump_json())
    return lambda *words: recommend_batch.main(["--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "out"), *words])


def test_the_job_marks_what_is_whole_and_leaves_it_alone(
    run: Callable[..., int], config: Any, out: LocalStorage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recommend_batch, "ray_cluster", lambda: pytest.fail("Ray was started"))
    words = ("-n", "3", "--part-users", "8")
    assert run(*words, "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["needs"]["cpus"] == 1.5
    assert not Path(out.address).exists()
    plan = begun(config, Wish(n=3), out, 8)
    maker = PartMaker(config, out.address, plan)
    for part in range(1, plan.num_parts):
        maker.make(part)
    assert run(*words, "--dry-run") == 0
    assert f"1 of {plan.num_parts} parts are missing" in capsys.readouterr().err
    maker.make(0)
    for told in ("0 of", "is whole already"):
        assert run(*words) == 0
        said = capsys.readouterr()
        facts = {"out": out.address, "version": plan.version, "users": plan.num_users, "parts": plan.num_parts, "parts_made": 0}
        assert json.loads(said.out) == facts
        assert told in said.err
    assert is_done(out)
    assert run(*words, "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["needs"] is None


def test_a_state_without_a_version_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend_batch.main(["--set", f"state={tmp_path / 'new'}", "--out", str(tmp_path / "out")]) == 2
    assert "never bootstrapped" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
