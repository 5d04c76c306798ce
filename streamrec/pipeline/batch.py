"""Recommend for many users at once: a plan, a part after the other, each a Parquet file that is whole or not there, and a mark when all are.

    _plan.json                       which version, which users, how many items; written once, and what a later run goes on with
    _users-1a2b3c4d5e6f.parquet      the users, in the order of the parts
    part-00003-of-00012.parquet      answers, a row a user
    _SUCCESS                         written last

A name says how many parts there must be, so that some of them look like some. Readers of Parquet folders pass by what begins with ``_``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamrec.config import Config
from streamrec.errors import ConfigError, Damaged
from streamrec.migrations import number_of, read_json
from streamrec.pipeline.answering import StorageAnswerer
from streamrec.storage import Storage, open_storage

PLAN, DONE = "_plan.json", "_SUCCESS"
PART_USERS = 10_000
"""Users of a part: some seconds of work, and a file of about a megabyte."""

ITEMS = pa.list_(pa.struct([("item_id", pa.string()), ("score", pa.float64())]))
COLUMNS = pa.schema(
    [
        ("namespace", pa.string()),
        ("user_id", pa.string()),
        ("items", ITEMS),
        ("source", pa.string()),
        ("user_events", pa.int32()),
        ("model_version", pa.string()),
    ]
)
META = b"streamrec"
"""Key of a part's own facts in its file's metadata, as JSON: version, digest, student, n, part, parts, and the offsets that histories go up to."""


@dataclass(frozen=True)
class Wish:
    """Say what is asked for.

    Attributes:
        student: Whose version answers.
        version: Which one; None takes the live one.
        namespace: The users'; None takes ``events.namespace``.
        n: How many items.
        with_seen: Also items that the user had.
        users: Only these, in this order; None takes all that have a history.
    """

    student: str = "default"
    version: str | None = None
    namespace: str | None = None
    n: int = 10
    with_seen: bool = False
    users: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BatchPlan:
    """Hold what an output consists of.

    Attributes:
        student: Whose version answers.
        version: The one.
        digest: SHA-256 of its weights.
        namespace: The users'.
        n: How many items.
        with_seen: Also items that the user had.
        listed: Whether the users were named; else all that had a history.
        users_sha256: Digest over the users, in order.
        num_users: How many there are.
        part_users: How many of them make a part.
    """

    student: str
    version: str
    digest: str
    namespace: str
    n: int
    with_seen: bool
    listed: bool
    users_sha256: str
    num_users: int
    part_users: int

    @property
    def num_parts(self) -> int:
        """Return how many parts there are; one where there are no users, so that the columns can be read."""
        return max(1, -(-self.num_users // self.part_users))

    @property
    def users_key(self) -> str:
        """Return where the users lie."""
        return f"_users-{self.users_sha256[:12]}.parquet"

    def key(self, part: int) -> str:
        """Return where a part lies, counted from 0."""
        return f"part-{part:05d}-of-{self.num_parts:05d}.parquet"

    def to_json(self) -> bytes:
        """Return the plan as it is stored."""
        return json.dumps({"format": number_of("batch"), **asdict(self)}, indent=1).encode()


def read_plan(out: Storage) -> BatchPlan | None:
    """Return the plan of an output; None where none was begun.

    Raises:
        Damaged: It is torn.
        StorageError: It was written by a newer streamrec.
    """
    found = out.read_with_token(PLAN)
    if found is None:
        return None
    try:
        values = read_json("batch", found[0])
        return BatchPlan(**{name: values[name] for name in BatchPlan.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"Recommendations: the plan can't be read, {out.address}/{PLAN}"
        raise Damaged(what, got=repr(found[0][:80]), do="remove that folder and begin anew, or choose another --out") from error


def begun(config: Config, wish: Wish, out: Storage, part_users: int = PART_USERS) -> BatchPlan:
    """Return the plan of an output, made and stored if there is none yet.

    Raises:
        ConfigError: What lies there is of another wish.
        RegistryError: There is no such version, or none is live.
    """
    held = read_plan(out)
    if held is None:
        answerer = StorageAnswerer(config, wish.student, wish.version, None, wish.namespace, all_users=True)
        users = answerer.users() if wish.users is None else tuple(dict.fromkeys(wish.users))
        made = BatchPlan(
            wish.student,
            answerer.version,
            answerer.digest,
            answerer.namespace,
            wish.n,
            wish.with_seen,
            wish.users is not None,
            _digest(users),
            len(users),
            part_users,
        )
        answerer.recommend({"user_id": "nobody", "n": wish.n})  # A number out of bounds is refused here, and not in a worker.
        out.write_new(made.users_key, _bytes_of(pa.table({"user_id": pa.array(users, pa.string())})))
        # Whoever was quicker has the plan that stands.
        held = made if out.swap(PLAN, made.to_json(), None) is not None else read_plan(out)
        assert held is not None
    _check_same(held, wish, config.events.namespace, out)
    return held


def _check_same(held: BatchPlan, wish: Wish, namespace: str, out: Storage) -> None:
    asked: Mapping[str, tuple[object, object]] = {
        "student": (wish.student, held.student),
        "version": (wish.version or held.version, held.version),
        "namespace": (wish.namespace or namespace, held.namespace),
        "n": (wish.n, held.n),
        "with_seen": (wish.with_seen, held.with_seen),
        "listed users": (wish.users is not None, held.listed),
    }
    differing = [f"{name} {there}" for name, (wanted, there) in asked.items() if wanted != there]
    if wish.users is not None and held.listed and _digest(dict.fromkeys(wish.users)) != held.users_sha256:
        differing.append("other users")
    if differing:
        what = f"Recommendations: {out.address} holds others"
        raise ConfigError(what, got=", ".join(differing), do="choose another --out, or remove that folder")


def missing_parts(plan: BatchPlan, out: Storage) -> list[int]:
    """Return the parts that are not there yet."""
    there = set(out.list())
    return [part for part in range(plan.num_parts) if plan.key(part) not in there]


def is_done(out: Storage) -> bool:
    """Return whether an output is whole."""
    return out.exists(DONE)


def finish(plan: BatchPlan, out: Storage) -> None:
    """Mark an output as whole, which it must be."""
    assert not missing_parts(plan, out)
    out.write_new(DONE, plan.to_json())


class PartMaker:
    """Make parts, in a worker of Ray Data or in this process: a version and all histories are loaded once.

    Args:
        config: The resolved configuration; its state must be reachable from here.
        out: Address of the output.
        plan: Its plan.
    """

    def __init__(self, config: Config, out: str, plan: BatchPlan) -> None:
        self._out, self._plan = open_storage(out), plan
        self._answerer = StorageAnswerer(config, plan.student, plan.version, None, plan.namespace, all_users=True)
        if self._answerer.digest != plan.digest:
            what = f"Recommendations: version {plan.version} is not the one that the first parts are of"
            raise Damaged(what, got=self._answerer.digest, allowed=plan.digest, do="choose another --out")
        self._users: list[str] = pq.read_table(io.BytesIO(self._out.read(plan.users_key)))["user_id"].to_pylist()

    def __call__(self, parts: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        """Make the parts ``part`` names, and return them with ``users``: how many each has."""
        return {"part": parts["part"], "users": np.array([self.make(int(part)) for part in parts["part"]], np.int64)}

    def make(self, part: int) -> int:
        """Make a part, unless somebody has, and return how many users it has."""
        plan = self._plan
        users = self._users[part * plan.part_users : (part + 1) * plan.part_users]
        if not self._out.exists(plan.key(part)):
            table = self._answers(users)
            facts = {**asdict(plan), "part": part, "parts": plan.num_parts, "offsets": {str(at): end for at, end in self._answerer.offsets.items()}}
            self._out.write_new(plan.key(part), _bytes_of(table.replace_schema_metadata({META: json.dumps(facts).encode()})))
        return len(users)

    def _answers(self, users: Sequence[str]) -> pa.Table:
        plan = self._plan
        body: dict[str, Any] = {"n": plan.n, **({"exclude_seen": False} if plan.with_seen else {})}
        answers = [self._answerer.recommend({**body, "user_id": user}) for user in users]
        columns: dict[str, list[Any]] = {
            "namespace": [plan.namespace] * len(users),
            "user_id": list(users),
            "items": [[{"item_id": item["item_id"], "score": item["score"]} for item in answer["items"]] for answer in answers],
            **{name: [answer[name] for answer in answers] for name in ("source", "user_events", "model_version")},
        }
        return pa.table(columns, schema=COLUMNS)


def _digest(users: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(users).encode()).hexdigest()


def _bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
