"""The files that nvidia-imex reads."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricSlot, slot_name
from nvdra_node.imex.daemon import render
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.model import Run
from tests.beds.memory.imex_node import CLIQUE, a_domain, a_spec
from tests.sim.imex import settings

LAYOUT = Layout(Path("/run/nvdra/imex"), Path("/var/lib/nvdra/imex/tls"))
RUN = Run(domain_uid="A", clique_id=CLIQUE, slot=2, slot_count=18, port=50065, address="10.0.0.2")


def parsed(run):
    return settings.parse(render.config(run, LAYOUT).decode())


def test_config_has_only_keys_that_nvidia_imex_knows():
    assert parsed(RUN)["SERVER_PORT"] == "50065"
    assert (
        parsed(replace(RUN, is_encrypted=True))["IMEX_SERVER_KEY"]
        == "/var/lib/nvdra/imex/tls/key.pem"
    )


def test_config_opens_only_the_peers_port_on_the_network():
    values = parsed(RUN)
    assert values["IMEX_CMD_UNIX_DOMAIN_PATH"] == "/run/nvdra/imex/ctl/imex.sock"
    assert values["BIND_INTERFACE_IP"] == "10.0.0.2"


def test_config_waits_for_recovery_after_a_crash():
    assert parsed(RUN)["IMEX_WAIT_FOR_QUORUM"] == "RECOVERY"


def test_node_list_is_the_same_on_every_node_of_the_clique():
    other = replace(RUN, slot=5, address="10.0.0.5", domain_uid="B", port=1)
    assert render.nodes_config(RUN) == render.nodes_config(other)
    assert render.nodes_config(RUN).decode().splitlines()[2] == slot_name(CLIQUE, 2)


def test_config_hash_differs_between_configurations():
    assert render.config_hash(RUN, LAYOUT) != render.config_hash(replace(RUN, port=1), LAYOUT)


def test_hosts_file_keeps_its_size_as_peers_change():
    full = tuple(FabricSlot(index=i, node_name=f"n{i}", address=f"fd00::{i}") for i in range(18))
    sizes = {
        len(render.hosts(RUN, spec))
        for spec in (None, a_spec(), a_spec(slots=full), a_spec(slots=()))
    }
    assert len(sizes) == 1
    assert render.hosts(RUN, None).endswith(b"\n")


def test_peer_without_an_address_is_not_in_the_hosts_file():
    silent = (FabricSlot(index=7, node_name="n7"),)
    assert slot_name(CLIQUE, 7).encode() not in render.hosts(RUN, a_spec(slots=silent))


def test_peer_address_with_a_newline_adds_no_line():
    """A stolen node's report must not say where other slots are."""
    evil = f"10.0.0.7\t{slot_name(CLIQUE, 7)}\n10.6.6.6"
    slots = (
        FabricSlot(index=5, node_name="n5", address=f"{evil}\t{slot_name(CLIQUE, 9)}"),
        FabricSlot(index=6, node_name="n6", address="localhost"),
        FabricSlot(index=7, node_name="n7", address="10.0.0.7"),
    )
    named = [line.split() for line in render.hosts(RUN, a_spec(slots=slots)).decode().split("\n")]
    assert [words[0] for words in named if words and words[1].startswith("imex-")] == ["10.0.0.2", "10.0.0.7"]  # fmt: skip


def test_slots_of_another_clique_are_no_peers():
    assert render.peers(RUN, a_spec(clique_id="other.1")) == {}


def test_peers_are_limited_to_known_members():
    assert render.peers(RUN, a_spec(a_domain(members=(2, 5)))) == {5: "10.0.0.5"}
    assert render.peers(RUN, a_spec(a_domain(members=(2,)))) == {}
    assert render.peers(RUN, a_spec(a_domain())) == {5: "10.0.0.5"}
