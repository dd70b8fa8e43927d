"""The supervisor's files: what nvidia-imex reads, and what we must know after a restart. Called by ``supervisor``.

What is true for one boot only is below /run: which run was started, who holds a domain. The controller's last word is
below /var/lib: with it a node whose API server is down prepares claims it may prepare, also after a reboot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nvdra_core.api.fabric import FabricNodeSpec
from nvdra_core.errors import InvalidConfigError
from nvdra_core.runtime import log
from nvdra_node.host.ports import Files
from nvdra_node.imex.daemon import render, statefile
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.daemon.statefile import StoredState
from nvdra_node.imex.model import Holder, Memory, Run

_LOG = log.get(__name__)

_RECOVERY = "persist.dat"


class Store:
    """See the module. One thread at a time; every method raises FileError."""

    def __init__(self, files: Files, layout: Layout, spec_path: Path) -> None:
        self._files = files
        self.layout = layout
        self._spec_path = spec_path
        self._hosts: bytes | None = None
        self._told: str | None = None
        """Which hosts file and certificate the daemon has read; None: not known."""
        self._is_encrypted = False
        self._saved = b""
        self._saved_spec = b""

    def open(self) -> None:
        """Make the directories."""
        layout = self.layout
        for path in (
            layout.directory,
            layout.persist,
            layout.commands.parent,
            self._spec_path.parent,
        ):
            self._files.make_directory(path, mode=0o750)

    def load(self, boot_id: str) -> StoredState | None:
        """What is known of this boot; None when nothing is."""
        data = self._files.read(self.layout.state)
        if data is None:
            return None
        try:
            kept = statefile.decode(data, boot_id)
        except (ValueError, TypeError, KeyError) as error:
            _LOG.warning(
                "the supervisor's state is not usable", path=self.layout.state, error=repr(error)
            )
            return None
        if kept is not None:
            self._told = kept.hosts
        return kept

    def save(self, boot_id: str, memory: Memory, holders: Iterable[Holder]) -> None:
        """Write the state, unless it is written."""
        data = statefile.encode(boot_id, memory, holders, self._told)
        if data != self._saved:
            self._files.replace(self.layout.state, data)
            self._saved = data

    def write_config(self, run: Run, spec: FabricNodeSpec | None) -> None:
        """Everything that a start of this run reads. Only while no daemon runs."""
        layout = self.layout
        self._files.replace(layout.config, render.config(run, layout), mode=0o644)
        self._files.replace(layout.nodes, render.nodes_config(run), mode=0o644)
        self._files.overwrite(layout.nsswitch, render.NSSWITCH)
        # A new file: the old one may be longer, and nobody has it bound now.
        self._hosts = render.hosts(run, spec)
        self._files.replace(layout.hosts, self._hosts, mode=0o644)
        self._is_encrypted = run.is_encrypted
        self._told = self._mark(self._hosts)

    def write_hosts(self, run: Run, spec: FabricNodeSpec | None) -> bool:
        """Bring the running daemon's hosts file up to date, in place; whether the daemon is to be told."""
        wanted = render.hosts(run, spec)
        if self._hosts is None:
            self._hosts = self._files.read(self.layout.hosts)
        if wanted != self._hosts:
            self._told = self._told or ""
            self._files.overwrite(self.layout.hosts, wanted)
            self._hosts = wanted
        self._is_encrypted = run.is_encrypted
        return self._told not in (None, self._mark(wanted))

    def mark_reloaded(self) -> None:
        """The daemon reads hosts file and certificate as they are now."""
        if self._hosts is not None:
            self._told = self._mark(self._hosts)

    def _mark(self, hosts: bytes) -> str:
        """What tells one state of all that a reload reads from another."""
        certificate = self._files.read(self.layout.tls / "cert.pem") if self._is_encrypted else b""
        return hashlib.sha256(hosts + (certificate or b"")).hexdigest()[:16]

    def clear_recovery(self) -> None:
        """Forget the peers of an earlier run."""
        self._files.remove(self.layout.persist / _RECOVERY)

    def load_spec(self) -> tuple[FabricNodeSpec | None, int]:
        """The controller's last word and its generation; nothing when there is none that can be read."""
        data = self._files.read(self._spec_path)
        if data is None:
            return None, 0
        try:
            return statefile.read_spec(data)
        except (InvalidConfigError, ValueError, TypeError, KeyError) as error:
            _LOG.warning(
                "the stored FabricNode is not usable", path=self._spec_path, error=repr(error)
            )
            return None, 0

    def save_spec(self, spec: FabricNodeSpec, generation: int) -> None:
        """Keep the controller's word, unless it is kept."""
        data = statefile.encode_spec(spec, generation)
        if data != self._saved_spec:
            self._files.replace(self._spec_path, data, durable=True)
            self._saved_spec = data
