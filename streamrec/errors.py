"""Define every error that streamrec raises, split by who must act.

    StreamrecError
    ├── ConfigError              the user's configuration
    ├── DataError                the user's data
    │   ├── DatasetError             a file: its line and column are named
    │   └── RequestError             an HTTP request: its field is named
    ├── BrokerError              the event log
    │   ├── BrokerUnavailable        nobody answers at the address
    │   ├── BrokerRefused            the broker does not let this client in, or the client does not trust the broker
    │   ├── TopicMissing             the topic is not there, or not yet, or not any more
    │   ├── EmbeddedBrokerError      the embedded Kafka can't be had or did not start
    │   ├── RetentionGap             planned offsets are no longer there
    │   ├── TopicReplaced            the topic was made anew since, or lost its end
    │   └── RowCountMismatch         a range gave other rows than planned
    ├── ClientError              a request that `streamrec.client` sent
    │   ├── Refused                  the request must change, or the key
    │   ├── TryLater                 the server has no time, no model or no broker now
    │   ├── ServerFailed             something broke on the other side
    │   └── NoAnswer                 nobody could be reached, or the connection broke
    │       └── TimedOut                 no answer came in time
    └── OperatorError            the deployment
        ├── StorageError             a disk or bucket refused
        │   ├── Damaged                  a blob's digest is wrong
        │   └── Fenced                   another writer owns the state
        ├── RegistryError            a model version is missing, incomplete or in conflict
        ├── ModelRejected            a version failed its verification and does not serve
        └── ResourcesShort           the cluster cannot place what the plan needs

Messages read ``Noun: what happened, got X, allowed Y, do Z``. Every error survives pickling, because it travels through Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNSET: Any = object()


def _rebuild(cls: type[StreamrecError], message: str, facts: dict[str, Any], remedy: str) -> StreamrecError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.facts, error.remedy = facts, remedy
    return error


class StreamrecError(Exception):
    """Report a failure in one paragraph: what happened, what was got, what is allowed, what to do.

    Args:
        what: Noun and event, such as ``"Config: unknown key"``.
        got: What was found; left out of the message when not given.
        allowed: What would have been accepted.
        do: The remedy, an imperative clause.
        facts: Machine-readable details, kept as the attribute ``facts``.

    Attributes:
        remedy: What ``do`` was.
    """

    facts: dict[str, Any]
    remedy: str

    def __init__(self, what: str, *, got: object = _UNSET, allowed: object = _UNSET, do: str = "", **facts: Any) -> None:
        parts = [what]
        if got is not _UNSET:
            parts.append(f"got {got}")
        if allowed is not _UNSET:
            parts.append(f"allowed {allowed}")
        if do:
            parts.append(do)
        super().__init__(", ".join(parts))
        self.facts, self.remedy = facts, do

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.facts, self.remedy)


class ConfigError(StreamrecError):
    """The configuration must change."""


class DataError(StreamrecError):
    """The input data must change."""


class DatasetError(DataError):
    """A data file can't be read as asked."""


class RequestError(DataError):
    """An HTTP request is out of bounds."""


class BrokerError(StreamrecError):
    """The event log did not do what was asked."""


class BrokerUnavailable(BrokerError):
    """No broker answers at the configured address."""


class BrokerRefused(BrokerError):
    """The broker does not let this client in, or the client does not trust the broker; asking again does not help (facts: address, key)."""


class TopicMissing(BrokerError):
    """The topic does not exist, or the broker is starting or stopping and does not know it (facts: topic, address where it is known)."""


class EmbeddedBrokerError(BrokerError):
    """The embedded Kafka can't be had or did not start."""


class RetentionGap(BrokerError):
    """Planned offsets have left the log (facts: topic, partition, wanted, earliest)."""


class TopicReplaced(BrokerError):
    """The topic is not the one that the offsets belong to: another id, or an end before them (facts: topic, topic_id, held_id, beyond)."""


class RowCountMismatch(BrokerError):
    """A planned range gave another number of rows than it has offsets."""


class ClientError(StreamrecError):
    """A request of `streamrec.client` has no good answer.

    Facts, each also an attribute that is None where it is not known: status, code, field, got (as ``shown``), allowed (as ``bounds``),
    retry_after_s, request_id, num_attempts; of events ``results``, what became of those in the batches before.
    """

    @property
    def status(self) -> int | None:
        """Return the HTTP status; None where there was no answer."""
        return self.facts.get("status")

    @property
    def code(self) -> str | None:
        """Return the server's word for it."""
        return self.facts.get("code")

    @property
    def field(self) -> str | None:
        """Return what must change."""
        return self.facts.get("field")

    @property
    def got(self) -> str | float | bool | None:
        """Return what it was, shortened."""
        return self.facts.get("shown")

    @property
    def allowed(self) -> str | None:
        """Return what would be accepted."""
        return self.facts.get("bounds")

    @property
    def retry_after_s(self) -> float | None:
        """Return how long the server asks to wait."""
        return self.facts.get("retry_after_s")

    @property
    def request_id(self) -> str | None:
        """Return by which name the server's log knows the request."""
        return self.facts.get("request_id")

    @property
    def num_attempts(self) -> int | None:
        """Return how often the request was sent."""
        return self.facts.get("num_attempts")

    @property
    def results(self) -> Sequence[Any]:
        """Return, of events that were sent in batches, what became of those before this batch."""
        results: Sequence[Any] = self.facts.get("results", ())
        return results


class Refused(ClientError):
    """The server does not do this: the request must change, or the key."""


class TryLater(ClientError):
    """The server sheds load, has no model yet, or its broker does not answer; the client has asked again already."""


class ServerFailed(ClientError):
    """Something broke on the other side, or what answers is no streamrec server."""


class NoAnswer(ClientError):
    """Nobody could be reached, or the connection broke; whether the request had an effect is not known."""


class TimedOut(NoAnswer):
    """No answer came in time; whether the request had an effect is not known."""


class OperatorError(StreamrecError):
    """Whoever runs the deployment must act."""


class StorageError(OperatorError):
    """A disk or bucket refused a read or a write."""


class Damaged(StorageError):
    """Stored bytes do not match their digest."""


class Fenced(StorageError):
    """Another writer has taken over the state."""


class RegistryError(OperatorError):
    """A model version is missing, incomplete or in conflict."""


class ModelRejected(OperatorError):
    """A model version failed its verification and does not serve."""


class ResourcesShort(OperatorError):
    """The cluster cannot place what the plan needs."""
