"""Two bootstraps that begin at the same moment: one of them ends, and the other goes on."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import bootstrap
from streamrec.config import parse_config
from streamrec.errors import Fenced, OperatorError
from streamrec.student.actor import Host

REFUSED = OperatorError("Actor: the call is not its owner's", refused=True)
OTHER = OperatorError("Refresh: a version that the plan names is missing")


def owned() -> None:
    """The state is still this job's."""


def taken() -> None:
    what = "Checkpoint: another writer has taken over the state"
    raise Fenced(what)


def learned(monkeypatch: pytest.MonkeyPatch, outcomes: list[Exception | None], check_owner: Callable[[], None]) -> tuple[Any, list[Any]]:
    """Return the controller that has learned, and all that were made."""
    made: list[Any] = []

    def controller() -> Any:
        made.append(SimpleNamespace(recover=lambda: False, parts=SimpleNamespace(checkpoints=SimpleNamespace(check_owner=check_owner))))
        return made[-1]

    def learn(*_: object) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(bootstrap, "bootstrap", learn)
    monkeypatch.setattr(bootstrap, "teller", lambda _: None)
    session = SimpleNamespace(controller=controller, reader=SimpleNamespace(latest=lambda _: {0: 1}), config=parse_config({}))
    return bootstrap._learned(session), made  # type: ignore[arg-type]


def test_one_whose_actors_another_has_taken_over_begins_anew_while_the_state_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    last, made = learned(monkeypatch, [REFUSED, None], owned)
    assert (len(made), last) == (2, made[1])


def test_one_whose_state_is_the_others_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Fenced):
        learned(monkeypatch, [REFUSED], taken)


@pytest.mark.parametrize("outcomes", [[OTHER], [REFUSED] * bootstrap._ATTEMPTS])
def test_another_error_and_one_that_stays_are_raised(monkeypatch: pytest.MonkeyPatch, outcomes: list[Exception | None]) -> None:
    with pytest.raises(OperatorError):
        learned(monkeypatch, outcomes, owned)
    assert outcomes == []


def test_what_an_actor_refuses_has_the_fact_that_is_looked_for() -> None:
    host: Host[dict[str, int]] = Host()
    host.adopt(1, dict)
    refused = host.call(2, len)
    assert isinstance(refused, OperatorError)
    assert refused.facts == {"refused": True}
    assert host.call(1, len) == 0
