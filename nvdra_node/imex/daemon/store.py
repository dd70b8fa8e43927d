"""Files of the IMEX daemon and of its supervisor. Called by ``supervisor`` and ``control``.

Below /run, lost with a reboot: the daemon's configuration, what was started and which claims hold a domain. Below
/var/lib: the last FabricNode spec, so that known claims can be prepared while the API server is down.
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
        self._loaded: str | None = None
        """Digest of the hosts file and certificate that the daemon has read; None: unknown."""
        self._is_encrypted = False
        self._saved = b""
        self._saved_spec = b""

    def open(self) -> None:
        """Make the directories."""
        layout = self.layout
        for path in (
            layout.directory, layout.persist, layout.commands.parent, self._spec_path.parent,
        ):  # fmt: skip
            self._files.make_directory(path, mode=0o750)

    def load(self, boot_id: str) -> StoredState | None:
        """State of this boot; None without a usable file."""
        path = self.layout.state
        data = self._files.read(path)
        if data is None:
            return None
        try:
            stored = statefile.decode(data, boot_id)
        except ValueError as error:
            _LOG.warning("ignoring unreadable state file", path=path, error=repr(error))
            return None
        if stored is not None:
            self._loaded = stored.loaded_files
        return stored

    def save(self, boot_id: str, memory: Memory, holders: Iterable[Holder]) -> None:
        """Write the state if it has changed."""
        data = statefile.encode(boot_id, memory, holders, self._loaded)
        if data != self._saved:
            self._files.replace(self.layout.state, data)
            self._saved = data

    def write_config(self, run: Run, spec: FabricNodeSpec | None) -> None:
        """Write all files that a start of this run reads. Only while no daemon runs."""
        layout = self.layout
        self._files.replace(layout.config, render.config(run, layout), mode=0o644)
        self._files.replace(layout.nodes, render.nodes_config(run), mode=0o644)
        self._files.overwrite(layout.nsswitch, render.NSSWITCH)
        # Replaced, as the old one may be longer; no unit has it mounted now.
        self._hosts = render.hosts(run, spec)
        self._files.replace(layout.hosts, self._hosts, mode=0o644)
        self._is_encrypted = run.is_encrypted
        self._loaded = self._digest(self._hosts)

    def write_hosts(self, run: Run, spec: FabricNodeSpec | None) -> bool:
        """Update the running daemon's hosts file in place; whether the daemon must reload."""
        wanted = render.hosts(run, spec)
        if self._hosts is None:
            self._hosts = self._files.read(self.layout.hosts)
        if wanted != self._hosts:
            self._loaded = self._loaded or ""
            self._files.overwrite(self.layout.hosts, wanted)
            self._hosts = wanted
        self._is_encrypted = run.is_encrypted
        return self._loaded not in (None, self._digest(wanted))

    def mark_reloaded(self) -> None:
        """The daemon has read the present hosts file and certificate."""
        if self._hosts is not None:
            self._loaded = self._digest(self._hosts)

    def _digest(self, hosts: bytes) -> str:
        """Digest of everything that a reload reads."""
        certificate = self._files.read(self.layout.tls / "cert.pem") if self._is_encrypted else b""
        return hashlib.sha256(hosts + (certificate or b"")).hexdigest()[:16]

    def clear_recovery(self) -> None:
        """Remove nvidia-imex's list of the peers of an earlier run."""
        self._files.remove(self.layout.persist / _RECOVERY)

    def load_spec(self) -> tuple[FabricNodeSpec | None, int]:
        """The stored FabricNode spec and its generation; (None, 0) without a usable file."""
        data = self._files.read(self._spec_path)
        if data is None:
            return None, 0
        try:
            return statefile.read_spec(data)
        except (InvalidConfigError, ValueError) as error:
            path = self._spec_path
            _LOG.warning("ignoring unreadable stored FabricNode", path=path, error=repr(error))
            return None, 0

    def save_spec(self, spec: FabricNodeSpec, generation: int) -> None:
        """Store the spec if it has changed."""
        data = statefile.encode_spec(spec, generation)
        if data != self._saved_spec:
            self._files.replace(self._spec_path, data, durable=True)
            self._saved_spec = data
