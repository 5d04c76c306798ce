"""Find items that a catalogue has announced and that a version does not know yet: their words place them until the next version has them.

Shapes: ``k`` new items, ``D`` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.serving.attributes import Attributes
from streamrec.serving.content import Content, Floats, units
from streamrec.serving.filters import Filters
from streamrec.serving.history_view import Codes, HistoryTable
from streamrec.serving.row_map import RowMap


class NewItems(NamedTuple):
    """Hold the new items of one version.

    Attributes:
        table: Names them, and knows what is said of them.
        codes: Their codes in ``table``. [k]
        directions: Where their words point, of length 1. [k, D]
    """

    table: HistoryTable
    codes: Codes
    directions: Floats

    def like(self, direction: Floats, n: int, namespace: str, filters: Filters, exclude: set[str]) -> list[tuple[str, float]]:
        """Return the ids of those that pass and point most in a direction of length 1, and their cosines, best first, at most ``n``."""
        passes, item_ids = np.ones(len(self.codes), np.bool_), self.table.item_ids
        if filters.available:
            passes &= ~np.isin(self.codes, self.table.availability.codes)
        if filters.asks_for_attributes:
            passes &= np.isin(self.codes, self.table.attributes.passing(filters.categories, filters.prices, filters.locale))
        cosines = np.where(passes, self.directions @ direction, -np.inf)
        found: list[tuple[str, float]] = []
        for at in np.argsort(-cosines, kind="stable").tolist():
            if len(found) == n or not passes[at]:
                break
            mine, item_id = item_ids[self.codes[at]]
            if mine == namespace and item_id not in exclude and (filters.items is None or item_id in filters.items):
                found.append((item_id, float(cosines[at])))
        return found


class Newcomers:
    """Keep the new items of the version that was asked last, and the words of items as long as nothing else is said of them.

    **Contract.** One thread asks.
    """

    def __init__(self) -> None:
        self._asked: tuple[RowMap, int] | None = None
        self._found: NewItems | None = None
        self._words: dict[int, tuple[Mapping[str, Any], NDArray[np.int32]]] = {}
        self._words_of: tuple[HistoryTable, tuple[int, int]] | None = None

    def of(self, row_map: RowMap) -> NewItems | None:
        """Return the items that were told of last, have words that the version has learned, and no row in it; None where it has learned no words.

        They are among the `streamrec.serving.attributes.MAX_RECENT` newest told of.
        """
        content = row_map.recommender.content
        if content is None:
            return None
        asked = row_map, row_map.table.attributes.epoch
        if self._found is None or self._asked is None or self._asked[0] is not row_map or self._asked[1] != asked[1]:
            self._asked, self._found = asked, self._look(row_map, content)
        return self._found

    def _look(self, row_map: RowMap, content: Content) -> NewItems:
        table = row_map.table
        codes = table.attributes.recent()
        codes = codes[row_map.rows(codes) < 0]
        if (table, content.num_words) != self._words_of:
            self._words, self._words_of = {}, (table, content.num_words)
        told = [(code, table.attributes.of(code)) for code in codes.tolist()]
        # What is known of an item is another object whenever something else is.
        missing = [(code, said) for code, said in told if code not in self._words or self._words[code][0] is not said]
        hashed = content.hashed(text_of(said) for _, said in missing)
        fresh = {code: (said, words) for (code, said), words in zip(missing, hashed, strict=True)}
        self._words = {code: fresh.get(code) or self._words[code] for code in codes.tolist()}
        words = np.stack([words for _, words in self._words.values()]) if told else content.hashed(())
        directions = units(content.of_words(words))
        placed = directions.any(1)
        return NewItems(table, codes[placed], directions[placed])


def direction_of(attributes: Attributes, code: int, content: Content) -> Floats | None:
    """Return where the words point that a catalogue says of an item; None when none of them was ever learned. [D]."""
    (direction,) = units(content.of_words(content.hashed([text_of(attributes.of(code))])))
    return direction if direction.any() else None


def text_of(said: Mapping[str, Any]) -> str:
    """Return the text that an item's words are taken from.

    Example:
        >>> text_of({"title": "River lamp", "categories": ["home"], "price": 3.0})
        'River lamp home'
    """
    return " ".join([said.get("title", ""), *said.get("categories", ())])
