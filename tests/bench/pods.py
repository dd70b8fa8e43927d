"""The same eight pods with and without a GPU each, on one node of a real cluster: from apply to the last one Running.

A GPU pod cannot be faster than a plain one, so the measure is the ratio of the two in the same round. Each round starts
the plugin again and takes both kinds of pods, in alternating order.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.beds.cluster import capability
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.errors import ClusterError
from tests.bench import machine, measures
from tests.bench.errors import BenchError
from tests.bench.machine import Machine
from tests.bench.plugin.benchmark import alternating
from tests.bench.plugin.claims import GPUS
from tests.bench.plugin.contender import DRIVER, REPOSITORY, Contender
from tests.bench.report import Report
from tests.lib import objects
from tests.lib.objects import Object
from tests.lib.waits import WaitError, wait_until

CLUSTER = "bench"
IMAGE = "docker.io/library/busybox:1.36"
TIMEOUT_S = 120.0
POLL_S = 0.05
SETTLE_S = 3.0
"""What a plugin yet does after it has published (listing the driver's files) is no part of any pod."""

_PODS = "/api/v1/namespaces/default/pods"
_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"


def compare(contenders: Sequence[Contender], *, number: int, work: Path) -> Report:
    """Measure every contender in `number` interleaved rounds on one cluster, removed afterwards."""
    reason = capability.why_not()
    if reason:
        raise BenchError(f"no cluster on this machine: {reason}")
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[float]]] = {one.name: {} for one in contenders}
    try:
        with Cluster.up(CLUSTER) as cluster:
            cluster.apply(_json(_setting_up()))
            _wait(lambda: cluster.client.says_ok(_ACCOUNT), "a ServiceAccount")
            _run(cluster, _manifest(gpus=False))  # the first pods pay for cold caches
            for index, order in enumerate(alternating(contenders, number)):
                for one in order:
                    _say(f"pods, round {index + 1} of {number}: {one.name}")
                    for key, value in _round(cluster, one, index, work).items():
                        results[one.name].setdefault(key, []).append(value)
    except ClusterError as error:
        raise BenchError(str(error)) from error
    notes = [f"{number} rounds, median (min..max); Kubernetes {cluster.kubernetes}, one node"]
    return Report(title="pods", measures=measures.PODS, results=results, notes=notes)


def _round(cluster: Cluster, contender: Contender, index: int, work: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=work) as scratch, _plugin(cluster, contender, scratch):
        seconds = {}
        for gpus in (False, True) if index % 2 else (True, False):
            seconds[gpus] = _run(cluster, _manifest(gpus=gpus))
    return {
        "pods_plain": seconds[False],
        "pods_gpu": seconds[True],
        "pods_ratio": seconds[True] / seconds[False],
    }


@contextmanager
def _plugin(cluster: Cluster, contender: Contender, scratch: str) -> Iterator[None]:
    """Run the plugin in the cluster's node, with the default paths, as the kubelet's own user."""
    node = cluster.nodes[0]
    with Machine(Path(scratch, "m")) as simulated:
        values = {
            "python": sys.executable,
            "node": node.name,
            "kubeconfig": node.kubeconfig,
            "service_kubeconfig": str(cluster.layout.admin_kubeconfig),
            "registry": "/var/lib/kubelet/plugins_registry",
            "plugins": "/var/lib/kubelet/plugins",
            "cdi": "/var/run/cdi",
            "state": "/var/lib/nvdra",
            "run": "/run/nvdra",
            **simulated.values(),
            **machine.cdi_programs(),
        }
        data = f"/var/lib/kubelet/plugins/{DRIVER}"
        node.run(["mkdir", "-p", data, "/var/run/cdi", "/var/lib/nvdra", "/run/nvdra"])
        env = {**simulated.env(), "PYTHONPATH": str(REPOSITORY)}
        process = node.popen(contender.argv(values), name="plugin", env=env)
        try:
            _wait(lambda: bool(cluster.client.get(_SLICES)["items"]), "a ResourceSlice")
            time.sleep(SETTLE_S)
            yield
        except BenchError as error:
            error.add_note(f"{contender.name} said last:\n{process.output()[-3000:]}")
            raise
        finally:
            process.end()
            cluster.kubectl("delete", "resourceslices", "--all", "--wait=true")


def _run(cluster: Cluster, manifest: str) -> float:
    """Apply pods, wait until all run, delete them; return the seconds to the last one Running."""
    start = time.monotonic()
    cluster.apply(manifest)
    _wait(lambda: _running(cluster) == GPUS, f"{GPUS} running pods", lambda: _pending(cluster))
    seconds = time.monotonic() - start
    cluster.kubectl("delete", "pods", "--all", "--wait=false")
    _wait(lambda: not cluster.client.get(_PODS)["items"], "the end of all pods")
    _wait(lambda: not cluster.client.get(_CLAIMS)["items"], "the end of all claims")
    return seconds


def _running(cluster: Cluster) -> int:
    pods = cluster.client.get(_PODS)["items"]
    return sum(pod["status"].get("phase") == "Running" for pod in pods)


def _pending(cluster: Cluster) -> str:
    return cluster.kubectl("get", "events", "--field-selector=type=Warning", check=False)[-2000:]


def _wait(is_true: Callable[[], bool], what: str, explain: Callable[[], str] = str) -> None:
    try:
        wait_until(what, is_true, TIMEOUT_S, POLL_S)
    except WaitError as error:
        raise BenchError(f"{error} {explain()}") from error


def _setting_up() -> list[Object]:
    selector = {"cel": {"expression": f"device.driver == '{DRIVER}'"}}
    spec = objects.claim_spec(objects.request("gpu", DRIVER))
    return [
        objects.obj("DeviceClass", DRIVER, spec={"selectors": [selector]}),
        objects.template("one-gpu", "default", spec),
    ]


def _manifest(*, gpus: bool) -> str:
    kind, templates = ("gpu", {"gpu": "one-gpu"}) if gpus else ("plain", {})
    container = objects.container("main", "", templates) | {
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", "9999"],
        "args": [],
    }
    names = (f"{kind}-{number}" for number in range(GPUS))
    return _json(
        [
            objects.pod(
                n, "default", container, templates=templates, terminationGracePeriodSeconds=1
            )
            for n in names
        ]
    )


def _json(items: Sequence[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
