"""A small kubelet for tests: the plugin watcher and the DRA client, over real unix sockets.

``Kubelet(registry).register(driver)`` does what the kubelet does when a socket appears: GetInfo, check, connect to the
endpoint, NotifyRegistrationStatus. Calls use the first version that both sides support. The kubelet allows GetInfo one
second; this one waits longer for a busy machine, and records the time in ``get_info_s``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from nvdra_node.rpc.messages import (
    dra_health_v1_pb2,
    dra_health_v1_pb2_grpc,
    dra_health_v1alpha1_pb2_grpc,
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2,
    dra_v1beta1_pb2_grpc,
    pluginregistration_v1_pb2,
)
from nvdra_node.rpc.messages.pluginregistration_v1_pb2_grpc import RegistrationStub

DRA: dict[str, tuple[Any, Any]] = {
    "v1.DRAPlugin": (dra_v1_pb2, dra_v1_pb2_grpc.DRAPluginStub),
    "v1beta1.DRAPlugin": (dra_v1beta1_pb2, dra_v1beta1_pb2_grpc.DRAPluginStub),
}
HEALTH: dict[str, Any] = {
    "v1.DRAResourceHealth": dra_health_v1_pb2_grpc.DRAResourceHealthStub,
    "v1alpha1.DRAResourceHealth": dra_health_v1alpha1_pb2_grpc.DRAResourceHealthStub,
}
REGISTRATION_S = 60.0
CALL_S = 45.0


class RegistrationError(Exception):
    """The plugin did not answer, or with something that a kubelet refuses."""


@dataclass(frozen=True)
class Prepared:
    """One device of an answer."""

    requests: list[str]
    pool: str
    device: str
    cdi_ids: list[str]
    share_id: str | None


@dataclass
class Answers:
    """Devices and errors by claim UID."""

    devices: dict[str, list[Prepared]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def connect(path: Path) -> Any:
    """A new connection."""
    return grpc.insecure_channel(f"unix:{path}", options=(("grpc.use_local_subchannel_pool", 1),))


class Plugin:
    """A registered plugin as the kubelet sees it."""

    def __init__(self, info: Any, version: str) -> None:
        self.info = info
        self.version = version
        self.pb, self._stub = DRA[version]
        self.channel = connect(Path(info.endpoint))

    def close(self) -> None:
        self.channel.close()

    def prepare(self, *claims: tuple[str, str, str], timeout_s: float = CALL_S) -> Answers:
        """``claims`` are (namespace, name, uid)."""
        request = self.pb.NodePrepareResourcesRequest(claims=self._claims(claims))
        answer = self.stub().NodePrepareResources(request, timeout=timeout_s)
        found = self._checked(answer, claims)
        for uid, entry in answer.claims.items():
            if not entry.error:
                found.devices[uid] = [self._device(device) for device in entry.devices]
        return found

    def unprepare(self, *claims: tuple[str, str, str], timeout_s: float = CALL_S) -> Answers:
        """``claims`` are (namespace, name, uid)."""
        request = self.pb.NodeUnprepareResourcesRequest(claims=self._claims(claims))
        answer = self.stub().NodeUnprepareResources(request, timeout=timeout_s)
        return self._checked(answer, claims)

    def begin(self, method: str, *claims: tuple[str, str, str], channel: Any = None) -> Any:
        """Begin ``NodePrepareResources`` or ``NodeUnprepareResources`` without waiting; the call's future."""
        request = getattr(self.pb, f"{method}Request")(claims=self._claims(claims))
        return getattr(self.stub(channel), method).future(request, timeout=CALL_S)

    @contextmanager
    def health(self, version: str = "v1.DRAResourceHealth") -> Iterator[Any]:
        """A health stream: iterate it for reports."""
        stub = HEALTH[version](self.channel)
        call = stub.NodeWatchResources(dra_health_v1_pb2.NodeWatchResourcesRequest())
        try:
            yield call
        finally:
            call.cancel()

    def stub(self, channel: Any = None) -> Any:
        """A client of the DRA service."""
        return self._stub(channel or self.channel)

    def _claims(self, claims: tuple[tuple[str, str, str], ...]) -> list[Any]:
        return [self.pb.Claim(namespace=ns, name=name, uid=uid) for ns, name, uid in claims]

    def _checked(self, answer: Any, claims: tuple[tuple[str, str, str], ...]) -> Answers:
        """The kubelet refuses responses with missing or unknown claims."""
        assert set(answer.claims) == {uid for _, _, uid in claims}
        return Answers(errors={uid: e.error for uid, e in answer.claims.items() if e.error})

    def _device(self, device: Any) -> Prepared:
        has_share = self.version == "v1.DRAPlugin" and device.HasField("share_id")
        return Prepared(
            list(device.request_names),
            device.pool_name,
            device.device_name,
            list(device.cdi_device_ids),
            device.share_id if has_share else None,
        )


class Kubelet:
    """See the module."""

    def __init__(
        self, registry: Path, versions: tuple[str, ...] = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
    ) -> None:
        self.registry = registry
        self.versions = versions
        self.get_info_s: list[float] = []

    def sockets(self) -> list[Path]:
        """The sockets that the plugin watcher sees."""
        return sorted(
            p for p in self.registry.iterdir() if p.is_socket() and not p.name.startswith(".")
        )

    def wait_for_socket(self, driver: str, timeout_s: float = 60.0) -> Path:
        """Wait until the plugin's registration socket exists."""
        path = self.registry / f"{driver}-reg.sock"
        end = time.monotonic() + timeout_s
        while not path.is_socket():
            if time.monotonic() > end:
                raise RegistrationError(f"{path} did not appear")
            threading.Event().wait(0.005)
        return path

    def register(self, driver: str, *, refuse: str = "") -> Plugin:
        """Register the plugin that serves ``driver``; ``refuse``: report a refusal with this reason."""
        path = self.wait_for_socket(driver)
        with connect(path) as channel:
            started = time.monotonic()
            stub = RegistrationStub(channel)
            info = stub.GetInfo(pluginregistration_v1_pb2.InfoRequest(), timeout=REGISTRATION_S)
            self.get_info_s.append(time.monotonic() - started)
            version = next((v for v in info.supported_versions if v in self.versions), "")
            if not version:
                refuse = refuse or "no known version"
            status = pluginregistration_v1_pb2.RegistrationStatus(
                plugin_registered=not refuse, error=refuse
            )
            stub.NotifyRegistrationStatus(status, timeout=REGISTRATION_S)
        if info.type != "DRAPlugin" or info.name != driver or refuse:
            raise RegistrationError(f"{info.type} {info.name}: {refuse}")
        return Plugin(info, version)
