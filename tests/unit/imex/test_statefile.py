"""State files of the first release stay readable: ``golden`` has what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec.structs import replace

from nvdra_core.api.fabric import Isolation
from nvdra_node.imex.daemon import statefile
from nvdra_node.imex.model import Holder, Memory, Run, Started

GOLDEN = Path(__file__).parent / "golden"
RUN = Run(
    domain_uid="A", clique_id="2b1c.7", slot=2, slot_count=18, port=50065, address="10.0.0.2",
    is_encrypted=True,
)  # fmt: skip
MEMORY = Memory(
    started=Started(run=RUN, invocation_id="4f2e"), last_run=RUN, restarts=3, failures=2,
    last_exit="nvidia-imex ended with status 1 (exit-code)", is_held=True,
    interrupted=("c1", "c2"), interruption="nvidia-imex was restarted", host_invocation="77aa",
    recovers_domain="A",
)  # fmt: skip
HOLDERS = (
    Holder(1700000000.5, "A", "ns", "claim-c1", "c1", True),
    Holder(1700000001.0, "B", "ns", "claim-c2", "c2"),
)


def test_first_releases_state_is_read_whole():
    found = statefile.decode((GOLDEN / "supervisor.json").read_bytes(), "boot-1")
    assert found == statefile.StoredState(
        memory=MEMORY, holders=HOLDERS, loaded_files="0123456789abcdef"
    )


def test_written_state_has_the_first_releases_form():
    memory = replace(MEMORY, retry_at_s=9.5, idle_since_s=1.0, ready_since_s=2.0, start_error="x")
    written = statefile.encode("boot-1", memory, reversed(HOLDERS), "0123456789abcdef")
    assert json.loads(written) == json.loads((GOLDEN / "supervisor.json").read_bytes())


def test_state_of_another_boot_is_ignored():
    assert statefile.decode((GOLDEN / "supervisor.json").read_bytes(), "boot-2") is None


def test_start_without_invocation_id_is_unsure():
    memory = Memory(started=Started(run=RUN, invocation_id=""))
    found = statefile.decode(statefile.encode("b", memory, (), None), "b")
    assert found is not None and found.memory.started is not None
    assert found.memory.started.is_unsure


def test_first_releases_spec_is_read_and_written_alike():
    data = (GOLDEN / "node.json").read_bytes()
    spec, generation = statefile.read_spec(data)
    assert (generation, spec.slot, spec.shared_port, spec.heartbeat_seconds) == (7, 2, 50000, 20)
    assert [(d.uid, d.isolation) for d in spec.domains] == [
        ("A", Isolation.DOMAIN),
        ("B", Isolation.CHANNEL),
    ]
    assert spec.certificate is not None and spec.slots[1].address == "fd00::5"
    assert json.loads(statefile.encode_spec(spec, generation)) == json.loads(data)
