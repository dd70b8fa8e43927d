"""One bed per Kubernetes version and test session; torn down also after a failure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.beds.cluster import capability
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.beds.cluster.driver.pods import Pods
from tests.lib.required import not_run


@pytest.fixture(scope="session")
def able() -> None:
    """Skip with the reason where no cluster can run; fail there with NVDRA_REQUIRE_CLUSTER=1."""
    if obstacle := capability.why_not():
        not_run(f"this machine cannot run a cluster: {obstacle}")


@pytest.fixture(scope="module")
def bed(able: None, request: pytest.FixtureRequest) -> Iterator[Bed]:
    """One node with eight simulated H100, on the newest Kubernetes; a module's ``BED`` changes arguments of ``up``.

    ``KUBELET`` of a module changes the kubelet's configuration. It retries a failed prepare at the next sync of
    the pod: after 60 to 90 s unless ``syncFrequency`` is set.
    """
    name = "e2e-" + request.module.__name__.rpartition(".")[2].removeprefix("test_")[:15]
    options: dict[str, Any] = getattr(request.module, "BED", {})
    with Bed.up(name.replace("_", "-"), **options) as made:
        if settings := getattr(request.module, "KUBELET", None):
            for gpu_node in made.nodes.values():
                gpu_node.configure_kubelet(**settings)
        if options.get("start", True):
            made.wait_for_devices()
        yield made


@pytest.fixture
def place(bed: Bed, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for the test; afterwards nothing of its claims may be left on any node."""
    title = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    name = f"{title[:40].strip('-')}-{zlib.crc32(title.encode()) & 0xFFFF:04x}"
    bed.create_namespace(name)
    yield name
    bed.delete_namespace(name)
    bed.wait_clean()


@pytest.fixture
def pods(bed: Bed, place: str) -> Pods:
    """The pods of the test's namespace, with a template ``gpu`` for claims of one GPU."""
    bed.apply(m.template(place, "gpu", m.claim_spec()))
    return Pods(bed, place)
