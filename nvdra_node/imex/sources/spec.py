"""Reflector of this node's FabricNode spec. One thread; run by ``app``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvdra_core.api.fabric import FabricNodeSpec
from nvdra_core.errors import InvalidConfigError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import Resource, Selector
from nvdra_core.kube.watch import Follow, Listing, follow
from nvdra_core.runtime import log
from nvdra_node.imex.daemon.statefile import decode_spec

_LOG = log.get(__name__)


class SpecReflector:
    """Follows this node's FabricNode."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        node: str,
        take: Callable[[FabricNodeSpec | None, int], None],
    ) -> None:
        """``take`` gets each new spec with its generation; None: there is no object."""
        self._node = node
        self._take_spec = take
        selector = Selector(fields=f"metadata.name={node}")
        self._follow: Follow = follow(client, resource, selector=selector)

    def run(self) -> None:
        """Follow until ``stop``."""
        for news in self._follow:
            if isinstance(news, Listing):
                mine = [item for item in news.items if item["metadata"]["name"] == self._node]
                self._take(mine[0] if mine else None)
            else:
                self._take(None if news.type == "DELETED" else news.obj)

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._follow.stop()

    def _take(self, obj: dict[str, Any] | None) -> None:
        if obj is None:
            _LOG.info("the controller has no FabricNode for this node", v=1)
            self._take_spec(None, 0)
            return
        try:
            spec = decode_spec(obj.get("spec") or {})
        except InvalidConfigError as error:
            _LOG.warning("FabricNode is not understood; the last one counts", error)
            return
        self._take_spec(spec, int(obj["metadata"].get("generation") or 0))
