"""A version that a delta made answers as one that was loaded whole."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.errors import Damaged
from streamrec.registry.version import make_delta
from streamrec.serving.recommender import Recommender
from streamrec.state import ComponentState

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
