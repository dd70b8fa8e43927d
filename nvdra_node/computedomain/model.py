"""The node's state as the IMEX supervisor sends it. Frozen values. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

CHANNEL_CLASS = "nvidia-caps-imex-channels"
"""Name of the channels' major in /proc/devices."""
CHANNEL_DEVICE = "channel-0"
DAEMON_PREFIX = "daemon-"
CHANNEL_PREFIX = "channel-"
CHANNEL_ISOLATION = "channel"
"""Isolation with one daemon for several domains, each with a channel of its own."""

SETTLED = frozenset({"Completed", "NotSupported"})
"""Fabric states in which claims can be served."""


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """A ComputeDomain that this node takes part in."""

    isolation: str
    is_ready: bool = False
    reason: str = ""
    message: str = ""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """State of the node. All empty: not received yet."""

    fabric_state: str = ""
    """Value of FabricNode's status.fabricState."""
    fabric_message: str = ""
    cluster_uuid: str = ""
    clique_id: str = ""
    channel_count: int = 0
    imex_state: str = ""
    domains: Mapping[str, DomainState] = msgspec.field(default_factory=dict)
    """By UID."""

    @property
    def is_settled(self) -> bool:
        """Whether the fabric's state allows claims: it works, or there is none."""
        return self.fabric_state in SETTLED


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Result of joining a domain. Stored in the claim's record."""

    domain_uid: str
    has_fabric: bool
    channel: int = 0
    channel_count: int = 0
    isolation: str = "domain"
