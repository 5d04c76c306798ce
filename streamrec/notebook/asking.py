"""Ask a version for recommendations, and for what its scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamrec.config import Config, parse_config
from streamrec.pipeline.answering import StorageAnswerer


class Model:
    """Answer as a server would that has read what the version's state has, by the same code.

    Args:
        config: Names the state.
        version: Which one; None asks the live one.
        student: Whose.
    """

    def __init__(self, config: Config, version: str | None = None, student: str = "default") -> None:
        self.answerer = StorageAnswerer(config, student, version, None, all_users=True)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request as the HTTP interface takes it, with the titles that are known."""
        answer = self.answerer.rank(body) if "candidates" in body else self.answerer.recommend(body)
        titles = self.answerer.titles(item["item_id"] for item in answer["items"])
        items = [{**item, **({"title": titles[item["item_id"]]} if item["item_id"] in titles else {})} for item in answer["items"]]
        return {**answer, "items": items}


def open_model(where: str | Path | Config, version: str | None = None, *, student: str = "default") -> Model:
    """Open a version of a state: a folder or bucket that a stream, a bootstrap or `distil` has left.

    Args:
        where: The state's address, or the configuration that names it.
        version: Such as ``v00000042``; None opens the live one.
        student: Whose versions.

    Raises:
        RegistryError: There is no such version, or none is live.

    Example:
        >>> import streamrec as sr
        >>> model = sr.open_model("runs/events")  # doctest: +SKIP
    """
    return Model(where if isinstance(where, Config) else parse_config({"state": str(where)}), version, student)


def recommend(
    model: Model, user_id: str | None = None, *, history: Sequence[str] | None = None, n: int = 10, with_seen: bool = False
) -> dict[str, Any]:
    """Return what ``POST /v1/recommend`` answers, with titles: ``items``, ``source``, ``model_version`` and more.

    Args:
        model: What `distil` or `open_model` returns.
        user_id: Whose history is used, as of the state's newest commit.
        history: Item ids, newest last, in place of the user's own.
        n: How many items.
        with_seen: Also items that the user had.

    Raises:
        RequestError: A value is out of bounds.

    Example:
        >>> import streamrec as sr
        >>> model = sr.distil(sr.sample_events(num_events=800), sr.settings(student={"dim": 8, "control": False}, teachers={"enabled": []}))
        >>> answer = sr.recommend(model, history=["i7", "i1"], n=2)
        >>> answer["source"], len(answer["items"]), "title" in answer["items"][0]
        ('student', 2, True)
        >>> sr.recommend(model, "somebody-new", n=2)["source"]
        'popular'
    """
    return model.ask({**_whose(user_id, history), "n": n, **({"exclude_seen": False} if with_seen else {})})


def explain(
    model: Model, user_id: str | None = None, *, history: Sequence[str] | None = None, of: Sequence[str] | None = None, n: int = 5
) -> dict[str, Any]:
    """Return an answer whose items say what their scores are made of: ``because``, ``bias``, ``own_history`` and ``content`` sum to ``score``.

    Args:
        model: What `distil` or `open_model` returns.
        user_id: Whose history is used.
        history: Item ids, newest last, in place of the user's own.
        of: Explain these items; None explains the best ``n``.
        n: How many of the best.

    Example:
        >>> import streamrec as sr
        >>> model = sr.distil(sr.sample_events(num_events=800), sr.settings(student={"dim": 8, "control": False}, teachers={"enabled": []}))
        >>> (item,) = sr.explain(model, history=["i7", "i1"], of=["i13"])["items"]
        >>> parts = sum(part["part"] for part in item["because"]) + item["bias"] + item["own_history"] + (item.get("content") or 0)
        >>> abs(parts - item["score"]) < 0.01
        True
    """
    chosen = {"n": n} if of is None else {"candidates": list(of)}
    return model.ask({**_whose(user_id, history), **chosen, "explain": True})


def _whose(user_id: str | None, history: Sequence[str] | None) -> dict[str, Any]:
    given = {"user_id": user_id, "history": None if history is None else list(history)}
    return {name: value for name, value in given.items() if value is not None}
