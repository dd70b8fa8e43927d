"""What test code uses: `Cluster`, its `Node`s and the `Process`es started in them.

    with Cluster.up("demo", nodes=2, kubernetes="1.36") as cluster:
        cluster.apply(manifest)
        cluster.nodes[0].run(["ip", "addr"])

A cluster outlives the program that started it unless `down` is called or it is used as a context
manager. The cluster of a context that was killed stays until the next `up` of its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tests.beds.cluster import commands, lifecycle
from tests.beds.cluster import layout as layouts
from tests.beds.cluster.artifacts import build, programs
from tests.beds.cluster.control import control_plane
from tests.beds.cluster.control.wire import ApiClient, ApiError
from tests.beds.cluster.errors import ClusterError, CommandError
from tests.beds.cluster.layout import Layout
from tests.beds.cluster.machine import network, processes
from tests.beds.cluster.machine.node import Node
from tests.beds.cluster.machine.processes import Process

__all__ = ["ApiClient", "ApiError", "Cluster", "ClusterError", "CommandError", "Node", "Process"]

PROXY_ON_NODES_UP_TO = 4
"""A kube-proxy takes 100 MB: with more nodes than this only the control plane has one, unless asked otherwise."""


class Cluster:
    """A cluster that is up."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.name = layout.name
        self.kubernetes = layout.kubernetes
        self.nodes = [lifecycle.open_node(layout, name) for name in layout.nodes]
        self.client = ApiClient(layout)
        """The API as an administrator, for questions that come often."""
        self._owned: TextIO | None = None

    def __repr__(self) -> str:
        return f"<Cluster {self.name}: {len(self.nodes)} nodes, Kubernetes {self.kubernetes}>"

    @classmethod
    def up(
        cls,
        name: str,
        nodes: int | Sequence[str] = 1,
        kubernetes: str = programs.NEWEST,
        *,
        feature_gates: Mapping[str, bool] | None = None,
        proxy_on_nodes: bool | None = None,
        systemd_nodes: int = 0,
        binds: Sequence[tuple[str | os.PathLike[str], str]] = (),
        audit: bool = False,
        say: build.Say = build.say_on_stderr,
    ) -> Cluster:
        """Start a cluster and return when its nodes are Ready; builds what is missing first.

        `nodes` is how many ("node-1" and so on; 0 for a control plane alone) or their names; `feature_gates` are laid
        over `layout.default_gates`. The last `systemd_nodes` of the nodes are hosts with a systemd of their own, which
        see the `binds` (directory of the machine, path in the node). With `audit` `layout.audit_log` has every request.
        Raises `ClusterError`, and leaves nothing but logs, when it does not come up.
        """
        given = [f"node-{i}" for i in range(1, nodes + 1)] if isinstance(nodes, int) else nodes
        programs.kubernetes(kubernetes)
        if proxy_on_nodes is None:
            proxy_on_nodes = len(given) <= PROXY_ON_NODES_UP_TO
        layout = Layout(
            name=name,
            kubernetes=kubernetes,
            nodes=tuple(given),
            feature_gates={**layouts.default_gates(kubernetes), **(feature_gates or {})},
            proxy_on_nodes=proxy_on_nodes,
            systemd_nodes=tuple(given[len(given) - systemd_nodes :]),
            binds=tuple((os.fspath(origin), target) for origin, target in binds),
            audit=audit,
        )
        lifecycle.up(layout, say)
        return cls(layout)

    @classmethod
    def load(cls, name: str) -> Cluster:
        """Return a cluster that another program started."""
        return cls(layouts.load(name))

    def down(self) -> None:
        """Remove the cluster; safe to repeat."""
        lifecycle.down(self.name)
        if self._owned:
            self._owned.close()

    def __enter__(self) -> Cluster:
        self._owned = lifecycle.own(self.layout)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def node(self, name: str) -> Node:
        """Return a node by its name."""
        self.layout.index(name)
        return next(node for node in self.nodes if node.name == name)

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> str:
        """Run kubectl as administrator and return what it printed; `CommandError` when it fails and `check` is set."""
        env = commands.base_env(self.environment)
        argv = [*self.enter, str(self.layout.program("kubectl")), *arguments]
        shown = ["kubectl", *arguments]
        done = commands.run(
            argv, input=input, check=check, timeout_s=timeout_s, env=env, shown=shown
        )
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, manifest: str) -> str:
        """Apply YAML text and return what kubectl printed."""
        return self.kubectl("apply", "-f", "-", input=manifest)

    @property
    def enter(self) -> list[str]:
        """The words before a command that is to reach the API server from this machine."""
        return network.inside(self.layout.netns)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of such a command: the administrator's kubeconfig."""
        return {
            "KUBECONFIG": str(self.layout.admin_kubeconfig),
            "KUBECACHEDIR": str(self.layout.home / "kubectl-cache"),
        }

    def popen(
        self,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> Process:
        """Start a program beside the control plane, on the machine's own file system; it ends with the cluster."""
        return processes.start(
            [*self.enter, *argv],
            name=name,
            cgroup=f"{self.layout.cgroup}/programs/{name}",
            log=log or self.layout.logs / f"{name}.log",
            records=self.layout.pids,
            env=commands.base_env({**self.environment, **(env or {})}),
            owns_cgroup=True,
        )

    def start(self, component: str) -> None:
        """Start etcd, apiserver, controller-manager, scheduler or proxy of the control plane, unless it runs."""
        control_plane.start(self.layout, component)

    def stop(self, component: str, *, kill: bool = False) -> None:
        """End one of them; the rest goes on without."""
        control_plane.stop(self.layout, component, kill=kill)

    def restart(self, component: str, *, kill: bool = False) -> None:
        """Stop and start one of them."""
        self.stop(component, kill=kill)
        self.start(component)

    def import_images(self, *archives: Path) -> None:
        """Import image archives into every node."""
        for node in self.nodes:
            for archive in archives:
                node.import_images(archive)

    def log(self, component: str) -> str:
        """Return the log of a program: "apiserver", "node-1.kubelet"."""
        path = self.layout.logs / f"{component}.log"
        if not path.exists():
            have = ", ".join(sorted(item.stem for item in self.layout.logs.glob("*.log")))
            raise ClusterError(f"no log of {component}", next_step=f"there are: {have}")
        return path.read_text(errors="replace")

    def wait_until_ready(self, timeout_s: float = 120) -> None:
        """Wait until all nodes are Ready; fail at once when a kubelet or containerd has ended, as the
        API server takes a while to notice that.
        """
        lifecycle.wait_until_ready(self.layout, timeout_s, lifecycle.node_programs(self.layout))
