"""Make temporary folders that go with the process that made them, also when it was killed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "streamrec-"
_OWNER = ".owner"
_RANDOM_CHARS = 8  # what mkdtemp appends


@contextmanager
def temporary_folder(kind: str = "", longest: int | None = None) -> Iterator[Path]:
    """Give a folder that is removed with the block, and remove those whose makers were killed.

    The maker holds a lock in the folder while it lives; a folder whose lock is free is nobody's. A folder that another program made without
    one is left alone.

    Args:
        kind: Comes after `PREFIX` in the name.
        longest: Most characters of its path, for sockets below it; where the usual place is longer, it lies in ``/tmp``.
    """
    usual = tempfile.gettempdir()
    needed = len(usual) + 1 + len(PREFIX) + len(kind) + _RANDOM_CHARS
    parent = usual if longest is None or needed <= longest else "/tmp"  # noqa: S108 (mkdtemp makes a private folder in it)
    for path in Path(parent).glob(f"{PREFIX}*"):
        _remove_if_nobodys(path)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}", dir=parent))
    with (folder / _OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_nobodys(folder: Path) -> None:
    try:
        with (folder / _OWNER).open("r+") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # No such file, another user's, or locked: it has an owner.
        return
