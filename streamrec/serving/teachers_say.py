"""Say of an item which teachers expect it, as far as a version tells.

Shapes: ``k`` items, ``T`` teachers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamrec.errors import ModelRejected
from streamrec.state import Arrays

_DECIMALS = 3
"""What parts are exact to: a version has them in two bytes."""


class TeachersSay:
    """Look up what `streamrec.soft_labels.say.Say` says in a version.

    Args:
        arrays: The version's, with ``label_rows`` [k] and ``label_parts`` [k, T].
        meta: With ``labels``: ``teachers`` (name to version) and ``queries``.

    Attributes:
        facts: Whose labels they are and of how many queries.
    """

    def __init__(self, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        self._rows, self._parts = arrays["label_rows"], arrays["label_parts"]
        self._names = sorted(meta["labels"]["teachers"])
        self.facts: Mapping[str, Any] = meta["labels"]

    @classmethod
    def of(cls, arrays: Arrays, meta: Mapping[str, Any]) -> TeachersSay | None:
        """Return a version's; None of one that has learned from no labels, or is older than this.

        Raises:
            ModelRejected: The arrays do not fit each other.
        """
        if "labels" not in meta:
            return None
        wanted = (len(arrays.get("label_rows", ())), len(meta["labels"]["teachers"]))
        if "label_rows" not in arrays or "label_parts" not in arrays or arrays["label_parts"].shape != wanted:
            got = arrays["label_parts"].shape if "label_parts" in arrays else "nothing"
            what = "Model: array label_parts does not fit the others"
            raise ModelRejected(what, got=got, allowed=wanted, do="publish the version again")
        return cls(arrays, meta)

    def of_row(self, row: int) -> dict[str, float] | None:
        """Return each teacher's part of what the newest labels expect of an item, all together 1; None where none of them names it."""
        at = int(np.searchsorted(self._rows, row))
        if at == len(self._rows) or self._rows[at] != row:
            return None
        return {name: round(part, _DECIMALS) for name, part in zip(self._names, self._parts[at].tolist(), strict=True) if part > 0}
