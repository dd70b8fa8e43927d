"""A running fake API server for tests: connect a real client to ``url``; inspect it and inject faults through ``api``.

    with FakeApiServer() as server:
        client = Client(server.config())

With ``tls_directory`` it speaks HTTPS with certificates made there (needs ``cryptography``); else plain HTTP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nvdra_node.kube.config import KubeConfig
from tests.fakes.apiserver.api import Api
from tests.fakes.apiserver.auth import ADMIN, ADMIN_TOKEN, User
from tests.fakes.apiserver.kinds import Route
from tests.fakes.apiserver.listener.control import Control
from tests.fakes.apiserver.listener.http import Listener
from tests.fakes.apiserver.listener.tls import server_context
from tests.fakes.apiserver.writes import Write
from tests.lib import objects
from tests.lib.pki import StoredAuthority

JsonObject = dict[str, Any]
NAMESPACES = ("default", "kube-system", "kube-node-lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSettings:
    """How the cluster is. ``minor`` is that of Kubernetes 1.minor, as ``/version`` answers it."""

    minor: int = 36
    versions: tuple[str, ...] = ("v1",)
    is_auth_enforced: bool = False
    bookmark_interval_s: float = 60.0
    port: int = 0
    control_port: int = 0
    tls_directory: Path | None = None


class FakeApiServer:
    """See the module. ``start`` and ``stop``, or a with statement."""

    api_type: type[Api] = Api
    """What answers; benchmarks put one in its place that understands more."""

    def __init__(self, settings: FakeSettings | None = None) -> None:
        self.settings = settings = settings or FakeSettings()
        self.api = self.api_type(
            minor=settings.minor,
            is_auth_enforced=settings.is_auth_enforced,
            bookmark_interval_s=settings.bookmark_interval_s,
        )
        self.api.router.serve_versions(settings.versions)
        self.authority: StoredAuthority | None = None
        self.api.control = Control(self).answer
        self._listener = Listener(self.api, port=settings.port)
        self._control_listener = Listener(self.api, port=settings.control_port)
        if settings.tls_directory:
            self.use_new_certificate()
        for name in NAMESPACES:
            self.add(objects.obj("Namespace", name))

    def __enter__(self) -> FakeApiServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._listener.open()

    def stop(self) -> None:
        """End everything; the objects stay until the next ``start``."""
        self.api.faults.clear()
        self.api.reader.end_watches()
        self._listener.close()

    def start_control(self) -> None:
        """Listen on the control port, which an outage leaves alone, until the process ends."""
        self._control_listener.open()

    @property
    def control_url(self) -> str:
        """Where ``start_control`` listens; always plain HTTP."""
        return f"http://127.0.0.1:{self._control_listener.port}"

    def end_connections(self) -> None:
        """Close all connections and watches; new ones are taken."""
        self._listener.end_connections()

    @property
    def url(self) -> str:
        """Where it listens."""
        scheme = "https" if self.settings.tls_directory else "http"
        return f"{scheme}://127.0.0.1:{self._listener.port}"

    def use_new_certificate(self, stem: str = "server") -> None:
        """Make a server certificate and serve later connections with it."""
        if self.settings.tls_directory is None:
            raise ValueError("the fake was not started with a directory for certificates")
        self.authority = self.authority or StoredAuthority(self.settings.tls_directory)
        certificate, key = self.authority.issue_server(stem=stem)
        context = server_context(certificate, key, self.authority.certificate_path)
        self._listener.set_tls(context)

    def config(self, **changes: Any) -> KubeConfig:
        """How to reach it; as administrator unless ``changes`` (fields of KubeConfig) say otherwise."""
        known: dict[str, Any] = {"server": self.url}
        if self.authority:
            known["ca_file"] = str(self.authority.certificate_path)
        if not changes.keys() & {"token", "token_file", "client_cert_file"}:
            known["token"] = ADMIN_TOKEN
        return KubeConfig(**{**known, **changes})

    def token_for(self, name: str, *groups: str, node: str = "") -> str:
        """A bearer token for a user; ``node`` binds it to a node as TokenRequest would."""
        extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
        return self.api.authenticator.mint(User(name, groups, extra))

    def write_kubeconfig(self, path: Path, *, token: str = ADMIN_TOKEN) -> Path:
        """A kubeconfig (as JSON, which is YAML) for this server."""
        cluster: JsonObject = {"server": self.url}
        if self.authority:
            cluster["certificate-authority"] = str(self.authority.certificate_path.absolute())
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        path.write_text(json.dumps(document, indent=2))
        return path

    def add(self, obj: JsonObject) -> JsonObject:
        """Create an object as administrator, with its status; returns the stored state. Makes its namespace."""
        version = obj["apiVersion"].rpartition("/")[2]
        group = obj["apiVersion"].rpartition("/")[0]
        kind = next(
            kind
            for kind in self.api.router.kinds.values()
            if kind.group == group and kind.kind == obj["kind"]
        )
        namespace = obj["metadata"].get("namespace", "")
        if namespace and not self.has_namespace(namespace):
            self.add(objects.obj("Namespace", namespace))
        route = Route("", {}, kind, version, namespace)
        entry = self.api.writer.create(Write(ADMIN, route, kind, obj, manager="fake"))
        if obj.get("status") and "status" not in entry.obj:
            name = entry.obj["metadata"]["name"]
            status = Route("", {}, kind, version, namespace, name, "status")
            body = {"metadata": {"name": name}, "status": obj["status"]}
            entry = self.api.writer.update(Write(ADMIN, status, kind, body, manager="fake"))
        return entry.obj

    def has_namespace(self, name: str) -> bool:
        """Whether a namespace exists."""
        kind = self.api.router.kinds["", "namespaces"]
        return self.api.store.find(kind, "", name) is not None

    def objects(self, plural: str, group: str = "resource.k8s.io") -> list[JsonObject]:
        """All stored objects of a kind, by name."""
        kind = self.api.router.kinds[group, plural]
        with self.api.store.lock:
            entries = self.api.store.table(kind).entries
            return [entries[key].obj for key in sorted(entries)]
