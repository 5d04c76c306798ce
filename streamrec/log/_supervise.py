"""Run a command for as long as its starter lives, and leave nothing behind.

Run as a script with ``python -I -S _supervise.py LOCK_FD GRACE_S COMMAND...``; imports the standard library only, so that it is small. The
starter holds the other end of standard input: when that closes (asked to stop, exited, killed), or on SIGTERM, the command gets SIGTERM,
and SIGKILL after ``GRACE_S`` seconds. Should this process itself be killed, the kernel kills the command (Linux). ``LOCK_FD`` is an open
file that the command inherits, so that a lock on it lasts as long as the command.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# A fork of the starter may hold the pipe open: its death is noticed by the changed parent, this often.
_LOOK_EVERY_S = 1.0


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status (128 + signal when a signal ended it)."""
    lock, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    starter = os.getppid()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    # This process has one thread, so both the hook between fork and exec and the tie to the parent thread are safe.
    child = subprocess.Popen(  # noqa: S603 - the starter is our own parent
        command, stdin=subprocess.DEVNULL, pass_fds=(lock,), preexec_fn=_die_with_parent()
    )
    while child.poll() is None and os.getppid() == starter:
        ready, _, _ = select.select([sys.stdin, wake_read], [], [], _LOOK_EVERY_S)
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            break
        if wake_read in ready and set(os.read(wake_read, 4096)) - {signal.SIGCHLD}:
            break
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
