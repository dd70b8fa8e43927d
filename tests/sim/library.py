"""Builds the simulated libraries and programs, once, into the cache; writes a driver library for one node.

In: the C sources in `nvml/`. Out: paths in `$NVDRA_CACHE/sim/<hash of the sources>` (default ~/.cache/nvdra).
Called by: `tree`, tests. Two processes that build at once both get a whole file: products are renamed into place.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "nvml"
PROGRAMS = Path(__file__).parent / "programs"
PAGE = 65536  # the state must begin a page; the largest are those of some aarch64 kernels
FOOTER = struct.Struct("<8sQQQ")
MAGIC = b"NVSIMTRL"
_DEFINED = re.compile(r"^NVML_API\((\w+)\)", re.M)
# `NUMBER_CALL(nvmlDeviceGetX, ...)`: a macro of the sources that defines one function, or two
_DEFINED_BY_MACRO = re.compile(r"^[A-Z_]+\((nv(?:ml|sim)\w+)(?:, (nv(?:ml|sim)\w+))?", re.M)
_FLAGS = ["-O2", "-std=gnu11", "-fPIC", "-Wall", "-Wextra", "-Werror"]


def cache_directory() -> Path:
    """Where everything built or fetched lies, outside the repository."""
    return Path(os.environ.get("NVDRA_CACHE") or Path.home() / ".cache/nvdra") / "sim"


@cache
def functions() -> tuple[str, ...]:
    """NVML's function names; the position is the number that faults are stored under."""
    lines = (SOURCES / "functions.txt").read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


@cache
def build_directory() -> Path:
    """The cache directory of these very sources."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.iterdir(), *PROGRAMS.iterdir()]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    directory = cache_directory() / digest.hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def nvml() -> Path:
    """libnvidia-ml.so.1 without a profile."""
    target = build_directory() / "libnvidia-ml.so.1"
    if not target.exists():
        _build_nvml(target)
    return target


def program(name: str) -> Path:
    """The program `programs/<name>.c`, built."""
    target = build_directory() / name
    if not target.exists():
        _compile(target, [PROGRAMS / f"{name}.c"], ["-ldl"])
    return target


def placeholder(soname: str) -> Path:
    """A small library that has nothing but its soname."""
    target = build_directory() / "placeholders" / soname
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            source = Path(work) / "empty.c"
            source.write_text("int nvsim_placeholder;\n")
            _compile(target, [source], ["-shared", f"-Wl,-soname,{soname}", "-nostdlib", "-s"])
    return target


def write_driver_library(target: Path, state: bytes, profile_text: str) -> None:
    """The NVML library of one node: the built one, then the shared state, the profile, and where they begin."""
    image = nvml().read_bytes()
    padding = -len(image) % PAGE
    state_at = len(image) + padding
    text = profile_text.encode()
    footer = FOOTER.pack(MAGIC, state_at, state_at + len(state), len(text))
    fresh = target.with_name(f".{target.name}.new")
    fresh.write_bytes(b"".join((image, bytes(padding), state, text, footer)))
    fresh.chmod(0o755)
    fresh.replace(target)


def _build_nvml(target: Path) -> None:
    sources = sorted(SOURCES.glob("*.c"))
    with tempfile.TemporaryDirectory() as work:
        numbers = "".join(f"    FN_{name},\n" for name in functions())
        Path(work, "functions.h").write_text(f"enum {{\n{numbers}}};\n")
        stubs = [
            f"NVML_API({name})(void) {{ return sim_stub(FN_{name}); }}" for name in stub_names()
        ]
        stub_file = Path(work, "stubs.c")
        stub_file.write_text("\n".join(['#include "sim.h"', *stubs, ""]))
        soname = "-Wl,-soname,libnvidia-ml.so.1"
        flags = ["-shared", "-fvisibility=hidden", soname, f"-I{work}", f"-I{SOURCES}"]
        _compile(target, [*sources, stub_file], [*flags, "-ldl", "-pthread"])


def stub_names() -> list[str]:
    """Functions that the C files do not define: they answer NVML_ERROR_NOT_SUPPORTED."""
    defined = {"nvmlErrorString"}
    for path in SOURCES.glob("*.c"):
        text = path.read_text()
        defined.update(_DEFINED.findall(text))
        defined.update(name for pair in _DEFINED_BY_MACRO.findall(text) for name in pair)
    return [name for name in functions() if name not in defined]


def _compile(target: Path, sources: Iterable[Path], flags: Iterable[str]) -> None:
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    command = ["gcc", *_FLAGS, "-o", str(fresh), *map(str, sources), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gcc cannot build {target.name}:\n{done.stderr}")
    fresh.replace(target)
