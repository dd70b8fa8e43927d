"""Reflector of this node's FabricNode spec. One thread; run by ``app``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nvdra_core.api.fabric import FabricNodeSpec
from nvdra_core.errors import InvalidConfigError
from nvdra_core.kube.reflector import Reflector
from nvdra_core.kube.resources import Resource, Selector
from nvdra_core.runtime import log
from nvdra_node.imex.daemon.statefile import decode_spec
from nvdra_node.kube.client import Client
from nvdra_node.kube.listwatch import ClientListWatch

_LOG = log.get(__name__)


class SpecReflector:
    """Keeps the supervisor's copy of this node's FabricNode spec current."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        node: str,
        take: Callable[[FabricNodeSpec | None, int], None],
    ) -> None:
        """``take`` gets each new spec with its generation; None: the object does not exist."""
        self._take_spec = take
        source = ClientListWatch(
            client, resource, selector=Selector(fields=f"metadata.name={node}")
        )
        self._reflector = Reflector(source, self, client.transport.clock)

    def run(self) -> None:
        """Watch until ``stop``."""
        self._reflector.run()

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._reflector.stop()

    def replace(self, objects: Iterable[dict[str, Any]]) -> None:
        """See reflector.Store; the selector leaves at most one object."""
        found = list(objects)
        self._take(found[0] if found else None)

    def put(self, obj: dict[str, Any]) -> None:
        """See reflector.Store."""
        self._take(obj)

    def delete(self, obj: dict[str, Any]) -> None:
        """See reflector.Store."""
        self._take(None)

    def _take(self, obj: dict[str, Any] | None) -> None:
        if obj is None:
            _LOG.info("no FabricNode for this node", v=1)
            self._take_spec(None, 0)
            return
        try:
            spec = decode_spec(obj.get("spec") or {})
        except InvalidConfigError as error:
            _LOG.warning("ignoring unreadable FabricNode; keeping the last one", error)
            return
        self._take_spec(spec, int(obj["metadata"].get("generation") or 0))
