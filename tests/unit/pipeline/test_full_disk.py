"""Fill the disk below a checkpoint and below a lake.

Where this process may mount, a file system of its own is filled. Everywhere the kernel's limit on the size of files cuts them off, and the storage's
files get the answers of a full disk from a chosen byte on: a short write, then "No space left on device".
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from streamrec.errors import StorageError
from streamrec.events.schema import EVENT
from streamrec.log.base import Record
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.storage import open_storage
from streamrec.testing.failpoints import Failpoint, observed

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}
PAGE = 4096
SECOND = 2
"""The commit below which the disk is full: there is one before it."""


class Disk(Protocol):
    """A place that can be filled up."""

    def fill(self) -> None: ...

    def free(self) -> None: ...


class Tmpfs:
    """A file system of its own, with so many pages left when it is full."""

    def __init__(self, folder: Path, pages_left: int) -> None:
        self.filler, self.pages_left = folder / ".filler", pages_left

    def fill(self) -> None:
        free = shutil.disk_usage(self.filler.parent).free
        with self.filler.open("wb", buffering=0) as file:
            file.write(bytes(free - self.pages_left * PAGE))
        assert shutil.disk_usage(self.filler.parent).free == self.pages_left * PAGE

    def free(self) -> None:
        self.filler.unlink()


class FileSizeLimit:
    """The kernel's limit on the size of files: each stops in its middle. Python ignores the signal that comes with it."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def fill(self) -> None:
        assert self.num_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, resource.RLIM_INFINITY))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class ShortFile(io.FileIO):
    """A file on a `ByteCount`."""

    disk: ByteCount

    def write(self, data: Any) -> int:
        if self.disk.bytes_left is None:
            return super().write(data)
        written = super().write(memoryview(data)[: self.disk.bytes_left])
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.disk.bytes_left -= written
        return written


class ByteCount:
    """A folder that takes so many more bytes when it is full, of all that Python opens new files for."""

    def __init__(self, bytes_then: int) -> None:
        self.bytes_then, self.bytes_left = bytes_then, None

    bytes_left: int | None

    def fill(self) -> None:
        self.bytes_left = self.bytes_then

    def free(self) -> None:
        self.bytes_left = None

    def open(self, path: Path) -> io.BufferedWriter:
        file = ShortFile(path, "xb")
        file.disk = self
        return io.BufferedWriter(file)


def may_mount() -> bool:
    """Whether this process has the capability to mount (CAP_SYS_ADMIN, bit 21)."""
    status = Path("/proc/self/status")
    found = re.search(r"CapEff:\s*(\w+)", status.read_text()) if status.exists() else None
    return found is not None and bool(int(found[1], 16) >> 21 & 1)


PAGES_LEFT = ("0 pages left", "2 pages left", "5 pages left") if may_mount() else ()
HOWS = ["limit", "0 bytes left", "1 bytes left", "2500 bytes left", *PAGES_LEFT[:2]]
LAKE_HOWS = ["limit", "limit below the second file", *PAGES_LEFT]
"""Two pages take one of the append's data files, five pages both, but not the entry of the log."""


@contextmanager
def mounted(folder: Path, pages_left: int) -> Iterator[Disk]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    try:
        yield Tmpfs(folder, pages_left)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def limited(num_bytes: int) -> Iterator[Disk]:
    disk = FileSizeLimit(num_bytes)
    try:
        yield disk
    finally:
        disk.free()


@contextmanager
def counted(folder: Path, num_bytes: int) -> Iterator[Disk]:
    disk, real = ByteCount(num_bytes), Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return disk.open(path) if mode == "xb" and path.is_relative_to(folder) else real(path, mode, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        yield disk


def disk_of(how: str, folder: Path) -> AbstractContextManager[Disk]:
    if how.startswith("limit"):
        return limited(100 if how == "limit" else 0)
    num, unit, _ = how.split()
    return mounted(folder, int(num)) if unit == "pages" else counted(folder, int(num))


@pytest.fixture
def make_disk(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Disk]]:
    """Put a disk of the parametrised kind below a folder that is not there yet."""
    how: str = request.param
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(disk_of(how, folder))


@pytest.fixture(scope="module")
def undisturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Plan]]:
    calm = make_world(mixed, FAST, folder=tmp_path_factory.mktemp("calm"))
    controller = calm.controller()
    reports = calm.play(controller)
    assert sum(report.committed for report in reports) > SECOND
    return outcome(calm, controller), [report.plan for report in reports]


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, undisturbed: tuple[Any, list[Plan]]) -> World:
    """A world whose plans lie ready."""
    made = make_world(mixed, FAST, folder=tmp_path / "state")
    store = PlanStore(open_storage(str(made.folder)))
    for plan in undisturbed[1]:
        store.write(plan.model_dump(mode="json"), plan.batch)
    return made


def outcome(world: World, controller: Controller) -> dict[str, Any]:
    report = check_lake(world.controller().parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))
    return {
        "digests": {name: component.digest() for name, component in controller.components().items()},
        "books": controller.books(),
        "lake": (report.rows, report.rows_ahead, report.differences),
    }


def drive(world: World, change: Callable[[Controller], Controller]) -> Controller:
    driver = Driver(lambda: change(Controller(world.controller().parts)), world.clock.advance, lambda _: None)
    while driver.step() is not None:
        world.clock.advance(1.0)
    driver.controller.finish()
    return driver.controller


class FullAt:
    """Fill the disk when the second commit passes a failpoint."""

    def __init__(self, world: World, disk: Disk, failpoint: Failpoint) -> None:
        self.world, self.disk, self.failpoint = world, disk, failpoint
        self.passed = 0

    def __call__(self, controller: Controller) -> Controller:
        return Controller(observed(controller.parts, str(self.world.folder), None, self.reach))

    def reach(self, failpoint: Failpoint, batch: int) -> None:
        del batch
        self.passed += failpoint is self.failpoint
        if failpoint is self.failpoint and self.passed == SECOND:
            self.disk.fill()


def file_sizes(scratch: Path, events: pa.Table, batch: int) -> tuple[list[int], int]:
    """Return how large the data files of an append are, ascending, and the entry of the log."""
    lake = EventLake(str(scratch), lambda: "scratch")
    lake.append(events, batch)
    entry = max((scratch / "_delta_log").glob("*.json"))
    return sorted(path.stat().st_size for path in scratch.rglob("part-*.parquet")), entry.stat().st_size


def between(sizes: list[int]) -> int:
    """Return a size that the smallest file has and the largest has not."""
    assert sizes[0] + 100 < sizes[-1]
    return sizes[0] + 50


class FullLake(EventLake):
    """Fill the disk before the first append that follows a commit."""

    def __init__(self, world: World, inner: EventLake, disk: Disk) -> None:
        super().__init__(inner.address, lambda: inner.app.removeprefix("streamrec/"))
        self.world, self.disk = world, disk

    def append(self, events: pa.Table, batch: int) -> int:
        if CheckpointStore(open_storage(checkpoint_url(str(self.world.folder)))).load_newest() is not None:
            if isinstance(self.disk, FileSizeLimit) and not self.disk.num_bytes:
                self.disk.num_bytes = between(file_sizes(self.world.folder.parent / "scratch", events, batch)[0])
            self.disk.fill()
        return super().append(events, batch)


def newest_commit(world: World) -> tuple[str, int]:
    """The newest valid commit, and the batch that it ends with."""
    found = CheckpointStore(open_storage(checkpoint_url(str(world.folder)))).load_newest()
    assert found is not None
    assert found.skipped == ()
    return str(found.id), found.facts["batch"]


def half_written_blobs(folder: Path) -> list[str]:
    """Files of a checkpoint that are in the making, or not what their name says."""
    wrong = [path.name for path in (folder / ".tmp").iterdir()]
    return wrong + [path.name for path in (folder / "blobs").iterdir() if hashlib.sha256(path.read_bytes()).hexdigest() not in path.name]


def unknown_to_the_log(folder: Path) -> list[Path]:
    """Files of a lake that its log does not name, neither an entry nor the checkpoints that stand for earlier ones."""
    log = folder / "_delta_log"
    known = {*log.glob("*.checkpoint.parquet"), log / "_last_checkpoint", *(Path(unquote(uri)) for uri in DeltaTable(str(folder)).file_uris())}
    for entry in log.glob("*"):
        if entry.suffix == ".json":
            known.add(entry)
            actions = [json.loads(line) for line in entry.read_text().splitlines()]
            known |= {folder / unquote(action["add"]["path"]) for action in actions if "add" in action}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in known and path.name != ".filler")


@pytest.mark.matrix(5)
@pytest.mark.parametrize("make_disk", HOWS, indirect=True)
@pytest.mark.parametrize("failpoint", [Failpoint.BEFORE_COMMIT, Failpoint.BLOBS_WRITTEN, Failpoint.COMMIT_WRITTEN])
def test_a_disk_that_fills_up_below_a_checkpoint_leaves_the_commit_before_and_the_stream_goes_on_when_there_is_space(
    world: World, undisturbed: tuple[Any, list[Plan]], make_disk: Callable[[Path], Disk], failpoint: Failpoint
) -> None:
    folder = Path(checkpoint_url(str(world.folder)))
    disk = make_disk(folder)
    full = FullAt(world, disk, failpoint)
    with pytest.raises(StorageError) as caught:
        drive(world, full)
    assert full.passed == SECOND
    message = str(caught.value)
    before, batch = newest_commit(world)
    assert f"commit {before} stays valid" in message
    assert str(folder) in message
    assert re.search(r"No space left on device|File too large", message)
    assert "free space there" in message
    assert half_written_blobs(folder) == []

    disk.free()
    last = drive(world, lambda controller: controller)
    assert newest_commit(world)[1] > batch
    assert half_written_blobs(folder) == []
    assert outcome(world, last) == undisturbed[0]


@pytest.mark.parametrize("make_disk", LAKE_HOWS, indirect=True)
def test_a_disk_that_fills_up_below_the_lake_leaves_the_commit_before_and_the_stream_goes_on_when_there_is_space(
    world: World, undisturbed: tuple[Any, list[Plan]], make_disk: Callable[[Path], Disk], age: Callable[[Path, float], None]
) -> None:
    folder = world.folder / "lake"
    disk = make_disk(folder)

    def fill(controller: Controller) -> Controller:
        controller.parts.lake.lake = FullLake(world, controller.parts.lake.lake, disk)
        return controller

    with pytest.raises(StorageError) as caught:
        drive(world, fill)
    message = str(caught.value)
    assert re.search(rf"Lake: could not (append to|delete from) the table at {folder}", message)
    assert re.search(r"No space left on device|File too large", message)
    assert "free space there" in message
    disk.free()
    commit, batch = newest_commit(world)
    report = check_lake(world.controller().parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))
    assert (report.differences, report.rows_ahead, report.batch) == ([], 0, batch)
    for path in unknown_to_the_log(folder):  # A whole file that no reader of the table sees, if any; never half a file or half an entry.
        assert pq.read_metadata(path).num_rows > 0

    last = drive(world, lambda controller: controller)
    assert newest_commit(world) > (commit, batch)
    assert outcome(world, last) == undisturbed[0]
    age(folder, 3601.0)
    last.parts.lake.lake.vacuum(0.0)
    assert unknown_to_the_log(folder) == []


def test_a_log_entry_that_finds_no_room_though_all_rows_have_leaves_the_lake_as_it_was(
    make_record: Callable[..., Record], tmp_path: Path, age: Callable[[Path, float], None]
) -> None:
    """An append to many days: its entry, which names a file each, is larger than any of them."""
    days = [json.loads(make_record("u1", "i1", number, event_time=86_400_000 * (18_000 + number)).value or b"") for number in range(60)]
    values = [{**day, "kind": "interaction", "namespace": "default", "partition": 0, "offset": number} for number, day in enumerate(days)]
    events = pa.Table.from_pylist(values, schema=EVENT)
    first, rows = lake_rows(events.slice(0, 1), "events", 1), lake_rows(events.slice(1), "events", 2)
    data, entry = file_sizes(tmp_path / "scratch", rows, 2)
    assert len(data) == 59
    assert data[-1] + 1000 < entry
    lake = EventLake(str(tmp_path / "lake"), lambda: "line")
    lake.append(first, 1)
    version = DeltaTable(lake.address).version()
    with limited(data[-1] + 500) as disk:
        disk.fill()
        with pytest.raises(StorageError, match=r"could not append to .*(No space left on device|File too large)") as caught:
            lake.append(rows, 2)
    assert "free space there" in str(caught.value)
    assert DeltaTable(lake.address).version() == version
    assert lake.append(rows, 2) == 59
    assert lake.info()["rows"] == 60
    age(Path(lake.address), 3601.0)
    lake.vacuum(0.0)
    assert unknown_to_the_log(Path(lake.address)) == []
