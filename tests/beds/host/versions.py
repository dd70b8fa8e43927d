"""Hosts with other releases of systemd than the cluster's nodes have, booted by systemd-nspawn on the unified cgroup
hierarchy (256 and later know no other): the units of ``systemd/`` with all of the sandbox, BPF included.

``RELEASES`` are those of Debian's archive. The service is a stand-in of a few lines, as their Pythons differ; its unit
is the shipped one. Enter at ``booted(release)``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import host_image, programs
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.cluster.machine import cgroups, processes, systemd_node
from tests.beds.cluster.machine.processes import Process
from tests.beds.host.units import UnitHost
from tests.lib.waits import wait_until
from tests.sim.api import SimRoot

API_SERVER = "127.0.0.1"
ANSWER = "/var/lib/nvdra/gpu.nvidia.com/answer"
_HOME = Path("/var/lib/nvdra-systemd")
_PACKAGES = (
    *("dbus", "iproute2", "kmod", "libpython3-stdlib", "mount", "procps", "python3-minimal"),
    *("systemd", "systemd-sysv", "udev"),
)
_MASKED = ("systemd-sysctl", "systemd-udevd", "systemd-logind", "console-getty", "e2scrub_reap")
"""Masked units that would write to /proc/sys and /sys, which are this machine's own."""
_SHOWN = "/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/pki/kubelet.key", "/etc/nvdra/config.yaml"
_FILES = (*_SHOWN, "/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet.conf")
"""Packages that the probe needs."""


@dataclass(frozen=True)
class Release:
    """One system of Debian."""

    name: str
    suite: str
    systemd: int
    """Lowest version of systemd; that of sid changes."""
    backport: bool = False
    """systemd from the suite's backports."""


RELEASES = (
    Release("bullseye", "bullseye", 247),
    Release("bookworm", "bookworm", 252),
    Release("bookworm-backports", "bookworm", 254, backport=True),
    Release("trixie", "trixie", 257),
    Release("sid", "sid", 262),
)

_BACKPORT = """\
cd "$1/etc/apt"
sed -n "s/ {suite} main/ {suite}-backports main/p" sources.list >sources.list.d/backports.list
printf "Package: *systemd* udev libudev1\\nPin: release n={suite}-backports\\nPin-Priority: 900\\n" >preferences.d/systemd
"""

_STAND_IN = f"""\
#!/usr/bin/python3 -IB
import errno, os, signal, socket, stat, sys, time

def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(text, os.environ["NOTIFY_SOCKET"])

def capability():
    try:
        os.mknod("/dev/nvidia-caps/probe", stat.S_IFCHR | 0o600, os.makedev(235, 98))
        os.unlink("/dev/nvidia-caps/probe")
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]

def write(*ignored):
    with open("{ANSWER}", "a") as file:
        print(os.getpid(), capability(), file=file)
    tell(b"RELOADING=1")
    tell(b"READY=1")

if sys.argv[1] != "gpu":
    write = tell
signal.signal(signal.SIGHUP, lambda *ignored: write(b"READY=1"))
write(b"READY=1")
while True:
    time.sleep(1)
    tell(b"WATCHDOG=1")
"""
"""Prints at its start and at each reload whether it may create a node of an NVIDIA capability."""


class VersionHost(UnitHost):
    """One booted host."""

    def __init__(self, release: Release, home: Path, sim: SimRoot) -> None:
        self.release = release
        self.sim = sim
        self._home = home
        self._cgroup = f"nvdra-systemd.{release.name}"

    @property
    def machine(self) -> VersionHost:
        """See UnitHost."""
        return self

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host to its end."""
        shown = [f"{self.release.name}:", *argv]
        return commands.run(
            self._entered(argv),
            check=check,
            timeout_s=timeout_s,
            env=commands.base_env(),
            shown=shown,
        )

    def popen(self, argv: Sequence[str]) -> Process:
        """Start a program in the host; it ends with the host."""
        number = sum(1 for _ in (self._home / "pids").iterdir())
        return self._start(self._entered(argv), f"program-{number}", {})

    def path(self, node_path: str) -> Path:
        """Where a file of the host is for this process."""
        if node_path.startswith("/var/run/"):
            node_path = node_path.removeprefix("/var")
        return Path(f"/proc/{self._leader()}/root", node_path.lstrip("/"))

    @property
    def version(self) -> str:
        """Version that systemd reports."""
        return self.run(["systemctl", "--version"]).stdout.splitlines()[0]

    def start(self) -> None:
        """Boot, install, and wait until systemd runs."""
        holder = self._start(
            ["unshare", "-m", "--", "/bin/sh", "-ec", self._boot_script()],
            "host",
            {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )

        def is_up() -> bool:
            assert holder.is_running, holder.output()
            if self._leader() is None:
                return False
            state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            return state in ("running", "degraded")

        wait_until(f"systemd of {self.release.name} runs", is_up, timeout_s=90, interval_s=0.1)
        for path in _FILES:
            self.write(path, "{}\n")
        self.write("/etc/hosts", "127.0.0.1 localhost node-1\n")
        self.write("/usr/bin/nvdra-node", _STAND_IN, mode=0o755)
        self.run(["ip", "link", "set", "lo", "up"])
        listen = f"import socket, time; s = socket.create_server(('{API_SERVER}', 6443)); time.sleep(9999)"
        self.popen(["python3", "-IBc", listen])
        listen = (
            "import socket, time; s = socket.socket(1); s.bind('/run/containerd/containerd.sock');"
        )
        self.run(["mkdir", "-p", "/run/containerd"])
        self.popen(["python3", "-IBc", f"{listen} s.listen(); time.sleep(9999)"])
        self.install_units()

    def end(self) -> None:
        """End everything of the host."""
        if cgroups.exists(self._cgroup):
            cgroups.end_processes(self._cgroup)
            processes.reap()
            cgroups.remove(self._cgroup)

    def system(self) -> Path:
        """The root file system that the host begins with."""
        return ensure(self.release)

    def _start(self, argv: Sequence[str], name: str, env: dict[str, str]) -> Process:
        return processes.start(
            argv,
            name=name,
            cgroup=f"{self._cgroup}/{name}",
            log=self._home / f"{name}.log",
            records=self._home / "pids",
            env=commands.base_env(env),
        )

    def _boot_script(self) -> str:
        root, upper, work = (str(self._home / name) for name in ("root", "upper", "work"))
        options = f"lowerdir={self.system()},upperdir={upper},workdir={work}"
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"]
        argv += [f"--directory={root}", "--hostname=node-1", f"--machine=nvdra-{self.release.name}"]
        argv += ["--private-network", "--console=read-only", "--resolv-conf=off", "--timezone=off"]
        argv += ["--capability=all", "--system-call-filter=bpf perf_event_open @keyring"]
        argv += ["--link-journal=no", "--bind=/dev/kmsg", f"--bind={self.sim.path}"]
        # Records of nspawn outlive the machine.
        return (
            "mkdir -p /run/systemd && mount -t tmpfs run /run/systemd\n"
            f"mount -t overlay overlay -o {shlex.quote(options)} {shlex.quote(root)}\n"
            f"exec {shlex.join(argv)}\n"
        )

    def _entered(self, argv: Sequence[str]) -> list[str]:
        leader = self._leader()
        assert leader is not None, f"host {self.release.name} is off"
        return ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", *argv]

    def _leader(self) -> int | None:
        holder = processes.find(self._home / "pids", "host")
        if holder is None or not holder.is_running:
            return None
        children = systemd_node.children_of(holder.pid)
        return next((pid for pid in children if systemd_node.is_init_of_container(pid)), None)


@contextmanager
def booted(release: Release) -> Iterator[VersionHost]:
    """A host of a release with the units installed, the driver loaded, and nothing started; removed afterwards."""
    install_packages(packages=host_image.TOOLS)
    home = _HOME / release.name
    host = VersionHost(release, home, SimRoot.create(home / "sim", "h100x8"))
    host.end()
    for name in ("pids", "root", "upper", "work"):
        shutil.rmtree(home / name, ignore_errors=True)
        (home / name).mkdir()
    try:
        host.start()
        yield host
    finally:
        host.end()
        shutil.rmtree(home, ignore_errors=True)


def ensure(release: Release, more: tuple[str, ...] = ()) -> Path:
    """Return the directory with a release's root file system; make it when it is not there (30 to 60 s).

    ``more``: packages that it has besides those that systemd needs.
    """
    packages = (*_PACKAGES, *more)
    key = hashlib.sha256(repr((release, packages, _MASKED)).encode()).hexdigest()[:8]
    root = programs.cache_dir() / "hosts" / f"systemd-{release.name}-{key}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f".systemd-{release.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _make(release, root, packages)
    return root


def _make(release: Release, root: Path, packages: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".making-") as name:
        target = Path(name, "root")
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
        # Lists of the oldest and newest suites may be past their date.
        argv += ['--aptopt=Acquire::Check-Valid-Until "false"']
        if release.backport:
            argv += [f"--setup-hook={_BACKPORT.format(suite=release.suite)}"]
        env = {**os.environ, "PATH": commands.BASE_PATH}
        commands.run([*argv, release.suite, str(target)], timeout_s=900, env=env)
        for path in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(target / path, ignore_errors=True)
        for unit in _MASKED:
            (target / "etc/systemd/system" / f"{unit}.service").symlink_to("/dev/null")
        target.rename(root)
