"""Name the versions of what a report was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from streamrec.code_version import code_version

PACKAGES = ("ray", "torch", "numpy", "pyarrow", "deltalake", "faiss-cpu")


def versions_here() -> dict[str, str]:
    """Return the version of streamrec, Python and the packages that figures depend on, as this process has them."""
    found = {"streamrec": code_version(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
