"""Guess which columns of a file are the user, the item, the time and the rest, by their names and by what is in them.

A name counts first; what is in the column must fit in any case. Without a telling name an id is guessed by how often its values come back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.errors import DatasetError
from streamrec.events.columns import TIMES_ALLOWED, Columns

NO_TIME = "none"
"""Given as the column of the time, where there is none of that name: the file's order is time."""

LOOKED_AT = 20_000
"""Rows, the first ones, by which columns are judged."""

# German, French and Spanish words come after the English ones: of two columns that fit, the English name counts.
_PEOPLE = (
    "user customer visitor client member account buyer shopper reviewer listener reader uid person "
    "kunde kundin kundennr kundennummer kd benutzer nutzer käufer besucher mitglied utilisateur acheteur usuario cliente comprador"
)
_THINGS = (
    "item product sku article movie track song artist book isbn asin stockcode video content listing offer recipe game course news iid "
    "artikel artikelnr artikelnummer art produkt ware produit produto producto articulo artículo"
)
_NAMES: Mapping[str, Sequence[str]] = {
    "user": _PEOPLE.split(),
    "item": _THINGS.split(),
    "time": (
        *("timestamp", "time", "datetime", "date", "ts", "at", "when", "created", "occurred"),
        *("zeitpunkt", "zeitstempel", "zeit", "datum", "buchungsdatum", "horodatage", "fecha", "hora"),
    ),
    "type": (
        *("type", "event", "action", "behaviour", "behavior", "activity", "interaction", "verb", "kind"),
        *("aktion", "ereignis", "vorgang", "typ", "evento", "acción", "accion", "événement", "evenement"),
    ),
    "value": ("rating", "stars", "score", "value", "overall", "preference"),
    "session": ("session", "visit"),
    "basket": ("basket", "invoice", "order", "transaction", "receipt", "beleg", "bestellung", "rechnung", "facture", "factura", "pedido"),
}
_REQUIRED = ("user", "item")
_IDS = (*_REQUIRED, "session", "basket")
_UNDONE = "remove return refund dislike unlike cancel unfollow delete hide block"
_AROUND = "search query filter login logout"
_SEEN = "view pageview pv detail impression open visit browse show"
_WANTED = (
    "click buy bought purchase order transaction sale cart basket addtocart fav favourite favorite like wishlist save bookmark rate rating review "
    "play listen watch read download share follow subscribe"
)
_ROLES: tuple[tuple[Literal["target", "context", "negative"], float, str], ...] = (
    ("negative", 1.0, _UNDONE),
    ("context", 1.0, _AROUND),
    ("target", 0.5, _SEEN),
    ("target", 1.0, _WANTED),
)
_MOST_TYPES = 50
_FEW = 100
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_DAY_MS = 86_400_000
_CLOCK = r"^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?$"
_EARLIEST_MS, _LATEST_MS = 631_152_000_000, 4_102_444_800_000  # 1990 and 2100: numbers beyond are no times.
# 2005 to 2035: numbers as large, and all different, are seldom anything else.
_RECENT_MS = (1_104_537_600_000, 2_051_222_400_000)


@dataclass(frozen=True)
class Guess:
    """Say which column a field is, and why.

    Attributes:
        field: One of `streamrec.events.datasets.EVENT_FIELDS`.
        column: Of the file.
        why: A sentence.
    """

    field: str
    column: str
    why: str


@dataclass(frozen=True)
class GuessedMeaning:
    """Say what an event type probably means.

    Attributes:
        role: See `streamrec.config.Meaning`.
        weight: Likewise.
        why: A sentence.
    """

    role: Literal["target", "context", "negative"]
    weight: float
    why: str


def guess_mapping(table: pa.Table, path: Path, given: Mapping[str, str] | None = None) -> list[Guess]:
    """Return the columns of a file's fields: those that are given, and guesses of the others.

    Args:
        table: The file, see `streamrec.events.readers.read_any_table`.
        path: Its path, for errors.
        given: What is known already; `NO_TIME` for ``time`` leaves it out.

    Raises:
        DatasetError: There is no header, no column for the user or the item, or one that is named like a time holds none.
    """
    _check_header(table, path)
    head, given = Columns(table.slice(0, LOOKED_AT), path), dict(given or {})
    sought = [field for field in _NAMES if field not in given]
    if given.get("time") == NO_TIME and NO_TIME not in table.column_names:
        del given["time"]
    found = [Guess(field, column, "you said so") for field, column in given.items()]
    taken = set(given.values())
    for field in sought:
        guess = _by_name(field, head, taken)
        if guess is None and field == "time":
            _check_timeless(head, taken)
            guess = _time_by_content(head, taken)
        if guess is None and field == "type":
            guess = _type_by_content(head, taken)
        if guess is not None:
            found.append(guess)
            taken.add(guess.column)
    for field in _REQUIRED:
        if field not in {guess.field for guess in found}:
            guess = _by_content(field, head, taken, path)
            found.append(guess)
            taken.add(guess.column)
    order = list(_NAMES)
    return sorted(found, key=lambda guess: order.index(guess.field) if guess.field in order else len(order))


def guess_meaning(event_type: str) -> GuessedMeaning:
    """Return what an event type means by its words; one whose words say nothing is something to recommend for.

    Example:
        >>> guess_meaning("remove_from_cart").role, guess_meaning("page_view").weight, guess_meaning("frobnicate").role
        ('negative', 0.5, 'target')
    """
    for role, weight, names in _ROLES:
        if told := _words_that_tell(event_type, names):
            return GuessedMeaning(role, weight, f"because of {told[0]!r}")
    return GuessedMeaning("target", 1.0, "its name says nothing: is it what you want to recommend for?")


def _words_that_tell(event_type: str, names: str) -> list[str]:
    return sorted({*_words(event_type), _plain(event_type)} & set(names.split()))


def _check_header(table: pa.Table, path: Path) -> None:
    numeric = [name for name in table.column_names if _NUMBER.fullmatch(name.strip())]
    # A number above numbers alone is one of them; above anything else it is somebody's name for it.
    is_one = any(all(_NUMBER.fullmatch(str(cell).strip()) for cell in table[name].slice(0, _FEW).to_pylist()) for name in numeric)
    if len(numeric) * 2 > len(table.column_names) or (is_one and table.num_rows):
        what = f"Dataset: line 1 of {path} is no header"
        raise DatasetError(what, got=", ".join(table.column_names)[:80], allowed="names of the columns", do="write a header line above", line=1)


def _by_name(field: str, head: Columns, taken: Iterable[str]) -> Guess | None:
    """Return the column whose name says so and whose cells fit, the best name first; of equal ones the first column."""
    for name in _ranked(field, head, taken):
        fits = _fits(field, head, name)
        if fits is not None:
            return Guess(field, name, f"its name says so, {fits}" if fits else "its name says so")
    return None


def _ranked(field: str, head: Columns, taken: Iterable[str]) -> list[str]:
    """Return the columns whose name fits a field, the best first."""
    ranked = sorted((rank, at, name) for at, name in enumerate(_usable(head, taken)) if (rank := _rank(field, name)) is not None)
    return [name for _, _, name in ranked]


def _check_timeless(head: Columns, taken: Iterable[str]) -> None:
    """Raise a `DatasetError` where a column is named like a time, and none of those can be read as one: its order would be lost in silence."""
    name = next(iter(_ranked("time", head, taken)), None)
    if name is None:
        return
    try:
        bounds = pc.min_max(head.times_ms(name)).as_py()
        got = f"{' to '.join(str(np.datetime64(bounds[end], 'ms')) for end in ('min', 'max'))}, read as a time"
    except DatasetError as error:
        got = repr(head.table[name][error.facts["line"] - head.first_line].as_py())[:80]
        got += ", of which no line settles whether the month or the day comes first" if error.facts.get("unsettled") else ""
    what = f"Dataset: column {name!r} of {head.path} is named like a time and can't be read as one"
    do = f"write it so, name another column with --map time=COLUMN, or leave it out with --map time={NO_TIME}, which makes the file's order time"
    raise DatasetError(what, got=got, allowed=f"{TIMES_ALLOWED}, from 1990 to 2100", do=do, column=name)


def _time_by_content(head: Columns, taken: Iterable[str]) -> Guess | None:
    """Return the first column of texts that are times, or of numbers that are instants of 2005 to 2035: others may be anything."""
    for name in _usable(head, taken):
        may_be = _is_recent(head, name) if _is_numeric(head, name) else _is_text(head, name)
        fits = _fits_time(head, name) if may_be else None
        if fits is not None:
            return Guess("time", name, f"no name says so; {fits}: look whether it is right")
    return None


def _type_by_content(head: Columns, taken: Iterable[str]) -> Guess | None:
    """Return the first column of texts at least half of which say by their words what somebody did."""
    for name in _usable(head, taken):
        distinct = pc.count_distinct(head.table[name]).as_py()
        kinds = _fits_type(head, name, distinct) if _is_text(head, name) else None
        if kinds is not None and 2 * sum(_says_what(kind) for kind in pc.unique(head.ids(name)).to_pylist()) >= distinct:
            return Guess("type", name, f"no name says so; {kinds}: look whether it is right")
    return None


def _says_what(event_type: str) -> bool:
    return any(_words_that_tell(event_type, names) for _, _, names in _ROLES)


def _by_content(field: str, head: Columns, taken: Iterable[str], path: Path) -> Guess:
    """Return the column of ids that come back, the first one; it is a guess, and says so."""
    for name in _usable(head, taken):
        fits = _fits(field, head, name)
        distinct = pc.count_distinct(head.table[name]).as_py()
        if fits is not None and 1 < distinct < head.table.num_rows:
            return Guess(field, name, f"no name says so; {fits}: look whether it is right")
    for name in _ranked(field, head, taken):
        head.ids(name)  # Named so, and can't be read: its error says why.
    what = f"Dataset: no column of {path} looks like the {field}"
    do = f"name it: streamrec init {path} --map {field}=COLUMN"
    raise DatasetError(what, got=", ".join(head.table.column_names), do=do)


def _usable(head: Columns, taken: Iterable[str]) -> list[str]:
    """Return the columns that are not taken, hold no lists and that ``--map`` can name."""
    fields = [field for field in head.table.schema if not pa.types.is_nested(field.type)]
    return [field.name for field in fields if field.name not in taken and field.name and field.name == field.name.strip()]


def _rank(field: str, name: str) -> int | None:
    """Return how well a name fits a field, 0 best; None where it does not."""
    words, plain = _words(name), _plain(name)
    ends = ("id", "no", "nr", "code") if field in _IDS else ("type",) if field == "type" else ()
    for at, told in enumerate(_NAMES[field]):
        if plain in {told, f"event{told}", f"unix{told}", f"unixreview{told}", *(told + end for end in ends)}:
            return at
    # Order values and order states are no ratings and no baskets: of these only the whole name counts.
    hits = [at for at, told in enumerate(_NAMES[field]) if told in words] if field in {"user", "item", "time", "type"} else []
    return len(_NAMES[field]) + hits[0] if hits else None


def _fits(field: str, head: Columns, name: str) -> str | None:
    """Return what the cells say for a field, empty where they say nothing against it; None where they do not fit."""
    if field == "time":
        return _fits_time(head, name)
    if field == "value":
        return _fits_value(head, name)
    distinct, num = pc.count_distinct(head.table[name]).as_py(), head.table.num_rows
    if field == "type":
        return _fits_type(head, name, distinct)
    try:
        head.ids(name)
    except DatasetError:
        return "" if field in {"session", "basket"} and distinct > 1 else None
    return None if _is_fractional(head, name) else f"{distinct} different ones in {num} rows"


def _fits_time(head: Columns, name: str) -> str | None:
    times = _times_of(head, name)
    if times is None or times.min() < _EARLIEST_MS or times.max() > _LATEST_MS:
        return None
    first, last = (np.datetime64(int(time), "ms").astype("datetime64[m]") for time in (times.min(), times.max()))
    clock = next((other for other in head.table.column_names if other != name and _is_clock(head, other)), None) if _are_days(times) else None
    parted = f"; days alone, the hours of {clock!r} are not read: join both in one column where the order in a day matters" if clock else ""
    return f"from {first} to {last}{parted}"


def _is_recent(head: Columns, name: str) -> bool:
    """Say whether a column's numbers, read as times, are all of the years of event streams, and not all the same."""
    times = _times_of(head, name)
    return times is not None and _RECENT_MS[0] < times.min() < times.max() < _RECENT_MS[1]


def _times_of(head: Columns, name: str) -> NDArray[np.int64] | None:
    try:
        times: NDArray[np.int64] = head.times_ms(name).to_numpy()
    except DatasetError:
        return None
    return times


def _are_days(times: NDArray[np.int64]) -> bool:
    return not (times % _DAY_MS).any()


def _is_clock(head: Columns, name: str) -> bool:
    """Say whether a column's cells are times of a day, such as 14:05 or 14:05:59."""
    cells = head.table[name].drop_null()
    if not len(cells) or not _is_text(head, name):
        return len(cells) > 0 and pa.types.is_time(head.table.schema.field(name).type)
    return bool(pc.all(pc.match_substring_regex(pc.utf8_trim_whitespace(cells), _CLOCK)).as_py())


def _fits_value(head: Columns, name: str) -> str | None:
    try:
        numbers = head.numbers(name)
    except DatasetError:
        return None
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] is None or bounds["min"] < -100 or bounds["max"] > 100:  # Ratings; of prices and counts nobody's taste is read.
        return None
    return f"{bounds['min']:g} to {bounds['max']:g}"


def _fits_type(head: Columns, name: str, distinct: int) -> str | None:
    try:
        types = pc.unique(head.ids(name)).to_pylist()
    except DatasetError:
        return None
    if distinct > _MOST_TYPES or distinct == len(head.table) or all(re.fullmatch(r"-?[\d.]+", kind) for kind in types):
        return None
    return ", ".join(sorted(types)[:8])


def _is_text(head: Columns, name: str) -> bool:
    kind = head.table.schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_numeric(head: Columns, name: str) -> bool:
    try:
        head.numbers(name)
    except DatasetError:
        return False
    return True


def _is_fractional(head: Columns, name: str) -> bool:
    try:
        numbers = head.numbers(name)
    except DatasetError:
        return False
    return bool(pc.any(pc.not_equal(pc.floor(numbers), numbers)).as_py())


def _words(name: str) -> set[str]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return {word.lower() for word in re.split(r"[\W_]+", parted) if word}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
