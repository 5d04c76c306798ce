import numpy as np
import pytest

from streamrec.errors import ModelRejected
from streamrec.serving.catalog import Catalog
from streamrec.serving.recommender import Recommender

INDEXES = [pytest.param(1_000_000, id="numpy"), pytest.param(0, id="faiss")]


def expected_best(scores, candidates, excluded, n):
    allowed = [row for row in candidates if row not in set(excluded)]
    return sorted(allowed, key=lambda row: -scores[row])[:n]


@pytest.mark.parametrize("exact_rows", INDEXES)
@pytest.mark.parametrize("history", [[3], [3, 3, 7], [9, 1, 4, 1, 30, 2], [9, 1, 4, 1, 30, 2, 5, 8, 11]])
def test_ranking_agrees_with_the_formula_written_out(version, naive, exact_rows, history):
    made = version(60)
    recommender = Recommender(*made, exact_rows=exact_rows)
    scores = naive(made, history)
    excluded = [int(np.argmax(scores)), 3, 59]

    rows, values = recommender.rank(np.array(history, np.int32), 10, np.array(excluded, np.int32))

    assert rows.tolist() == expected_best(scores, range(60), excluded, 10)
    np.testing.assert_allclose(values, scores[rows], atol=1e-4)


@pytest.mark.parametrize("exact_rows", INDEXES)
def test_random_histories_and_exclusions_agree_with_the_formula(version, naive, exact_rows):
    made = version(300, dim=16, history_length=10, seed=5)
    recommender = Recommender(*made, exact_rows=exact_rows)
    rng = np.random.default_rng(1)
    for _ in range(50):
        history = rng.integers(0, 300, rng.integers(1, 15)).tolist()
        excluded = rng.integers(0, 300, rng.integers(0, 200))
        rows, values = recommender.rank(np.array(history, np.int32), 20, excluded.astype(np.int32))
        scores = naive(made, history)
        assert rows.tolist() == expected_best(scores, range(300), excluded.tolist(), 20)
        np.testing.assert_allclose(values, scores[rows], atol=1e-4)


@pytest.mark.parametrize("exact_rows", INDEXES)
def test_candidates_come_from_the_requests_namespace_only(version, naive, exact_rows):
    made = version(61, namespaces=("shop", "blog", "empty"))
    arrays = made[0]
    arrays["item_namespace"] = (np.arange(61) % 2).astype(np.int32)
    recommender = Recommender(*made, exact_rows=exact_rows)
    history = [4, 5, 0]
    scores = naive(made, history)

    rows, _ = recommender.rank(np.array(history, np.int32), 100, np.array([2, 5], np.int32), "shop")

    assert rows.tolist() == expected_best(scores, range(0, 61, 2), [2, 5], 100)
    assert recommender.rank(np.array(history, np.int32), 5, namespace="empty")[0].tolist() == []
    assert recommender.rank(np.array(history, np.int32), 5, namespace="nowhere")[0].tolist() == []


@pytest.mark.parametrize("exact_rows", INDEXES)
def test_more_items_than_there_are_gives_all_that_are_allowed(version, exact_rows):
    recommender = Recommender(*version(5), exact_rows=exact_rows)
    rows, _ = recommender.rank(np.array([0], np.int32), 50, np.array([1, 1], np.int32))
    assert sorted(rows.tolist()) == [0, 2, 3, 4]
    assert recommender.rank(np.array([0], np.int32), 50, np.arange(5, dtype=np.int32))[0].tolist() == []


def test_two_requests_do_not_disturb_each_other(version):
    recommender = Recommender(*version(40))
    first = recommender.rank(np.array([1, 2], np.int32), 5, np.array([7], np.int32))
    kept = first[0].copy(), first[1].copy()
    recommender.rank(np.array([3], np.int32), 5)
    np.testing.assert_array_equal(first[0], kept[0])
    np.testing.assert_array_equal(first[1], kept[1])


def test_popular_items_are_ranked_by_popularity_without_the_excluded(version):
    arrays, meta = version(30)
    recommender = Recommender(arrays, meta)
    rows, values = recommender.popular(5, np.array([int(np.argmax(arrays["popularity"]))], np.int32))
    order = np.argsort(-arrays["popularity"], kind="stable")
    assert rows.tolist() == order[1:6].tolist()
    assert values.tolist() == arrays["popularity"][order[1:6]].tolist()


def test_recommend_gives_item_ids_and_plain_numbers(version):
    ids, scores = Recommender(*version(30)).recommend(np.array([2], np.int32), 3)
    assert all(item.startswith("item-") for item in ids)
    assert all(type(score) is float for score in scores)


def test_a_zero_query_is_answered_by_the_biases(version):
    arrays, meta = version(20)
    arrays["pool_projection"][:] = 0
    arrays["last_projection"][:] = 0
    arrays["own_bias"][:] = 0
    rows, _ = Recommender(arrays, meta).rank(np.array([2], np.int32), 20)
    assert rows.tolist() == np.argsort(-arrays["item_bias"]).tolist()


@pytest.mark.parametrize(
    ("name", "shape"), [("item_vectors", (20, 7)), ("popularity", (19,)), ("own_bias", (5,)), ("pool_projection", (8, 7)), ("item_id_offsets", (20,))]
)
def test_arrays_that_do_not_fit_each_other_are_named(version, name, shape):
    arrays, meta = version(20)
    arrays[name] = np.zeros(shape, arrays[name].dtype)
    with pytest.raises(ModelRejected, match=name):
        Recommender(arrays, meta)


def test_a_missing_part_is_named(version):
    arrays, meta = version(20)
    del meta["scale"]
    with pytest.raises(ModelRejected, match="scale"):
        Recommender(arrays, meta)


def test_a_namespace_code_without_a_name_is_refused(version):
    arrays, meta = version(20)
    arrays["item_namespace"][3] = 4
    with pytest.raises(ModelRejected, match="item_namespace"):
        Recommender(arrays, meta)


def test_a_catalog_grows_with_its_lineage_and_refuses_another(version):
    catalog = Catalog(version(10)[0])
    assert catalog.follow(version(14, seed=3)[0])
    assert len(catalog) == 14
    assert catalog.row_of("default", "item-13") == 13
    assert catalog.ids_of([13]) == ["item-13"]
    assert catalog.follow(version(5)[0])
    assert len(catalog) == 14
    assert not catalog.follow(version(20, prefix="other")[0])
    assert len(catalog) == 14
    assert catalog.rows_of("default", ["item-2", "nothing"]).tolist() == [2, -1]
    assert catalog.rows_of("nowhere", ["item-2"]).tolist() == [-1]


def test_one_item_id_in_two_namespaces_is_two_items(version):
    arrays, _ = version(4, namespaces=("a", "b"))
    whole, offsets = version(4)[0]["item_id_bytes"].copy(), arrays["item_id_offsets"]
    whole[offsets[1] : offsets[2]] = whole[: offsets[1]]
    catalog = Catalog({**arrays, "item_id_bytes": whole})
    assert (catalog.row_of("a", "item-0"), catalog.row_of("b", "item-0")) == (0, 1)


def test_a_version_knows_no_items_that_only_a_later_one_of_its_catalog_has(version):
    first = Recommender(*version(5))
    second = first.followed_by(*version(8))
    assert second.catalog is first.catalog
    asked = ["item-6", "item-2", "nothing", "item-7"]
    assert (first.rows_of("default", asked).tolist(), second.rows_of("default", asked).tolist()) == ([2], [6, 2, 7])
    assert first.rows_of("nowhere", asked).tolist() == []
