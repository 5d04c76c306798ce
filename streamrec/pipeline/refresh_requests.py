"""Put together what a teacher's refresh is made from, out of the state as it is."""

from __future__ import annotations

from streamrec.pipeline.ingest import Ingest
from streamrec.pipeline.parts import Parts
from streamrec.state import ComponentState
from streamrec.teachers.linear import LinearStatistics
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
    payload, generations = ComponentState(), ingest.vocabulary.generation_of_rows()
    if teacher == "linear" and parts.linear is not None:
        held = parts.linear.submit(LinearStatistics.matrices).result()
        payload = ComponentState({**held.arrays, "generation": generations[held.arrays["rows"]]}, held.meta)
    elif teacher == "transformer":
        # The number of items travels with the sequences: both are kept, and a restart later in the stream must train the same version.
        sequences = ingest.window.sequences(parts.config.teachers.transformer.sequence_length)
        held = sequences.state()
        payload = ComponentState({**held.arrays, "generation": generations}, {**held.meta, "num_items": len(generations)})
    seed = (parts.config.seed * 1_000_003 + int(version[1:])) % 2**31
    return RefreshRequest(teacher, version, previous, seed, len(generations), payload, why)
