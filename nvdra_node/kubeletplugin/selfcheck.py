"""Proof that the plugin works: its own calls over its own sockets, as the kubelet makes them.

Asked by the watchdog and by the health endpoint. GetInfo on the registration socket and an empty prepare on the DRA
socket must be answered within ``TIMEOUT_S``; a process that is stuck answers neither. Says nothing about GPUs: a node
whose driver is not loaded is healthy, as it must serve unprepare.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nvdra_node.kubeletplugin.leangrpc import grpc
from nvdra_node.kubeletplugin.pb import dra_v1, pluginregistration_v1
from nvdra_node.kubeletplugin.server import SocketPaths

TIMEOUT_S = 2.0
"""Far above what an answer takes, far below any watchdog."""


class SelfCheck:
    """See the module. Thread safe; connects at the first question and stays connected."""

    def __init__(self, paths: SocketPaths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._channels: list[Any] = []
        self._questions: list[tuple[str, Callable[[], object]]] = []

    def problems(self) -> list[str]:
        """What is wrong, empty when both sockets answer. Ends within twice TIMEOUT_S."""
        with self._lock:
            if not self._questions:
                self._connect()
            return [found for what, ask in self._questions if (found := _ask(what, ask))]

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            for channel in self._channels:
                channel.close()
            self._channels.clear()
            self._questions.clear()

    def _connect(self) -> None:
        registration = self._channel(f"unix:{self._paths.registration}")
        dra = self._channel(f"unix:{self._paths.dra}")
        get_info = registration.unary_unary(
            f"/{pluginregistration_v1.PACKAGE}.Registration/GetInfo",
            request_serializer=pluginregistration_v1.InfoRequest.SerializeToString,
            response_deserializer=pluginregistration_v1.PluginInfo.FromString,
        )
        prepare = dra.unary_unary(
            f"/{dra_v1.PACKAGE}.DRAPlugin/NodePrepareResources",
            request_serializer=dra_v1.NodePrepareResourcesRequest.SerializeToString,
            response_deserializer=dra_v1.NodePrepareResourcesResponse.FromString,
        )
        info_request = pluginregistration_v1.InfoRequest()
        prepare_request = dra_v1.NodePrepareResourcesRequest()
        self._questions = [
            ("registration socket", lambda: get_info(info_request, timeout=TIMEOUT_S)),
            ("DRA socket", lambda: prepare(prepare_request, timeout=TIMEOUT_S)),
        ]

    def _channel(self, target: str) -> Any:
        # A socket that was bound anew under the same name is found at once, not after a back-off.
        options = (("grpc.max_reconnect_backoff_ms", 200), ("grpc.use_local_subchannel_pool", 1))
        channel = grpc.insecure_channel(target, options)
        self._channels.append(channel)
        return channel


def _ask(what: str, ask: Callable[[], object]) -> str:
    try:
        ask()
    except grpc.RpcError as error:
        return f"the {what} does not answer: {error.code().name}: {error.details()}"
    return ""
