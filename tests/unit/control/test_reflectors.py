"""What the controller watches, and readiness when a watch fails."""

from __future__ import annotations

from kubernetes.client import Configuration

from nvdra_cluster.app import Manager
from nvdra_cluster.control import reflectors
from nvdra_cluster.kube.client import KubernetesClient
from nvdra_cluster.kube.config import AccessConfig
from nvdra_cluster.settings import ControllerSettings, FabricSettings
from nvdra_core.runtime.workers import Workers
from tests.fakes.clock import FakeClock


def test_server_selects_what_is_watched():
    """In a large cluster nearly all claims, templates and slices belong to others."""
    clock = FakeClock()
    settings = ControllerSettings(fabric=FabricSettings(), identity="one")
    access = AccessConfig(lambda: Configuration(host="http://127.0.0.1:1"))
    client = KubernetesClient(access, clock)
    manager = Manager(settings, client, clock, Workers(clock))
    found = {
        selection.resource.plural: (selection.namespace, selection.selector.parameters())
        for selection in reflectors.selections(
            manager.cache, manager.controller, FabricSettings(namespace="drivers")
        )
    }
    manager.writer.close()
    client.close()
    label = {"labelSelector": "resource.nvidia.com/computeDomain"}
    assert found == {
        "nodes": ("", {}),
        "resourceslices": ("", {"fieldSelector": "spec.driver=compute-domain.nvidia.com"}),
        "fabricnodes": ("", {}),
        "computedomains": ("", {}),
        "resourceclaimtemplates": ("", label),
        "resourceclaims": ("", label),
        "computedomaincliques": ("drivers", {}),
    }
