"""One node: namespaces of its own on this machine, with containerd, a kubelet and kube-proxy, and what tests do to it.

A node's programs see the machine's file system but for the private directories of `mounts`. A process that sleeps holds
the mount and UTS namespace; its pid is the way in. Everything runs in the node's cgroup.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.control import control_plane, pki
from tests.beds.cluster.control.wire import ApiClient
from tests.beds.cluster.errors import ClusterError
from tests.beds.cluster.layout import SERVER, Layout
from tests.beds.cluster.machine import cgroups, mounts, network, node_files, processes
from tests.beds.cluster.machine.processes import Process
from tests.lib.pki import Identity, StoredAuthority
from tests.lib.waits import wait_until

_PROXY_KUBECONFIG = f"{node_files.KUBELET_DIR}/kube-proxy.kubeconfig"


class Node:
    """A node of a cluster that is up."""

    components = ("containerd", "kubelet", "proxy")
    """In the order in which they start."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout = layout
        self.name = name
        self.address = layout.address(name)
        self.home = layout.node_home(name)

    kubeconfig = f"{node_files.KUBELET_DIR}/kubeconfig"
    """Path in the node of the kubelet's own credential (user system:node:NAME); /etc/kubernetes/kubelet.conf too."""

    def __repr__(self) -> str:
        return f"<Node {self.name} of {self.layout.name}>"

    # What tests do in a node

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        check: bool = True,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node to its end and return its output."""
        return commands.run(
            self.enter(argv),
            input=input,
            check=check,
            timeout_s=timeout_s,
            env=commands.base_env(env),
            shown=[f"{self.name}:", *argv],
        )

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that is `argv` in the node: in its namespaces and its cgroup."""
        cgroups.create(self._cgroup("run"))
        return cgroups.joined(self._cgroup("run"), [*self._enter(), *argv])

    def popen(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> Process:
        """Start a program in the node, in a cgroup of its own; it runs until it is ended or the cluster goes.

        `name` tells it from others in `logs` (by default the file name of the program, and a number).
        """
        name = name or self._free_name(Path(argv[0]).name)
        return processes.start(
            [*self._enter(), *argv],
            name=self._record(name),
            cgroup=self._cgroup(f"programs/{name}"),
            log=log or self.layout.logs / f"{self._record(name)}.log",
            records=self.layout.pids,
            env=commands.base_env(env),
            owns_cgroup=True,
        )

    def path(self, node_path: str) -> Path:
        """Return the path by which this machine's own programs reach a file of the node, its mounts included.

        An absolute symbolic link on the way would lead out of the node; only /var/run is known and followed here.
        """
        if node_path.startswith("/var/run/"):
            node_path = node_path.removeprefix("/var")
        return Path(f"/proc/{self._holder()}/root", node_path.lstrip("/"))

    def bind(self, host_dir: str | os.PathLike[str], node_path: str) -> None:
        """Mount a directory or file of the machine over a path in the node; it stays over `reboot`."""
        origin = os.fspath(host_dir)
        self.run(["sh", "-ec", _bind_script(Path(origin), node_path)])
        binds = [pair for pair in self._binds() if pair[1] != node_path]
        (self.home / "binds.json").write_text(json.dumps([*binds, (origin, node_path)]))

    # Its programs

    def start(self, component: str) -> None:
        """Start containerd, kubelet or proxy, unless it runs."""
        argv = self._argv(component)
        running = processes.find(self.layout.pids, self._record(component))
        if running and running.is_running:
            return
        processes.start(
            [*self._enter(), *argv],
            name=self._record(component),
            cgroup=self._cgroup(f"system/{component}"),
            log=self.layout.logs / f"{self._record(component)}.log",
            records=self.layout.pids,
            env=commands.base_env({"PATH": self._search_path()}),
        )
        if component == "containerd":
            self._wait_for_containerd()

    def stop(self, component: str, *, kill: bool = False) -> None:
        """End one of them; pods and their containers stay, as on a real host."""
        if component not in self.components:
            raise ClusterError(
                f"no component {component!r}", next_step=f"one of {', '.join(self.components)}"
            )
        running = processes.find(self.layout.pids, self._record(component))
        if running:
            running.end(kill=kill)

    def restart(self, component: str, *, kill: bool = False) -> None:
        """Stop and start one of them."""
        self.stop(component, kill=kill)
        self.start(component)

    def reboot(self) -> None:
        """Switch the node off and on: all its processes end, /run, /dev and the network are new, the boot id too.

        Programs that a test started are not started again. Returns when kubelet and containerd run; what the API says
        of the node is old until `wait_until_ready`.
        """
        self.power_off()
        self.power_on()

    def wait_until_ready(self, timeout_s: float = 60) -> None:
        """Wait until the API server says that the node, since its present boot, is Ready."""
        client = ApiClient(self.layout)
        boot_id = self.run(["cat", mounts.BOOT_ID]).stdout.strip()

        def is_ready() -> bool:
            status = client.get(f"/api/v1/nodes/{self.name}")["status"]
            ready = any(
                item["type"] == "Ready" and item["status"] == "True"
                for item in status["conditions"]
            )
            return bool(ready and status["nodeInfo"]["bootID"] == boot_id)

        wait_until(f"node {self.name} is Ready", is_ready, timeout_s=timeout_s, interval_s=0.2)

    def power_off(self) -> None:
        """End every process of the node at once and take its network away; what is on disk stays."""
        cgroups.end_processes(self._cgroup())
        processes.reap()
        cgroups.remove(self._cgroup())
        network.remove_node(self.layout, self.name)

    def power_on(self) -> None:
        """Start the node again after `power_off`, with an empty /run."""
        run_dir = mounts.source(self.home, mounts.RUN)
        shutil.rmtree(run_dir)
        run_dir.mkdir()
        self.boot()

    # How it comes up

    def prepare(self) -> None:
        """Write everything of the node that is on disk: private directories, configuration, credentials."""
        for path in (mounts.RUN, *mounts.PRIVATE):
            self._on_disk(path).mkdir(parents=True, exist_ok=True)
        node, pki_dir = self.name, self.layout.pki
        serving = Identity(
            user=f"system:node:{node}",
            groups=("system:nodes",),
            addresses=(self.address,),
            names=(node,),
        )
        identity = self.layout.identity(node)
        StoredAuthority(pki_dir).issue_to(identity, serving)
        credential = pki.kubeconfig(pki_dir, identity, SERVER)
        kubelet_dir = self._on_disk(node_files.KUBELET_DIR)
        (kubelet_dir / "pki").mkdir()
        shutil.copyfile(pki_dir / "ca.crt", kubelet_dir / "pki" / "ca.crt")
        for suffix in ("crt", "key"):
            shutil.copy(pki_dir / f"{identity}.{suffix}", kubelet_dir / "pki" / f"kubelet.{suffix}")
        cni_plugins = self.layout.program("bridge").parent
        self._write("/etc/containerd/config.toml", node_files.containerd(cni_plugins))
        self._write(f"{node_files.CNI_DIR}/10-pods.conflist", node_files.cni(self.layout, node))
        kubelet_config = node_files.kubelet(self.layout, node, self._pods_cgroup)
        self._write(f"{node_files.KUBELET_DIR}/config.yaml", kubelet_config)
        for path in (self.kubeconfig, "/etc/kubernetes/kubelet.conf"):
            self._write(path, credential, mode=0o600)
        proxy_credential = pki.kubeconfig(pki_dir, "proxy", SERVER)
        self._write(_PROXY_KUBECONFIG, proxy_credential, mode=0o600)
        self._write("/etc/hostname", f"{node}\n")
        self._write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        hosts = [f"{self.layout.address(other)} {other}\n" for other in self.layout.nodes]
        self._write("/etc/hosts", "".join(["127.0.0.1 localhost\n", *hosts]))

    def boot(self) -> None:
        """Make the namespaces and start the node's programs."""
        cgroups.create(self._cgroup())
        network.add_node(self.layout, self.name)
        self._start_holder()
        for component in self.components:
            if component != "proxy" or self.layout.proxy_on_nodes:
                self.start(component)

    def import_images(self, archive: Path) -> None:
        """Import a docker-archive or OCI tar into containerd."""
        if not archive.is_file():
            raise ClusterError(f"no image archive {archive}")
        self.ctr("images", "import", str(archive), timeout_s=300)

    def ctr(self, *arguments: str, timeout_s: float = 60) -> str:
        """Run containerd's own client in the namespace of Kubernetes and return its output."""
        client = str(self.layout.program("ctr"))
        words = [client, f"--address={node_files.CONTAINERD_SOCKET}", "--namespace=k8s.io"]
        return self.run([*words, *arguments], timeout_s=timeout_s).stdout

    def _start_holder(self) -> None:
        ready = self.home / "ready"
        ready.unlink(missing_ok=True)
        self._write(mounts.BOOT_ID, f"{uuid.uuid4()}\n")
        script = mounts.script(self.home, self.name, self._binds(), ready)
        argv = [*network.inside(self.layout.node_netns(self.name)), "unshare", "-m", "-u", "--"]
        holder = processes.start(
            [*argv, "/bin/sh", "-c", script],
            name=self._record("holder"),
            cgroup=self._cgroup("holder"),
            log=self.layout.logs / f"{self._record('holder')}.log",
            records=self.layout.pids,
            env=commands.base_env(),
        )

        def is_ready() -> bool:
            if not holder.is_running:
                raise ClusterError(
                    f"node {self.name} did not get its namespaces", next_step=f"read {holder.log}"
                )
            return ready.exists()

        wait_until(f"node {self.name} has its namespaces", is_ready, timeout_s=30)

    def _wait_for_containerd(self) -> None:
        path = str(self.path(node_files.CONTAINERD_SOCKET))
        process = processes.find(self.layout.pids, self._record("containerd"))

        def answers() -> bool:
            if process and not process.is_running:
                raise ClusterError(
                    f"containerd of {self.name} ended", next_step=f"read {process.log}"
                )
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(path)
                return True
            return False

        wait_until(f"containerd of {self.name} answers", answers, timeout_s=30)

    def _argv(self, component: str) -> list[str]:
        if component == "containerd":
            return node_files.containerd_argv(self.layout)
        if component == "kubelet":
            return node_files.kubelet_argv(self.layout, self.name)
        if component == "proxy":
            flags = control_plane.proxy_flags(Path(_PROXY_KUBECONFIG))
            return [str(self.layout.program("kube-proxy")), *flags]
        raise ClusterError(
            f"no component {component!r}", next_step=f"one of {', '.join(self.components)}"
        )

    @property
    def _pods_cgroup(self) -> str:
        """The kubelet's cgroupRoot, as the kubelet sees it."""
        return f"/{self._cgroup()}"

    def _on_disk(self, path: str) -> Path:
        """Return where a private file or directory of the node lies, node on or off."""
        return mounts.source(self.home, path)

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self._holder()), "-m", "-u", "-n", "--"]

    def _holder(self) -> int:
        holder = processes.find(self.layout.pids, self._record("holder"))
        if holder is None or not holder.is_running:
            raise ClusterError(
                f"node {self.name} of cluster {self.layout.name} is off",
                next_step="start the cluster again",
            )
        return holder.pid

    def _search_path(self) -> str:
        return f"{self.layout.program('containerd').parent}:{commands.BASE_PATH}"

    def _cgroup(self, below: str = "") -> str:
        root = self.layout.node_cgroup(self.name)
        return f"{root}/{below}" if below else root

    def _record(self, component: str) -> str:
        return f"{self.name}.{component}"

    def _free_name(self, program: str) -> str:
        number = 1
        while processes.find(self.layout.pids, self._record(f"{program}-{number}")):
            number += 1
        return f"{program}-{number}"

    def _binds(self) -> list[tuple[str, str]]:
        path = self.home / "binds.json"
        if not path.exists():
            return []
        return [(origin, target) for origin, target in json.loads(path.read_text())]

    def _write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self._on_disk(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=mode)
        target.write_text(text)


def _bind_script(origin: Path, target: str) -> str:
    """Return the commands that mount `origin` over `target`, which is made when it is not there."""
    if not origin.exists():
        raise ClusterError(f"no {origin} to bind over {target}")
    make = 'mkdir -p "$t"' if origin.is_dir() else 'mkdir -p "${t%/*}"; [ -e "$t" ] || touch "$t"'
    return f"t='{target}'; {make}; {mounts.bind_line(str(origin), target)}"
