"""Make the log values that `benchmarks.ingest` decodes."""

from __future__ import annotations

import numpy as np
import orjson

TIME_MS = 1_600_000_000_000
_DEVICES = ("phone", "tablet", "desktop", "television")
_PAGES = ("home", "search", "category", "basket", "article")


def flat(number: int) -> dict[str, object]:
    """Return an interaction of 200 bytes."""
    return {
        "event_id": f"7c9e6679-7425-40de-944b-{number:012x}", "user_id": f"user-{number * 7919 % 50_000:06d}",
        "item_id": f"item-{number * 104_729 % 20_000:06d}", "event_type": "click", "event_time": TIME_MS + number,
        "value": 1.5, "session_id": f"session-{number // 10:016d}",
    }  # fmt: skip


def with_context(number: int, rng: np.random.Generator) -> dict[str, object]:
    """Return an interaction with a context of 3 to 5 keys: texts, an integer, true or false, a number with a fraction."""
    context: dict[str, object] = {
        "device": _DEVICES[number % 4], "width": int(rng.integers(320, 3840)), "dark": bool(number % 3),
        "page": _PAGES[number % 5], "dwell_s": round(float(rng.gamma(2.0, 20.0)), 3),
    }  # fmt: skip
    names = list(context)[: 3 + number % 3]
    return {**flat(number), "context": {name: context[name] for name in names}}


def impression(number: int, rng: np.random.Generator) -> dict[str, object]:
    """Return an impression of 10 items."""
    return {
        "kind": "impression", "event_id": f"7c9e6679-7425-40de-944b-{number:012x}", "user_id": f"user-{number * 7919 % 50_000:06d}",
        "event_time": TIME_MS + number, "request_id": f"request-{number:016d}", "items": [f"item-{item:06d}" for item in rng.integers(0, 20_000, 10)],
    }  # fmt: skip


def item_update(number: int, rng: np.random.Generator) -> dict[str, object]:
    """Return an item update with two categories and a vector of 16 numbers."""
    return {
        "kind": "item_update", "event_id": f"7c9e6679-7425-40de-944b-{number:012x}", "item_id": f"item-{number % 20_000:06d}",
        "event_time": TIME_MS + number, "title": f"Title of the item {number}", "categories": [_PAGES[number % 5], _DEVICES[number % 4]],
        "price": number % 1000 / 100, "vectors": {"text": [round(float(part), 6) for part in rng.normal(size=16)]},
    }  # fmt: skip


def deletion(number: int) -> dict[str, object]:
    """Return a deletion."""
    return {
        "kind": "deletion", "event_id": f"7c9e6679-7425-40de-944b-{number:012x}", "user_id": f"user-{number % 50_000:06d}",
        "event_time": TIME_MS + number,
    }  # fmt: skip


def make_context(num: int) -> list[bytes]:
    """Return interactions that all have a context."""
    rng = np.random.default_rng(1)
    return [orjson.dumps(with_context(number, rng)) for number in range(num)]


def make_impressions(num: int) -> list[bytes]:
    """Return impressions."""
    rng = np.random.default_rng(2)
    return [orjson.dumps(impression(number, rng)) for number in range(num)]


def make_mixed(num: int) -> list[bytes]:
    """Return 40 % flat interactions, 25 % with a context, 20 % impressions, 14 % item updates and 1 % deletions, in any order."""
    rng = np.random.default_rng(3)
    values = []
    for number, draw in enumerate(rng.random(num)):
        if draw < 0.4:
            event = flat(number)
        elif draw < 0.65:
            event = with_context(number, rng)
        elif draw < 0.85:
            event = impression(number, rng)
        else:
            event = item_update(number, rng) if draw < 0.99 else deletion(number)
        values.append(orjson.dumps(event))
    return values
