"""A node that is a host with a systemd of its own: systemd-nspawn, with containerd and kubelet as units.

Services are started here as on a real host, and their sandbox is enforced: DevicePolicy=, ProtectSystem=, MemoryMax=
(not IPAddressDeny=, which needs the unified cgroup hierarchy). Its root file system is an overlay on `host_image`, so
everything in it is private and stays over a reboot; directories of the machine are bound in when it starts.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import host_image, programs
from tests.beds.cluster.errors import ClusterError
from tests.beds.cluster.machine import network, processes
from tests.beds.cluster.machine.node import Node
from tests.beds.cluster.machine.processes import Process
from tests.lib.waits import wait_until

_LOGS = "/var/log/cluster"

_CONTAINERD_DIR = "/var/lib/containerd"
"""Bound from a plain directory: containerd's own overlays cannot lie on an overlay."""

_MACHINE_SETTINGS = {
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/vm/overcommit_memory": "1",
}
"""What every kubelet writes for the whole machine, and cannot from within a container."""

_UNIT = """\
[Unit]
Description={name} of the test cluster

[Service]
Environment=PATH={path}
ExecStart={command}
Delegate=yes
KillMode=process
Restart=no
StandardOutput=append:{log}
StandardError=append:{log}
"""


class SystemdNode(Node):
    """A node whose programs are units of its own systemd."""

    def start(self, component: str) -> None:
        """Start the unit of containerd, kubelet or proxy."""
        self._argv(component)
        self.run(["systemctl", "start", f"{component}.service"])
        if component == "containerd":
            self._wait_for_containerd()

    def stop(self, component: str, *, kill: bool = False) -> None:
        """Stop the unit; with `kill` by SIGKILL to its main process."""
        self._argv(component)
        unit = f"{component}.service"
        if kill:
            self.run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", unit], check=False)
        self.run(["systemctl", "stop", unit])

    def popen(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> Process:
        """Start a program beside systemd's units; the pid is the program's own on this machine."""
        outer = super().popen(argv, name=name, env=env, log=log)
        found: list[int] = []

        def has_child() -> bool:
            found.extend(children_of(outer.pid))
            return bool(found) or not outer.is_running

        wait_until(f"{outer.name} runs", has_child, timeout_s=10, interval_s=0.01)
        return processes.follow(self.layout.pids, outer, found[0]) if found else outer

    def bind(self, host_dir: str | os.PathLike[str], node_path: str) -> None:
        """Refuse: what a running host sees of the machine is fixed when it starts."""
        raise ClusterError(
            f"cannot bind {os.fspath(host_dir)} over {node_path} of a running systemd node",
            next_step="give it to Cluster.up(binds=...)",
        )

    def power_on(self) -> None:
        """Start the host again after `power_off`."""
        self.boot()

    def prepare(self) -> None:
        """Write configuration and units into the host's own layer of its root file system."""
        super().prepare()
        for name in ("work", "root"):
            (self.home / name).mkdir()
        for component in self.components:
            unit = _UNIT.format(
                name=component,
                path=self._search_path(),
                command=shlex.join(self._argv(component)),
                log=f"{_LOGS}/{self._record(component)}.log",
            )
            self._write(f"/etc/systemd/system/{component}.service", unit)

    def _start_holder(self) -> None:
        for path, value in _MACHINE_SETTINGS.items():
            Path(path).write_text(value)
        script = "\n".join(["set -e", *self._mount_lines(), f"exec {self._nspawn()}"])
        holder = processes.start(
            ["unshare", "-m", "--", "/bin/sh", "-c", script],
            name=self._record("holder"),
            cgroup=self._cgroup(),
            log=self.layout.logs / f"{self._record('holder')}.log",
            records=self.layout.pids,
            env=commands.base_env({"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"}),
        )

        def is_up() -> bool:
            if not holder.is_running:
                raise ClusterError(f"host {self.name} ended", next_step=f"read {holder.log}")
            if self._leader() is None:
                return False
            state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            return state in ("running", "degraded")

        wait_until(f"systemd of {self.name} runs", is_up, timeout_s=60, interval_s=0.1)

    def _mount_lines(self) -> list[str]:
        lower, upper = host_image.ensure(), self.home / "upper"
        options = f"lowerdir={lower},upperdir={upper},workdir={self.home / 'work'}"
        root = shlex.quote(str(self.home / "root"))
        return [
            # What nspawn writes about its machines would outlive this one.
            "mkdir -p /run/systemd && mount -t tmpfs run /run/systemd",
            f"mount -t overlay overlay -o {shlex.quote(options)} {root}",
        ]

    def _nspawn(self) -> str:
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"]
        argv += [f"--directory={self.home / 'root'}", f"--hostname={self.name}"]
        argv += [f"--machine=nvdra-{self.layout.name}-{self.name}"]
        argv += [
            f"--network-namespace-path={network.NETNS_DIR / self.layout.node_netns(self.name)}"
        ]
        argv += ["--console=read-only", "--resolv-conf=off", "--timezone=off", "--capability=all"]
        argv += ["--system-call-filter=bpf perf_event_open @keyring", "--link-journal=no"]
        # The kubelet reads the kernel's messages; nspawn makes no such device.
        argv += ["--bind=/dev/kmsg"]
        argv += [f"--bind-ro={programs.cache_dir() / 'programs'}"]
        argv += [f"--bind={self._on_disk(_CONTAINERD_DIR)}:{_CONTAINERD_DIR}"]
        argv += [f"--bind={self.layout.logs}:{_LOGS}"]
        argv += [f"--bind={origin}:{target}" for origin, target in self.layout.binds]
        return shlex.join(argv)

    def import_images(self, archive: Path) -> None:
        """Import a docker-archive or OCI tar into containerd."""
        inside = f"/var/tmp/{archive.name}"
        shutil.copyfile(archive, self.path(inside))
        self.ctr("images", "import", inside, timeout_s=300)
        self.path(inside).unlink()

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self._holder()), "-m", "-u", "-i", "-n", "-p", "-C", "--"]

    def _holder(self) -> int:
        leader = self._leader()
        if leader is None:
            raise ClusterError(f"host {self.name} is off", next_step="start it with power_on")
        return leader

    def _leader(self) -> int | None:
        """Return the pid of the host's systemd on this machine."""
        holder = processes.find(self.layout.pids, self._record("holder"))
        if holder is None or not holder.is_running:
            return None
        return next((pid for pid in children_of(holder.pid) if is_init_of_container(pid)), None)

    @property
    def _pods_cgroup(self) -> str:
        return "/"

    def _on_disk(self, path: str) -> Path:
        layer = "plain" if path == _CONTAINERD_DIR else "upper"
        return self.home / layer / path.lstrip("/")


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children; none when it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_init_of_container(pid: int) -> bool:
    """Say whether a process is the first of a pid namespace below this one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(
        line.split()[2:] == ["1"] for line in status.splitlines() if line.startswith("NSpid:")
    )
