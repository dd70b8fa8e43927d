"""What the builder's modules agree on: places in the checkout, on a host and in the cache; architectures; Pythons."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

TOP = Path(__file__).resolve().parents[2]
PACKAGING = TOP / "packaging"
OUT = TOP / "out" / "packages"
LOCK = PACKAGING / "requirements-node.txt"

NAME = "nvdra"
MAINTAINER = "nvdra maintainers <maintainers@nvdra.example>"

LIBRARY = "usr/lib/nvdra"
"""Our code; below it ``site-packages`` with what it needs. Relative to the root of a host, as all of these."""
SITE_PACKAGES = f"{LIBRARY}/site-packages"
DOCS = f"usr/share/doc/{NAME}"
CONFIG = "etc/nvdra/config.yaml"
NEEDRESTART = "etc/needrestart/conf.d/nvdra.conf"

SHIPPED_PACKAGES = ("nvdra_core", "nvdra_node")


class BuildError(Exception):
    """The packages cannot be made; the message names what is wrong and what to do."""


@dataclass(frozen=True)
class Arch:
    """One architecture under its names: Python's and rpm's, Debian's, and the ELF machine number."""

    name: str
    deb: str
    elf_machine: int


ARCHES = (Arch("x86_64", "amd64", 62), Arch("aarch64", "arm64", 183))

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""The CPython versions that packages run on; each has compiled wheels of its own."""


def cache() -> Path:
    """The directory of everything downloaded or made once; outside the checkout."""
    return Path(os.environ.get("NVDRA_CACHE") or Path.home() / ".cache" / "nvdra")


def run(
    argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it printed. Raises BuildError with its output when it fails."""
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(
            f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def made_once(home: Path, make: Callable[[Path], None]) -> Path:
    """Return a directory of the cache; when it is not there, ``make`` fills it and it appears whole."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f".{home.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not home.is_dir():
            with TemporaryDirectory(dir=home.parent, prefix=".making-") as place:
                target = Path(place, "made")
                target.mkdir()
                make(target)
                target.rename(home)
    return home
