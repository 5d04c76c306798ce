from __future__ import annotations

import json

from streamrec.registry.evidence import Evidence
from streamrec.registry.gate import Window
from streamrec.registry.usual import Found

LIKE = {"coverage": 0.9, "overlap": 0.3, "num": 16.0}
STEP = (Window.from_scores(3, [1, 0, 1], [0, 0, 1]), Found(3, 1.0, 1.0), Found(3, 2.0, 2.0), Found(3, 1.0, 3.0))


def test_evidence_comes_back_from_what_was_kept_of_it_and_adds_up() -> None:
    one = Evidence(like=LIKE, held=5.0).plus(*STEP)
    kept = json.loads(json.dumps(one.kept()))
    assert Evidence.of(kept, 3) == one
    both = Evidence.of(kept, 3).plus(Window.from_scores(4, [1], [0]), *STEP[1:])
    assert (both.window.batch, both.window.num_queries, both.window.candidate_sum, both.window.live_sum) == (4, 4, 3.0, 1.0)
    assert (both.live, both.own, both.ahead) == (Found(6, 2.0, 2.0), Found(6, 4.0, 4.0), Found(6, 2.0, 6.0))
    assert (both.like, both.held) == (LIKE, 5.0)


def test_a_new_candidate_has_none_but_what_its_answers_are_like() -> None:
    assert Evidence.of({}, 7) == Evidence(Window(7))
    fresh = Evidence.of(Evidence(like=LIKE).kept(), 7)
    assert (fresh.window.num_queries, fresh.like) == (0, LIKE)


def test_sums_of_a_streamrec_that_kept_fewer_count_no_more() -> None:
    of_old = {name: value for name, value in Evidence(like=LIKE).plus(*STEP).kept().items() if name not in {"live_squares", "candidate_found_total"}}
    read = Evidence.of(of_old, 3)
    assert (read.window, read.live, read.own.total, read.like) == (Window(3), STEP[1], 0.0, LIKE)
