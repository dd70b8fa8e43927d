"""A run -> the files that nvidia-imex reads. Pure. Called by ``store`` and by ``report`` (hash of the configuration).

The list of nodes names all slots of the clique, filled or not, so it is the same on every node and never changes
while a domain monitor. Who is behind a name stands in a hosts file of the unit's own, which is changed in place:
nvidia-imex reads it again when it is told to (SIGUSR1). Slots that are empty are in no hosts file, and the unit's
nsswitch.conf keeps them from DNS.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from nvdra_core.api.addresses import is_peer_address
from nvdra_core.api.fabric import FabricNodeSpec, domain_named, slot_name
from nvdra_node.imex.model import Run

HOSTS_STEP = 4096
NSSWITCH = b"hosts: files\n"


class Layout(msgspec.Struct, frozen=True):
    """Where the files of the daemon are; ``directory`` is below /run, ``tls`` is not."""

    directory: Path
    tls: Path
    persist: Path = Path("/run/nvidia-imex")
    """Where nvidia-imex remembers its peers for the case that it dies; it has no setting for that."""

    @property
    def config(self) -> Path:
        """What ``nvidia-imex -c`` gets."""
        return self.directory / "imexd.cfg"

    @property
    def nodes(self) -> Path:
        """One slot name a line."""
        return self.directory / "nodes_config.cfg"

    @property
    def hosts(self) -> Path:
        """The unit's /etc/hosts."""
        return self.directory / "hosts"

    @property
    def nsswitch(self) -> Path:
        """The unit's /etc/nsswitch.conf."""
        return self.directory / "nsswitch.conf"

    @property
    def commands(self) -> Path:
        """Where nvidia-imex answers nvidia-imex-ctl."""
        return self.directory / "ctl" / "imex.sock"

    @property
    def state(self) -> Path:
        """Ours: what was started, and for whom. Below /run, so that a reboot forgets it."""
        return self.directory / "supervisor.json"


def config(run: Run, layout: Layout) -> bytes:
    """The configuration file: every key that this release of ours decides; the others are NVIDIA's defaults."""
    encryption = {}
    if run.is_encrypted:
        tls = layout.tls
        encryption = {
            "IMEX_AUTH_ENCRYPTION_MODE": "SSL_TLS",
            "IMEX_AUTH_SOURCE": "FILE",
            "IMEX_SERVER_KEY": tls / "key.pem",
            "IMEX_SERVER_CERT": tls / "cert.pem",
            "IMEX_SERVER_CERT_AUTH": tls / "ca.pem",
            "IMEX_CLIENT_KEY": tls / "key.pem",
            "IMEX_CLIENT_CERT": tls / "cert.pem",
            "IMEX_CLIENT_CERT_AUTH": tls / "ca.pem",
        }
    values = {
        "LOG_LEVEL": 4,
        # Empty: to stderr, which is the journal's.
        "LOG_FILE_NAME": "",
        "LOG_USE_SYSLOG": 0,
        "DAEMONIZE": 0,
        "BIND_INTERFACE_IP": run.address,
        "SERVER_PORT": run.port,
        "IMEX_NODE_CONFIG_FILE": layout.nodes,
        "IMEX_WAIT_FOR_QUORUM": "RECOVERY",
        "IMEX_ENABLE_AUTH_ENCRYPTION": int(run.is_encrypted),
        **encryption,
        "IMEX_CMD_ENABLED": 1,
        # A unix socket alone: nothing but the peers' port listens on the network.
        "IMEX_CMD_UNIX_DOMAIN_PATH": layout.commands,
        "IMEX_NODE_DISCONNECTED_GRACE_TIME": -1,
    }
    served = f"ComputeDomain {run.domain_uid}" if run.domain_uid else "all ComputeDomains"
    head = f"# {served}, slot {run.slot} of clique {run.clique_id}. Written by nvdra.\n"
    return (head + "".join(f"{key}={value}\n" for key, value in values.items())).encode()


def nodes_config(run: Run) -> bytes:
    """The slot names, one a line: the line number is the node's id."""
    return "".join(f"{slot_name(run.clique_id, i)}\n" for i in range(run.slot_count)).encode()


def config_hash(run: Run, layout: Layout) -> str:
    """What tells one configuration from another, for the incarnation."""
    return hashlib.sha256(config(run, layout) + nodes_config(run)).hexdigest()[:16]


def peers(run: Run, spec: FabricNodeSpec | None) -> dict[int, str]:
    """Slot -> address of the peers that this run shall find, itself not among them.

    The addresses are those that the peers reported: one that is no IP address could add lines of its own to the
    hosts file, and is left out.
    """
    if spec is None or spec.clique_id != run.clique_id:
        return {}
    domain = domain_named(spec, run.domain_uid) if run.domain_uid else None
    members = set(domain.members) if domain is not None else set()
    return {
        slot.index: slot.address
        for slot in spec.slots
        if is_peer_address(slot.address)
        and slot.index != run.slot
        and slot.index < run.slot_count
        and (not members or slot.index in members)
    }


def hosts(run: Run, spec: FabricNodeSpec | None) -> bytes:
    """The unit's hosts file, padded: it is overwritten in place, and a reader must never see half of it.

    Its size goes with the number of slots alone, so that it does not shrink while the daemon runs.
    """
    known = {run.slot: run.address, **peers(run, spec)}
    lines = [
        f"{address}\t{slot_name(run.clique_id, slot)}\n" for slot, address in sorted(known.items())
    ]
    text = ("127.0.0.1\tlocalhost\n::1\tlocalhost\n" + "".join(lines)).encode()
    steps = 1 + max(run.slot_count * 80, len(text)) // HOSTS_STEP
    return text.ljust(steps * HOSTS_STEP, b"\n")
