"""A run -> the files that nvidia-imex reads. Pure. Called by ``store`` and, for the configuration's digest, ``report``.

nodes_config names all slots of the clique, filled or not: it is the same on every node and never changes while a domain
exists. The addresses of filled slots are in the unit's own hosts file, which is changed in place and read again on
SIGUSR1. nsswitch.conf keeps the names of empty slots from DNS.
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
    """Paths of the daemon's files; ``directory`` is below /run, ``tls`` below /var/lib."""

    directory: Path
    tls: Path
    persist: Path = Path("/run/nvidia-imex")
    """Where nvidia-imex keeps persist.dat, its peers for a recovery; it has no setting for that."""

    @property
    def config(self) -> Path:
        """Argument of ``nvidia-imex -c``."""
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
        """Socket for nvidia-imex-ctl."""
        return self.directory / "ctl" / "imex.sock"

    @property
    def state(self) -> Path:
        """The supervisor's state; below /run, as it is void after a reboot."""
        return self.directory / "supervisor.json"


def config(run: Run, layout: Layout) -> bytes:
    """The configuration file; keys that are not set have NVIDIA's defaults."""
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
        # Empty: stderr, and so the journal.
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
        # Only a unix socket, so that nothing but the peers' port listens on the network.
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
    """Digest of the configuration, reported with the incarnation."""
    return hashlib.sha256(config(run, layout) + nodes_config(run)).hexdigest()[:16]


def peers(run: Run, spec: FabricNodeSpec | None) -> dict[int, str]:
    """Slot -> address of the run's peers.

    Peers report their addresses themselves: one that is no IP address could add lines to the hosts file, and is left
    out.
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
    """The unit's hosts file: overwritten in place, and padded to a size that depends only on the number of slots, so
    that no reader sees a truncated one.
    """
    known = {run.slot: run.address, **peers(run, spec)}
    lines = [
        f"{address}\t{slot_name(run.clique_id, slot)}\n" for slot, address in sorted(known.items())
    ]
    text = ("127.0.0.1\tlocalhost\n::1\tlocalhost\n" + "".join(lines)).encode()
    steps = 1 + max(run.slot_count * 80, len(text)) // HOSTS_STEP
    return text.ljust(steps * HOSTS_STEP, b"\n")
