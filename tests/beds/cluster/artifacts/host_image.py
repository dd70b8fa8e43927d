"""The root file system of nodes that are hosts with a systemd of their own: Debian 12, made once into the cache.

Its init remounts the cgroup hierarchies writable before systemd starts. systemd-nspawn hands them over read-only, and
systemd then leaves DevicePolicy= and MemoryMax= out without a word; a unit's sandbox would be tested in name only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.artifacts.build import Say, install_packages, say_on_stderr

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "conntrack",
    "dbus",
    "iproute2",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "python3",
    "python3-apt",
    "runc",
    "systemd",
    "systemd-sysv",
    "util-linux",
)
TOOLS = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container"}
"""Command that systemd nodes need on this machine -> its Debian package."""

_SYSTEMD = "usr/lib/systemd/systemd"
_INIT = f"""\
#!/bin/sh
if [ $$ = 1 ]; then
  for hierarchy in /sys/fs/cgroup/*/; do
    mountpoint -q "$hierarchy" && mount -o remount,bind,rw "$hierarchy"
  done
fi
exec /{_SYSTEMD}.real "$@"
"""
_MASKED = (
    "console-getty",
    "getty@",
    "systemd-logind",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)


def ensure(say: Say = say_on_stderr) -> Path:
    """Return the directory with the root file system; make it when it is not there (20 s)."""
    install_packages(say, TOOLS)
    key = hashlib.sha256(repr((SUITE, PACKAGES, _INIT, _MASKED)).encode()).hexdigest()[:8]
    root = programs.cache_dir() / "hosts" / f"{SUITE}-{key}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            say("making the root file system of systemd nodes (about 20 s)")
            _make(root)
    return root


def _make(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".making-") as name:
        target = Path(name, "root")
        include = f"--include={','.join(PACKAGES)}"
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", include, SUITE, str(target)]
        env = {**os.environ, "PATH": commands.BASE_PATH}
        commands.run(argv, timeout_s=900, env=env)
        systemd = target / _SYSTEMD
        systemd.rename(systemd.with_name("systemd.real"))
        systemd.write_text(_INIT)
        systemd.chmod(0o755)
        for unit in _MASKED:
            file = unit if "." in unit else f"{unit}.service"
            (target / "etc/systemd/system" / file).symlink_to("/dev/null")
        for path in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(target / path, ignore_errors=True)
        target.rename(root)
