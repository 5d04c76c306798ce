from __future__ import annotations

import pickle
import re

import pytest

from streamrec import errors
from streamrec.errors import RetentionGap, StreamrecError

EVERY = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, StreamrecError)]


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_survives_pickling_with_its_message_and_facts(kind: type[StreamrecError]) -> None:
    error = kind("Noun: it happened", got=3, allowed="1 to 2", do="send less", topic="t", offsets={"0": 5})
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.facts == {"topic": "t", "offsets": {"0": 5}}
    assert again.remedy == error.remedy != ""


def test_a_message_says_what_was_got_what_is_allowed_and_what_to_do() -> None:
    assert str(StreamrecError("Noun: it happened", got=3, allowed="1 to 2", do="send less")) == "Noun: it happened, got 3, allowed 1 to 2, send less"
    assert str(StreamrecError("Noun: it happened", got=None)) == "Noun: it happened, got None"
    assert str(StreamrecError("Noun: it happened")) == "Noun: it happened"


def test_an_error_keeps_its_facts_as_it_is_raised_again() -> None:
    with pytest.raises(RetentionGap) as caught:
        raise pickle.loads(pickle.dumps(RetentionGap("Log: gone", wanted=3, earliest=5)))
    assert caught.value.facts == {"wanted": 3, "earliest": 5}


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^([ │]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
    parents: dict[int, str] = {1: "StreamrecError"}
    tree = {}
    for indent, name in drawn:
        depth = len(indent) // 4
        tree[name] = parents[depth]
        parents[depth + 1] = name
    assert tree.keys() == {kind.__name__ for kind in EVERY} - {"StreamrecError"}
    assert {kind.__name__: kind.__bases__[0].__name__ for kind in EVERY if kind is not StreamrecError} == tree
