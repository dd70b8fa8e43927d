"""Finds the NVIDIA driver's files below the driver root: library and programs, by the places distributions use.

Symbolic links are resolved inside the root, as on the machine that it belongs to. Results are absolute paths of real
files, as seen by this process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from nvdra_core.errors import HostError

NVML_LIBRARY = "libnvidia-ml.so.1"
LIBRARY_DIRS = (
    "/",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib",
)
"""Upstream's list and its order, and /usr/lib for distributions without an architecture in the path."""
PROGRAM_DIRS = ("/", "/opt/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin")

_MAX_LINKS = 40


def library(root: Path, name: str = NVML_LIBRARY) -> Path:
    """The library's real file. Raises HostError, naming the directories searched."""
    return _find(root, name, LIBRARY_DIRS)


def program(root: Path, name: str) -> Path:
    """The program's real file. Raises HostError, naming the directories searched."""
    return _find(root, name, PROGRAM_DIRS)


def resolve(root: Path, path: str) -> Path | None:
    """Follow ``path`` (absolute, as seen from inside ``root``) without leaving the root.

    None when a component is missing or the links are circular.
    """
    todo = _parts(path)
    at: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del at[-1:]
            continue
        here = root.joinpath(*at, part)
        try:
            target = str(here.readlink())
        except OSError:
            at.append(part)  # no link; a missing file is found at the end
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        if target.startswith("/"):
            at = []
        todo.extend(_parts(target))
    found = root.joinpath(*at)
    return found if os.path.lexists(found) else None


def _find(root: Path, name: str, places: Iterable[str]) -> Path:
    for place in places:
        found = resolve(root, f"{place}/{name}")
        if found is not None and _is_regular(found):
            return found
    raise HostError(
        f"{name} is not below the driver root {root} (searched {', '.join(places)}); "
        "is the NVIDIA driver installed?"
    )


def _parts(path: str) -> list[str]:
    """Components of a path, last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
