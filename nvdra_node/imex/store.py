"""The supervisor's files: what nvidia-imex reads, and what we must know after a restart. Called by ``supervisor``.

What is true for one boot only is below /run: which run was started, who holds a domain. The controller's last word is
below /var/lib: with it a node whose API server is down prepares claims it may prepare, also after a reboot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from nvdra_core import log
from nvdra_core.api.decode import decode_part
from nvdra_core.api.fabric import FabricNodeSpec
from nvdra_core.errors import InvalidConfigError
from nvdra_core.value import Value, asdict, replace
from nvdra_node.host.ports import Files
from nvdra_node.imex import render
from nvdra_node.imex.model import Holder, Memory, Run, Started
from nvdra_node.imex.render import Layout

_LOG = log.get(__name__)

_RECOVERY = "persist.dat"
_V = TypeVar("_V", bound=Value)


class Kept(Value, kw_only=True):
    """What an earlier supervisor of this boot left."""

    memory: Memory
    holders: tuple[Holder, ...]


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

    def load(self, boot_id: str) -> Kept | None:
        """What is known of this boot; None when nothing is."""
        data = self._files.read(self.layout.state)
        if data is None:
            return None
        try:
            body = json.loads(data)
            if body["bootID"] != boot_id:
                return None
            kept = Kept(
                memory=_memory(dict(body["memory"])),
                holders=tuple(_built(Holder, holder) for holder in body["holders"]),
            )
            self._told = msgspec.convert(body.get("hosts"), str | None)
            return kept
        except (ValueError, TypeError, KeyError) as error:
            _LOG.warning(
                "the supervisor's state is not usable", path=self.layout.state, error=repr(error)
            )
            return None

    def save(self, boot_id: str, memory: Memory, holders: Iterable[Holder]) -> None:
        """Remember. Times of the monotonic clock are worth nothing in another process and are left out."""
        body = {
            "bootID": boot_id,
            "memory": {
                "started": asdict(memory.started) if memory.started is not None else None,
                "restarts": memory.restarts,
                "failures": memory.failures,
                "last_exit": memory.last_exit,
                "is_held": memory.is_held,
                "recovers_domain": memory.recovers_domain,
            },
            "holders": [asdict(holder) for holder in sorted(holders)],
            "hosts": self._told,
        }
        data = json.dumps(body).encode()
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

    def hosts_told(self) -> None:
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
            body = json.loads(data)
            return decode_spec(body["spec"]), int(body["generation"])
        except (InvalidConfigError, ValueError, TypeError, KeyError) as error:
            _LOG.warning(
                "the stored FabricNode is not usable", path=self._spec_path, error=repr(error)
            )
            return None, 0

    def save_spec(self, spec: FabricNodeSpec, generation: int) -> None:
        """Keep the controller's word, unless it is kept."""
        body = {"spec": msgspec.to_builtins(spec), "generation": generation}
        data = json.dumps(body).encode()
        if data != self._saved_spec:
            self._files.replace(self._spec_path, data, durable=True)
            self._saved_spec = data


def decode_spec(value: Any) -> FabricNodeSpec:
    """``spec`` of a FabricNode. Raises InvalidConfigError."""
    return decode_part(value, FabricNodeSpec, where="FabricNode", strict=False)


def _memory(body: dict[str, Any]) -> Memory:
    """Raises what ``_built`` raises."""
    started = body.pop("started")
    memory = _built(Memory, body)
    if started is None:
        return memory
    run = _built(Run, started["run"])
    known = msgspec.convert(started["invocation_id"], str)
    return replace(memory, started=Started(run=run, invocation_id=known, is_unsure=not known))


def _built(kind: type[_V], body: Any) -> _V:
    """A value from the file's fields, each of its type. Raises TypeError, ValueError, KeyError.

    A number that is a text would be found by the first decision, and again after each restart.
    """
    hints = get_type_hints(kind)
    return kind(**{key: msgspec.convert(value, hints[key]) for key, value in dict(body).items()})
