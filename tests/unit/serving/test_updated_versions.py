"""A version that a delta made answers as one that was loaded whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.errors import Damaged, ModelRejected
from streamrec.registry.version import make_delta
from streamrec.serving import approximate_index
from streamrec.serving.recommender import Recommender
from streamrec.state import ComponentState, pack_strings

INDEXES = [pytest.param(1_000_000, id="numpy"), pytest.param(0, id="faiss")]


def answers(recommender, histories):
    return [[part.tolist() for part in recommender.rank(history, 10)] for history in histories]


@pytest.mark.parametrize("exact_rows", INDEXES)
def test_changed_and_appended_rows_are_answered_by_and_the_version_before_stays(version, naive, exact_rows):
    old, (new, meta) = version(60), version(75, seed=1)
    keeps = np.arange(60) % 5 > 0
    for name in ("item_vectors", "item_bias"):
        new[name][:60][keeps] = old[0][name][keeps]
    histories = [np.array(rows, np.int32) for rows in ([3], [9, 1, 4, 1, 30, 2, 5])]
    first = Recommender(*old, exact_rows=exact_rows)
    before = answers(first, histories)

    second = first.updated(make_delta(old[0], new, meta | {"scale": 5.0}))

    assert answers(first, histories) == before
    for history in [*histories, np.array([70, 3], np.int32)]:
        scores = naive((new, meta | {"scale": 5.0}), history.tolist())
        rows, values = second.rank(history, 10)
        assert rows.tolist() == np.argsort(-scores)[:10].tolist()
        np.testing.assert_allclose(values, scores[rows], atol=1e-4)
    assert (second.num_rows, second.ids(np.array([74]))) == (75, ["item-74"])


def test_a_delta_of_another_version_is_refused(version):
    arrays, meta = version(20)
    with pytest.raises(Damaged, match="does not fit"):
        Recommender(arrays, meta).updated(ComponentState({"item_bias@rows": np.arange(2)}, {"names": ["item_bias"], "meta": meta}))


def drawn_version(rng, num_rows, held):
    """Arrays of ``num_rows`` rows, of which ``held`` has (namespace, id, generation) or None."""
    ids, offsets = pack_strings([item[1] if item else "" for item in held])
    names, name_offsets = pack_strings(["a", "b"])
    vectors = rng.normal(size=(num_rows, 8)).astype(np.float32)
    arrays = {
        "item_vectors": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        "item_bias": rng.normal(scale=0.3, size=num_rows).astype(np.float32),
        "popularity": rng.integers(0, 9, num_rows).astype(np.float32),
        "item_namespace": np.array(["ab".index(item[0]) if item else -1 for item in held], np.int32),
        "item_generation": np.array([item[2] if item else -1 for item in held], np.int32),
        "item_id_bytes": ids, "item_id_offsets": offsets, "namespace_bytes": names, "namespace_offsets": name_offsets,
        "position_logits": np.zeros(3, np.float32), "own_bias": rng.normal(size=3).astype(np.float32),
        "pool_projection": np.eye(8, dtype=np.float32), "last_projection": np.eye(8, dtype=np.float32),
    }  # fmt: skip
    return arrays, {"scale": 9.0, "history_length": 3, "dim": 8}


def next_of(rng, old, held, namespaces):
    """The next version: some rows move, are given up, taken by other items or follow."""
    arrays, meta = old
    num = len(held)
    held = list(held)
    for row in rng.choice(num, rng.integers(0, 4), replace=False).tolist():
        generation = held[row][2] + 1 if held[row] else 1
        held[row] = (str(rng.choice(namespaces)), f"n{rng.integers(10**9)}", generation) if rng.random() < 0.5 else None
    held += [(str(rng.choice(namespaces)), f"n{rng.integers(10**9)}", 0) for _ in range(rng.integers(0, 4))]
    fresh, _ = drawn_version(rng, len(held), held)
    stays = rng.random(num) < 0.8
    for name in ("item_vectors", "item_bias", "popularity"):
        fresh[name][:num][stays] = arrays[name][stays]
    return (fresh, meta | {"scale": float(rng.choice([5.0, 9.0]))}), held


@pytest.mark.parametrize("namespaces", ["a", "ab"])
@pytest.mark.parametrize("exact_rows", INDEXES)
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_a_line_of_deltas_is_answered_as_the_versions_loaded_whole_and_earlier_ones_as_before(exact_rows, namespaces, seed):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate_index, "BY_HAND_ROWS", 0)
        patch.setattr(approximate_index, "_TARGET", 2.0)
        patch.setattr(approximate_index, "_ENOUGH", 2.0)
        held = [(namespaces[row % len(namespaces)], f"i{row}", 0) for row in range(40)]
        versions = [drawn_version(rng, 40, held)]
        line = [Recommender(*versions[0], exact_rows=exact_rows)]
        for _ in range(4):
            (fresh, meta), held = next_of(rng, versions[-1], held, list(namespaces))
            whole_came = rng.random() < 0.3
            line.append(line[-1].followed_by(fresh, meta) if whole_came else line[-1].updated(make_delta(versions[-1][0], fresh, meta)))
            versions.append((fresh, meta))
        for made, version in zip(line, versions, strict=True):
            whole = Recommender(*version, exact_rows=1000)
            assert (made.num_rows, made.namespaces, made.generations.tolist()) == (whole.num_rows, whole.namespaces, whole.generations.tolist())
            barred = rng.choice(made.num_rows, 5, replace=False).astype(np.int32)
            for namespace in whole.namespaces:
                assert made.num_items(namespace) == whole.num_items(namespace)
                history = np.flatnonzero(version[0]["item_namespace"] >= 0)[rng.integers(0, 30, 3)].astype(np.int32)
                for excluded in (history, barred):
                    (rows, scores), (others, values) = (one.rank(history, 10, excluded, namespace) for one in (made, whole))
                    assert rows.tolist() == others.tolist()
                    np.testing.assert_allclose(scores, values, atol=1e-4)
                    assert made.ids(rows) == whole.ids(rows)
                    counts = [one.popular(10, excluded, namespace)[1].tolist() for one in (made, whole)]
                    assert counts[0] == counts[1]
                for row in range(made.num_rows):
                    assert made.holds(namespace, row) == whole.holds(namespace, row)
            again = made.arrays()
            assert again.keys() == version[0].keys()
            for name, array in version[0].items():
                np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_what_a_delta_leaves_as_it_is_costs_nothing_and_is_shared(version):
    old = version(60)
    new = {**old[0], "item_bias": old[0]["item_bias"] + np.float32(1) * (np.arange(60) == 7)}
    first = Recommender(*old)
    second = first.updated(make_delta(old[0], new, old[1]))
    assert second.catalog is first.catalog
    assert second.score(np.array([3]), np.array([7])) == pytest.approx(first.score(np.array([3]), np.array([7])) + 1)


@pytest.mark.parametrize(("name", "shape"), [("item_bias", (63,)), ("own_bias", (5,)), ("pool_projection", (8, 7)), ("item_id_offsets", (66,))])
def test_a_delta_whose_arrays_do_not_fit_each_other_is_refused(version, name, shape):
    old, (new, meta) = version(60), version(62)
    delta = make_delta(old[0], {**new, name: np.zeros(shape, new[name].dtype)}, meta)
    first = Recommender(*old)
    with pytest.raises(ModelRejected, match="does not fit the others"):
        first.updated(delta)
    assert len(first.rank(np.array([3], np.int32), 10)[0]) == 10
