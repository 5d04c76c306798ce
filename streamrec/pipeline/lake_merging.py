"""Merge the lake's small files in a process of its own: each merge leaves some 10 MB behind in the process that did it, which nothing gives back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence

from streamrec.errors import StorageError
from streamrec.log.lake import EventLake
from streamrec.pipeline.compaction import end_with_parent

LIMIT_S = 600.0
"""A merge that takes longer is given up; the next commit tries again."""


def merge_apart(lake: EventLake) -> dict[str, int]:
    """Do `EventLake.optimize` in a process that ends with it, and return what it returned.

    Raises:
        StorageError: It refused, or the process ended without an answer.
    """
    command = [sys.executable, "-m", __name__, lake.address, lake.app.partition("/")[2], str(lake.target_bytes)]
    waits, ours = os.pipe()  # Its end tells the process that nobody waits any more.
    try:
        done = subprocess.run(command, stdin=waits, capture_output=True, timeout=LIMIT_S, check=False)  # noqa: S603 - our own command
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        answer = {"error": f"the process gave no answer ({type(error).__name__})"}
    finally:
        os.close(waits)
        os.close(ours)
    if "error" in answer:
        what = f"Lake: the small files at {lake.address} could not be merged: {answer['error']}"
        raise StorageError(what, address=lake.address)
    result: dict[str, int] = answer
    return result


def main(arguments: Sequence[str]) -> None:
    """Merge, and print the answer as JSON. Arguments: the table's address, its lineage, the size of a file in bytes."""
    address, lineage, target_bytes = arguments
    try:
        answer: dict[str, object] = {**EventLake(address, lambda: lineage, int(target_bytes)).optimize()}
    except StorageError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    main(sys.argv[1:])
