"""The health service: the health of devices, shown in the status of their pods (KEP-4680), v1alpha1 and v1.

Each stream gets the complete list at once, on each change, and every third of its timeout: a report that is not
repeated decays to unknown. A stream holds a thread, so their number is limited; the oldest is ended for a new one,
as a kubelet that restarted leaves its old stream behind.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nvdra_core.runtime.clock import Clock
from nvdra_node.kubeletplugin.driver import DeviceHealth
from nvdra_node.rpc.messages import (
    dra_health_v1_pb2,
    dra_health_v1_pb2_grpc,
    dra_health_v1alpha1_pb2,
    dra_health_v1alpha1_pb2_grpc,
)

TIMEOUT_S = 30
"""Validity of a report. Kubelets before 1.35 ignore the field and assume the same 30 seconds."""

MAX_STREAMS = 8
MESSAGE_LIMIT = 1024


class _Stream:
    """One open stream: woken by changes and by its end."""

    __slots__ = ("is_ended", "wake")

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.is_ended = False

    def end(self) -> None:
        self.is_ended = True
        self.wake.set()


class HealthService:
    """See the module."""

    def __init__(
        self, pool: str, healths: Callable[[], Sequence[DeviceHealth]], clock: Clock
    ) -> None:
        """``healths`` returns the complete list without blocking; ``pool`` is the pool's name (the node's)."""
        self._pool = pool
        self._healths = healths
        self._clock = clock
        self._lock = threading.Lock()
        self._streams: deque[_Stream] = deque()
        self._is_stopped = False

    def add_to(self, server: Any) -> None:
        """Add both API versions to a gRPC server."""
        v1, v1alpha1 = (_Servicer(self, pb) for pb in (dra_health_v1_pb2, dra_health_v1alpha1_pb2))
        dra_health_v1_pb2_grpc.add_DRAResourceHealthServicer_to_server(v1, server)
        dra_health_v1alpha1_pb2_grpc.add_DRAResourceHealthServicer_to_server(v1alpha1, server)

    def changed(self) -> None:
        """Send the list to all streams now. From any thread."""
        with self._lock:
            for stream in self._streams:
                stream.wake.set()

    def stop(self) -> None:
        """End all streams and accept no new ones."""
        with self._lock:
            self._is_stopped = True
            for stream in self._streams:
                stream.end()

    def open_streams(self) -> int:
        """For status."""
        return len(self._streams)

    def watch(self, pb: Any, context: Any) -> Iterator[Any]:
        """Reports as messages of ``pb``, until the client, ``stop`` or a newer stream ends it."""
        stream = _Stream()
        if not context.add_callback(stream.end):
            return  # the client has cancelled already
        self._open(stream)
        try:
            while True:
                stream.wake.clear()  # before the check: an end or a change after it wakes this thread
                if stream.is_ended:
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

    def _report(self, pb: Any) -> Any:
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


class _Servicer:
    """The gRPC method of one API version; ``pb``: its messages."""

    def __init__(self, service: HealthService, pb: Any) -> None:
        self._service = service
        self._pb = pb

    def NodeWatchResources(self, request: Any, context: Any) -> Iterator[Any]:
        """See the proto."""
        return self._service.watch(self._pb, context)
