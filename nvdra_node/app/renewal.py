"""Renews the node's own token: a node asks, with the token it has, for another of the same ServiceAccount and Node.

``nvdra-credential.timer`` runs this every quarter of an hour; most runs read one small file and end. Services find the
new token by themselves (``nvdra_core.kube.credentials``). Everything that has to be known is in the token: there is
nothing to set. A run that fails leaves the token that is there, exits with 1, and the next one tries again.

This host's clock decides only when to ask. Whether a token is good the API server alone decides, so a clock that is
wrong costs requests and never the credential.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nvdra_core.errors import ApiError, ConfigError, LockTimeoutError, MalformedTextError
from nvdra_core.kube import token
from nvdra_core.kube.resources import SERVICE_ACCOUNTS, JsonObject, WriteOptions
from nvdra_core.kube.token import TokenFacts
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, SystemClock
from nvdra_node import config
from nvdra_node.app.dependencies import load_kubeconfig
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.host.files import HostFiles, file_error, temp_path
from nvdra_node.host.ports import Files

if TYPE_CHECKING:
    from nvdra_core.kube.client import Client

_LOG = log.get(__name__)
DEFAULT_WRITE = WriteOptions()
RENEW_AT = 0.25
"""Of a token's life. A host that was off, or cut off, comes back with a good token for three quarters of it."""
SKEW_S = 60.0
"""By so much clocks may differ without a word."""
TOKENS = SERVICE_ACCOUNTS.sub("token")


def run(settings: config.NodeConfig, system: SystemdEnvironment) -> str:
    """Renew the token of the settings' credential if it is time. What was done; empty: there was nothing to do.

    Raises ConfigError, FileError, LockTimeoutError and ApiError, each with what an operator can do.
    """
    log.configure(
        verbosity=settings.verbosity, style=settings.log_format, journal=system.is_journal
    )
    kubeconfig = load_kubeconfig(settings)
    if not kubeconfig.token_file:
        _LOG.info("the credential is no token in a file: nothing to renew")
        return ""

    def connect() -> Client:
        from nvdra_core.kube.client import Client  # most runs ask nobody

        return Client(kubeconfig)

    renewal = Renewal(Path(kubeconfig.token_file), connect, HostFiles(), SystemClock())
    with alone(renewal.path.parent):
        return renewal.run()


def check(settings: config.NodeConfig) -> str:
    """Whether the API server would renew the token of the settings' credential; makes none. Raises as ``run``."""
    kubeconfig = load_kubeconfig(settings)
    if not kubeconfig.token_file:
        return "the credential is no token in a file: nothing to renew"

    def connect() -> Client:
        from nvdra_core.kube.client import Client

        return Client(kubeconfig)

    return Renewal(Path(kubeconfig.token_file), connect, HostFiles(), SystemClock()).check()


class Renewal:
    """One look at one token file."""

    def __init__(
        self, path: Path, connect: Callable[[], Client], files: Files, clock: Clock
    ) -> None:
        self.path = path
        self._connect = connect
        self._files = files
        self._clock = clock

    def run(self) -> str:
        """See ``run``; the caller keeps others out."""
        self._files.remove(temp_path(self.path))  # of a run that was killed
        facts = self._read()
        reason = due(facts, self._clock.wall())
        if not reason:
            _LOG.info("nothing to renew", node=facts.node, until=moment(facts.expires_at_s))
            return ""
        text = self._ask(facts)
        fresh = checked(text, facts)
        self._files.replace(self.path, text.encode() + b"\n", durable=True)
        said = f"token of node {fresh.node} renewed, good until {moment(fresh.expires_at_s)} ({reason})"
        off_s = self._clock.wall() - fresh.issued_at_s
        if abs(off_s) > SKEW_S:
            side = "ahead of" if off_s > 0 else "behind"
            said += f"; this host's clock is {abs(off_s):.0f} s {side} the API server's"
        return said

    def check(self) -> str:
        """Ask as a renewal would, but for no token: rights and policies answer the same. Raises as ``run``."""
        facts = self._read()
        self._ask(facts, WriteOptions(dry_run=True))
        return f"token of node {facts.node} can be renewed"

    def _read(self) -> TokenFacts:
        data = self._files.read(self.path)
        if data is None:
            raise ConfigError(f"{self.path} does not exist; {REMEDY}")
        try:
            facts = token.parse(data.decode("ascii", "replace"))
        except MalformedTextError as error:
            raise ConfigError(f"what is in {self.path} is {error}; {REMEDY}") from error
        if not facts.node:
            raise ConfigError(f"the token in {self.path} is not bound to a Node; {REMEDY}")
        return facts

    def _ask(self, facts: TokenFacts, options: WriteOptions = DEFAULT_WRITE) -> str:
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
"""A credential that is lost comes back only from somebody who has another one."""


def due(facts: TokenFacts, now_s: float) -> str:
    """Why it is time to renew; empty when it is not."""
    if now_s < facts.issued_at_s - SKEW_S:
        return "this host's clock is behind the token's beginning"
    if now_s >= facts.expires_at_s:
        return f"by this host's clock it expired at {moment(facts.expires_at_s)}"
    share = (now_s - facts.issued_at_s) / facts.life_s
    return f"{share:.0%} of its life had passed" if share >= RENEW_AT else ""


def request(facts: TokenFacts) -> JsonObject:
    """The TokenRequest: the same account, the same Node, the same length of life."""
    node = {"apiVersion": "v1", "kind": "Node", "name": facts.node, "uid": facts.node_uid}
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"namespace": facts.namespace, "name": facts.account},
        "spec": {"boundObjectRef": node, "expirationSeconds": facts.life_s},
    }


def checked(text: str, before: TokenFacts) -> TokenFacts:
    """The facts of a new token, when it may take the place of the one before. Raises ApiError."""
    try:
        fresh = token.parse(text)
    except MalformedTextError as error:
        raise ApiError(f"the API server's answer is {error}", status=0) from error
    same = (fresh.namespace, fresh.account, fresh.node, fresh.node_uid)
    if same != (before.namespace, before.account, before.node, before.node_uid):
        raise ApiError(
            f"the new token is of {fresh.namespace}/{fresh.account} on node {fresh.node!r}, and not of"
            f" {before.namespace}/{before.account} on node {before.node!r}; the old one stays",
            status=0,
        )
    return fresh


def explain(status: int, facts: TokenFacts, now_s: float) -> str:
    """What a refusal means, and what to do about it."""
    account = f"{facts.namespace}/{facts.account}"
    if status == 401:
        return (
            f"the API server does not take the token any more: it is good until {moment(facts.expires_at_s)}"
            f" by its own words, and it ends with the Node object {facts.node} and the ServiceAccount"
            f" {account} that it was made for; {REMEDY}"
        )
    if status == 403:
        return (
            f"{account} may not renew its own token on node {facts.node}: its Role and the policy of"
            " tokens come with the chart nvdra; install that or look at its values"
        )
    if status == 404:
        return f"the ServiceAccount {account} is gone: install the chart nvdra, then {REMEDY}"
    left_s = facts.expires_at_s - now_s
    until = f"{left_s / 3600:.1f} h are left" if left_s > 0 else "its time is over"
    return (
        f"no new token yet (of the one that is there, {until}), tried again in a quarter of an hour"
    )


def moment(seconds: int) -> str:
    """A point in time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other renewals out. Raises LockTimeoutError while one goes on, FileError without the directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error("open", directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockTimeoutError("another renewal of this token goes on") from None
        yield
    finally:
        os.close(descriptor)
