"""Nodes' own credentials on a rack: the chart's rights, variables of the playbooks, and checks afterwards."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.beds.cluster.driver import manifests as m
from tests.beds.rack.hosts import Rack
from tests.unit.chart import helm

PLACE, ACCOUNT = "nvdra", "nvdra-node"
TOKEN = "/var/lib/nvdra/credential/token"
RENEWAL = "nvdra-credential.service"
SAMPLE_INTERVAL_S = 0.03
SAMPLES = 4
_BESIDE = ("Deployment", "PodDisruptionBudget")
"""Kinds of the chart that a node's credential does not need."""
_ABROAD = {
    "another node's": ["--bound-object-kind", "Node", "--bound-object-name", "OTHER"],
    "one bound to nothing": [],
    "one for 8 days": ["--bound-object-kind", "Node", "--bound-object-name", "OWN", "--duration", "192h"],
    "one for another audience": ["--bound-object-kind", "Node", "--bound-object-name", "OWN", "--audience", "vault"],
}  # fmt: skip
"""Token requests that must be refused to a node."""


def set_up(rack: Rack) -> None:
    """Install the chart without the controller."""
    for path in sorted((helm.CHART / "crds").iterdir()):
        rack.cluster.apply(path.read_text())
    rack.bed.apply(m.namespace(PLACE))
    place = rack.home / "helm"
    place.mkdir(exist_ok=True)
    made = [obj for obj in helm.render(place, namespace=PLACE) if obj["kind"] not in _BESIDE]
    rack.cluster.apply(yaml.safe_dump_all(made))


def variables(rack: Rack) -> dict[str, Any]:
    """Variables of the playbook site: which credential, and how kubectl is run here."""
    return {"nvdra_credential": "service_account", **kubectl(rack)}


def kubectl(rack: Rack) -> dict[str, Any]:
    """How kubectl is run on the machine that has the rack."""
    layout = rack.cluster.layout
    return {
        "nvdra_kubectl": [*rack.cluster.enter, str(layout.program("kubectl"))],
        "nvdra_kubeconfig": str(layout.admin_kubeconfig),
    }


def token(rack: Rack, host: str) -> str:
    """The token that a host has."""
    return rack.hosts[host].path(TOKEN).read_text().strip()


def problems(rack: Rack, host: str) -> list[str]:
    """Problems of the credential on a host: subject, file modes, whether the API server accepts it."""
    node = rack.hosts[host]
    found = []
    for path in (TOKEN, "/etc/nvdra/kubeconfig"):
        mode = node.path(path).stat().st_mode & 0o777
        if mode != 0o600:
            found.append(f"{path} has mode {mode:o}")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token(rack, host)},
    }
    said = rack.cluster.client.request(
        "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review
    )
    user = said["status"].get("user", {})
    if user.get("username") != f"system:serviceaccount:{PLACE}:{ACCOUNT}":
        found.append(f"user {user.get('username')}")
    bound = user.get("extra", {}).get("authentication.kubernetes.io/node-name")
    if bound != [host]:
        found.append(f"bound to {bound}")
    return found


def foreign_tokens(rack: Rack, host: str, other: str) -> list[str]:
    """Token requests of ``_ABROAD`` that the API server granted to the node."""
    found = []
    config = _kubeconfig(rack, host)
    for what, words in _ABROAD.items():
        known = {"OTHER": other, "OWN": host}
        argv = ["--kubeconfig", str(config), "create", "token", ACCOUNT, "-n", PLACE]
        said = rack.cluster.kubectl(*argv, *(known.get(w, w) for w in words), check=False)
        if said.count(".") == 2 or "forbidden" not in said:
            found.append(what)
    return found


def _kubeconfig(rack: Rack, host: str) -> Path:
    """The administrator's kubeconfig with the host's token in place of the certificate."""
    document = yaml.safe_load(rack.cluster.layout.admin_kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token(rack, host)}
    path = rack.home / f"{host}.kubeconfig"
    path.write_text(json.dumps(document))
    return path


def make(rack: Rack, host: str, life: str) -> str:
    """A token for a host with another lifetime than the playbook's."""
    argv = ["create", "token", ACCOUNT, "-n", PLACE, "--duration", life]
    made = rack.cluster.kubectl(*argv, "--bound-object-kind", "Node", "--bound-object-name", host)
    return made.strip()


def renew(rack: Rack, host: str) -> str:
    """Run the renewal unit; its log."""
    node = rack.hosts[host]
    journal = ["journalctl", "--no-pager", "-o", "cat", "-u", RENEWAL]
    # A cursor of an entry that the filter leaves out would cost the first entry after it.
    seen = node.run([*journal, "--lines", "1", "--show-cursor"], check=False).stdout
    last = seen.rpartition("-- cursor: ")
    after = ["--after-cursor", last[2].strip()] if last[1] else []
    node.run(["systemctl", "start", RENEWAL], check=False, timeout_s=120)
    node.run(["journalctl", "--sync"])
    # Without an entry it ends with 1.
    said = node.run([*journal, *after], check=False).stdout
    return "" if said.startswith("-- No entries --") else said


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collect tokens in arguments and environments of all processes of this machine while entered."""
    seen: set[str] = set()
    ended = threading.Event()

    def sample() -> None:
        samples: dict[str, int] = {}
        while not ended.wait(SAMPLE_INTERVAL_S):
            pids = {entry.name for entry in os.scandir("/proc") if entry.name.isdigit()}
            samples = {pid: samples.get(pid, 0) + 1 for pid in pids}
            for pid, count in samples.items():
                # Arguments and environment appear at exec, some ms after the fork: sample a process several times.
                if count <= SAMPLES:
                    seen.update(_tokens(Path("/proc", pid, "cmdline")))
                    seen.update(_tokens(Path("/proc", pid, "environ")))

    thread = threading.Thread(target=sample, name="watch for tokens")
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _tokens(path: Path) -> set[str]:
    """Words of a file of /proc that have the form of a ServiceAccount token."""
    try:
        words = path.read_bytes().replace(b"\0", b" ").split()
    except OSError:
        return set()  # it ended, or is a thread of the kernel
    return {w.decode(errors="replace") for w in words if b"eyJ" in w and w.count(b".") >= 2}


def traces(rack: Rack, host: str, since: float) -> list[str]:
    """Files and journals that hold the host's token and should not."""
    secret = token(rack, host).encode()
    node = rack.hosts[host]
    written = [*(rack.home / "logs").glob("ansible-*.log"), *(rack.home / "ansible").rglob("*")]
    found = [str(path) for path in written if path.is_file() and secret in path.read_bytes()]
    journal = node.run(
        ["journalctl", "--no-pager", "-o", "json", "--since", f"@{since:.0f}"]
    ).stdout
    if secret in journal.encode():
        found.append("journal")
    for place in ("/root", "/tmp", "/var/tmp", "/etc", "/var/log"):
        argv = ["grep", "-rlsF", "--", secret.decode()[-40:], place]
        found += node.run(argv, check=False).stdout.split()
    return found
