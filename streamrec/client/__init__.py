"""Ask a streamrec server from Python: `Client`, and `AsyncClient` for asyncio.

In come a URL, a key and what to ask, as keywords that are the fields of the server's own models. Out go typed answers, or a `ClientError` that
says what to correct. Nothing of Ray, torch or numpy is loaded, so an application that only asks needs none of them.
"""

from streamrec.client.asynchronous import AsyncClient
from streamrec.client.retries import Retries, TimeOuts
from streamrec.client.synchronous import Client
from streamrec.errors import ClientError, NoAnswer, Refused, RequestError, ServerFailed, TimedOut, TryLater
from streamrec.serving.bodies import ItemBody, ListBody, SeenScope
from streamrec.serving.operator_replies import DeadLetters, Replayed, SystemFacts, VersionHistory
from streamrec.serving.replies import (
    EventResult,
    ItemFacts,
    Models,
    Moved,
    PopularItems,
    RankedCandidates,
    RankedItem,
    Recommendation,
    SimilarItems,
    SwitchFacts,
    UserFacts,
    Written,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadLetters",
    "EventResult",
    "ItemBody",
    "ItemFacts",
    "ListBody",
    "Models",
    "Moved",
    "NoAnswer",
    "PopularItems",
    "RankedCandidates",
    "RankedItem",
    "Recommendation",
    "Refused",
    "Replayed",
    "RequestError",
    "Retries",
    "SeenScope",
    "ServerFailed",
    "SimilarItems",
    "SwitchFacts",
    "SystemFacts",
    "TimeOuts",
    "TimedOut",
    "TryLater",
    "UserFacts",
    "VersionHistory",
    "Written",
]
