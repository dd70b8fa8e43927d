"""The health streams: what the kubelet shows as the health of a pod's devices (KEP-4680), v1alpha1 and v1.

In: the driver's list of healths, and ``changed`` calls. Out: on each stream the complete list, at once, on each change,
and again every third of its timeout, for a report that is not repeated decays to unknown. A stream holds a thread of
the server, so their number has a cap: the newest wins, because a kubelet that came back is the one that listens.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import grpc

from nvdra_core.runtime.clock import Clock
from nvdra_node.kubeletplugin.driver import DeviceHealth
from nvdra_node.rpc.messages import dra_health_v1, dra_health_v1alpha1

TIMEOUT_S = 30
"""How long a report is good for. Kubelets before 1.35 do not read it and assume the same 30 seconds."""

MAX_STREAMS = 8
MESSAGE_LIMIT = 1024


class _Stream:
    """One open stream: woken by changes and by its end."""

    __slots__ = ("_is_over", "wake")

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._is_over = False

    def end(self) -> None:
        self._is_over = True
        self.wake.set()

    def is_over(self) -> bool:
        return self._is_over


class HealthService:
    """The health service of the DRA socket; see the module."""

    def __init__(
        self, pool: str, healths: Callable[[], Sequence[DeviceHealth]], clock: Clock
    ) -> None:
        """``healths`` gives the complete list and must not block; ``pool`` is the pool's name (the node's)."""
        self._pool = pool
        self._healths = healths
        self._clock = clock
        self._lock = threading.Lock()
        self._streams: deque[_Stream] = deque()
        self._is_stopped = False

    def changed(self) -> None:
        """Send the list again, now. Cheap; from any thread."""
        with self._lock:
            for stream in self._streams:
                stream.wake.set()

    def stop(self) -> None:
        """End all streams and take no new ones."""
        with self._lock:
            self._is_stopped = True
            for stream in self._streams:
                stream.end()

    def open_streams(self) -> int:
        """For status."""
        return len(self._streams)

    def handlers(self) -> tuple[Any, ...]:
        """Generic gRPC handlers of both API versions."""
        return tuple(self._handler(pb) for pb in (dra_health_v1, dra_health_v1alpha1))

    def _handler(self, pb: Any) -> Any:
        def watch(request: Any, context: Any) -> Iterator[Any]:
            return self._watch(pb, context)

        methods = {
            "NodeWatchResources": grpc.unary_stream_rpc_method_handler(
                watch,
                request_deserializer=pb.NodeWatchResourcesRequest.FromString,
                response_serializer=pb.NodeWatchResourcesResponse.SerializeToString,
            )
        }
        return grpc.method_handlers_generic_handler(f"{pb.PACKAGE}.DRAResourceHealth", methods)

    def _watch(self, pb: ModuleType, context: Any) -> Iterator[Any]:
        stream = _Stream()
        if not context.add_callback(stream.end):
            return  # the client is gone already
        self._open(stream)
        try:
            while True:
                stream.wake.clear()  # before the look, so that an end or a change after it wakes us
                if stream.is_over():
                    return
                yield self._report(pb)
                self._clock.wait(stream.wake, TIMEOUT_S / 3)
        finally:
            with self._lock:
                if stream in self._streams:
                    self._streams.remove(stream)

    def _open(self, stream: _Stream) -> None:
        with self._lock:
            if self._is_stopped:
                stream.end()
            if len(self._streams) >= MAX_STREAMS:
                self._streams.popleft().end()
            self._streams.append(stream)

    def _report(self, pb: ModuleType) -> Any:
        now_s = int(self._clock.wall())
        response = pb.NodeWatchResourcesResponse()
        for health in self._healths():
            response.devices.add(
                device=pb.DeviceIdentifier(pool_name=self._pool, device_name=health.device),
                health=getattr(pb, health.health.value),
                last_updated_time=now_s,
                health_check_timeout_seconds=TIMEOUT_S,
                message=health.message[:MESSAGE_LIMIT],
            )
        return response
