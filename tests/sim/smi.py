"""nvidia-smi of a driver root: our small program, and behind it NVIDIA's own, when the package can be fetched.

The real one comes from the non-free section of the mirror that this machine's apt uses already, through a private
configuration: the machine's own lists do not change. It is fetched once, into the cache; nothing of it is committed.
Without it roots work all the same, and `why_not()` says what is missing.
"""

from __future__ import annotations

import fcntl
import re
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.sim import library
from tests.sim.fs import files

_FOOTER = struct.Struct("<8sQQ")
_SUITES = ("sid", "bookworm")  # newest first
_APT_TIMEOUT_S = 120


def install(target: Path) -> None:
    """Puts nvidia-smi into a driver root."""
    files.place(_whole_program(), target)


@cache
def real() -> Path | None:
    """NVIDIA's own nvidia-smi in the cache, or None; tried once for each process, fetched once for each cache."""
    directory = library.cache_directory() / "nvidia-smi"
    directory.mkdir(parents=True, exist_ok=True)
    target, failure = directory / "nvidia-smi", directory / "why-not"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        if failure.exists():
            return None
        try:
            _fetch(directory, target)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failure.write_text(f"{error}\n{getattr(error, 'stderr', '') or ''}")
            return None
    return target


def why_not() -> str:
    """Why there is no real nvidia-smi. Remove the file `why-not` from the cache to try again."""
    path = library.cache_directory() / "nvidia-smi/why-not"
    return path.read_text().strip() if path.exists() else "it was never asked for"


def _whole_program() -> Path:
    """Our program with the real one behind it."""
    own = library.program("nvidia_smi")
    found = real()
    if found is None:
        return own
    whole = own.with_name("nvidia_smi.whole")
    if not whole.exists():
        image, payload = own.read_bytes(), found.read_bytes()
        fresh = whole.with_name(f".{whole.name}.new")
        fresh.write_bytes(image + payload + _FOOTER.pack(b"NVSMIREL", len(image), len(payload)))
        fresh.chmod(0o755)
        fresh.replace(whole)
    return whole


def _fetch(directory: Path, target: Path) -> None:
    apt = directory / "apt"
    for part in ("lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    sources = [
        f"deb [check-valid-until=no signed-by={keyring}] {mirror} {suite} non-free"
        for mirror, keyring in mirrors()
        for suite in _SUITES
    ]
    if not sources:
        raise ValueError("this machine's apt names no Debian mirror")
    (apt / "sources.list").write_text("\n".join(sources) + "\n")
    options = [
        "-o", f"Dir::Etc::sourcelist={apt}/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
        "-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}", "-o", f"Dir::Cache::archives={apt}/archives",
        "-o", "APT::Sandbox::User=", "-q",
    ]  # fmt: skip
    _run(["apt-get", *options, "update"], apt)
    _run(["apt-get", *options, "download", "nvidia-smi"], apt)
    package = next(iter(sorted(apt.glob("nvidia-smi_*.deb"))), None)
    if package is None:
        raise ValueError("apt-get download left no package")
    _run(["dpkg-deb", "-x", str(package), str(apt / "unpacked")], apt)
    program = next((path for path in (apt / "unpacked").rglob("nvidia-smi") if _is_elf(path)), None)
    if program is None:
        raise ValueError("the package has no program")
    program.chmod(0o755)
    program.replace(target)
    files.remove(apt)


def _is_elf(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:4] == b"\x7fELF"


def _run(command: list[str], directory: Path) -> None:
    subprocess.run(
        command, cwd=directory, check=True, capture_output=True, text=True, timeout=_APT_TIMEOUT_S
    )


def mirrors() -> Iterator[tuple[str, str]]:
    """Address and keyring of the Debian archive that this machine's own sources name."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in places:
        text = path.read_text() if path.is_file() else ""
        found = re.findall(
            r"^URIs:\s*(\S+/debian/?)\s*$|^deb\s+(?:\[[^]]*\]\s+)?(\S+/debian/?)\s", text, re.M
        )
        for pair in found:
            yield next(filter(None, pair)), keyring
            return
