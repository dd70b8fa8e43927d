"""Renews the node's own token: requests, with the current token, another one for the same ServiceAccount and Node.

``nvdra-credential.timer`` runs this every 15 minutes; most runs read one file and end. Services read the new token by
themselves (``nvdra_node.kube.credentials``). A failed run keeps the current token, exits with 1, and the next run
retries. The host's clock decides only when to renew: a wrong clock costs requests, not the credential.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nvdra_core.errors import ApiError, ConfigError, LockTimeoutError, MalformedTextError
from nvdra_core.kube.resources import SERVICE_ACCOUNTS, JsonObject, WriteOptions
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, SystemClock
from nvdra_node import config
from nvdra_node.app.dependencies import load_kubeconfig
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.host.files import HostFiles, file_error, temp_path
from nvdra_node.host.ports import Files
from nvdra_node.kube import token
from nvdra_node.kube.client import Client
from nvdra_node.kube.token import TokenFacts

_LOG = log.get(__name__)
DEFAULT_WRITE = WriteOptions()
RENEW_AT = 0.25
"""Of a token's lifetime. A host that was off or disconnected for the other three quarters still has a valid token."""
SKEW_S = 60.0
"""Clock differences up to this are not reported."""
TOKENS = SERVICE_ACCOUNTS.sub("token")


def run(settings: config.NodeConfig, system: SystemdEnvironment) -> str:
    """Renew the token of the configured credential if it is due; returns what was done, empty: nothing.

    Raises ConfigError, FileError, LockTimeoutError and ApiError, each with a remedy.
    """
    log.configure(
        verbosity=settings.verbosity, style=settings.log_format, journal=system.is_journal
    )
    kubeconfig = load_kubeconfig(settings)
    if not kubeconfig.token_file:
        _LOG.info("the credential is not a token file: nothing to renew")
        return ""

    renewal = Renewal(
        Path(kubeconfig.token_file), lambda: Client(kubeconfig), HostFiles(), SystemClock()
    )
    with exclusive(renewal.path.parent):
        return renewal.run()


def check(settings: config.NodeConfig) -> str:
    """Check by a dry run that the API server would renew the configured credential's token. Raises as ``run``."""
    kubeconfig = load_kubeconfig(settings)
    if not kubeconfig.token_file:
        return "the credential is not a token file: nothing to renew"

    path = Path(kubeconfig.token_file)
    return Renewal(path, lambda: Client(kubeconfig), HostFiles(), SystemClock()).check()


class Renewal:
    """The renewal of one token file."""

    def __init__(
        self, path: Path, connect: Callable[[], Client], files: Files, clock: Clock
    ) -> None:
        self.path = path
        self._connect = connect
        self._files = files
        self._clock = clock

    def run(self) -> str:
        """See ``run``; the caller excludes concurrent renewals."""
        self._files.remove(temp_path(self.path))  # of a run that was killed
        facts = self._read()
        reason = due(facts, self._clock.wall())
        if not reason:
            _LOG.info("nothing to renew", node=facts.node, until=moment(facts.expires_at_s))
            return ""
        text = self._request(facts)
        fresh = checked(text, facts)
        self._files.replace(self.path, text.encode() + b"\n", durable=True)
        said = f"token of node {fresh.node} renewed, valid until {moment(fresh.expires_at_s)} ({reason})"
        off_s = self._clock.wall() - fresh.issued_at_s
        if abs(off_s) > SKEW_S:
            side = "ahead of" if off_s > 0 else "behind"
            said += f"; this host's clock is {abs(off_s):.0f} s {side} the API server's"
        return said

    def check(self) -> str:
        """Send a renewal's request as a dry run: the same rights and policies apply. Raises as ``run``."""
        facts = self._read()
        self._request(facts, WriteOptions(dry_run=True))
        return f"token of node {facts.node} can be renewed"

    def _read(self) -> TokenFacts:
        data = self._files.read(self.path)
        if data is None:
            raise ConfigError(f"{self.path} does not exist; {REMEDY}")
        try:
            facts = token.parse(data.decode("ascii", "replace"))
        except MalformedTextError as error:
            raise ConfigError(f"{self.path}: {error}; {REMEDY}") from error
        if not facts.node:
            raise ConfigError(f"the token in {self.path} is not bound to a Node; {REMEDY}")
        return facts

    def _request(self, facts: TokenFacts, options: WriteOptions = DEFAULT_WRITE) -> str:
        client = self._connect()
        try:
            answer = client.create(TOKENS, request(facts), options=options)
        except ApiError as error:
            text = f"{explain(error.status, facts, self._clock.wall())}: {error}"
            raise ApiError(text, status=error.status, api_reason=error.api_reason) from error
        finally:
            client.close()
        return str((answer.get("status") or {}).get("token") or "")


REMEDY = "run the playbook nvdra.node.site with nvdra_credential=service_account"
"""A lost credential can be replaced only with another valid one."""


def due(facts: TokenFacts, now_s: float) -> str:
    """Why the token is due for renewal; empty: it is not."""
    if now_s < facts.issued_at_s - SKEW_S:
        return "this host's clock is before the token's issue time"
    if now_s >= facts.expires_at_s:
        return f"expired at {moment(facts.expires_at_s)} by this host's clock"
    share = (now_s - facts.issued_at_s) / facts.life_s
    return f"{share:.0%} of its life had passed" if share >= RENEW_AT else ""


def request(facts: TokenFacts) -> JsonObject:
    """The TokenRequest: same account, Node and lifetime."""
    node = {"apiVersion": "v1", "kind": "Node", "name": facts.node, "uid": facts.node_uid}
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"namespace": facts.namespace, "name": facts.account},
        "spec": {"boundObjectRef": node, "expirationSeconds": facts.life_s},
    }


def checked(text: str, before: TokenFacts) -> TokenFacts:
    """The facts of a new token for the same account and Node. Raises ApiError if it is for others."""
    try:
        fresh = token.parse(text)
    except MalformedTextError as error:
        raise ApiError(f"the API server's answer is {error}", status=0) from error
    same = (fresh.namespace, fresh.account, fresh.node, fresh.node_uid)
    if same != (before.namespace, before.account, before.node, before.node_uid):
        raise ApiError(
            f"the new token is for {fresh.namespace}/{fresh.account} on node {fresh.node!r}, not for"
            f" {before.namespace}/{before.account} on node {before.node!r}; the old one is kept",
            status=0,
        )
    return fresh


def explain(status: int, facts: TokenFacts, now_s: float) -> str:
    """The cause of a refusal, and the remedy."""
    account = f"{facts.namespace}/{facts.account}"
    if status == 401:
        return (
            f"the API server rejects the token, although it is valid until {moment(facts.expires_at_s)}:"
            f" it is bound to the Node {facts.node} and the ServiceAccount {account}, which may have been"
            f" deleted; {REMEDY}"
        )
    if status == 403:
        return (
            f"{account} may not renew its own token on node {facts.node}: its Role and the policy of"
            " tokens come with the chart nvdra; install it or check its values"
        )
    if status == 404:
        return (
            f"the ServiceAccount {account} does not exist; install the chart nvdra, then {REMEDY}"
        )
    left_s = facts.expires_at_s - now_s
    until = f"{left_s / 3600:.1f} h left" if left_s > 0 else "it has expired"
    return f"token not renewed ({until} of the current one); retried in 15 minutes"


def moment(seconds: int) -> str:
    """A time in readable form, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Exclude concurrent renewals. Raises LockTimeoutError while one runs, FileError without the directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error("open", directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockTimeoutError("another renewal of this token is running") from None
        yield
    finally:
        os.close(descriptor)
