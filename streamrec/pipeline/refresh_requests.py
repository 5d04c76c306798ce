"""Put together what a teacher's refresh is made from, out of the state as it is."""

from __future__ import annotations

from streamrec.pipeline.ingest import Ingest
from streamrec.pipeline.parts import Parts
from streamrec.state import ComponentState
from streamrec.teachers.kinds import kind_of
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.protocol import Material
from streamrec.teachers.requests import RefreshRequest


def refresh_request(parts: Parts, ingest: Ingest, teacher: str, version: str, previous: str | None, why: str = "") -> RefreshRequest:
    """Return the request for a teacher's next version.

    The generation of each row goes with it: the version knows the items that rows hold now, and no others that they get later.

    Args:
        parts: The controller's collaborators.
        ingest: Has the window and the vocabulary.
        teacher: Its name.
        version: Name of the version to make.
        previous: Version to start from.
        why: Reason by name, for the version's facts.
    """
    linear, vocabulary = parts.linear, ingest.vocabulary

    def statistics() -> ComponentState:
        assert linear is not None
        return linear.submit(LinearStatistics.matrices).result()

    generations = vocabulary.generation_of_rows()
    material = Material(
        window=ingest.window,
        generations=generations,
        namespaces=vocabulary.namespace_of_rows().copy(),
        statistics=None if linear is None else statistics,
        content=None if ingest.content is None else ingest.content.of_rows,
    )
    payload = kind_of(teacher).request(material, parts.config.teachers)
    seed = (parts.config.seed * 1_000_003 + int(version[1:])) % 2**31
    return RefreshRequest(teacher, version, previous, seed, len(generations), payload, why)
