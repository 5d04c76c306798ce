"""Know what catalogues say of items, and find those that pass a filter: title, categories, price and locale by item code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from streamrec.features.item_attributes import FIELDS, bounded, newer

Codes = NDArray[np.int32]
_NOT_KNOWN = -1

MAX_RECENT = 10_000
"""So many items are remembered by when their words were told: who looks for new ones reads no more, however many are described."""

_WORDS = ("title", "categories")


class Attributes:
    """Keep what item updates say by item code; of each field the newest by event time counts, of equal times the one that is said last.

    **Contract.** One thread says and publishes, others may read at any time.

    Args:
        known: By code, what is known as a JSON object, empty where nothing. [num]
        said_ms: By code and field, the event time of the update that says so, 0 without one. [num, F]

    Attributes:
        epoch: Another number whenever something was said since.
    """

    epoch: int

    def __init__(self, known: Sequence[str] = (), said_ms: NDArray[np.int64] | None = None) -> None:
        self.epoch = 0
        self._is_stale = False
        self._values: dict[int, dict[str, Any]] = {}
        self._members: dict[str, set[int]] = {}
        self._locales: dict[str, int] = {}
        self._said_ms = np.zeros((len(known), len(FIELDS)), np.int64) if said_ms is None else np.array(said_ms)
        self._price = np.full(len(self._said_ms), np.nan)
        self._locale = np.full(len(self._said_ms), _NOT_KNOWN, np.int32)
        for code, text in enumerate(known):
            if text:
                self._set(code, orjson.loads(text))
        told_ms = self._said_ms[:, : len(_WORDS)].max(1, initial=0)
        told = np.flatnonzero(told_ms)
        self._recent = dict.fromkeys(told[np.argsort(told_ms[told], kind="stable")][-MAX_RECENT:].tolist())

    def __len__(self) -> int:
        """Return of how many items something is known."""
        return len(self._values)

    def say(self, code: int, time_ms: int, update: Mapping[str, Any]) -> None:
        """Take an item update's fields; what is older than what is known has no effect."""
        self._fit(code + 1)
        fresh = newer(bounded(update), self._said_ms[code], time_ms)
        if fresh:
            self._set(code, fresh)
            self._is_stale = True
            if fresh.keys() & set(_WORDS):
                self._recent.pop(code, None)
                self._recent[code] = None
                if len(self._recent) > MAX_RECENT:
                    del self._recent[next(iter(self._recent))]

    def publish(self) -> None:
        """Let readers see that something was said."""
        if self._is_stale:
            self.epoch, self._is_stale = self.epoch + 1, False

    def of(self, code: int) -> Mapping[str, Any]:
        """Return what is known of an item, by field; nothing where nothing is."""
        return self._values.get(code, {})

    def passing(self, categories: Sequence[str] | None, prices: tuple[float | None, float | None], locale: str | None) -> Codes:
        """Return the codes of the items that are known to pass, ascending.

        Args:
            categories: At least one of them; None asks for none.
            prices: Lowest and highest price, both included; None is no bound.
            locale: The item's locale; one without a region, such as "en", takes all regions.
        """
        num = len(self._said_ms)
        price, number, passes = self._price[:num], self._locale[:num], np.ones(num, np.bool_)
        if categories is not None:
            found = [np.fromiter(list(self._members.get(name, ())), np.int64) for name in categories]
            chosen = np.concatenate([*found, np.empty(0, np.int64)])
            passes[:] = False
            passes[chosen[chosen < num]] = True
        if prices[0] is not None:
            passes &= price >= prices[0]
        if prices[1] is not None:
            passes &= price <= prices[1]
        if locale is not None:
            wanted = [at for name, at in list(self._locales.items()) if name == locale or name.startswith(f"{locale}-")]
            passes &= np.isin(number, wanted)
        return np.flatnonzero(passes).astype(np.int32)

    def recent(self) -> Codes:
        """Return the codes of the items whose title or categories were told last, oldest first, at most `MAX_RECENT`."""
        return np.asarray(list(self._recent), np.int32)

    def newest(self, num: int) -> Codes:
        """Return the codes of at most ``num`` items of which something is known, those of the newest updates."""
        codes = np.fromiter(self._values, np.int32, len(self._values))
        if len(codes) <= num:
            return codes
        return codes[np.argpartition(-self._said_ms[codes].max(1), num)[:num]]

    def only(self, codes: Codes) -> Attributes:
        """Return the same of some items, whose codes become their places in ``codes``."""
        self._fit(int(codes.max(initial=-1)) + 1)
        result = Attributes((), self._said_ms[codes])
        result.epoch = self.epoch + 1
        places = {code: place for place, code in enumerate(codes.tolist())}
        for code, place in places.items():
            if code in self._values:
                result._set(place, self._values[code])
        result._recent = {places[code]: None for code in self._recent if code in places}
        return result

    def _set(self, code: int, fresh: dict[str, Any]) -> None:
        held = self._values.get(code, {})
        if "categories" in fresh:
            for name in held.get("categories", ()):
                self._members[name].discard(code)
            for name in fresh["categories"]:
                self._members.setdefault(name, set()).add(code)
        if "price" in fresh:
            self._price[code] = fresh["price"]
        if "locale" in fresh:
            self._locale[code] = self._locales.setdefault(fresh["locale"], len(self._locales))
        # Another object, so that a reader sees what was known before or what is known now.
        self._values[code] = {**held, **fresh}

    def _fit(self, num: int) -> None:
        missing = num - len(self._said_ms)
        if missing > 0:
            missing = max(missing, num, 1024)  # Copied once for each doubling.
            # The columns first: readers ask for as many as there are times.
            self._price = np.concatenate([self._price, np.full(missing, np.nan)])
            self._locale = np.concatenate([self._locale, np.full(missing, _NOT_KNOWN, np.int32)])
            self._said_ms = np.concatenate([self._said_ms, np.zeros((missing, len(FIELDS)), np.int64)])
