"""Writes the label nvidia.com/gpu.clique of this node's Node, for node selectors. Off by default.

Server-side apply without force: a label that another program owns, such as GPU Feature Discovery, is left as it is and
the conflict is logged. The Node's UID in the apply keeps it from creating a Node. The label stays when the service
ends. The Node is not watched: a removed label is restored within ``AUDIT_S``, and an apply without a change costs etcd
nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.kube.resources import NODES, WriteOptions
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.computedomain.model import NodeView
from nvdra_node.kube.client import Client

_LOG = log.get(__name__)

LABEL = "nvidia.com/gpu.clique"
MANAGER = WriteOptions(field_manager="nvdra-gpu-clique")
WRITE_S = 10.0
RETRY_S = 30.0
POLL_S = 600.0
CONFLICT, FORBIDDEN = 409, 403
AUDIT_S = 1800.0
"""10,000 nodes send twelve requests a second (GET and PATCH each)."""


class CliqueLabelWriter:
    """Owns one thread, in which ``run`` writes."""

    def __init__(
        self, client: Client, node: str, view: Callable[[], NodeView], clock: Clock
    ) -> None:
        self._client = client
        self._node = node
        self._view = view
        self._clock = clock
        self._wake = threading.Event()
        self._written: str | None = None
        self._found = ""
        """The label's value before the last write."""
        self._audit_at_s = math.inf

    def changed(self) -> None:
        """The view may have changed; from any thread."""
        self._wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Write until ``stopping``."""
        while not stopping.is_set():
            self._wake.clear()
            self._clock.wait(self._wake, self.write_if_due())

    def write_if_due(self) -> float:
        """Update the label; seconds until the next try. Never raises NvdraError."""
        view = self._view()
        now_s = self._clock.monotonic()
        if not view.is_settled or (view.clique_id == self._written and now_s < self._audit_at_s):
            return POLL_S
        try:
            self._write(view.clique_id)
        except NvdraError as error:
            return self._pause_after(error, view.clique_id)
        if self._written != view.clique_id:
            _LOG.info("label written", label=LABEL, clique=view.clique_id)
        self._written = view.clique_id
        self._audit_at_s = now_s + AUDIT_S if view.clique_id else math.inf
        return POLL_S

    def _write(self, clique_id: str) -> None:
        """Raises NvdraError."""
        deadline = Deadline(WRITE_S, self._clock)
        metadata = self._client.get(NODES, self._node, deadline=deadline)["metadata"]
        self._found = (metadata.get("labels") or {}).get(LABEL, "")
        labels = {LABEL: clique_id} if clique_id else {}
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self._node, "uid": metadata["uid"], "labels": labels},
        }
        self._client.apply(NODES, body, options=MANAGER, deadline=deadline)

    def _pause_after(self, error: NvdraError, clique_id: str) -> float:
        status = error.status if isinstance(error, ApiError) else 0
        if status == CONFLICT:
            _LOG.warning(
                "another program owns the clique label",
                error, label=LABEL, value=self._found, clique=clique_id,
            )  # fmt: skip
            return POLL_S
        if status == FORBIDDEN:
            why = "clique label refused; set node.cliqueLabel=true in the chart, or gpuCliqueLabelEnabled: false"
            _LOG.warning(why, error, label=LABEL)
            return POLL_S
        _LOG.warning("clique label not written", error, label=LABEL, clique=clique_id)
        return RETRY_S
