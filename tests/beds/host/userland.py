"""Root file systems of distributions with their python3 and systemd, to install packages in.

Built once into the cache; a test works on an overlay without a network. Distributions that no registry has are
skipped (``why_not``).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nvdra_packages.layout import made_once
from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import host_image, programs
from tests.beds.cluster.artifacts.build import install_packages

INCLUDE = ("ca-certificates", "libstdc++6", "procps", "python3", "systemd")
UBUNTU_MIRROR = "NVDRA_UBUNTU_MIRROR"
"""Environment variable with the address of Ubuntu's packages."""

IGNORED = (
    "var/lib/dpkg",
    "var/lib/apt",
    "var/lib/rpm",
    "root",
    "var/cache",
    "var/log",
    "proc",
    "dev",
    "tmp",
    "run",
)
"""State of package managers, and directories that a boot empties."""


@dataclass(frozen=True)
class Distribution:
    """One release of a distribution, and the Python that its python3 is."""

    name: str
    suite: str
    python: str

    @property
    def is_ubuntu(self) -> bool:
        return self.name.startswith("ubuntu")

    def why_not(self) -> str | None:
        """Why it is not available here; None when it is."""
        if self.is_ubuntu and UBUNTU_MIRROR not in os.environ:
            return f"no registry here has Ubuntu's packages; set {UBUNTU_MIRROR} to one that does"
        return None

    def root(self) -> Path:
        """The pristine root file system; about 30 s the first time."""
        install_packages(packages=host_image.TOOLS)
        home = programs.cache_dir() / "userlands" / f"{self.suite}-{len(INCLUDE)}"
        return made_once(home, self._make) / "root"

    def _make(self, place: Path) -> None:
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(INCLUDE)}"]
        # The clock of a test machine may be ahead of its mirror.
        argv += ['--aptopt=Acquire::Check-Valid-Until "false"', self.suite, str(place / "root")]
        argv += [os.environ[UBUNTU_MIRROR]] if self.is_ubuntu else []
        env = {**os.environ, "PATH": commands.BASE_PATH}
        commands.run(argv, timeout_s=900, env=env)


DISTRIBUTIONS = (
    Distribution("debian-12", "bookworm", "3.11"),
    Distribution("debian-13", "trixie", "3.13"),
    Distribution("debian-14", "forky", "3.14"),
    Distribution("ubuntu-22.04", "jammy", "3.10"),
    Distribution("ubuntu-24.04", "noble", "3.12"),
)


class Userland:
    """A root file system that may be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self, *argv: str, check: bool = True, binds: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, without a network. Raises CommandError when it fails.

        ``binds``: directories of this machine that it sees, too, at the same place.
        """
        script = [
            f'mkdir -p "{self.root}{path}" && mount --bind "{path}" "{self.root}{path}"'
            for path in binds
        ]
        script += [f'mount -t proc proc "{self.root}/proc"', f'exec chroot "{self.root}" "$@"']
        outer = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "sh",
            "-ec",
            "\n".join(script),
            "sh",
        ]
        env = commands.base_env({"DEBIAN_FRONTEND": "noninteractive"})
        return commands.run([*outer, *argv], check=check, timeout_s=300, env=env)

    def path(self, name: str) -> Path:
        """Where a file of it is on this machine."""
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        """Write a file, with the directories above it."""
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def install(self, *packages: Path, options: Sequence[str] = ()) -> None:
        """``apt-get install`` package files."""
        names = [self._bring(package) for package in packages]
        self.run("apt-get", "install", "-y", *options, *names)

    def _bring(self, package: Path) -> str:
        name = f"/tmp/{package.name}"
        self.path(name).write_bytes(package.read_bytes())
        return name

    def files(self) -> set[str]:
        """Every file and directory but those in IGNORED."""
        found = set()
        for place, directories, files in os.walk(self.root):
            at = os.path.relpath(place, self.root)
            directories[:] = [
                d for d in directories if os.path.join(at, d).removeprefix("./") not in IGNORED
            ]
            found |= {os.path.join(at, name).removeprefix("./") for name in (*directories, *files)}
        return found


@contextmanager
def changeable(scratch: Path, *layers: Path) -> Iterator[Userland]:
    """An overlay on a root file system, the last of ``layers``, and on changes to it; more go to ``scratch``/upper."""
    upper, work, merged = (scratch / name for name in ("upper", "work", "merged"))
    for path in (upper, work, merged):
        path.mkdir()
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work}"
    commands.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)])
    try:
        yield Userland(merged)
    finally:
        commands.run(["umount", str(merged)])
