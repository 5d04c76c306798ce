"""Versions of one lineage between which rows came back with other items."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.errors import ModelRejected
from streamrec.migrations import number_of
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts, digest_arrays
from streamrec.serving.catalog import Catalog
from streamrec.serving.history_view import HistoryTable
from streamrec.serving.recommender import Recommender
from streamrec.serving.row_map import RowMap
from streamrec.serving.slot import ModelSlot
from streamrec.state import pack_strings
from streamrec.storage.local import LocalStorage

Row = tuple[str, str, int] | None
"""Namespace, id and generation; None is free."""


def held_by(make_version, rows: list[Row]):
    """A version whose rows hold these items."""
    arrays, meta = make_version(len(rows))
    ids, offsets = pack_strings([row[1] if row else "" for row in rows])
    names, name_offsets = pack_strings(["a", "b"])
    codes = [-1 if row is None else ["a", "b"].index(row[0]) for row in rows]
    return {
        **arrays, "item_id_bytes": ids, "item_id_offsets": offsets, "namespace_bytes": names, "namespace_offsets": name_offsets,
        "item_namespace": np.asarray(codes, np.int32), "item_generation": np.asarray([-1 if row is None else row[2] for row in rows], np.int32),
    }, meta  # fmt: skip


def items_of(catalog: Catalog, num_rows: int) -> dict[tuple[str, str], int]:
    """What the catalog finds, by asking it."""
    asked = [(name, f"i{number}") for name in "ab" for number in range(12)]
    return {key: row for key in asked if 0 <= (row := catalog.row_of(*key)) < num_rows}


def items_in(rows: list[Row]) -> dict[tuple[str, str], int]:
    return {(row[0], row[1]): number for number, row in enumerate(rows) if row}


def histories_of_rows(draw) -> list[list[Row]]:
    """What the rows of successive versions hold, as a vocabulary would hand them out."""
    versions: list[list[Row]] = []
    rows: list[Row] = []
    generations: list[int] = []
    for _ in range(draw(st.integers(1, 5))):
        for row in draw(st.sets(st.integers(0, 7))):
            if row < len(rows) and rows[row] is not None:
                rows[row] = None
                generations[row] += 1
        for name, number in draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 11)), max_size=5)):
            if (name, f"i{number}") in items_in(rows):
                continue
            if None in rows:
                place = rows.index(None)
                rows[place] = (name, f"i{number}", generations[place])
            else:
                rows.append((name, f"i{number}", 0))
                generations.append(0)
        versions.append(list(rows))
    return versions


@given(st.data())
def test_every_version_finds_its_own_items_in_whatever_order_versions_are_loaded(data) -> None:
    from_above = histories_of_rows(data.draw)
    versions = [held_by(_plain, rows) for rows in from_above]
    order = data.draw(st.lists(st.integers(0, len(versions) - 1), min_size=1, max_size=6))
    table = HistoryTable([(name, f"i{number}") for name in "ab" for number in range(12)])
    catalog: Catalog | None = None
    loaded: list[tuple[int, Recommender, RowMap]] = []
    for number in order:
        arrays, meta = versions[number]
        catalog = Catalog(arrays) if catalog is None else catalog.follow(arrays)
        assert catalog is not None
        recommender = Recommender(arrays, meta, catalog)
        loaded.append((number, recommender, RowMap(table, recommender, loaded[-1][2] if loaded else None)))
        for then, one, row_map in loaded:  # Also those that were loaded before are still right.
            rows = from_above[then]
            assert items_of(one.catalog, one.num_rows) == items_in(rows)
            found = row_map.rows(np.arange(len(table.item_ids), dtype=np.int32)).tolist()
            assert {key: row for key, row in zip(table.item_ids, found, strict=True) if row >= 0} == items_in(rows)
            assert [one.ids(np.asarray([row]))[0] for row in items_in(rows).values()] == [key[1] for key in items_in(rows)]


def _plain(num_rows: int):
    rng = np.random.default_rng(0)
    arrays = {
        "item_vectors": rng.normal(size=(num_rows, 4)).astype(np.float32),
        "item_bias": np.zeros(num_rows, np.float32),
        "popularity": np.ones(num_rows, np.float32),
        "position_logits": np.zeros(3, np.float32),
        "own_bias": np.zeros(3, np.float32),
        "pool_projection": np.eye(4, dtype=np.float32),
        "last_projection": np.eye(4, dtype=np.float32),
    }
    return arrays, {"scale": 9.0, "history_length": 3, "dim": 4}


def test_a_catalog_is_shared_until_a_row_changes_its_item(version):
    first = held_by(version, [("a", "i0", 0), ("a", "i1", 0)])
    grown = held_by(version, [("a", "i0", 0), ("a", "i1", 0), ("b", "i0", 0)])
    changed = held_by(version, [("a", "i5", 1), ("a", "i1", 0), ("b", "i0", 0)])
    catalog = Catalog(first[0])
    assert catalog.follow(grown[0]) is catalog
    other = catalog.follow(changed[0])
    assert other is not None
    assert other is not catalog
    assert other.lineage is catalog.lineage
    assert (catalog.row_of("a", "i0"), catalog.row_of("a", "i5"), catalog.ids_of([0])[0]) == (0, -1, "i0")
    assert (other.row_of("a", "i0"), other.row_of("a", "i5"), other.ids_of([0])[0]) == (-1, 0, "i5")


def test_another_item_at_the_same_generation_is_another_lineage(version):
    catalog = Catalog(held_by(version, [("a", "i0", 0), ("a", "i1", 0), ("a", "i2", 0)])[0])
    assert catalog.follow(held_by(version, [("a", "i9", 1), ("a", "i1", 0), ("a", "i3", 0)])[0]) is None
    assert catalog.follow(held_by(version, [("a", "i9", 1), ("b", "i1", 0), ("a", "i2", 0)])[0]) is None


def test_an_item_that_moves_to_another_row_is_found_there(version):
    before = [("a", "i0", 0), ("a", "i1", 0), ("a", "i2", 0)]
    after = [("a", "i1", 1), ("a", "i0", 1), ("a", "i2", 0)]
    catalog = Catalog(held_by(version, before)[0]).follow(held_by(version, after)[0])
    assert catalog is not None
    assert catalog.rows_of("a", ["i0", "i1", "i2"]).tolist() == [1, 0, 2]


@pytest.mark.parametrize("exact_rows", [1, 100])
def test_a_free_row_is_never_an_answer(version, exact_rows):
    rows: list[Row] = [("a", f"i{number}", 0) if number % 3 else None for number in range(12)]
    arrays, meta = held_by(version, rows)
    arrays["item_bias"][::3] = 100.0
    arrays["popularity"][::3] = 1e6
    recommender = Recommender(arrays, meta, exact_rows=exact_rows)
    ids, _ = recommender.recommend(np.asarray([1], np.int32), 12, namespace="a")
    assert sorted(ids) == sorted(row[1] for row in rows if row)
    popular, _ = recommender.popular(12, namespace="a")
    assert sorted(recommender.ids(popular)) == sorted(ids)
    assert recommender.namespaces == ("a",)


def test_generations_of_another_shape_are_refused(version):
    arrays, meta = held_by(version, [("a", "i0", 0), ("a", "i1", 0)])
    with pytest.raises(ModelRejected, match="item_generation"):
        Recommender({**arrays, "item_generation": np.zeros(3, np.int32)}, meta)
    with pytest.raises(ModelRejected, match=r"item_namespace.*got -2"):
        Recommender({**arrays, "item_namespace": np.asarray([0, -2], np.int32)}, meta)


def test_a_stored_version_of_format_one_is_read_with_first_items_throughout_and_can_be_a_parent(version, tmp_path):
    storage = LocalStorage(str(tmp_path))
    arrays, meta = version(40)
    assert "item_generation" not in arrays
    Registry(storage).publish("v00000001", arrays, meta)
    key = "default/versions/v00000001/manifest.json"
    old = json.dumps(json.loads(storage.read(key)) | {"format": 1}).encode()
    storage.delete(key)
    storage.write_new(key, old)

    registry = Registry(storage)
    loaded = registry.load("v00000001")
    assert loaded.manifest.format == number_of("version")
    first = ModelSlot(digest_of=digest_arrays)
    first.load(json.loads(loaded.manifest.to_json()), loaded.arrays, loaded.meta)
    assert first.current is not None
    assert first.current.recommender.generations.tolist() == [0] * 40

    generations = np.zeros(40, np.int32)
    generations[7] = 1
    ids, offsets = pack_strings([f"item-{row}" if row != 7 else "another" for row in range(40)])
    changed = {**arrays, "item_generation": generations, "item_id_bytes": ids, "item_id_offsets": offsets}
    registry.publish("v00000002", changed, meta, VersionFacts(parent="v00000001"), as_delta=True)
    newest = Registry(storage).load("v00000002")
    assert newest.manifest.format == number_of("version")
    first.load(json.loads(newest.manifest.to_json()), newest.arrays, newest.meta)
    assert first.current.recommender.catalog.ids_of([7]) == ["another"]
    assert first.previous.recommender.catalog.ids_of([7]) == ["item-7"]
