"""Say which items an answer may hold, and what only some requests ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamrec.serving.bodies import FilterFields


@dataclass(frozen=True, slots=True)
class Filters:
    """Hold a request's filters; an item passes when it passes all of them.

    Attributes:
        categories: At least one of them; None asks for none.
        prices: Lowest and highest price, both included; None is no bound.
        locale: The item's locale, or its language.
        available: Whether items that can't be had are left out.
        items: Only these; None allows all.
    """

    categories: tuple[str, ...] | None = None
    prices: tuple[float | None, float | None] = (None, None)
    locale: str | None = None
    available: bool = True
    items: tuple[str, ...] | None = None

    @classmethod
    def of(cls, body: FilterFields) -> Filters:
        """Return what a body says."""
        return cls().replaced_by(body)

    def replaced_by(self, body: FilterFields) -> Filters:
        """Return these with what a body says in their place; what it does not say stays."""
        said = body.model_fields_set
        prices = tuple(getattr(body, name) if name in said else old for name, old in zip(("min_price", "max_price"), self.prices, strict=True))
        return replace(
            self,
            categories=_tuple(body.categories) if "categories" in said else self.categories,
            prices=(prices[0], prices[1]),
            locale=body.locale if "locale" in said else self.locale,
            available=body.available if "available" in said else self.available,
            items=_tuple(body.items) if "items" in said else self.items,
        )

    @property
    def asks_for_attributes(self) -> bool:
        """Return whether only items pass of which something is known."""
        return self.categories is not None or self.prices != (None, None) or self.locale is not None

    @property
    def passes_all(self) -> bool:
        """Return whether all items pass that can be had."""
        return self == Filters()


@dataclass(frozen=True, slots=True)
class Seen:
    """Say which seen items may not be returned.

    Attributes:
        is_excluded: Whether any.
        last: Only so many of the newest count as seen; None: all.
    """

    is_excluded: bool = True
    last: int | None = None


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Ask for one of several lists.

    Attributes:
        name: What the answer calls it; "" of the only one.
        n: How many items.
        filters: Which items may be returned.
        exclude: None of these.
        seen: Which seen items may not be returned.
    """

    name: str
    n: int
    filters: Filters
    exclude: tuple[str, ...] = ()
    seen: Seen = Seen()


@dataclass(frozen=True, slots=True)
class Extras:
    """Hold what a plain request does not ask for.

    Attributes:
        filters: Which items may be returned.
        seen: Which seen items may not be returned; None: as the request says.
        lists: Several lists instead of one.
        repeat_items: Whether an item may be in several lists.
        explain: Whether each item says what moved it.
    """

    filters: Filters = Filters()
    seen: Seen | None = None
    lists: tuple[ListRequest, ...] = ()
    repeat_items: bool = False
    explain: bool = False


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
