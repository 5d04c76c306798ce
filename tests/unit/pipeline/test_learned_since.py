from __future__ import annotations

import random
from typing import Any

import pytest

from streamrec.pipeline.learned_since import Stretch, after_a_return, learned_since, of_a_new_topic


def mark(batch: int) -> dict[str, Any]:
    return {"batch": batch, "offsets": {"0": 100 * batch}, "applied": 100 * batch, "queries": 90 * batch}


def test_a_return_behind_an_earlier_one_takes_back_what_that_one_has_not() -> None:
    marks = after_a_return({"v4": mark(4), "v6": mark(6), "v8": mark(8)}, "v6", 9, {0: 900})
    here = {"batch": 9, "offsets": {"0": 900}}
    before = [{"first": 5, "last": 6, "ranges": {"0": [400, 600]}}]
    assert marks == {"v4": {**mark(4), **here, "before": before}, "v6": {**mark(6), **here, "before": []}}
    assert learned_since(marks["v4"], 13, {0: 1300}) == [Stretch(5, 6, {"0": [400, 600]}), Stretch(10, 13, {"0": [900, 1300]})]
    assert learned_since(marks["v6"], 9, {0: 900}) == []


def test_of_a_topic_that_was_made_anew_offsets_are_those_of_the_new_one() -> None:
    marks = of_a_new_topic({"v6": mark(6)}, 9, {0: 20})
    assert learned_since(marks["v6"], 9, {0: 20}) == [Stretch(7, 9, {})]
    assert learned_since(marks["v6"], 11, {0: 200}) == [Stretch(7, 9, {}), Stretch(10, 11, {"0": [20, 200]})]


def test_a_partition_that_came_since_was_read_from_its_beginning() -> None:
    assert learned_since(mark(1), 2, {0: 200, 1: 50}) == [Stretch(2, 2, {"0": [100, 200], "1": [0, 50]})]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_returns_follow_each_other_each_takes_back_what_was_learned_since_and_is_learned_still(seed: int) -> None:
    rng, marks, known, learned = random.Random(seed), {}, {}, []
    offset, was_anew, place_of = 0, 0, {}
    for batch in range(1, 120):
        begins, offset = offset, offset + rng.randrange(3)
        learned, place_of[batch] = [*learned, batch], (begins, offset)
        does = rng.random()
        if does < 0.4:
            name = f"v{batch:03d}"
            marks[name], known[name] = {"batch": batch, "offsets": {"0": offset}}, list(learned)
        elif does < 0.6 and marks:
            name = rng.choice(sorted(marks))
            found = learned_since(marks[name], batch, {0: offset})
            taken = [number for each in found for number in range(each.first, each.last + 1)]
            assert taken == [number for number in learned if number not in known[name]]
            read = [place for each in found for start, end in each.ranges.values() for place in range(start, end)]
            assert read == [place for number in taken if number > was_anew for place in range(*place_of[number])]
            marks, learned = after_a_return(marks, name, batch, {0: offset}), list(known[name])
            assert max(marks) == name
        elif does < 0.65:
            offset, was_anew = rng.randrange(5), batch
            marks = of_a_new_topic(marks, batch, {0: offset})
