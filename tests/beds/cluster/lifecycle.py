"""A cluster from nothing to Ready, and to nothing again. Called by `api` and the command line.

`down` works from the name alone and on whatever is there, because an `up` can be killed at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from tests.beds.cluster import capability
from tests.beds.cluster import layout as layouts
from tests.beds.cluster.artifacts import build, host_image, images
from tests.beds.cluster.control import control_plane
from tests.beds.cluster.control.wire import ApiClient
from tests.beds.cluster.errors import ClusterError
from tests.beds.cluster.layout import Layout
from tests.beds.cluster.machine import cgroups, network, processes
from tests.beds.cluster.machine.node import Node
from tests.beds.cluster.machine.systemd_node import SystemdNode
from tests.lib.waits import WaitError, wait_until

_UP = "up"
"""File in a cluster's directory: it came up."""

_OWNER = "owner"
"""File that a program keeps locked whose end is to be the cluster's, too."""

_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


def up(layout: Layout, say: build.Say = build.say_on_stderr) -> None:
    """Build what is missing and start the cluster; returns when all nodes are Ready and have the test images.

    A start that fails is taken down again, but for its logs, whose directory the error names. What is left of a cluster
    of this name, of which no program runs any more, is removed first.
    """
    reason = capability.why_not()
    if reason:
        raise ClusterError(f"this machine cannot run a cluster: {reason}")
    build.ensure(layout.kubernetes, say, has_nodes=bool(layout.nodes))
    if layout.systemd_nodes:
        host_image.ensure(say)
    archive = images.ensure() if layout.nodes else Path()
    with _taken(layout, say):
        try:
            _start(layout, archive)
            (layout.home / _UP).touch()
        except BaseException as error:
            saved = _keep_logs(layout)
            down(layout.name)
            if isinstance(error, (ClusterError, WaitError)):
                raise ClusterError(f"{error} (logs: {saved})") from error
            raise


@contextlib.contextmanager
def _taken(layout: Layout, say: build.Say) -> Iterator[None]:
    """Make the cluster's directory, and keep it locked while the cluster starts: until its first
    program runs, nothing else tells it from one that was left behind.
    """
    root = layouts.clusters_dir()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".up.lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        _remove_left(layout, say)
        layout.save()
        home = os.open(layout.home, os.O_RDONLY)
        fcntl.flock(home, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(home)


def _remove_left(layout: Layout, say: build.Say) -> None:
    """Remove a cluster whose program was killed, or which ended with the machine; `ClusterError`
    when the one of this name is in use.
    """
    if not layout.home.exists():
        return
    if _is_locked(layout.home) or _is_in_use(layout):
        raise ClusterError(
            f"cluster {layout.name} exists",
            next_step=f"run: python -m tests.beds.cluster down --name {layout.name}",
        )
    say(f"removing what is left of an earlier cluster {layout.name}")
    down(layout.name)


def _is_in_use(layout: Layout) -> bool:
    if not (layout.home / _UP).exists() or not cgroups.processes(layout.cgroup):
        return False
    owner = layout.home / _OWNER
    return not owner.exists() or _is_locked(owner)


def own(layout: Layout) -> TextIO:
    """Tie a cluster to this program: once the returned file is closed, or the program is killed,
    the next `up` of the name replaces the cluster.
    """
    file = (layout.home / _OWNER).open("w")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _start(layout: Layout, archive: Path) -> None:
    _allow_many_inotify_instances()
    network.create(layout)
    nodes = [open_node(layout, name) for name in layout.nodes]
    control_plane.prepare(layout)
    for node in nodes:
        node.prepare()
    with ThreadPoolExecutor(max_workers=8) as pool:
        servers = pool.submit(control_plane.start_all, layout)
        for done in [pool.submit(_boot, node, archive) for node in nodes]:
            done.result()
        servers.result()
    wait_until_ready(layout, started=processes.all_recorded(layout.pids))


def open_node(layout: Layout, name: str) -> Node:
    """Return the node of that name, of the kind that it is."""
    return (SystemdNode if name in layout.systemd_nodes else Node)(layout, name)


def _boot(node: Node, archive: Path) -> None:
    node.boot()
    node.import_images(archive)


def wait_until_ready(
    layout: Layout, timeout_s: float = 120, started: list[processes.Process] | None = None
) -> None:
    """Wait until every node is Ready and the namespace `default` can take pods; fail when one of `started` ends."""
    client = ApiClient(layout)

    def are_ready() -> bool:
        if started is not None:
            _complain_about_ended(started)
        try:
            nodes = client.get("/api/v1/nodes")["items"]
        except OSError:
            return False
        ready = {node["metadata"]["name"] for node in nodes if _is_ready(node)}
        return ready >= set(layout.nodes)

    what = f"nodes {', '.join(layout.nodes)} are Ready"
    wait_until(what, are_ready, timeout_s=timeout_s, interval_s=0.2)
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    wait_until("ServiceAccount default is there", lambda: client.says_ok(account), timeout_s=30)


def node_programs(layout: Layout) -> list[processes.Process]:
    """Return kubelet and containerd of every node, as they were started last; those of systemd nodes are its systemd's."""
    names = [
        f"{node}.{component}"
        for node in layout.nodes
        if node not in layout.systemd_nodes
        for component in ("containerd", "kubelet")
    ]
    found = [processes.find(layout.pids, name) for name in names]
    return [process for process in found if process]


def _is_ready(node: dict[str, object]) -> bool:
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _complain_about_ended(started: list[processes.Process]) -> None:
    for process in started:
        if not process.is_running:
            raise ClusterError(f"{process.name} ended", next_step=f"read {process.log}")


def down(name: str) -> None:
    """Remove a cluster, whole or half: processes, namespaces, mounts, cgroups and its directory. None there is fine."""
    home = layouts.clusters_dir() / name
    root = f"{layouts.PREFIX}.{name}"
    if not name or name != Path(name).name:
        raise ClusterError(f"bad cluster name {name!r}")
    cgroups.end_processes(root)
    processes.reap()
    network.remove(root)
    cgroups.remove(root)
    # Its mounts were in mount namespaces that ended with their last process.
    if home.exists():
        _retry(lambda: shutil.rmtree(home))


def _retry(remove: Callable[[], None]) -> None:
    def is_done() -> bool:
        try:
            remove()
        except FileNotFoundError:
            return True
        except OSError as error:
            print(f"still busy: {error}", file=sys.stderr)
            return False
        return True

    wait_until("the cluster's directory is removed", is_done, timeout_s=10, interval_s=0.2)


def leftovers(name: str) -> list[str]:
    """Return what is still there of a cluster: processes, namespaces, cgroups, mounts, its directory."""
    root, home = f"{layouts.PREFIX}.{name}", layouts.clusters_dir() / name
    found = [f"process {pid}" for pid in cgroups.processes(root)]
    found += [f"network namespace {item}" for item in network.existing(root)]
    found += [f"cgroup {path / root}" for path in cgroups.hierarchies() if (path / root).exists()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if f"{home}/" in line]
    return [*found, f"directory {home}"] if home.exists() else found


def _keep_logs(layout: Layout) -> Path:
    target = layouts.clusters_dir().parent / "nvdra-cluster-failed" / f"{layout.name}-{os.getpid()}"
    shutil.rmtree(target, ignore_errors=True)
    if layout.logs.is_dir():
        shutil.copytree(layout.logs, target)
    return target


def _allow_many_inotify_instances() -> None:
    # The default of 128 is used up by the fifteenth kubelet.
    if int(_INOTIFY.read_text()) < 4096:
        _INOTIFY.write_text("4096")
