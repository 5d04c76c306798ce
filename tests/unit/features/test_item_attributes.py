import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.item_attributes import FIELDS, MAX_CATEGORIES, MAX_TITLE_CHARS, ItemAttributes, bounded, columns_of
from streamrec.state import ComponentState, is_row_delta, merge

NUM = 6


def rows(*values):
    return np.asarray(values, np.int32)


def times(*values):
    return np.asarray(values, np.int64)


@pytest.fixture
def generations():
    return np.zeros(NUM, np.int32)


@pytest.fixture
def attributes(generations):
    return ItemAttributes(lambda: generations)


def known(attributes):
    texts, _ = columns_of(attributes.snapshot())
    return [orjson.loads(text) if text else {} for text in texts]


def test_of_each_field_the_newest_update_by_event_time_counts_and_of_equal_times_the_later(attributes):
    attributes.say(rows(1, 1), [{"title": "old", "price": 3.0}, {"title": "new"}], times(5, 7))
    attributes.say(rows(1, 1), [{"title": "late", "price": 4.0}, {"price": 5.0, "available": False}], times(6, 6))
    assert known(attributes) == [{}, {"title": "new", "price": 5.0}]


def test_what_is_long_is_cut(attributes):
    said = bounded({"title": "x" * 1000, "categories": [f"c{n}" for n in range(100)], "locale": "l" * 99, "price": None})
    assert (len(said["title"]), len(said["categories"]), "price" in said) == (MAX_TITLE_CHARS, MAX_CATEGORIES, False)


def test_an_item_that_has_left_is_forgotten_and_one_that_models_begin_anew_is_not(attributes, generations):
    attributes.say(rows(1, 2), [{"title": "gone"}, {"title": "kept"}], times(5, 5))
    generations[1] += 1
    assert attributes.forget_rows(rows(1, 2, 4)) == 1
    assert known(attributes) == [{}, {}, {"title": "kept"}]
    attributes.say(rows(1), [{"price": 1.0}], times(1))
    assert known(attributes)[1] == {"price": 1.0}


UPDATE = st.tuples(st.integers(0, NUM - 1), st.sampled_from(FIELDS), st.integers(1, 5))
VALUES = {"title": "t", "categories": ["a"], "price": 2.0, "locale": "en"}


@given(st.lists(st.lists(UPDATE, max_size=4), max_size=5))
def test_deltas_restore_what_a_snapshot_does(steps):
    generations = np.zeros(NUM, np.int32)
    attributes, again = ItemAttributes(lambda: generations), ItemAttributes(lambda: generations)
    base, deltas = attributes.snapshot(), []
    for step in steps:
        if step:
            attributes.say(rows(*(row for row, _, _ in step)), [{name: VALUES[name]} for _, name, _ in step], times(*(at for _, _, at in step)))
        deltas.append(attributes.delta())
    again.restore(base, deltas)
    assert all(is_row_delta(delta) for delta in deltas)
    assert again.digest() == attributes.digest()
    assert columns_of(merge(base, deltas))[0] == columns_of(attributes.snapshot())[0]


def test_a_state_of_before_holds_nothing(attributes):
    attributes.say(rows(1), [{"title": "x"}], times(1))
    attributes.restore(ComponentState())
    assert known(attributes) == []
    assert attributes.delete_user("default", "u") == 0
