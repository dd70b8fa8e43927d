"""The controller watches what is its business, and lets the server select it."""

from __future__ import annotations

from nvdra_cluster.app import Manager
from nvdra_cluster.control import reflectors
from nvdra_cluster.settings import ControllerSettings, FabricSettings
from nvdra_core.kube.client import Client
from nvdra_core.kube.config import KubeConfig
from nvdra_core.runtime.clock import FakeClock
from nvdra_core.runtime.workers import Workers


def test_what_belongs_to_others_is_not_even_sent():
    """In a large cluster nearly all claims, templates and slices do."""
    clock = FakeClock()
    settings = ControllerSettings(fabric=FabricSettings(), identity="one")
    client = Client(KubeConfig(server="http://127.0.0.1:1"), clock=clock)
    controller = Manager(settings, client, clock, Workers(clock))
    found = {
        interest.resource.plural: (interest.namespace, interest.selector.parameters())
        for interest in reflectors.interests(
            controller.cache, controller.controller, FabricSettings(namespace="drivers")
        )
    }
    controller.writer.close()
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
