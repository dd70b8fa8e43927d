"""The wheels of one architecture, merged into one ``site-packages`` for all Pythons.

Compiled modules carry Python's version in their file names, so they lie side by side; everything else must be the same
in every wheel of a release, and is there once. A file that differs ends the build.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from nvdra_packages import lock
from nvdra_packages.layout import LOCK, PYTHONS, Arch, BuildError, cache, made_once, run

_PER_WHEEL = frozenset({"RECORD", "WHEEL"})
"""Files that say how one wheel was made; no installed program reads them."""

_NO_MODULES = frozenset({"example.py"})
"""What nvidia-ml-py puts beside its module by mistake."""


def fetch(arch: Arch) -> Path:
    """The directory with all pinned wheels of an architecture; asks PyPI only for what the cache lacks (about 20 s)."""
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    home = cache() / "packages" / f"wheels-{arch.name}-{key}"
    return made_once(home, lambda place: _download(arch, place))


def _download(arch: Arch, place: Path) -> None:
    pins = lock.read()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--require-hashes",
        "-d",
        str(place),
    ]
    with TemporaryDirectory() as scratch:
        wheels = Path(scratch, "wheels.txt")
        wheels.write_text(lock.text_of(pin for pin in pins if pin.name not in lock.SOURCES))
        for python in PYTHONS:
            run([*pip, "--only-binary=:all:", *lock.pip_target(arch, python), "-r", str(wheels)])
        sources = Path(scratch, "sources.txt")
        sources.write_text(lock.text_of(pin for pin in pins if pin.name in lock.SOURCES))
        run([*pip, "--no-binary=:all:", "-r", str(sources)])
    check_hashes(place, pins)


def check_hashes(place: Path, pins: tuple[lock.Pin, ...]) -> None:
    """Raises BuildError for a file that no pin names."""
    known = {digest for pin in pins for digest in pin.hashes}
    for path in place.iterdir():
        if hashlib.sha256(path.read_bytes()).hexdigest() not in known:
            raise BuildError(f"{path.name}: its hash is not in {LOCK.name}")


def merge(wheels: Path, target: Path, arch: Arch) -> None:
    """Unpack every wheel of a directory into ``target``. Raises BuildError when two differ in a shared file."""
    for path in sorted(wheels.iterdir()):
        for name, data in members(path):
            _add(target / name, data, path.name)
    _check_machine(target, arch)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name below site-packages and content of each file of a wheel, or of a source archive's package and notices."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if not info.is_dir() and not _is_left_out(info.filename):
                    yield info.filename, wheel.read(info)
        return
    with tarfile.open(path) as archive:
        top = path.name.removesuffix(".tar.gz")
        package = top.rpartition("-")[0]
        for member in archive.getmembers():
            name = member.name.removeprefix(f"{top}/")
            data = archive.extractfile(member) if member.isfile() else None
            if data and name.startswith(f"{package}/"):
                yield name, data.read()
            elif data and name in ("PKG-INFO", "LICENSE", "LICENSE.txt"):
                kept = "METADATA" if name == "PKG-INFO" else name
                yield f"{top}.dist-info/{kept}", data.read()


def _is_left_out(name: str) -> bool:
    place, _, file = name.rpartition("/")
    return name in _NO_MODULES or (place.endswith(".dist-info") and file in _PER_WHEEL)


def _add(path: Path, data: bytes, origin: str) -> None:
    if path.exists():
        if path.read_bytes() != data:
            raise BuildError(
                f"{origin}: its {path.name} differs from another wheel's; the two cannot be merged"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _check_machine(target: Path, arch: Arch) -> None:
    """Every compiled module is for the architecture, and each project has one for every Python or for all."""
    modules: dict[str, int] = {}
    for path in sorted(target.rglob("*.so")):
        with path.open("rb") as file:
            magic, machine = struct.unpack("<4s14xH", file.read(20))
        if magic != b"\x7fELF" or machine != arch.elf_machine:
            raise BuildError(f"{path.name}: not compiled for {arch.name}")
        if ".abi3." not in path.name:
            modules[path.name.partition(".")[0]] = modules.get(path.name.partition(".")[0], 0) + 1
    lacking = {name: count for name, count in modules.items() if count != len(PYTHONS)}
    if lacking:
        raise BuildError(
            f"compiled modules that some Python lacks, with how many there are: {lacking}"
        )
