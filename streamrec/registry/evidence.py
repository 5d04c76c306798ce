"""Hold what is known of a candidate while it waits for the gate, from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from streamrec.registry.gate import SUMS, Window
from streamrec.registry.usual import Found

_WINDOW = ("num_queries", *SUMS)
_LEADS = ("found_", "candidate_found_", "ahead_")
_LIKE, _HELD = "like_", "held"
_FOUND = tuple(asdict(Found()))


@dataclass(frozen=True)
class Evidence:
    """Hold a candidate's evidence.

    Attributes:
        window: Scores of the candidate and of the live version.
        live: By how much more than the popular items the live version found.
        own: And the candidate.
        ahead: By how much more than the live version the candidate found.
        like: How like the live version's answers its own were when it was published; see `streamrec.registry.usual.Doubts`.
        held: Queries that it was scored on while an operator let nothing be promoted: the world has moved on since it was published.
    """

    window: Window = field(default_factory=lambda: Window(0))
    live: Found = field(default_factory=Found)
    own: Found = field(default_factory=Found)
    ahead: Found = field(default_factory=Found)
    like: Mapping[str, float] = field(default_factory=dict)
    held: float = 0.0

    @classmethod
    def of(cls, kept: Mapping[str, float], batch: int) -> Self:
        """Return what `kept` gave by an earlier step; of a streamrec that kept fewer sums they count no more."""
        window = Window.from_sums(batch, kept) if set(_WINDOW) <= kept.keys() else Window(batch)
        live, own, ahead = (Found(**{name: kept.get(prefix + name, 0.0) for name in _FOUND}) for prefix in _LEADS)
        like = {name.removeprefix(_LIKE): value for name, value in kept.items() if name.startswith(_LIKE)}
        return cls(window, live, own, ahead, like, kept.get(_HELD, 0.0))

    def plus(self, window: Window, live: Found, own: Found, ahead: Found) -> Self:
        """Return the same with a step's scores."""
        return replace(self, window=window + self.window, live=self.live + live, own=self.own + own, ahead=self.ahead + ahead)

    def kept(self) -> dict[str, float]:
        """Return what `of` reads."""
        leads = zip(_LEADS, (self.live, self.own, self.ahead), strict=True)
        found = {prefix + name: value for prefix, each in leads for name, value in asdict(each).items()}
        like = {_LIKE + name: value for name, value in self.like.items()}
        return {**{name: getattr(self.window, name) for name in _WINDOW}, **found, **like, **({_HELD: self.held} if self.held else {})}
