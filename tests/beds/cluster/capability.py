"""Says whether this machine can run a cluster; tests ask it before they start one."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

_HIERARCHIES = ("cpu", "cpuset", "devices", "memory", "pids")


def why_not() -> str | None:
    """Return why this machine cannot run a cluster, in words that name the remedy, or None when it can."""
    if platform.system() != "Linux":
        return "a Linux kernel is needed"
    if os.geteuid() != 0:
        return "it needs root: network and mount namespaces and cgroups are made"
    missing = [name for name in _HIERARCHIES if not Path("/sys/fs/cgroup", name).is_dir()]
    if missing:
        return (
            f"no cgroup v1 hierarchy for {', '.join(missing)}: the cluster is made for cgroup v1;"
            " boot with systemd.unified_cgroup_hierarchy=0"
        )
    if not os.access("/sys/fs/cgroup/pids", os.W_OK):
        return "/sys/fs/cgroup is read-only here; run in a privileged container or on a host"
    return _why_no_namespaces()


def _why_no_namespaces() -> str | None:
    """Try what every node needs: a network and a mount namespace, and an overlay mount is left to containerd."""
    try:
        argv = ["unshare", "-n", "-m", "-u", "true"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return "the command unshare is missing; install util-linux"
    if done.returncode:
        return f"namespaces cannot be made here: {done.stderr.strip()}"
    return None
