"""Keep each step's plan from before its first read, so that a restart executes the same step."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from streamrec.errors import Damaged, OperatorError
from streamrec.migrations import number_of, read_json
from streamrec.storage import Storage

_PLAN = re.compile(r"plans/(\d{8}|[1-9]\d{8,})\.json", re.ASCII)


class PlanStore:
    """Write and read plans by the number of their micro-batch.

    **Contract.** `write` returns when the plan outlives a crash of the machine. A plan never changes.

    Args:
        storage: Where to keep them, under ``plans/``.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def write(self, plan: Mapping[str, Any], batch: int) -> dict[str, Any]:
        """Store a plan and return the one that stands: the first of its number, which another driver may have made since the plans were listed.

        Raises:
            StorageError: The storage refused.
            Damaged: The plan that is there is not what was written.
        """
        data = _to_bytes(plan)
        key = _key(batch)
        if self._storage.write_new(key, data):
            return dict(plan)
        there = self._storage.read(key)
        return dict(plan) if there == data else self._parsed(there, batch)

    def read(self, batch: int) -> dict[str, Any]:
        """Return a batch's plan.

        Raises:
            StorageError: There is none (fact ``missing=True``), or the storage refused.
            Damaged: It is not what was written.
        """
        return self._parsed(self._storage.read(_key(batch)), batch)

    def _parsed(self, data: bytes, batch: int) -> dict[str, Any]:
        where = self.where(batch)
        try:
            values = read_json("plan", data)
            plan: dict[str, Any] = values["plan"]
            is_whole = values["sha256"] == hashlib.sha256(_canonical(plan).encode()).hexdigest()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"Plan: that of batch {batch} can't be read, {where}"
            raise Damaged(what, got=repr(data[:80]), do="restore it from a copy") from error
        if not is_whole:
            what = f"Plan: that of batch {batch} does not match its digest, {where}"
            raise Damaged(what, do="restore it from a copy")
        return plan

    def where(self, batch: int) -> str:
        """Return the address of a batch's plan, there or not."""
        return f"{self._storage.address}/{_key(batch)}"

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the highest batch number that has a plan, and the plan; None while there is none."""
        batches = self.batches()
        return (batches[-1], self.read(batches[-1])) if batches else None

    def batches(self) -> list[int]:
        """Return the numbers of all plans, ascending; what else lies beside them, such as a copy, is none."""
        return sorted(int(found.group(1)) for found in map(_PLAN.fullmatch, self._storage.list("plans")) if found is not None)

    def ahead(self, after: int) -> dict[int, dict[str, Any]]:
        """Return by number, ascending, the plans that are to be executed after a batch: those above it, less those that one of them gives up.

        Raises:
            StorageError: The storage refused.
            Damaged: One is not what was written, so what it gives up can't be told.
        """
        plans: dict[int, dict[str, Any]] = {}
        kept_up_to: int | None = None
        for number in reversed(self.batches()):
            if number > after and (kept_up_to is None or number <= kept_up_to):
                plan = plans[number] = self.read(number)
                kept_up_to = kept_up_to if plan.get("after") is None else plan["after"]
        return dict(reversed(plans.items()))

    def check_unnamed(self, versions: Mapping[str, str], after: int) -> None:
        """Return if no plan that is to be executed after a batch uses one of these teacher versions, which could not be made.

        Raises:
            OperatorError: One does. It was made when that was planned, so going back to the last commit and making it again helps.
        """
        for batch, plan in self.ahead(after).items():
            uses = [*plan["teachers"].items(), *plan.get("challengers", {}).items()]
            named = {teacher: version for teacher, version in uses if versions.get(teacher) == version}
            if named:
                what = "Refresh: it failed, and a plan that an earlier run made uses its version"
                got = ", ".join(f"{teacher} {version} in batch {batch}" for teacher, version in named.items())
                raise OperatorError(what, got=got, do="go back to the last commit, which starts it again")

    def first_use(self, teacher: str, version: str, after: int) -> int | None:
        """Return the first batch after ``after`` whose plan, which is to be executed, uses a teacher's version; None when none does."""
        for batch, plan in self.ahead(after).items():
            if version in {plan["teachers"].get(teacher), plan.get("challengers", {}).get(teacher)}:
                return batch
        return None

    def prune(self, before: int) -> int:
        """Remove the plans of batches below ``before`` (exclusive) and return how many."""
        gone = [batch for batch in self.batches() if batch < before]
        for batch in gone:
            self._storage.delete(_key(batch))
        return len(gone)


def _key(batch: int) -> str:
    return f"plans/{batch:08d}.json"


def _canonical(plan: Mapping[str, Any]) -> str:
    return json.dumps(plan, sort_keys=True, separators=(",", ":"))


def _to_bytes(plan: Mapping[str, Any]) -> bytes:
    text = _canonical(plan)
    return _canonical({"format": number_of("plan"), "sha256": hashlib.sha256(text.encode()).hexdigest(), "plan": plan}).encode()
