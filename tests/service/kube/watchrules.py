"""What the client relies on in watches; a part of the contract of ``test_contract``, which says on which servers."""

from __future__ import annotations

import threading

from nvdra_core.kube import resourceapi, watch
from nvdra_core.kube.client import Client
from nvdra_core.kube.dra import DraApi
from nvdra_core.kube.resources import SLICES, ObjectList, Selector
from tests.service.kube.objects import a_slice


class WatchRules:
    """The rules; fixtures are those of the contract."""

    def test_watch_tells_changes_in_order(self, dra: DraApi, node: str) -> None:
        selector = Selector(f"spec.nodeName={node}")
        listed = dra.list_slices(selector)
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        stored = dra.update_slice({**stored, "spec": {**stored["spec"], "devices": []}})
        dra.delete_slice(f"{node}-1")
        stream = watch.watch(
            dra.client, SLICES, resource_version=listed.resource_version, selector=selector
        )
        seen = []
        for event in stream:
            seen.append(event.type)
            if event.type == "DELETED":
                stream.stop()
        assert seen == ["ADDED", "MODIFIED", "DELETED"]

    def test_watch_begins_with_what_there_is_and_goes_on(
        self, api: Client, dra: DraApi, node: str
    ) -> None:
        selector = Selector(fields=f"spec.driver=gpu.nvidia.com,spec.nodeName={node}")
        dra.create_slice(a_slice(f"{node}-0", node))
        told: list[ObjectList] = []
        stream = watch.InitialWatch(api, SLICES, selector, told.append)
        # It says what there is before the first change, which it waits for.
        threading.Timer(1.0, lambda: dra.create_slice(a_slice(f"{node}-1", node))).start()
        event = next(iter(stream))
        stream.stop()
        assert (event.type, event.obj["metadata"]["name"]) == ("ADDED", f"{node}-1")
        (found,) = told
        listed = dra.list_slices(selector)
        assert resourceapi.slice_from(found.items[0], "v1") == listed.items[0]
        assert found.resource_version != listed.resource_version

    def test_watch_of_everybody_hears_nothing_of_others(self, dra: DraApi, node: str) -> None:
        listed = dra.list_slices()
        dra.create_slice(a_slice(f"{node}-1", node, driver="other.example.com"))
        dra.create_slice(a_slice(f"{node}-2", node))
        selector = Selector(f"spec.nodeName={node},spec.driver=gpu.nvidia.com")
        stream = watch.watch(
            dra.client, SLICES, resource_version=listed.resource_version, selector=selector
        )
        for event in stream:
            assert event.obj["metadata"]["name"] == f"{node}-2"
            stream.stop()
