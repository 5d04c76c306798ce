"""Keep a replay's progress on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from streamrec.errors import DataError, StorageError
from streamrec.migrations import number_of, read_json


@dataclass(frozen=True)
class Anchor:
    """Name the newest record that a replay has sent, by which a resumed one knows that it speaks to the same log."""

    partition: int
    offset: int
    event_id: str


@dataclass(frozen=True)
class Progress:
    """Say how far a replay is.

    Attributes:
        fingerprint: `fingerprint` of the events.
        topic: Where they go.
        position: Events before it are in the log.
        offsets: By partition, the offset (inclusive) from which on the log may hold more of this replay's records.
        anchor: The newest record sent, or None before the first.
        ahead: Positions from ``position`` on that are in the log nevertheless, since a crash.
    """

    fingerprint: str
    topic: str
    position: int
    offsets: dict[int, int]
    anchor: Anchor | None = None
    ahead: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Return the progress as JSON."""
        return json.dumps({"format": number_of("progress"), **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Return what `to_json` wrote.

        Raises:
            DataError: The text is no progress.
            StorageError: A newer streamrec wrote it.
        """
        try:
            fields = read_json("progress", text)
            anchor = fields["anchor"] and Anchor(**fields["anchor"])
            offsets = {int(partition): int(offset) for partition, offset in fields["offsets"].items()}
            ahead = tuple(int(position) for position in fields["ahead"])
            return cls(str(fields["fingerprint"]), str(fields["topic"]), int(fields["position"]), offsets, anchor, ahead)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"Replay: the progress file does not parse ({error})"
            raise DataError(what, got=repr(text[:60]), do="give --restart to send from the beginning") from error


def load_progress(path: Path) -> Progress | None:
    """Return the progress that a file holds, or None when there is no file.

    Raises:
        DataError: The file holds no progress.
        StorageError: It can't be read.
    """
    try:
        return Progress.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"Replay: {path} can't be read ({error.strerror})"
        raise StorageError(what, do="give another --progress file") from error


def save_progress(path: Path, progress: Progress) -> None:
    """Replace the file's progress; it is on disk, whole, when the call returns.

    Raises:
        StorageError: The disk refuses.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(progress.to_json())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        what = f"Replay: the progress can't be saved to {path} ({error.strerror})"
        raise StorageError(what, do="free space or give another --progress file; a resumed replay does not send twice") from error
