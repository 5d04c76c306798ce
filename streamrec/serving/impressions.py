"""Log what was shown: a share of the recommendations, as impressions, without anybody waiting for it."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from streamrec.clock import Clock, SystemClock
from streamrec.errors import BrokerUnavailable
from streamrec.serving.requests import RecommendRequest

PROPENSITY = "propensity/"
"""What an impression's context names the chance by which an item was drawn, followed by the item's id."""


@dataclass
class ImpressionLog:
    """Hand a share of the answers to a sink.

    Args:
        share: Of the answers, 0 to 1.
        submit: Takes events and never blocks, as `streamrec.serving.event_sink.EventSink.submit`.
        clock: Processing time, which is the impressions' event time.
        draw: Returns a number from 0 to 1 for each answer.
        student: Whose versions are served.

    **Contract.** `shown` never blocks and never raises: what the sink does not take is dropped and counted. An answer to nobody in particular, or
    without items, is no impression. Its context says who gave it, and which share of such answers is logged (`streamrec.evaluation.worth`).
    """

    share: float
    submit: Callable[[list[Any]], Future[list[dict[str, Any]]]]
    clock: Clock = field(default_factory=SystemClock)
    draw: Callable[[], float] = field(default_factory=lambda: random.Random().random)  # noqa: S311 - a sample, no secret
    student: str = "default"
    num_logged: int = 0
    num_dropped: int = 0

    def __post_init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def shown(self, request: RecommendRequest, answer: Mapping[str, Any]) -> None:
        """Log an answer that has been sent, if it is drawn."""
        if request.user_id is None or self.draw() >= self.share:
            return
        lists = answer.get("lists", [answer])
        items = list(dict.fromkeys(item["item_id"] for one in lists for item in one["items"]))
        if not items:
            return
        # A client may send one request id twice; what it was shown each time are two impressions.
        event_id = f"imp-{self._prefix}-{next(self._numbers)}"
        event = {"kind": "impression", "event_id": event_id, "namespace": request.namespace, "user_id": request.user_id, "items": items}
        giver = {"student": self.student, "model_version": answer["model_version"], "source": answer["source"], "share": self.share}
        # With repeated items the first place counts, as for the items.
        chances = {f"{PROPENSITY}{item['item_id']}": item["propensity"] for one in reversed(lists) for item in one["items"] if "propensity" in item}
        try:
            self.submit([{**event, "context": giver | chances, "event_time": self.clock.now_ms(), "request_id": answer["request_id"]}])
            self.num_logged += 1
        except BrokerUnavailable:
            self.num_dropped += 1
