"""Print an answer: a table of items, or of each item what its score is made of."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from streamrec.cli.options import Ask
from streamrec.cli.telling import out_console, span

_MOST_PARTS = 5
"""History items that an explained item names, those that move its score most; ``--json`` has all."""


def items_of(answer: Mapping[str, Any]) -> list[str]:
    """Return all items that an answer names, those that explain others included."""
    named = [item["item_id"] for item in answer["items"]]
    return list(dict.fromkeys([*named, *(part["item_id"] for item in answer["items"] for part in item.get("because") or ())]))


def print_answer(options: Ask, answer: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    """Print an answer with the titles that are known: the result on the output, where it comes from on the error output, or all of it as JSON."""
    if options.json:
        items = [{**item, **({"title": titles[item["item_id"]]} if item["item_id"] in titles else {})} for item in answer["items"]]
        sys.stdout.write(json.dumps({**answer, "items": items}) + "\n")
        return
    sys.stderr.writelines(f"{line}\n" for line in _about(answer))
    if options.explain:
        sys.stdout.writelines(f"{line}\n" for number, item in enumerate(answer["items"], 1) for line in _explained(number, item, titles))
    elif answer["items"]:
        out_console().print(_table(answer["items"], titles))


def _about(answer: Mapping[str, Any]) -> Iterator[str]:
    source = f"{answer['source']}{f' ({why})' if (why := answer.get('why')) else ''}"
    yield f"{answer['model_version']}, made {span(answer['model_age_s'])} ago; source: {source}; {answer['user_events']} items of the history used"
    if answer.get("short"):
        yield f"short: {answer['short']}"
    for left in answer.get("left_out") or ():
        yield f"left out: {left['item_id']}, {left['why']}"


def _table(items: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Table:
    has_titles = any(item["item_id"] in titles for item in items)
    table = Table("", "item", *(["title"] if has_titles else []), "score")
    for number, item in enumerate(items, 1):
        title = [titles.get(item["item_id"], "")] if has_titles else []
        table.add_row(str(number), item["item_id"], *title, _score(item["score"]))
    return table


def _explained(number: int, item: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[str]:
    name = _named(item["item_id"], titles)
    because = item.get("because")
    if because is None:  # Popular items are counted, not scored.
        yield f"{number:>3}  {name}: {_score(item['score'])} uses"
        return
    parts = {"bias": item["bias"], "own history": item["own_history"], "words": item.get("content"), "history": sum(one["part"] for one in because)}
    yield f"{number:>3}  {name}: {item['score']:.4f} = {' + '.join(f'{part:.4f} {what}' for what, part in parts.items() if part is not None)}"
    for one in sorted(because, key=lambda one: -abs(one["part"]))[:_MOST_PARTS]:
        yield f"     {one['part']:+9.4f}  {_named(one['item_id'], titles)}"
    if item.get("teachers"):
        yield f"     in all users' newest labels by {', '.join(f'{teacher} {part:.2f}' for teacher, part in item['teachers'].items())}"


def _score(score: float) -> str:
    """Return a score with four decimals; a use that is long ago counts less than these show, and is not nothing."""
    return f"{score:.4f}" if not score or abs(score) >= 5e-5 else f"{score:.1e}"


def _named(item_id: str, titles: Mapping[str, str]) -> str:
    return f"{item_id} {titles[item_id]}" if item_id in titles else item_id
