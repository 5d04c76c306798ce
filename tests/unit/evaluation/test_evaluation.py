from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrec.errors import ConfigError, DatasetError
from streamrec.evaluation import baselines
from streamrec.evaluation.baselines import RECENT_BASKETS, Popularity
from streamrec.evaluation.forgetting import forgetting
from streamrec.evaluation.progressive import RECENT_QUERIES, Progressive
from streamrec.evaluation.protocols import NUM_PROGRESSIVE_BLOCKS, PROTOCOLS, cut
from streamrec.evaluation.ranking import METRICS, UNRANKED, known_queries, per_query_metrics, ranks_from_scores
from streamrec.features.examples import Examples


def examples(baskets: list[list[int]], histories: list[list[int]] | None = None, namespaces: list[int] | None = None) -> Examples:
    num = len(baskets)
    history = np.full((num, 5), -1, np.int32)
    for query, rows in enumerate(histories or []):
        history[query, : len(rows)] = rows
    indptr = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])]).astype(np.int64)
    targets = np.asarray([row for basket in baskets for row in basket], np.int32)
    return Examples(history, indptr, targets, np.ones(num, np.float32), np.zeros(num, np.int64), np.asarray(namespaces or [0] * num, np.int32))


def test_metrics_have_their_textbook_values() -> None:
    data = examples([[1], [1, 2], list(range(30)), [1]])
    ranks = np.asarray([0, 3, 45, *range(30), UNRANKED], np.int32)
    found = per_query_metrics(ranks, data)
    assert tuple(found) == METRICS
    np.testing.assert_allclose(found["recall@20"], [1, 0.5, 1, 0])
    np.testing.assert_allclose(found["recall@50"], [1, 1, 1, 0])
    np.testing.assert_allclose(found["mrr@20"], [1, 0.25, 1, 0])
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(found["ndcg@10"], [1, 1 / np.log2(5) / ideal, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(found["ndcg@20"], [1, 1 / np.log2(5) / ideal, 1, 0], rtol=1e-6)


@pytest.mark.parametrize(("rank", "expected"), [(9, (1, 1 / 10)), (10, (1, 1 / 11)), (19, (1, 1 / 20)), (20, (0, 0))])
def test_cut_offs_are_exclusive(rank: int, expected: tuple[float, float]) -> None:
    found = per_query_metrics(np.asarray([rank], np.int32), examples([[1]]))
    assert (found["recall@20"][0], found["mrr@20"][0]) == pytest.approx(expected)
    assert (found["ndcg@10"][0] > 0) == (rank < 10)
    assert (found["ndcg@20"][0] > 0) == (rank < 20)


def test_ranks_are_places_among_all_candidates_down_to_the_limit() -> None:
    scores = torch.randn(3, 150, generator=torch.Generator().manual_seed(0))
    scores[1, 7] = float("-inf")
    data = examples([[3, 9], [7, 8], [149, 200]])
    found = ranks_from_scores(scores, data)
    for index, (query, row) in enumerate([(0, 3), (0, 9), (1, 7), (1, 8), (2, 149), (2, 200)]):
        place = int((scores[query] > scores[query, row]).sum()) if row < 150 else UNRANKED
        assert found[index] == (place if place < 100 and (query, row) != (1, 7) else UNRANKED)


@given(st.lists(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=3), max_size=5), min_size=1, max_size=5))
def test_popularity_counts_all_baskets_and_the_recent_ones(batches: list[list[list[int]]]) -> None:
    before, baselines.RECENT_BASKETS = baselines.RECENT_BASKETS, 4
    try:
        popularity, again = Popularity(), Popularity()
        total: Counter[int] = Counter()
        recent: deque[list[int]] = deque(maxlen=4)
        for batch in batches:
            popularity.update(
                np.asarray([row for basket in batch for row in basket], np.int32),
                np.asarray([number for number, basket in enumerate(batch) for _ in basket], np.int64),
            )
            total.update(row for basket in batch for row in basket)
            recent.extend(batch)
        again.restore(popularity.snapshot())
        assert again.digest() == popularity.digest()
        counts = Counter(row for basket in recent for row in basket)
        queries = examples([[row] for row in range(9)], [[0]] * 9)
        for one in (popularity, again):
            assert one.counts(9).tolist() == [total[row] for row in range(9)]
            ranks = one.ranks(queries, np.zeros(9, np.int32))
            for name, of in (("popular", total), ("recent_popular", counts)):
                order = sorted(range(9), key=lambda row: (-of[row], row))
                assert ranks[name].tolist() == [order.index(row) for row in range(9)]
    finally:
        baselines.RECENT_BASKETS = before


def test_own_history_ranks_by_frequency_then_recency_then_popularity() -> None:
    popularity = Popularity()
    popularity.update(np.asarray([5, 5, 5, 4, 4, 0], np.int32), np.arange(6))
    ranks = popularity.ranks(examples([list(range(6))], [[3, 1, 0, 1]]), np.zeros(6, np.int32))["own_history"]
    order = [1, 3, 0, 5, 4, 2]
    assert ranks.tolist() == [order.index(row) for row in range(6)]


def own_history_ranks_one_by_one(data: Examples, position: np.ndarray) -> list[int]:
    """The definition, query by query: own rows by frequency, then recency; the others by popularity."""
    ranks = []
    for query, target in zip(data.query_of_target.tolist(), data.target_rows.tolist(), strict=True):
        history = [row for row in data.history[query].tolist() if row >= 0]
        own = sorted(set(history), key=lambda row: (-history.count(row), history.index(row)))
        if target in own:
            ranks.append(own.index(target))
        elif target < len(position):
            ranks.append(position[target] + sum(position[row] > position[target] for row in own))
        else:
            ranks.append(int(UNRANKED))
    return ranks


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 9), min_size=1, max_size=3), st.lists(st.integers(0, 7), max_size=5)), max_size=6),
    st.permutations(range(8)),
)
def test_own_history_ranks_are_those_of_one_query_at_a_time(queries: list[tuple[set[int], list[int]]], position: list[int]) -> None:
    data = examples([sorted(basket) for basket, _ in queries], [history for _, history in queries])
    places = np.asarray(position, np.int32)
    assert baselines._own_history_ranks(data, places, None).tolist() == own_history_ranks_one_by_one(data, places)


def test_a_model_that_scores_all_rows_alike_or_gives_no_number_ranks_nothing_high() -> None:
    data = examples([[0], [3], [2]])
    scores = torch.zeros(3, 50)
    scores[1, 3], scores[2] = 1.0, float("nan")
    assert ranks_from_scores(scores, data).tolist() == [49, 0, UNRANKED]


def test_popularity_ranks_within_a_namespace() -> None:
    popularity = Popularity()
    popularity.update(np.asarray([0, 0, 0, 3, 1], np.int32), np.arange(5))
    ranks = popularity.ranks(examples([[3, 1], [0, 2]], [[1], [0]], [1, 0]), np.asarray([0, 1, 0, 1], np.int32))
    assert ranks["popular"].tolist() == [1, 0, 0, 1]  # Equal counts: the lower row first.


def test_seen_rows_are_left_out_of_the_baselines() -> None:
    popularity = Popularity()
    popularity.update(np.asarray([0, 0, 0, 1, 1, 2], np.int32), np.arange(6))
    seen = [np.asarray([0, 3], np.int32)]
    for name, ranks in popularity.ranks(examples([[0, 1, 2]], [[0]]), np.zeros(4, np.int32), seen).items():
        assert ranks.tolist() == [UNRANKED, 0, 1], name


def values(number: float, num: int) -> dict[str, np.ndarray]:
    return {name: np.full(num, number, np.float32) for name in METRICS}


def test_progressive_means_weigh_each_query_once_and_recent_ones_forget() -> None:
    progressive, again = Progressive(), Progressive()
    assert progressive.add("a", values(1.0, 0)) == {}
    assert progressive.add("a", values(1.0, 30))["mrr@20"] == 1.0
    progressive.add("a", values(0.0, 10))
    progressive.add("b", values(0.5, 5))
    assert progressive.means()["a"]["recall@20"] == pytest.approx(0.75)
    assert progressive.num_queries() == {"a": 40, "b": 5}
    held = progressive.snapshot()
    again.restore(held)
    assert again.digest() == progressive.digest()
    progressive.add("a", values(0.0, RECENT_QUERIES * 10))
    assert progressive.recent()["a"]["recall@20"] < 0.01
    assert again.digest() != progressive.digest()
    assert held.meta["queries"]["a"] == 40


def test_what_few_queries_found_of_late_is_their_mean() -> None:
    progressive = Progressive()
    progressive.add("a", values(0.0, 1))
    assert progressive.recent()["a"]["recall@20"] == 0.0
    progressive.add("a", values(1.0, 3))
    assert progressive.recent()["a"]["recall@20"] == pytest.approx(0.75, abs=1e-3)
    again = Progressive()
    again.restore(progressive.snapshot())
    assert again.recent() == progressive.recent()


def test_what_a_version_tells_of_itself_says_over_how_many_queries() -> None:
    progressive = Progressive()
    assert progressive.told() == {}
    progressive.add("student", values(1.0, 3))
    progressive.add("popular", values(0.0, RECENT_QUERIES + 1))
    told = progressive.told()
    assert (told["student.queries"], told["popular.queries"]) == (3.0, RECENT_QUERIES)
    assert (told["student.recall@20"], told["popular.mrr@20"]) == (pytest.approx(1.0), 0.0)


def test_a_mean_of_ones_is_one() -> None:
    progressive = Progressive()
    for num in (1, 1, 3, 5, 1, 7) * 40:
        progressive.add("a", values(1.0, num))
        assert progressive.recent()["a"]["recall@20"] <= 1.0


def test_what_was_found_of_late_is_read_from_states_that_have_no_weights() -> None:
    progressive, again = Progressive(), Progressive()
    progressive.add("a", values(0.5, 10 * RECENT_QUERIES))
    held = progressive.snapshot()
    del held.meta["recent_weight"]  # type: ignore[attr-defined]
    again.restore(held)
    assert again.recent()["a"]["recall@20"] == pytest.approx(0.5, rel=1e-3)


def table(rows: list[tuple[str, int]], **columns: list[object]) -> pa.Table:
    return pa.table({"user_id": [user for user, _ in rows], "event_time": [time for _, time in rows], **columns})


def test_progressive_blocks_are_twentieths_of_the_second_half_of_the_baskets_and_baskets_stay_whole() -> None:
    rows = [(f"u{number % 3}", number) for number in range(80) for _ in range(1 + number % 2)]
    blocks = cut(table(rows), "progressive")
    assert sorted(blocks.order.tolist()) == list(range(len(rows)))
    of_basket: dict[tuple[str, int], set[int]] = {}
    for position, block in zip(blocks.order.tolist(), blocks.block.tolist(), strict=True):
        of_basket.setdefault(rows[position], set()).add(block)
    assert all(len(found) == 1 for found in of_basket.values())
    sizes = Counter(next(iter(found)) for found in of_basket.values())
    assert sizes[0] == 40
    assert [sizes[block] for block in range(1, NUM_PROGRESSIVE_BLOCKS + 1)] == [2] * 20
    assert not blocks.mask_seen
    assert not blocks.known_only


def test_sessions_are_cut_by_period() -> None:
    blocks = cut(table([("a", 1), ("b", 2), ("c", 3), ("d", 4)], period=[7, 3, 7, 5]), "sessions")
    assert [blocks.of_block(number).tolist() for number in range(3)] == [[1], [3], [0, 2]]
    assert blocks.known_only


def test_leave_one_out_tests_each_users_last_event_and_masks_the_others() -> None:
    blocks = cut(table([("a", 1), ("b", 2), ("a", 3), ("b", 3), ("c", 9), ("a", 3)]), "leave-one-out")
    assert blocks.of_block(1).tolist() == [3, 4, 5]
    assert blocks.of_block(0).tolist() == [0, 1, 2]
    assert blocks.mask_seen
    assert blocks.seen.tolist() == [0, 1, 2]


def test_a_static_split_trains_on_train_and_masks_all_but_the_test() -> None:
    blocks = cut(table([("a", 1)] * 4, split=["test", "train", "valid", "train"]), "static")
    assert blocks.of_block(0).tolist() == [1, 3]
    assert blocks.of_block(1).tolist() == [0]
    assert blocks.seen.tolist() == [1, 2, 3]


@pytest.mark.parametrize("protocol", ["sessions", "static"])
def test_a_file_that_lacks_a_column_is_refused(protocol: str) -> None:
    with pytest.raises(DatasetError, match=f"'{protocol}' needs"):
        cut(table([("a", 1)]), protocol)


def test_an_unknown_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=", ".join(PROTOCOLS)):
        cut(table([("a", 1)]), "wishful")


def test_known_queries_have_an_older_item_in_the_history_and_only_older_targets() -> None:
    data = examples([[1], [1, 9], [9], [2]], [[9, 3], [3], [3], [9]])
    assert known_queries(data, 5).tolist() == [0]
    assert known_queries(Examples.empty(5), 5).tolist() == []


@pytest.mark.parametrize("gone", [[], [0], [3, 7, 900], list(range(40))])
def test_rows_leave_all_recent_baskets_at_once_and_the_empty_ones_still_count(monkeypatch: pytest.MonkeyPatch, gone: list[int]) -> None:
    rng = np.random.default_rng(5)
    baskets = [rng.integers(0, 40, rng.integers(1, 4)).astype(np.int32) for _ in range(RECENT_BASKETS + 20)]
    popularity, numbers = Popularity(), np.repeat(np.arange(len(baskets)), [len(part) for part in baskets])
    popularity.update(np.concatenate(baskets), numbers)
    looked, isin = [], np.isin
    monkeypatch.setattr(np, "isin", lambda *arguments: looked.append(1) or isin(*arguments))
    popularity.forget_rows(np.asarray(gone, np.int32))
    assert len(looked) <= 1
    expected = [[row for row in part.tolist() if row not in gone] for part in baskets[-RECENT_BASKETS:]]
    arrays = popularity.snapshot().arrays
    assert arrays["basket_sizes"].tolist() == [len(part) for part in expected]
    assert arrays["basket_rows"].tolist() == [row for part in expected for row in part]
    again = Popularity()
    again.restore(popularity.snapshot())
    popularity.update(np.asarray([1, 2], np.int32), np.asarray([0, 1]))  # The oldest baskets leave, empty or not.
    again.update(np.asarray([1, 2], np.int32), np.asarray([0, 1]))
    assert popularity.digest() == again.digest()
    for each in (popularity, again):
        np.testing.assert_array_equal(each._recent[:40], np.bincount(each.snapshot().arrays["basket_rows"], minlength=40))


def test_forgetting_is_told_by_what_was_learned_and_what_is_left_of_it() -> None:
    found = forgetting([0.8, 0.4], [0.2, 0.4])
    assert found is not None
    assert found == pytest.approx((0.6, 0.3, 2 * 0.6 * 0.3 / 0.9))
    assert forgetting([], []) is None
    assert forgetting([0.0], [0.0]) == (0.0, 0.0, 0.0)
