"""What the controller needs from PyPI, pinned by hash in ``packaging/requirements-controller.txt``."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import tomllib

from nvdra_packages import lock
from nvdra_packages import wheels as wheel_files
from nvdra_packages.layout import ARCHES, PACKAGING, TOP, Arch, BuildError, cache, made_once, run

LOCK = PACKAGING / "requirements-controller.txt"
PYTHON = "3.11"
"""Debian 12's."""

UNUSED = frozenset(
    {
        "aiohappyeyeballs",
        "aiohttp",
        "aiohttp-retry",
        "aiosignal",
        "attrs",
        "frozenlist",
        "multidict",
    }
    | {"propcache", "yarl"}
)
"""Dependencies of kubernetes.aio alone, which the controller does not import."""

_UNUSED_FILES = re.compile(r"kubernetes/(aio/.*|client/(models|api)/(?!__init__\.py$).*)")
"""Generated classes, 70 MB with their bytecode; the controller reads JSON."""

_HEAD = """\
# What the controller's image carries beside our code: every wheel for both architectures, by hash.
# Made by: python packaging/image.py lock
"""


def fetch(arch: Arch) -> Path:
    """The directory with the wheels of an architecture; asks PyPI only for what the cache lacks."""
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    home = cache() / "image" / f"wheels-{arch.name}-{key}"
    return made_once(home, lambda place: _download(arch, place))


def unpack(arch: Arch, target: Path) -> None:
    """Lay out all wheels as a site-packages directory. Raises BuildError when two have the same file."""
    for path in sorted(fetch(arch).iterdir()):
        for name, data in wheel_files.members(path):
            if _UNUSED_FILES.fullmatch(name):
                continue
            file = target / name
            if file.exists():
                raise BuildError(f"{path.name}: another wheel has {name}, too")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def wanted() -> tuple[str, ...]:
    """What pyproject.toml says the controller needs, without what that needs itself."""
    with (TOP / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    return tuple(sorted({lock.normal(re.split(r"[<>=!~\[ ;]", line)[0]) for line in lines}))


def make_lock() -> str:
    """The text of the file, generated from the tested versions; asks PyPI."""
    files: dict[tuple[str, str], set[str]] = defaultdict(set)
    pip = [sys.executable, "-m", "pip", "download", "-q", "-c", str(lock.TESTED)]
    with TemporaryDirectory() as place:
        names = [name for name in wanted() if name not in lock.SOURCES]
        for arch in ARCHES:
            target = lock.pip_target(arch, PYTHON)
            run([*pip, "-d", place, "--only-binary=:all:", *target, *names])
        run([*pip, "-d", place, "--no-deps", "--no-binary=:all:", *sorted(lock.SOURCES)])
        for path in Path(place).iterdir():
            name, version = re.split("-", path.name.removesuffix(".tar.gz"))[:2]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[lock.normal(name), version].add(digest)
    wanted_files = ((key, hashes) for key, hashes in sorted(files.items()) if key[0] not in UNUSED)
    pins = [lock.Pin(n, v, tuple(sorted(h))) for (n, v), h in wanted_files]
    return _HEAD + "".join(pin.requirement() + "\n" for pin in pins)


def _download(arch: Arch, place: Path) -> None:
    pins = lock.read(LOCK)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    pip += ["-d", str(place), "-r"]
    target = ["--only-binary=:all:", *lock.pip_target(arch, PYTHON)]
    with TemporaryDirectory() as scratch:
        for name, options in (("wheels", target), ("sources", ["--no-binary=:all:"])):
            is_source = name == "sources"
            wanted_pins = [pin for pin in pins if (pin.name in lock.SOURCES) == is_source]
            path = Path(scratch, f"{name}.txt")
            path.write_text("".join(pin.requirement() + "\n" for pin in wanted_pins))
            run([*pip, str(path), *options])
