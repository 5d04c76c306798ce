"""Take keys that are added to, or withdrawn from, ``serving.keys_file`` while a replica runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamrec.clock import Clock, SystemClock
from streamrec.config.keys import ApiKey, load_keys
from streamrec.errors import ConfigError

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class KeyFile:
    """Look into a file of keys, and hand on what is in it when that has changed.

    The bytes are compared, not the time of the last change, which two writes in a row may share. A file that is damaged, empty or gone changes
    nothing: nobody is locked out by a slip, and nobody is let in who was not before. Then the log says so, once for each fault.

    Args:
        path: The file, absolute.
        take: Given the keys by name.
        clock: Processing time, for `facts`.

    **Contract.** `step` is called by one thread, every `LOOK_EVERY_S`, never while a request waits for it; it does not raise.
    """

    def __init__(self, path: str, take: Callable[[Mapping[str, ApiKey]], None], clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._take = take
        self._clock = clock or SystemClock()
        self._seen = b""
        self._read_ms: int | None = None
        self._fault = ""

    def step(self) -> None:
        """Look once."""
        try:
            digest = hashlib.sha256(self._path.read_bytes()).digest()
        except OSError as error:
            self._complain(f"Keys: {self._path} can't be read ({error.strerror})")
            return
        if digest == self._seen and not self._fault:
            return
        try:
            keys = load_keys(str(self._path))
        except ConfigError as error:
            self._complain(str(error))
            return
        if digest != self._seen:
            self._take(keys)
            logger.warning("Keys: taken from %s, %s", self._path, ", ".join(sorted(keys)))
        self._seen, self._fault, self._read_ms = digest, "", self._clock.now_ms()

    def facts(self) -> dict[str, Any]:
        """Return since when the keys are what they are, and whether the file is at fault; nothing that is in it."""
        return {"taken_ms": self._read_ms, "file_is_at_fault": bool(self._fault)}

    def _complain(self, what: str) -> None:
        if what != self._fault:
            self._fault = what
            logger.error("%s; the keys of before go on to hold, also those that were to be withdrawn, until the file is mended", what)
