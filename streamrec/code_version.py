"""Name the code of this package by what its sources are, so that processes on a cluster can be told apart."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from streamrec import __version__


@functools.cache
def code_version() -> str:
    """Return the release and a digest of the package's sources, as they lay when this process asked first."""
    return f"{__version__}-{digest_of(Path(__file__).parent)}"


def digest_of(folder: Path) -> str:
    """Return a digest of the Python sources below a folder: their names and what they hold."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        found.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]
