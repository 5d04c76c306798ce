from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.item_content import MAX_MODALITIES, ItemContent
from streamrec.state import ComponentState, is_row_delta, merge, unpack_strings

NUM = 6


def rows(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def times(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


@pytest.fixture
def generations() -> np.ndarray:
    return np.zeros(NUM, np.int32)


@pytest.fixture
def content(generations: np.ndarray) -> ItemContent:
    return ItemContent(lambda: generations)


def texts(content: ItemContent, num: int = NUM) -> list[str]:
    held = content.of_rows(num)
    return unpack_strings(held["text_bytes"], held["text_offsets"])


def test_the_newest_update_by_event_time_says_what_an_item_is(content: ItemContent) -> None:
    content.say(rows(1, 3, 1), ["old", "three", "new"], times(5, 5, 7))
    content.say(rows(1), ["late"], times(6))
    assert texts(content) == ["", "new", "", "three", "", ""]
    content.show(rows(1), [{"image": [1.0, 2.0]}], times(9))
    content.show(rows(1, 2), [{"image": [3.0, 4.0]}, {"audio": [5.0]}], times(8, 8))
    held = content.of_rows(NUM)
    assert held["vectors/image"][1].tolist() == [1, 2]
    assert held["vectors/audio"].ravel().tolist() == [0, 0, 5, 0, 0, 0]


def test_vectors_of_another_length_or_that_are_no_numbers_are_left_out_and_counted(content: ItemContent) -> None:
    content.show(rows(0, 1, 2), [{"image": [1.0, 2.0]}, {"image": [1.0]}, {"image": [float("nan"), 0.0]}], times(1, 1, 1))
    assert content.num_left_out == 2
    assert content.of_rows(3)["vectors/image"].tolist() == [[1, 2], [0, 0], [0, 0]]
    content.show(rows(0), [{f"m{number}": [1.0] for number in range(MAX_MODALITIES + 1)}], times(2))
    assert len([name for name in content.of_rows(1) if name.startswith("vectors/")]) == MAX_MODALITIES


def test_an_item_that_has_left_is_forgotten_and_one_that_models_begin_anew_is_not(content: ItemContent, generations: np.ndarray) -> None:
    content.say(rows(1, 2), ["gone", "kept"], times(5, 5))
    content.show(rows(1), [{"image": [1.0]}], times(5))
    generations[1] += 1
    assert content.forget_rows(rows(1, 2, 4, 5)) == 1
    assert texts(content) == ["", "", "kept", "", "", ""]
    assert not content.of_rows(NUM)["vectors/image"].any()
    content.say(rows(1), ["its next item"], times(3))
    assert texts(content)[1] == "its next item"
    assert content.forget_rows(rows(1)) == 0


step = st.lists(st.tuples(st.integers(0, NUM - 1), st.text(max_size=3), st.integers(0, 3), st.booleans()), max_size=5)


@given(st.lists(step, min_size=1, max_size=5))
def test_a_snapshot_with_deltas_is_the_same_also_when_they_are_joined(steps: list[list[tuple[int, str, int, bool]]]) -> None:
    generations = np.zeros(NUM, np.int32)
    content, again, joined = (ItemContent(lambda: generations) for _ in range(3))
    base, deltas = content.snapshot(), []
    for number, one in enumerate(steps):
        one.sort(key=lambda each: each[2])
        content.say(rows(*(row for row, *_ in one)), [text for _, text, *_ in one], times(*(time for *_, time, _ in one)))
        shown = [each for each in one if each[3]]
        content.show(rows(*(each[0] for each in shown)), [{f"m{row % 2}": [row, number]} for row, *_ in shown], times(*(each[2] for each in shown)))
        deltas.append(content.delta())
    assert all(map(is_row_delta, deltas))
    again.restore(base, deltas)
    joined.restore(merge(base, deltas))
    assert again.digest() == joined.digest() == content.digest()
    empty = ItemContent(lambda: generations)
    empty.restore(ComponentState())
    assert texts(empty, 2) == ["", ""]
