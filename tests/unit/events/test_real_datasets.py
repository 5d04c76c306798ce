"""The real sets against the counts that their description states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamrec.events.datasets import Dataset, load_dataset

RealData = Callable[[str], Path]


def assert_in_order(dataset: Dataset) -> None:
    times = dataset.events["event_time"].to_numpy()
    assert np.all(times[1:] >= times[:-1])
    assert len(set(dataset.events["event_id"].to_pylist())) == dataset.events.num_rows


def test_online_retail_has_its_stated_counts(real_data: RealData) -> None:
    dataset = load_dataset(real_data("online-retail/online-retail.csv.gz"))
    assert dataset.facts["rows"] == 541_909
    assert dataset.facts["rows"] - dataset.facts["without_customer"] == 406_829
    assert (dataset.facts["users"], dataset.facts["items"]) == (4_372, 3_684)
    assert dataset.facts["events"] == dataset.events.num_rows == 406_829 - dataset.facts["duplicates"]
    assert dataset.items is not None
    assert dataset.items.num_rows == 3_684
    assert dataset.items["title"].null_count == 0
    assert_in_order(dataset)


def test_diginetica_has_its_stated_counts(real_data: RealData) -> None:
    dataset = load_dataset(real_data("diginetica/sessions.csv.gz"))
    assert dataset.facts == {"rows": 993_483, "events": 993_483, "periods": 17, "sessions": 204_789, "users": 204_789, "items": 43_136}
    assert dataset.period is not None
    assert np.all(np.diff(dataset.period) >= 0)
    assert_in_order(dataset)


def test_movielens_latest_small_has_its_stated_counts(real_data: RealData) -> None:
    dataset = load_dataset(real_data("ml-latest-small"))
    assert (dataset.facts["events"], dataset.facts["users"], dataset.facts["items"]) == (100_004, 671, 9_066)
    assert dataset.items is not None
    assert "Toy Story (1995)" in dataset.items["title"].to_pylist()
    assert_in_order(dataset)


def test_the_taobao_slice_has_its_stated_counts(real_data: RealData) -> None:
    dataset = load_dataset(real_data("taobao-slice/user-behaviour.csv.gz"))
    assert (dataset.facts["events"], dataset.facts["users"], dataset.facts["items"]) == (110_300, 66_454, 84_793)
    assert set(dataset.events["event_type"].unique().to_pylist()) == {"view", "cart", "favourite", "purchase"}
    assert_in_order(dataset)


def test_citeulike_has_its_stated_counts(real_data: RealData) -> None:
    dataset = load_dataset(real_data("citeulike/interactions.csv.gz"))
    assert dataset.split is not None
    counts = {name: dataset.split.count(name) for name in set(dataset.split)}
    assert counts == {"train": 115_142, "valid": 5_219, "test": 5_219}
    assert_in_order(dataset)


@pytest.mark.parametrize("name", ["taobao-slice", "citeulike"])
def test_a_folder_that_holds_one_set_can_be_named_instead_of_the_file(real_data: RealData, name: str) -> None:
    assert load_dataset(real_data(name)).facts["events"] > 100_000
