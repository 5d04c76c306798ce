"""End the HAProxy of a server that was killed, and remove its folder; Ray Serve ends it only where itself is told to end.

Run as a script with ``python -I -S _janitor.py FOLDER``; imports the standard library only, so that it is small. The server holds the other end of
standard input: when that closes, every process whose configuration lies in the folder is killed, for `SWEEPS_FOR_S` seconds, because what Serve has
left may start it once more. Linux only, as HAProxy is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

SWEEPS_FOR_S = 20.0
_EVERY_S = 0.2
# A fork of the server may hold the pipe open: its death is noticed by the changed parent.
_LOOK_EVERY_S = 1.0


def main(folder: str) -> int:
    """Wait for the server's end, then sweep."""
    server = os.getppid()
    while os.getppid() == server:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY_S)
        if ready and not os.read(sys.stdin.fileno(), 4096):
            break
    end_s = time.monotonic() + SWEEPS_FOR_S
    while time.monotonic() < end_s:
        sweep(Path(folder))
        time.sleep(_EVERY_S)
    return 0


def sweep(folder: Path) -> None:
    """Kill what was started with a configuration in the folder, and remove the folder."""
    for entry in Path("/proc").iterdir():
        # Gone since it was listed, or another user's.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and _is_configured_in(folder, (entry / "cmdline").read_bytes().split(b"\0")):
                os.kill(int(entry.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _is_configured_in(folder: Path, words: list[bytes]) -> bool:
    return any(flag == b"-f" and value.startswith(bytes(folder) + b"/") for flag, value in itertools.pairwise(words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
