from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.examples import Examples
from streamrec.features.item_text import hash_words
from streamrec.features.vocabulary import Vocabulary

names = st.sampled_from(["a", "b"])
ids = st.sampled_from([f"i{number}" for number in range(12)])


@given(st.lists(st.tuples(names, ids), max_size=40), st.integers(1, 40))
def test_rows_are_handed_out_once_in_order_of_first_appearance_however_events_are_batched(keys: list[tuple[str, str]], size: int) -> None:
    whole, parts = Vocabulary(2), Vocabulary(2)
    expected = whole.rows_for([name for name, _ in keys], [item for _, item in keys]).tolist()
    found: list[int] = []
    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        found += parts.rows_for([name for name, _ in part], [item for _, item in part]).tolist()
    assert found == expected
    handed = parts.keys()
    assert handed == list(dict.fromkeys(keys))
    assert [parts.namespaces[code] for code in parts.namespace_of_rows().tolist()] == [name for name, _ in handed]
    assert parts.digest() == whole.digest()


def test_a_restored_vocabulary_continues_with_the_same_rows_and_tells_models_of_all_of_them() -> None:
    vocabulary = Vocabulary(2)
    rows = vocabulary.rows_for(["a"] * 1500, [f"i{number}" for number in range(1500)])
    vocabulary.describe(rows[:3], np.asarray([[1, 2], [3, -1], [4, 5]], np.int32), np.arange(1, 4))
    again = Vocabulary(2)
    again.restore(vocabulary.snapshot())
    assert again.digest() == vocabulary.digest()
    assert again.rows_for(["b", "a"], ["i0", "i7"]).tolist() == [1500, 7]
    changed, words, namespaces, generations = again.take_changed()
    assert changed.tolist() == list(range(1501))
    assert words[:3].tolist() == [[1, 2], [3, -1], [4, 5]]
    assert namespaces.tolist() == [0] * 1500 + [1]
    assert not generations.any()
    assert len(again.take_changed()[0]) == 0


def test_a_snapshot_does_not_change_when_the_vocabulary_does() -> None:
    vocabulary = Vocabulary(1)
    vocabulary.rows_for(["a"], ["i"])
    held = vocabulary.snapshot()
    vocabulary.rows_for(["b"], ["i"])
    assert held.meta["namespaces"] == ["a"]


def test_words_are_distinct_lower_case_and_cut_at_the_bound() -> None:
    found = hash_words(["Toy STORY toy!", "", "a b c d e"], 3, 1000)
    assert found.shape == (3, 3)
    assert found[0].tolist() == [*hash_words(["story toy"], 2, 1000)[0][::-1].tolist(), -1]
    assert found[1].tolist() == [-1, -1, -1]
    assert (found[2] >= 0).all()
    assert hash_words(["a", "b"], 0, 10).shape == (2, 0)


def examples(baskets: list[list[int]]) -> Examples:
    num = len(baskets)
    indptr = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])]).astype(np.int64)
    rows = np.asarray([row for basket in baskets for row in basket], np.int32)
    index = np.arange(num)
    return Examples(index[:, None].repeat(3, 1).astype(np.int32), indptr, rows, index.astype(np.float32), index, index.astype(np.int32))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=8), st.data())
def test_taking_and_joining_queries_keeps_each_ones_targets(baskets: list[list[int]], data: st.DataObject) -> None:
    whole = examples(baskets)
    index = np.asarray(data.draw(st.lists(st.integers(0, len(baskets) - 1), max_size=10)), np.int64)
    taken = whole.take(index)
    joined = Examples.concat([taken, Examples.empty(3), whole])
    expected = [baskets[place] for place in index.tolist()] + baskets
    assert [joined.target_rows[start:end].tolist() for start, end in zip(joined.indptr[:-1], joined.indptr[1:], strict=True)] == expected
    assert joined.user.tolist() == index.tolist() + list(range(len(baskets)))
    assert len(joined.query_of_target) == len(joined.target_rows)
