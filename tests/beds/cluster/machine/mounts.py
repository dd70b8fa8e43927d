"""The shell script that gives a node its mount and UTS namespace: private directories over the
paths that programs write.

So every node has the default paths, the shipped services run with their defaults, and nothing of a
node is in the machine's own directories but the empty mount points. Called by `node`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

PRIVATE = (
    "/etc/cdi",
    "/etc/cni/net.d",
    "/etc/containerd",
    "/etc/kubernetes",
    "/etc/nvdra",
    "/var/cache/nvdra",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/nvdra",
    "/var/log/containers",
    "/var/log/nvdra",
    "/var/log/pods",
)
"""Directories that are a node's own, and stay over a reboot."""

RUN = "/run"
"""A node's own, too, with /var/run, /run/cdi, /run/netns, /run/nri and /run/nvdra; emptied by a reboot."""

BOOT_ID = "/proc/sys/kernel/random/boot_id"

FILES = ("/etc/hostname", "/etc/hosts", "/etc/machine-id", BOOT_ID)
"""Files that are a node's own."""


def source(node_home: Path, path: str) -> Path:
    """Return where the content of a private directory or file lies on the machine."""
    return node_home / "root" / path.lstrip("/")


def script(node_home: Path, node: str, binds: list[tuple[str, str]], ready: Path) -> str:
    """Return the script, which ends as a process that holds the namespaces; it makes the file `ready` when all is set."""
    lines = [
        "set -e",
        f"echo {node} > /proc/sys/kernel/hostname",
        # Copies of other namespaces' mounts would keep those namespaces alive.
        "for m in $(grep -o ' /run/netns/[^ ]*' /proc/self/mountinfo); do umount -l $m; done",
        *_device_lines(node_home / "dev"),
    ]
    pairs = [(str(source(node_home, path)), path) for path in (RUN, *PRIVATE)]
    for origin, target in [*pairs, *binds]:
        lines.append(f"mkdir -p {shlex.quote(origin)} {shlex.quote(target)}")
        lines.append(bind_line(origin, target))
    for path in FILES:
        lines.append(f"[ -e {path} ] || touch {path}")
        lines.append(bind_line(str(source(node_home, path)), path))
    lines += ["mount --make-rshared /", f"touch {shlex.quote(str(ready))}", "exec sleep infinity"]
    return "\n".join(lines)


def bind_line(origin: str, target: str) -> str:
    """Return the command for one bind mount."""
    return f"mount --bind {shlex.quote(origin)} {shlex.quote(target)}"


def _device_lines(staging: Path) -> list[str]:
    """Return the commands for a /dev of the node's own: the machine's device nodes, without any of NVIDIA's."""
    dev = shlex.quote(str(staging))
    return [
        f"mkdir -p {dev}",
        f"mount -t tmpfs -o mode=755 dev {dev}",
        "for f in /dev/*; do case ${f##*/} in pts|shm|mqueue|hugepages|nvidia*) ;;"
        f" *) cp -a $f {dev}/;; esac; done",
        f"mkdir {dev}/pts {dev}/shm {dev}/mqueue",
        f"mount --bind /dev/pts {dev}/pts",
        f"mount -t tmpfs -o mode=1777 shm {dev}/shm",
        f"mount -t mqueue mqueue {dev}/mqueue",
        f"mount --move {dev} /dev",
    ]
