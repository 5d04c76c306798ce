from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from streamrec.config import DEFAULT_MEANINGS, Meaning
from streamrec.errors import DataError
from streamrec.events.meaning import CONTEXT, NEGATIVE, TARGET, roles_of


def interactions(*rows: tuple[str | None, float | None]) -> pa.Table:
    types, values = zip(*rows, strict=True)
    return pa.table({"event_type": pa.array(types, pa.string()), "value": pa.array(values, pa.float64())})


@pytest.mark.parametrize(
    ("event_type", "role", "weight"),
    [
        ("view", TARGET, 0.5),
        ("click", TARGET, 1.0),
        ("cart", TARGET, 1.0),
        ("favourite", TARGET, 1.0),
        ("purchase", TARGET, 1.0),
        ("rating", TARGET, 1.0),
        ("search", CONTEXT, 1.0),
        ("return", NEGATIVE, 1.0),
        ("remove", NEGATIVE, 1.0),
    ],
)
def test_an_event_type_means_by_default_what_is_stated(event_type: str, role: int, weight: float) -> None:
    roles, weights = roles_of(interactions((event_type, None), (event_type, 3.0)), DEFAULT_MEANINGS)
    assert roles.tolist() == [role, role]
    assert weights.tolist() == [weight, weight]
    assert (roles.dtype, weights.dtype) == (np.int8, np.float32)


def test_every_default_is_tested_above() -> None:
    assert len(DEFAULT_MEANINGS) == 9


def test_a_value_below_the_bound_is_negative_and_a_null_or_equal_one_is_not() -> None:
    meanings = {**DEFAULT_MEANINGS, "rating": Meaning(role="target", weight=2.0, negative_below=3.0)}
    roles, weights = roles_of(interactions(("rating", 2.5), ("rating", 3.0), ("rating", None), ("click", -1.0)), meanings)
    assert roles.tolist() == [NEGATIVE, TARGET, TARGET, TARGET]
    assert weights.tolist() == [2.0, 2.0, 2.0, 1.0]


def test_a_row_without_an_event_type_is_context_without_weight() -> None:
    roles, weights = roles_of(interactions((None, None), ("click", None)), DEFAULT_MEANINGS)
    assert (roles.tolist(), weights.tolist()) == ([CONTEXT, TARGET], [0.0, 1.0])


def test_an_event_type_without_a_meaning_is_named() -> None:
    with pytest.raises(DataError, match="row 1 has no meaning, got 'nonsense'"):
        roles_of(interactions(("click", None), ("nonsense", None)), DEFAULT_MEANINGS)


def test_no_events_have_no_roles() -> None:
    roles, weights = roles_of(interactions(("click", None)).slice(0, 0), DEFAULT_MEANINGS)
    assert (len(roles), len(weights)) == (0, 0)
