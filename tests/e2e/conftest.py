"""One bed per Kubernetes version and test session; torn down also after a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster import capability
from tests.e2e.bed import Bed


@pytest.fixture(scope="session")
def able() -> None:
    """Fails where CI requires the cluster, and says loudly why it is skipped elsewhere."""
    obstacle = capability.why_not()
    if obstacle is None:
        return
    if os.environ.get("NVDRA_REQUIRE_CLUSTER") == "1":
        pytest.fail(f"NVDRA_REQUIRE_CLUSTER=1, but this machine cannot run a cluster: {obstacle}")
    pytest.skip(f"NOT RUN: this machine cannot run a cluster: {obstacle}")


@pytest.fixture(scope="module")
def bed(able: None, request: pytest.FixtureRequest) -> Iterator[Bed]:
    """One node with eight simulated H100, on the newest Kubernetes."""
    name = "e2e-" + request.module.__name__.rpartition(".")[2].removeprefix("test_")[:12]
    with Bed.up(name) as made:
        made.wait_for_devices()
        yield made
