"""The Debian packages of the image: fetched by apt, which checks their signatures, and laid out, not installed.

No maintainer script runs and nothing is executed, so one machine makes the images of all architectures.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nvdra_packages.layout import Arch, BuildError, cache, run

SUITE = "bookworm"
PACKAGES = (
    "base-files",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
"""Python and the libraries that it and our wheels load; without what their dependencies bring to install themselves."""

_UNUSABLE = ("_curses", "_curses_panel", "_dbm", "_sqlite3", "nis", "readline", "_crypt")
"""Compiled modules of Python whose libraries are not in the image, or which are not needed."""
_LEFT_OUT = (
    "etc/cron.daily", "etc/default", "etc/dpkg", "etc/update-motd.d", "usr/bin/locale-check",
    "usr/lib/python3.11/ensurepip", "usr/lib/python3.11/idlelib", "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/sqlite3", "usr/lib/python3.11/curses",
    "usr/share/binfmts", "usr/share/doc", "usr/share/lintian", "usr/share/locale", "usr/share/man",
    "usr/share/base-files", "usr/share/applications", "usr/share/pixmaps", "usr/share/info",
    "usr/share/gcc", "usr/share/gdb", "var/backups", "var/lib/dpkg", "var/lib/misc",
)  # fmt: skip
_MERGED = ("bin", "lib", "lib64", "sbin")
"""Links of the root to the directories of these names in /usr."""


@dataclass(frozen=True)
class Deb:
    """One package file."""

    path: Path
    control: str
    """What dpkg would record about it."""

    @property
    def name(self) -> str:
        """The package's name."""
        return self.path.name.partition("_")[0]


def fetch(arch: Arch) -> tuple[Deb, ...]:
    """Today's packages of an architecture, from the cache where they are there; asks the archive what is new."""
    home = cache() / "image" / f"debian-{SUITE}-{arch.deb}"
    (home / "debs").mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        options = _options(home, arch)
        _apt([*options, "update", "-q"], home)
        uris = run(["apt-get", *options, "download", "--print-uris", *PACKAGES], cwd=home)
        wanted = {line.split()[1] for line in uris.splitlines() if line.startswith("'")}
        if len(wanted) != len(PACKAGES):
            raise BuildError(f"Debian's archive offers {len(wanted)} of {len(PACKAGES)} packages")
        for path in (home / "debs").iterdir():
            if path.name not in wanted:
                path.unlink()
        _apt([*options, "download", "-q", *PACKAGES], home / "debs")
    paths = sorted(home / "debs" / name for name in wanted)
    return tuple(Deb(path, run(["dpkg-deb", "-f", str(path)])) for path in paths)


def unpack(debs: tuple[Deb, ...], root: Path) -> None:
    """Lay out the packages below ``root``, less what only people or package managers read."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        data = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(deb.path)], check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                _place(tar, member, root)
        # Where vulnerability scanners find the packages of an image without dpkg.
        record = root / "var/lib/dpkg/status.d" / deb.name
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(deb.control)


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = _merged(PurePosixPath(member.name).as_posix().removeprefix("./"))
    if name in (".", "") or _is_left_out(name):
        return
    target = root / name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        if not target.is_symlink():
            target.symlink_to(member.linkname)
    elif member.islnk():
        shutil.copyfile(root / _merged(member.linkname.removeprefix("./")), target)
    else:
        content = tar.extractfile(member)
        if content is None:
            raise BuildError(f"{member.name}: neither file, link nor directory")
        target.write_bytes(content.read())
        target.chmod(member.mode & 0o755)


def _merged(name: str) -> str:
    return f"usr/{name}" if name.partition("/")[0] in _MERGED else name


def _is_left_out(name: str) -> bool:
    if name.startswith("usr/share/doc/"):
        return not name.endswith("/copyright")
    path = PurePosixPath(name)
    if path.parent.name == "lib-dynload" and path.name.partition(".")[0] in _UNUSABLE:
        return True
    return any(name == out or name.startswith(f"{out}/") for out in _LEFT_OUT)


def _options(home: Path, arch: Arch) -> list[str]:
    """Settings that let apt see this machine's sources of the suite, and nothing else of the machine."""
    state = {"etc/parts": "", "state/lists/partial": "", "cache/archives/partial": ""}
    for name in state:
        (home / name).mkdir(parents=True, exist_ok=True)
    for source in _sources():
        shutil.copyfile(source, home / "etc/parts" / source.name)
    settings = {
        "APT::Architecture": arch.deb, "APT::Architectures": arch.deb, "APT::Get::List-Cleanup": "no",
        "Dir::Etc::SourceList": "/dev/null", "Dir::Etc::SourceParts": home / "etc/parts",
        "Dir::State": home / "state", "Dir::State::Status": "/dev/null", "Dir::Cache": home / "cache",
        "APT::Default-Release": "", "Acquire::Languages": "none",
    }  # fmt: skip
    if os.geteuid() == 0:
        settings["APT::Sandbox::User"] = "root"
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _sources() -> list[Path]:
    found = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    usable = [
        path
        for path in found
        if path.suffix in (".list", ".sources") and path.is_file() and SUITE in path.read_text()
    ]
    if not usable:
        raise BuildError(
            f"apt of this machine has no sources of Debian {SUITE}: add a file with them to"
            " /etc/apt/sources.list.d"
        )
    return usable


def _apt(words: list[str], place: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise BuildError("apt-get and dpkg-deb are needed to make the image; use a Debian machine")
    run(["apt-get", *words], cwd=place)
