"""What is in a deb: names, kinds and modes, and its files unpacked."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One file, directory or link: its absolute name and, as ``ls`` writes them, kind and mode."""

    name: str
    mode: str
    owner: str
    link: str = ""


def entries(deb: Path) -> dict[str, Entry]:
    """Everything that a deb installs, by name."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(_data(deb))) as tar:
        for member in tar.getmembers():
            name = "/" + member.name.removeprefix("./").rstrip("/")
            kind = "d" if member.isdir() else "l" if member.issym() else "-"
            mode = kind + oct(member.mode)[2:].rjust(4, "0")
            found[name] = Entry(name, mode, f"{member.uid}:{member.gid}", member.linkname)
    return found


def unpack(deb: Path, target: Path) -> Path:
    """Unpack what a deb installs."""
    with tarfile.open(fileobj=io.BytesIO(_data(deb))) as tar:
        tar.extractall(target, filter="tar")
    return target


def field(deb: Path, name: str) -> str:
    """One field of a deb's control file."""
    return _run("dpkg-deb", "-f", str(deb), name).decode().strip()


def script(deb: Path, name: str) -> str:
    """One maintainer script of a deb."""
    return _run("dpkg-deb", "-I", str(deb), name).decode()


def _data(deb: Path) -> bytes:
    return _run("dpkg-deb", "--fsys-tarfile", str(deb))


def _run(*argv: str) -> bytes:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
