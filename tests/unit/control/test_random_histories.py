"""Any history of joins, leaves, reboots, moves, losses, deletions and restarts of the controller keeps the promises.

Slots are never given twice and never drift under a running IMEX; no two domains hold the same number
on a node, nor on any nodes while one still holds a domain that was deleted by force; a domain's number never
changes; a domain that is held does not go.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_cluster.settings import FabricSettings, PortRange
from nvdra_core.api import Isolation
from tests.beds.memory.controller_world import SLOT_REUSE_DELAY_S, Machine, World
from tests.unit.decide.views import CLIQUE, OTHER_CLIQUE

NODES = ["a", "bb", "ccc", "dddd", "eeeee"]
DOMAINS = ["d1", "d2", "d3"]
CLIQUES = [CLIQUE, OTHER_CLIQUE, ""]
SLOTS = 4
"""Fewer than nodes, so that cliques get full."""
LONG_HISTORIES = 25
LONG_HISTORY = 200


class History(World):
    """The events of a history; each does nothing when it makes no sense now."""

    def join(self, name: str, clique: str) -> None:
        """A machine's kubelet registers, and its plugin publishes devices."""
        machine = self.machines.get(name)
        if machine is None:
            machine = self.machines[name] = Machine(name, clique)
        if machine.has_node:
            return
        machine.has_node, machine.is_on = True, True
        self.put({"plural": "nodes", "metadata": {"name": name}, "spec": {}})
        spec = {"nodeName": name}
        self.put({"plural": "resourceslices", "metadata": {"name": f"slice-{name}"}, "spec": spec})

    def leave(self, name: str, clique: str) -> None:
        """The Node is deleted; the machine runs on, but not for longer than the reuse delay of its slot."""
        machine = self.machines.get(name)
        if machine is None or not machine.has_node:
            return
        machine.has_node, machine.is_out = False, False
        for claim in self.of("resourceclaims"):
            if claim["spec"]["node"] == name:
                self.delete(("resourceclaims", "team", claim["metadata"]["name"]))
        self.delete(("nodes", "", name))
        self.delete(("resourceslices", "", f"slice-{name}"))

    def reboot(self, name: str, clique: str) -> None:
        machine = self.machines.get(name)
        if machine is not None and machine.has_node and not machine.is_out:
            machine.boot, machine.running, machine.is_on = machine.boot + 1, None, True
            self.act(machine)

    def lose(self, name: str, clique: str) -> None:
        """HeartbeatTracker stop; IMEX may be running."""
        if name in self.machines:
            self.machines[name].is_on = False
            self.cache.set_lost(name, is_lost=True)

    def declare_off(self, name: str, clique: str) -> None:
        """An administrator taints a lost node out of service."""
        machine = self.machines.get(name)
        if machine is None or not machine.has_node or machine.is_on:
            return
        machine.is_out, machine.running = True, None
        node = self.objects["nodes", "", name]
        taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
        self.put({**node, "spec": {"taints": [taint]}})

    def come_back(self, name: str, clique: str) -> None:
        """A lost machine sends heartbeats again, or one that was off is switched on."""
        machine = self.machines.get(name)
        if machine is None or not machine.has_node or machine.is_on:
            return
        if machine.is_out:
            machine.is_out, machine.boot = False, machine.boot + 1
            self.put({**self.objects["nodes", "", name], "spec": {}})
        machine.is_on = True
        self.cache.set_lost(name, is_lost=False)
        self.act(machine)

    def move(self, name: str, clique: str) -> None:
        """The machine is put into another rack, and boots there."""
        machine = self.machines.get(name)
        if machine is not None and machine.has_node and machine.is_on and not machine.is_out:
            machine.clique, machine.boot, machine.running = clique, machine.boot + 1, None
            self.act(machine)

    def delete_fabric_node(self, name: str, clique: str) -> None:
        """A person deletes the object."""
        self.delete(("fabricnodes", "", name))
        self.settle()

    def create_domain(self, name: str, clique: str) -> None:
        if ("computedomains", "team", domain_for(name)) in self.objects:
            return
        template = {"name": domain_for(name)}
        self.put({
            "plural": "computedomains",
            "metadata": {"name": domain_for(name), "namespace": "team"},
            "spec": {"channel": {"resourceClaimTemplate": template}},
        })  # fmt: skip

    def delete_domain(self, name: str, clique: str) -> None:
        self.delete(("computedomains", "team", domain_for(name)))

    def force_away(self, name: str, clique: str) -> None:
        """The owner deletes the domain whatever runs, or an administrator takes its finalizer off by hand."""
        path = ("computedomains", "team", domain_for(name))
        if path not in self.objects:
            return
        domain = self.objects[path]
        if clique:
            annotations = {"fabric.nvdra.io/force-delete": "true"}
            metadata = {**domain["metadata"], "annotations": annotations}
        else:
            metadata = {**domain["metadata"], "finalizers": []}
        self.forced.add(metadata["uid"])
        self.put({**domain, "metadata": metadata})
        self.delete(path)

    def delete_template(self, name: str, clique: str) -> None:
        self.delete(("resourceclaimtemplates", "team", domain_for(name)))

    def claim(self, name: str, clique: str) -> None:
        """A pod with a claim of some domain is scheduled on the node."""
        machine = self.machines.get(name)
        templates = {t["metadata"]["name"] for t in self.of("resourceclaimtemplates")}
        domains = [d for d in self.of("computedomains") if d["metadata"]["name"] in templates]
        if machine is None or not machine.has_node or not domains:
            return
        domain = domains[len(clique) % len(domains)]["metadata"]
        result = {"driver": "compute-domain.nvidia.com", "pool": name, "device": "channel-0"}
        here = {"key": "metadata.name", "operator": "In", "values": [name]}
        self.put({
            "plural": "resourceclaims",
            "metadata": {
                "name": f"{name}-{domain['name']}", "namespace": "team",
                "labels": {DOMAIN_LABEL: domain["uid"]},
            },
            "spec": {"node": name},
            "status": {
                "allocation": {
                    "devices": {"results": [result]},
                    "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [here]}]},
                },
                "reservedFor": [{"name": "pod"}],
            },
        })  # fmt: skip

    def unclaim(self, name: str, clique: str) -> None:
        for claim in self.of("resourceclaims"):
            if claim["spec"]["node"] == name:
                self.delete(("resourceclaims", "team", claim["metadata"]["name"]))

    def restart(self, name: str, clique: str) -> None:
        """Another replica becomes the leader; it knows recently deleted nodes from the lists of the others."""
        self.switch_off_strays(but=self.remembered())
        self.start_controller()

    def wait(self, name: str, clique: str) -> None:
        """Time passes, and reuse delays end."""
        self.switch_off_strays()
        self.clock_s += SLOT_REUSE_DELAY_S + 1

    def remembered(self) -> set[tuple[str, str, int]]:
        """(node, clique, slot) in the lists of nodes that are there."""
        return {
            (entry["nodeName"], obj["spec"]["cliqueID"], entry["index"])
            for obj in self.of("fabricnodes")
            if self.machines[obj["metadata"]["name"]].has_node
            for entry in (obj.get("spec") or {}).get("slots") or ()
        }

    def switch_off_strays(self, but: Collection[tuple[str, str, int]] = ()) -> None:
        """Machines whose Node was deleted do not run for ever, nor those that were added again and have not
        reported yet. ``but`` for those that a peer remembers: what a controller knows does not outlive it.
        """
        for machine in self.machines.values():
            is_recorded = ("fabricnodes", "", machine.name) in self.objects
            is_remembered = (machine.name, machine.clique, machine.running) in but
            if not (machine.has_node and is_recorded) and not is_remembered:
                machine.running = None

    def see_some(self, name: str, clique: str) -> None:
        """The watches catch up a little, and the controller acts on that."""
        self.deliver(len(name))
        self.step()

    def settle_all(self, name: str, clique: str) -> None:
        self.settle()
        self.check_settled()


def fabric(isolation: Isolation) -> FabricSettings:
    return FabricSettings(isolation=isolation, slot_count=SLOTS, ports=PortRange(24000, 24010))


def domain_for(name: str) -> str:
    return DOMAINS[len(name) % len(DOMAINS)]


EVENTS = [
    "join", "join", "join", "leave", "reboot", "lose", "declare_off", "come_back", "move",
    "delete_fabric_node", "create_domain", "create_domain", "delete_domain", "force_away", "delete_template",
    "claim", "claim", "unclaim", "restart", "wait", "see_some", "see_some", "settle_all", "settle_all",
]  # fmt: skip
A_HISTORY = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.sampled_from(NODES), st.sampled_from(CLIQUES)),
    max_size=100,
)


def play(history: list[tuple[str, str, str]], fabric: FabricSettings) -> History:
    world = History(fabric)
    for event, name, clique in history:
        held = holders(world)
        getattr(world, event)(name, clique)
        world.check()
        missing = {uid for uid in held if uid not in domain_uids(world) | world.forced}
        assert not missing, "a domain went while claims held it"
    world.settle()
    world.check_settled()
    return world


def domain_uids(world: World) -> set[str]:
    return {domain["metadata"]["uid"] for domain in world.of("computedomains")}


def holders(world: World) -> set[str]:
    """Domains with a claim that a pod has reserved, on a machine that is there."""
    claims: list[dict[str, Any]] = world.of("resourceclaims")
    return {claim["metadata"]["labels"][DOMAIN_LABEL] for claim in claims} & domain_uids(world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("isolation", list(Isolation))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=A_HISTORY)
def test_promises_hold_in_any_history(isolation: Isolation, history: list[tuple[str, str, str]]):
    play(
        history,
        FabricSettings(isolation=isolation, slot_count=SLOTS, ports=PortRange(24000, 24010)),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("isolation", list(Isolation))
def test_promises_hold_in_ten_thousand_events(isolation: Isolation):
    """Longer histories than hypothesis likes to make; the seed is the number in a failure."""
    for seed in range(LONG_HISTORIES):
        random = Random(seed)
        history = [
            (random.choice(EVENTS), random.choice(NODES), random.choice(CLIQUES))
            for _ in range(LONG_HISTORY)
        ]
        try:
            play(history, fabric(isolation))
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error


def test_slot_cools_on_while_leaders_change():
    """Its machine runs on for some time after its Node was deleted."""
    names = [("join", "a"), ("join", "bb"), ("settle_all", ""), ("leave", "a"), ("settle_all", ""),
             ("restart", ""), ("settle_all", ""), ("restart", ""), ("join", "ccc"), ("settle_all", "")]  # fmt: skip
    world = play([(event, name, CLIQUE) for event, name in names], fabric(Isolation.DOMAIN))
    assert world.machines["a"].running == 0
    assert [entry["nodeName"] for entry in slots_of(world, "bb")] == ["a", "bb", "ccc"]
    world.wait("", "")
    world.cache.enqueue_all()
    world.settle()
    assert [entry["nodeName"] for entry in slots_of(world, "bb")] == ["bb", "ccc"]


def slots_of(world: World, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.objects["fabricnodes", "", name]["spec"]["slots"]
    return found
