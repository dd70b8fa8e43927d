"""The pinned wheels: reads ``packaging/requirements-node.txt``, and generates it.

The file has every hash of every wheel for all architectures and Pythons, in the format of ``pip --require-hashes``.
Versions are those that the tests run with (``tests/requirements.txt``).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import tomllib

from nvdra_packages.layout import ARCHES, LOCK, PYTHONS, TOP, Arch, BuildError, run

TESTED = TOP / "tests" / "requirements.txt"

SOURCES = frozenset({"sdnotify"})
"""Published as source only; pure Python."""

UNUSED = frozenset({"pycparser"})
"""Dependencies that nothing imports on a node: cffi needs it to compile declarations, and those here are compiled."""

_HEAD = """\
# What the packages carry beside our code: every wheel for every architecture and Python, by hash.
# Made by: python packaging/build.py lock
"""


@dataclass(frozen=True)
class Pin:
    """One project (its normalised name), its version, and the sha256 of each of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def requirement(self) -> str:
        """The pin as pip reads it."""
        lines = [f"{self.name}=={self.version}", *(f"    --hash=sha256:{h}" for h in self.hashes)]
        return " \\\n".join(lines)


def normal(name: str) -> str:
    """A project's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(path: Path = LOCK) -> tuple[Pin, ...]:
    """All pins, sorted by name. Raises BuildError for a line that is no pin with hashes."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words:
            continue
        name, _, version = words[0].partition("==")
        hashes = tuple(w.removeprefix("--hash=sha256:") for w in words[1:])
        if not version or not hashes or not all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes):
            raise BuildError(f"{path}: not a pin with hashes: {line!r}")
        pins.append(Pin(name, version, hashes))
    return tuple(sorted(pins, key=lambda pin: pin.name))


def wanted() -> tuple[str, ...]:
    """What pyproject.toml says the node needs, without what that needs itself."""
    with (TOP / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["node"]]
    return tuple(sorted(normal(re.split(r"[<>=!~\[ ;]", line)[0]) for line in lines))


def pip_target(arch: Arch, python: str) -> list[str]:
    """The options of ``pip download`` for wheels of one architecture and Python.

    The oldest C library that is met is that of RHEL 9 (2.34); Ubuntu 22.04 has 2.35.
    """
    platforms = [
        f"manylinux_2_28_{arch.name}",
        f"manylinux_2_17_{arch.name}",
        f"manylinux2014_{arch.name}",
    ]
    words = [word for platform in platforms for word in ("--platform", platform)]
    return ["--implementation", "cp", "--python-version", python, *words]


def without_newer_abi3(names: Iterable[str]) -> Iterator[str]:
    """Wheel file names without those that an abi3 wheel of an older Python covers: both have the same module names."""
    oldest: dict[tuple[str, str], tuple[int, str]] = {}
    for name in names:
        found = re.fullmatch(r"(.+)-cp3(\d+)-abi3-(.+)\.whl", name)
        if not found:
            yield name
            continue
        place, minor = (found[1], found[3]), int(found[2])
        oldest[place] = min(oldest.get(place, (minor, name)), (minor, name))
    yield from (name for _, name in oldest.values())


def make() -> str:
    """The text of the file, generated from the tested versions; asks PyPI (about a minute)."""
    files: dict[tuple[str, str], set[str]] = defaultdict(set)
    with TemporaryDirectory() as place, NamedTemporaryFile("w", suffix=".txt") as tested:
        lines = TESTED.read_text().splitlines(keepends=True)
        tested.writelines(n for n in lines if normal(n.partition("==")[0]) not in UNUSED)
        tested.flush()
        pip = [sys.executable, "-m", "pip", "download", "-q", "-c", tested.name]
        for arch in ARCHES:
            for python in PYTHONS:
                names = [name for name in wanted() if name not in SOURCES]
                target = pip_target(arch, python)
                run([*pip, "-d", place, "--only-binary=:all:", *target, *names])
        run([*pip, "-d", place, "--no-deps", "--no-binary=:all:", *sorted(SOURCES)])
        for file in without_newer_abi3(path.name for path in Path(place).iterdir()):
            name, version = re.split("-", file.removesuffix(".tar.gz"))[:2]
            if normal(name) not in UNUSED:
                digest = hashlib.sha256(Path(place, file).read_bytes()).hexdigest()
                files[normal(name), version].add(digest)
    return text_of(Pin(n, v, tuple(sorted(h))) for (n, v), h in sorted(files.items()))


def text_of(pins: Iterable[Pin]) -> str:
    """The file with these pins."""
    return _HEAD + "".join(pin.requirement() + "\n" for pin in pins)
