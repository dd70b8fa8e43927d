"""The programs of a cluster's control plane: their command lines, their start in the right order, and their end.

All run in the cluster's own network namespace and cgroup. Called by `lifecycle` for a whole cluster and by tests that
stop and start one of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.control import pki
from tests.beds.cluster.control.wire import ApiClient
from tests.beds.cluster.errors import ClusterError
from tests.beds.cluster.layout import (
    API_SERVICE_ADDRESS,
    BRIDGE_ADDRESS,
    POD_NETWORK,
    SERVER,
    SERVICE_NETWORK,
    Layout,
)
from tests.beds.cluster.machine import network, processes
from tests.lib.pki import Identity
from tests.lib.waits import wait_until

COMPONENTS = ("etcd", "apiserver", "controller-manager", "scheduler", "proxy")
"""In the order in which they start."""

STOP_TIMEOUT_S = 3

_ETCD = "http://127.0.0.1:2379"

_AUDIT_POLICY = "audit-policy.json"
_AUDIT_EVERYTHING = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

IDENTITIES = {
    "admin": Identity(user="nvdra-test-admin", groups=("system:masters",)),
    "apiserver": Identity(
        user="kube-apiserver",
        groups=("system:masters",),
        addresses=(BRIDGE_ADDRESS, API_SERVICE_ADDRESS, "127.0.0.1"),
        names=("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"),
    ),
    "controller-manager": Identity(user="system:kube-controller-manager"),
    "scheduler": Identity(user="system:kube-scheduler"),
    "proxy": Identity(user="system:kube-proxy"),
    "front-proxy": Identity(user="front-proxy-client"),
}


def prepare(layout: Layout) -> None:
    """Write certificates and kubeconfigs."""
    authority = pki.create_authority(layout.pki)
    for name, identity in IDENTITIES.items():
        authority.issue_to(name, identity)
        text = pki.kubeconfig(layout.pki, name, SERVER)
        path = layout.admin_kubeconfig if name == "admin" else layout.pki / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(text)
    (layout.home / _AUDIT_POLICY).write_text(json.dumps(_AUDIT_EVERYTHING))


def start_all(layout: Layout) -> None:
    """Start everything and wait until the API server is ready; without nodes no scheduler and no proxy."""
    for component in COMPONENTS if layout.nodes else COMPONENTS[:3]:
        start(layout, component)


def start(layout: Layout, component: str) -> None:
    """Start one program unless it runs; wait for the API server to be ready when it is the one."""
    running = processes.find(layout.pids, component)
    if running and running.is_running:
        return
    processes.start(
        [*network.inside(layout.netns), *_argv(layout, component)],
        name=component,
        cgroup=f"{layout.cgroup}/control-plane",
        log=layout.logs / f"{component}.log",
        records=layout.pids,
        env=commands.base_env({"GOGC": "100"}),
    )
    if component == "apiserver":
        wait_ready(layout)


def stop(layout: Layout, component: str, *, kill: bool = False) -> None:
    """End one program; it stays down until it is started again."""
    if component not in COMPONENTS:
        raise ClusterError(
            f"no component {component!r}", next_step=f"one of {', '.join(COMPONENTS)}"
        )
    running = processes.find(layout.pids, component)
    if running:
        # Asked to end, the API server and etcd wait for their watchers, who do not go.
        running.end(STOP_TIMEOUT_S, kill=kill)


def wait_ready(layout: Layout, timeout_s: float = 60) -> None:
    """Wait until the API server says that it is ready; fail at once when it has ended."""
    client = ApiClient(layout, timeout_s=5)
    server = processes.find(layout.pids, "apiserver")

    def is_ready() -> bool:
        if server and not server.is_running:
            raise ClusterError("the API server ended", next_step=f"read {server.log}")
        return client.says_ok("/readyz")

    wait_until("the API server is ready", is_ready, timeout_s=timeout_s, interval_s=0.1)


def _argv(layout: Layout, component: str) -> list[str]:
    if component == "etcd":
        return _etcd(layout)
    gates = ",".join(f"{name}={str(on).lower()}" for name, on in layout.feature_gates.items())
    flags = {
        "apiserver": _apiserver,
        "controller-manager": _controller_manager,
        "scheduler": _scheduler,
        "proxy": _proxy,
    }[component](layout)
    argv = [str(layout.program(f"kube-{component}")), *flags, "--v=2"]
    return [*argv, f"--feature-gates={gates}"] if gates else argv


def _etcd(layout: Layout) -> list[str]:
    return [
        str(layout.program("etcd")),
        f"--data-dir={layout.home}/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(layout: Layout) -> list[str]:
    directory = layout.pki
    audit = [
        f"--audit-policy-file={layout.home / _AUDIT_POLICY}",
        f"--audit-log-path={layout.audit_log}",
    ]
    return [
        *(audit if layout.audit else []),
        f"--etcd-servers={_ETCD}",
        f"--advertise-address={BRIDGE_ADDRESS}",
        "--secure-port=6443",
        f"--client-ca-file={directory}/ca.crt",
        f"--tls-cert-file={directory}/apiserver.crt",
        f"--tls-private-key-file={directory}/apiserver.key",
        f"--kubelet-certificate-authority={directory}/ca.crt",
        f"--kubelet-client-certificate={directory}/apiserver.crt",
        f"--kubelet-client-key={directory}/apiserver.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={directory}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={directory}/front-proxy.crt",
        f"--proxy-client-key-file={directory}/front-proxy.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={directory}/sa.pub",
        f"--service-account-signing-key-file={directory}/sa.key",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--allow-privileged",
        "--runtime-config=resource.k8s.io/v1beta1=true,resource.k8s.io/v1beta2=true,"
        "resource.k8s.io/v1alpha3=true",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    directory = layout.pki
    return [
        *_own_kubeconfig(layout, "controller-manager"),
        "--use-service-account-credentials",
        f"--service-account-private-key-file={directory}/sa.key",
        f"--root-ca-file={directory}/ca.crt",
        f"--cluster-signing-cert-file={directory}/ca.crt",
        f"--cluster-signing-key-file={directory}/ca.key",
        "--leader-elect=false",
        # Its start asks for a token for each of its controllers: five seconds at the default of 20
        # a second.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(layout: Layout) -> list[str]:
    return [*_own_kubeconfig(layout, "scheduler"), "--leader-elect=false"]


def _proxy(layout: Layout) -> list[str]:
    return proxy_flags(layout.pki / "proxy.kubeconfig")


def _own_kubeconfig(layout: Layout, component: str) -> list[str]:
    path = layout.pki / f"{component}.kubeconfig"
    flags = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
    return [f"{flag}={path}" for flag in flags]


def proxy_flags(kubeconfig: Path) -> list[str]:
    """Return the flags of kube-proxy, for the control plane's namespace and for nodes."""
    return [
        f"--kubeconfig={kubeconfig}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={POD_NETWORK}",
        # Its own defaults write settings of the whole machine.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]
