"""Ports and channels: each number belongs to one domain."""

from typing import Any

import pytest

from nvdra_cluster.decide import assignments
from nvdra_cluster.decide.model import FabricView
from nvdra_cluster.settings import MAX_CHANNELS, FabricSettings, ImexMode, PortRange
from nvdra_core.api import FabricState, Isolation
from nvdra_core.errors import ConfigError
from tests.unit.decide.views import BY_CHANNEL, BY_HOST, a_fabric_node

TWO_PORTS = FabricSettings(ports=PortRange(24000, 24002))


def test_isolation_domain_gives_own_ports_and_channel_0():
    found = assignments.choose(TWO_PORTS, ports={24001}, channels={0})
    assert found is not None
    assert (found.isolation, found.port, found.channel) == (Isolation.DOMAIN, 24002, 0)


def test_no_port_is_left_when_all_are_taken():
    assert assignments.choose(TWO_PORTS, ports={24001, 24002}, channels=()) is None
    assert "24001 to 24002" in assignments.exhausted(TWO_PORTS)


def test_isolation_channel_shares_port_with_own_channels():
    found = assignments.choose(BY_CHANNEL, ports={24000}, channels={1, 2})
    assert found is not None
    assert (found.isolation, found.port, found.channel) == (Isolation.CHANNEL, 24000, 3)


def test_channel_isolation_never_allocates_channel_0():
    assert assignments.choose(BY_CHANNEL, ports=(), channels=()).channel == 1  # type: ignore[union-attr]


def test_channels_missing_on_node_are_not_assigned():
    assert assignments.choose(BY_CHANNEL, ports=(), channels={1, 2, 3}, channel_count=4) is None
    assert "channel" in assignments.exhausted(BY_CHANNEL)


def reporting(*counts: int, **status: Any) -> list[FabricView]:
    known: dict[str, Any] = {"fabric_state": FabricState.COMPLETED, **status}
    return [
        a_fabric_node(f"n{place}", status={"channel_count": count, **known})
        for place, count in enumerate(counts)
    ]


def test_channel_limit_is_what_most_nodes_with_fabric_report():
    assert assignments.channel_limit(reporting(512, 512, 2048)) == 512
    assert assignments.channel_limit(reporting(2048)) == 2048
    assert assignments.channel_limit([]) == MAX_CHANNELS


def test_channel_limit_takes_no_absurd_count():
    """One node must not leave no channel for anybody."""
    for absurd in (0, 1, 2, -5):
        assert assignments.channel_limit(reporting(absurd, 2048)) == 2048
    assert assignments.channel_limit(reporting(1)) == MAX_CHANNELS


def test_channel_limit_takes_no_node_without_fabric():
    without = reporting(4, 4, 4, clique_id="")
    failed = reporting(4, 4, 4, fabric_state=FabricState.FAILED)
    assert assignments.channel_limit([*without, *failed, *reporting(2048)]) == 2048


def test_imex_of_host_has_no_port_of_ours():
    found = assignments.choose(BY_HOST, ports=(), channels=())
    assert found is not None
    assert (found.port, found.channel) == (0, 0)


@pytest.mark.parametrize("text", ["", "24000", "a-b", "24001-24000", "80-90", "24000-70000"])
def test_invalid_port_range_is_refused(text):
    with pytest.raises(ConfigError, match="IMEX ports"):
        PortRange.parse(text)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="isolation=channel"):
        FabricSettings(mode=ImexMode.HOST_MANAGED, isolation=Isolation.CHANNEL)
    with pytest.raises(ConfigError, match="slots"):
        FabricSettings(slot_count=0)
