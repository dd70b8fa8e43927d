"""What the Reflector relies on in watches; a part of the contract of ``test_contract``, which names the servers."""

from __future__ import annotations

from nvdra_core.kube.resources import JsonObject, Selector
from nvdra_node.kube.dra import DraApi
from tests.service.kube.following import Follower
from tests.service.kube.objects import a_slice


def of_node(node: str) -> Selector:
    return Selector(f"spec.nodeName={node},spec.driver=gpu.nvidia.com")


class WatchRules:
    """The rules; fixtures are those of the contract."""

    def test_watch_reports_changes_in_order(self, dra: DraApi, node: str) -> None:
        listed = dra.list_slices(of_node(node))
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        stored = dra.update_slice({**stored, "spec": {**stored["spec"], "devices": []}})
        dra.delete_slice(f"{node}-1")
        follower = Follower(dra.slice_source(of_node(node)), version=listed.resource_version)
        follower.wait_for(f"DELETE {node}-1")
        follower.stop()
        assert follower.seen == [f"PUT {node}-1", f"PUT {node}-1", f"DELETE {node}-1"]

    def test_streaming_list_equals_a_list(self, dra: DraApi, node: str) -> None:
        dra.create_slice(a_slice(f"{node}-0", node))
        follower = Follower(dra.slice_source(of_node(node)), is_streaming=True)
        follower.wait_for(f"LIST {node}-0")
        listed = dra.list_slices(of_node(node))
        dra.create_slice(a_slice(f"{node}-1", node))
        follower.wait_for(f"PUT {node}-1")
        follower.stop()
        assert without_type(follower.objects[0]) == without_type(listed.items[0])

    def test_selected_watch_omits_other_objects(self, dra: DraApi, node: str) -> None:
        listed = dra.list_slices()
        dra.create_slice(a_slice(f"{node}-1", node, driver="other.example.com"))
        dra.create_slice(a_slice(f"{node}-2", node))
        follower = Follower(dra.slice_source(of_node(node)), version=listed.resource_version)
        follower.wait_for(f"PUT {node}-2")
        follower.stop()
        assert follower.seen == [f"PUT {node}-2"]


def without_type(obj: JsonObject) -> JsonObject:
    return {key: value for key, value in obj.items() if key not in {"kind", "apiVersion"}}
