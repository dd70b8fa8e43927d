"""The number of slots of a clique: one setting, which IMEX fixes where it runs."""

from __future__ import annotations

from dataclasses import replace

from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import Isolation
from tests.beds.services.controller_rack import Rack
from tests.lib.waits import wait_until


def test_number_of_slots_can_be_raised_while_imex_runs():
    """What the message says to do helps the node that waits, and disturbs no domain that runs."""
    with Rack(FabricSettings(slot_count=1)) as rack:
        rack.start()
        first, second = rack.tray("a"), rack.tray("bb")
        rack.create_domain()
        rack.claim("a")
        first.join()
        rack.create_domain("other")
        rack.claim("bb", "other")
        second.report()
        wait_until("full", lambda: rack.condition("Degraded", "other").get("reason") == "CliqueFull")  # fmt: skip
        rack.stop_controllers()
        rack.fabric = FabricSettings(slot_count=2)
        rack.start()
        second.join("other")
        wait_until("ready", lambda: rack.status("other").get("status") == "Ready")
        wait_until("still ready", lambda: rack.status().get("status") == "Ready")
        specs = [rack.spec(name) for name in ("a", "bb")]
        counts = [spec["domains"][0]["slotCount"] or spec["slotCount"] for spec in specs]
        assert counts == [1, 2]


def test_number_of_slots_of_shared_imex_says_when_it_is_raised():
    settings = FabricSettings(isolation=Isolation.CHANNEL, slot_count=1)
    with Rack(settings) as rack:
        rack.start()
        first, second = rack.tray("a"), rack.tray("bb")
        first.report()
        first.running = first.wait_for(lambda spec: spec.get("slot") is not None)["slot"]
        first.report()
        rack.stop_controllers()
        rack.fabric = replace(settings, slot_count=2)
        rack.start()
        rack.create_domain()
        rack.claim("bb")
        second.report()
        wait_until("full", lambda: rack.condition("Degraded").get("reason") == "CliqueFull")
        assert "when no IMEX of the clique runs" in rack.condition("Degraded")["message"]
        first.leave()
        second.wait_for(lambda spec: spec.get("slot") == 1)
