"""Keep objects as files of a folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamrec.errors import StorageError
from streamrec.storage.base import Storage, Token, checked_key, missing

# A file in the making that is older than this was left by a killed writer.
_ABANDONED_AFTER_S = 3600.0
_LOCK, _MAKING = ".lock", ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class LocalStorage:
    """Keep objects as files of a folder on a POSIX file system; created at the first write."""

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(folder).absolute()
        self._is_swept = False

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStorage, (self.address,)

    @property
    def address(self) -> str:
        """Return the folder."""
        return str(self._root)

    def read(self, key: str) -> bytes:
        """Return the file's bytes."""
        path = self._root / checked_key(key)
        with _explained("read", path):
            data = _read_or_none(path)
        if data is None:
            raise missing(str(path))
        return data

    def read_with_token(self, key: str) -> tuple[bytes, Token] | None:
        """Return the file's bytes and their digest."""
        path = self._root / checked_key(key)
        with _explained("read", path):
            data = _read_or_none(path)
        return None if data is None else (data, _token(data))

    def write_new(self, key: str, data: bytes) -> bool:
        """Write a file under a temporary name and rename it."""
        path = self._root / checked_key(key)
        with _explained("write", path, len(data)):
            if path.exists():
                _sync_folder(path.parent)  # its writer may have died before it did
                return False
            with self._temporary(data) as temporary, self._locked():
                if path.exists():
                    return False
                _make_folder(path.parent)
                temporary.replace(path)
                _sync_folder(path.parent)
        return True

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        """Compare and rename under a lock."""
        path = self._root / checked_key(key)
        with _explained("write", path, len(new)), self._temporary(new) as temporary, self._locked():
            current = _read_or_none(path)
            if current == new:
                _sync_folder(path.parent)
                return _token(new)
            if (None if current is None else _token(current)) != expected:
                return None
            _make_folder(path.parent)
            temporary.replace(path)
            _sync_folder(path.parent)
        return _token(new)

    def list(self, folder: str = "") -> Sequence[str]:
        """Return the files below a folder, sorted; what is in the making is not listed."""
        top = self._root / checked_key(folder.rstrip("/")) if folder else self._root
        keys: list[str] = []
        with _explained("list", top):
            for parent, folders, names in os.walk(top, onerror=_raise_unless_gone):
                folders[:] = [name for name in folders if not name.startswith(".")]
                within = Path(parent).relative_to(self._root)
                keys.extend((within / name).as_posix() for name in names if not name.startswith("."))
        return sorted(keys)

    def delete(self, key: str) -> None:
        """Remove a file, and the folders that this empties."""
        path = self._root / checked_key(key)
        with _explained("delete", path):
            if not path.exists():
                return
            with self._locked(), suppress(FileNotFoundError):
                path.unlink()
                for parent in path.parents:
                    if parent == self._root or any(parent.iterdir()):
                        break
                    parent.rmdir()

    def exists(self, key: str) -> bool:
        """Tell whether the file is there."""
        return (self._root / checked_key(key)).exists()

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        folder = self._root / _MAKING
        _make_folder(folder)
        path = folder / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not self._is_swept:
                self._is_swept = True
                _sweep(folder, path.stat().st_mtime - _ABANDONED_AFTER_S)
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # An own descriptor each time: flock then also holds off the other threads of this process.
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def tidy(storage: Storage, folder: str = "") -> None:
    """Remove the locks, the files in the making and the empty folders where a local folder holds no objects; nobody should write there.

    Args:
        storage: A bucket has nothing of the kind.
        folder: Below its address; all of it when empty. Storages that were opened below it are tidied too.
    """
    if not isinstance(storage, LocalStorage) or storage.list(folder):
        return
    top = Path(storage.address) / folder
    with _explained("tidy", top):
        for parent, _, names in os.walk(top, topdown=False):
            for path in (Path(parent) / name for name in names if name == _LOCK or Path(parent).name == _MAKING):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # Something else lies there, or somebody is faster.
                Path(parent).rmdir()


def _token(data: bytes) -> Token:
    return Token(hashlib.sha256(data).hexdigest())


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path, before_s: float) -> None:
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < before_s:
                path.unlink()


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _explained(action: str, path: Path, num_bytes: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free_bytes = shutil.disk_usage(folder).free
        facts = {"path": str(path), "free_bytes": free_bytes, "errno": error.errno}
        what = f"Storage: could not {action} {path} ({error.strerror or error})"
        if error.errno in _FULL:
            got = f"{num_bytes:,} bytes to write where {free_bytes:,} are free"
            raise StorageError(what, got=got, do="free space there or move `state`; what was stored before is untouched", **facts) from error
        if error.errno in _FORBIDDEN:
            raise StorageError(what, do=f"let this process write below {folder}, or move `state`", **facts) from error
        raise StorageError(what, do="check the disk and the path", **facts) from error
