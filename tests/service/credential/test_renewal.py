"""A node renews its own token: against an API server in memory, with everything going wrong that can."""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.errors import ApiError, ConfigError, FileError, LockTimeoutError, NvdraError
from nvdra_core.kube.resources import NODES
from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.transport import TransportSettings
from nvdra_node.app.renewal import Renewal, exclusive
from nvdra_node.host.files import HostFiles, temp_path
from nvdra_node.kube import token
from nvdra_node.kube.client import Client
from nvdra_node.kube.token import TokenFacts
from tests.fakes.apiserver.auth import NODE_EXTRA, User
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import Crash, FakeFiles
from tests.lib.objects import obj

TOP = Path(__file__).resolve().parents[3]
PLACE, ACCOUNT, NODE = "nvdra-system", "nvdra-node", "node-1"
WEEK_S = 7 * 86400
PATH = Path("/var/lib/nvdra/credential/token")
HASTY = TransportSettings(
    request_timeout_s=2.0, attempt_timeout_s=0.5, backoff=Backoff(first_s=0.02, limit_s=0.1)
)


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer(FakeSettings(is_auth_enforced=True)) as running:
        running.add(obj("Node", NODE))
        metadata = {"namespace": PLACE, "name": ACCOUNT}
        running.add({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        yield running


class Host:
    """A node with a token, files that can fail, and a clock that can be wrong."""

    def __init__(self, server: FakeApiServer, files: FakeFiles, age_days: float) -> None:
        self.server = server
        self.files = files
        self.clock = FakeClock(time.time())
        self.first = issue(server, age_days)
        files.put(PATH, self.first.encode())

    def renew(self, settings: TransportSettings = HASTY) -> str:
        return self.renewal(settings).run()

    def check(self) -> str:
        return self.renewal(HASTY).check()

    def renewal(self, settings: TransportSettings) -> Renewal:
        def connect() -> Client:
            return Client(self.server.config(token=self.text), settings=settings)

        return Renewal(PATH, connect, self.files, self.clock)

    @property
    def text(self) -> str:
        return (self.files.read(PATH) or b"").decode().strip()

    @property
    def facts(self) -> TokenFacts:
        return token.parse(self.text)

    def requests(self) -> int:
        return self.server.api.log.count("create", "serviceaccounts/token")


def issue(server: FakeApiServer, age_days: float, life_s: int = WEEK_S) -> str:
    """A token as the playbook brought it, so many days ago."""
    (node,) = [n for n in server.objects("nodes", "") if n["metadata"]["name"] == NODE]
    issued = int(time.time() - age_days * 86400)
    bound = {"name": NODE, "uid": node["metadata"]["uid"]}
    account = {"namespace": PLACE, "serviceaccount": {"name": ACCOUNT}, "node": bound}
    claims = {"iat": issued, "exp": issued + life_s, "kubernetes.io": account}
    user = User(
        f"system:serviceaccount:{PLACE}:{ACCOUNT}",
        ("system:serviceaccounts",),
        {NODE_EXTRA: [NODE]},
    )
    return server.api.authenticator.mint(user, claims)


@pytest.fixture
def host(server: FakeApiServer) -> Host:
    return Host(server, FakeFiles(), age_days=2.0)


class TestRenewal:
    def test_old_token_is_replaced_by_one_of_same_lifetime(self, host: Host):
        said = host.renew()
        assert "token of node node-1 renewed" in said
        assert host.text != host.first
        assert (host.facts.life_s, host.facts.node) == (WEEK_S, NODE)
        assert host.facts.expires_at_s > token.parse(host.first).expires_at_s
        assert host.files.syncs == 1

    def test_new_token_is_renewed_when_due(self, host: Host):
        host.renew()
        second = host.text
        assert host.renew() == ""
        host.clock.advance(2 * 86400)
        assert "renewed" in host.renew()
        assert host.text != second

    def test_young_token_sends_no_request(self, server: FakeApiServer):
        host = Host(server, FakeFiles(), age_days=1.7)
        assert host.renew() == ""
        assert host.requests() == 0

    def test_check_requests_a_dry_run_and_keeps_the_token(self, host: Host):
        assert host.check() == "token of node node-1 can be renewed"
        assert (host.text, host.requests()) == (host.first, 1)
        host.server.api.faults.add(Fault(verb="create", code=403, count=1))
        with pytest.raises(ApiError, match="may not renew its own token"):
            host.check()

    def test_running_client_uses_new_token_without_restart(
        self, server: FakeApiServer, tmp_path: Path
    ):
        path = tmp_path / "token"
        path.write_text(issue(server, 2.0))
        first = path.read_text()
        client = Client(server.config(token_file=str(path)), settings=HASTY)
        try:
            client.get(NODES, NODE)
            clock = FakeClock(time.time())
            Renewal(
                path, lambda: Client(server.config(token_file=str(path))), HostFiles(), clock
            ).run()
            server.api.authenticator.remove_token(first)
            assert client.get(NODES, NODE)["metadata"]["name"] == NODE
        finally:
            client.close()


class TestRefusals:
    """Each failure keeps the current token, and its error has a remedy."""

    def fails(self, host: Host, error: type[NvdraError], *words: str) -> None:
        with pytest.raises(error) as caught:
            host.renew()
        said = str(caught.value)
        assert [word for word in words if word not in said] == []
        assert host.text not in said
        assert host.text == host.first

    def test_unreachable_api_server_reports_time_left(self, host: Host):
        host.server.stop()
        self.fails(host, ApiError, "120.0 h left", "15 minutes")
        host.clock.advance(6 * 86400)
        self.fails(host, ApiError, "it has expired")

    @pytest.mark.parametrize("action", ["hang", "no_answer", "reset", "cut"])
    def test_lost_answer_is_retried_by_the_next_run(self, host: Host, action: str):
        fault = Fault(verb="create", action=action, is_executed=True, count=0)
        host.server.api.faults.add(fault)
        self.fails(host, ApiError, "h left")
        host.server.api.faults.clear()
        assert "renewed" in host.renew()

    def test_busy_server_is_retried(self, host: Host):
        host.server.api.faults.add(Fault(verb="create", code=503, count=2))
        assert "renewed" in host.renew()

    def test_missing_rights_are_reported(self, host: Host):
        host.server.api.faults.add(Fault(verb="create", code=403, count=1))
        self.fails(host, ApiError, "may not renew its own token on node node-1", "chart nvdra")

    def test_rejected_token_is_reported(self, host: Host):
        host.server.api.authenticator.remove_token(host.first)
        self.fails(host, ApiError, "rejects the token", "nvdra.node.site")

    def test_recreated_node_is_a_conflict(self, host: Host):
        admin = Client(host.server.config())
        try:
            admin.delete(NODES, NODE)
        finally:
            admin.close()
        host.server.add(obj("Node", NODE))
        self.fails(host, ApiError, "409")

    def test_token_for_another_node_is_refused(self, host: Host):
        host.server.add(obj("Node", "node-2"))
        facts = token.parse(host.first)
        claims: dict[str, Any] = {
            "iat": facts.issued_at_s,
            "exp": facts.expires_at_s,
            "kubernetes.io": {
                "namespace": PLACE,
                "serviceaccount": {"name": ACCOUNT},
                "node": {"name": "node-2"},
            },
        }
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
        lie = f"e30.{payload}.c2ln"
        host.server.api.authenticator.add_token(
            lie, User(f"system:serviceaccount:{PLACE}:{ACCOUNT}", (), {NODE_EXTRA: [NODE]})
        )
        host.files.put(PATH, lie.encode())
        host.first = lie
        self.fails(host, ApiError, "may not renew", "node-2")

    @pytest.mark.parametrize("content", [b"", b"not a token", b"\xff\xfe"])
    def test_file_without_a_token_is_a_config_error(self, host: Host, content: bytes):
        host.files.put(PATH, content)
        with pytest.raises(ConfigError, match=r"nvdra\.node\.site"):
            host.renew()
        assert host.requests() == 0

    def test_missing_file_is_a_config_error(self, host: Host):
        host.files.remove(PATH)
        with pytest.raises(ConfigError, match="does not exist"):
            host.renew()

    def test_token_not_bound_to_a_node_is_a_config_error(self, host: Host):
        claims = {"iat": 1, "exp": 2, "kubernetes.io": {
            "namespace": PLACE, "serviceaccount": {"name": ACCOUNT}}}  # fmt: skip
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
        host.files.put(PATH, f"e30.{payload}.c2ln".encode())
        with pytest.raises(ConfigError, match="not bound to a Node"):
            host.renew()


class TestClocks:
    """The host's clock decides when to renew, never whether the token is valid."""

    def test_clock_far_ahead_renews_and_reports(self, host: Host):
        host.clock.advance(40 * 86400)
        assert "ahead of the API server's" in host.renew()
        assert host.facts.expires_at_s < host.clock.wall()
        assert "renewed" in host.renew()

    def test_clock_far_behind_renews_and_reports(self, host: Host):
        host.clock.advance(-40 * 86400)
        assert "behind the API server's" in host.renew()


class TestDisk:
    def test_full_disk_keeps_the_old_token(self, host: Host):
        host.files.full.add(PATH.parent)
        with pytest.raises(FileError, match="free some space"):
            host.renew()
        assert host.text == host.first
        host.files.full.clear()
        assert "renewed" in host.renew()

    @pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
    @pytest.mark.parametrize("step", [1, 2, 3])
    def test_failed_write_keeps_the_old_token(self, host: Host, step: int, code: int):
        host.files.faults.fail_at, host.files.faults.error = step, code
        with pytest.raises(FileError):
            host.renew()
        assert host.text == host.first

    @pytest.mark.parametrize("step", range(1, 5))
    def test_kill_at_any_step_leaves_one_whole_token(self, host: Host, step: int):
        host.files.faults.die_at = step
        try:
            host.renew()
        except Crash:
            assert host.text == host.first
        else:
            assert host.text != host.first
        host.files.faults.clear()
        host.clock.advance(2 * 86400)
        assert "renewed" in host.renew()
        assert host.files.paths() == (PATH,)

    def test_next_run_removes_a_killed_runs_temporary_file(self, server: FakeApiServer):
        host = Host(server, FakeFiles(), age_days=0.0)
        host.files.put(temp_path(PATH), b"half a tok")
        assert host.renew() == ""
        assert host.files.paths() == (PATH,)

    def test_concurrent_renewals_are_excluded(self, tmp_path: Path):
        with exclusive(tmp_path), pytest.raises(LockTimeoutError), exclusive(tmp_path):
            raise AssertionError("both are in")
        with exclusive(tmp_path):
            pass


class TestCommand:
    """``nvdra-node renew-credential``, as the unit runs it."""

    @pytest.fixture
    def place(self, server: FakeApiServer, tmp_path: Path) -> Path:
        directory = tmp_path / "credential"
        directory.mkdir(mode=0o700)
        (directory / "token").write_text(issue(server, 2.0))
        document = {
            "current-context": "node",
            "clusters": [{"name": "cluster", "cluster": {"server": server.url}}],
            "users": [{"name": "node", "user": {"tokenFile": str(directory / "token")}}],
            "contexts": [{"name": "node", "context": {"cluster": "cluster", "user": "node"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(document))
        return tmp_path

    def run(self, place: Path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "nvdra_node", "renew-credential",
                "--kubeconfig", str(place / "kubeconfig")]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(TOP)}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)

    def test_command_renews_and_prints_no_secret(self, place: Path):
        before = (place / "credential/token").read_text()
        done = self.run(place)
        after = (place / "credential/token").read_text()
        assert (done.returncode, after != before) == (0, True)
        assert "token of node node-1 renewed" in done.stdout
        assert (place / "credential/token").stat().st_mode & 0o777 == 0o600
        assert [p.name for p in (place / "credential").iterdir()] == ["token"]
        for secret in (before.strip(), after.strip()):
            assert secret not in done.stdout + done.stderr

    def test_command_with_nothing_to_do_logs_one_line(self, place: Path):
        self.run(place)
        done = self.run(place)
        assert (done.returncode, done.stdout) == (0, "")
        assert "nothing to renew" in done.stderr

    def test_failure_is_one_sentence_and_an_exit_status(self, place: Path, server: FakeApiServer):
        server.api.faults.add(Fault(verb="create", code=403, count=1))
        done = self.run(place)
        assert done.returncode == 1
        assert done.stderr.startswith("nvdra-node: api: nvdra-system/nvdra-node may not renew")
        assert "Traceback" not in done.stderr

    def test_missing_directory_is_named(self, place: Path):
        (place / "credential/token").unlink()
        (place / "credential").rmdir()
        done = self.run(place)
        assert done.returncode == 1
        assert f"cannot open {place}/credential" in done.stderr

    def test_credential_without_token_file_is_unchanged(self, place: Path):
        document = json.loads((place / "kubeconfig").read_text())
        document["users"][0]["user"] = {"token": "static"}
        (place / "kubeconfig").write_text(json.dumps(document))
        done = self.run(place)
        assert (done.returncode, done.stdout) == (0, "")
        assert "nothing to renew" in done.stderr


def test_real_and_fake_files_give_the_same_result(server: FakeApiServer, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(issue(server, 2.0))

    def connect() -> Client:
        return Client(server.config(token_file=str(path)))

    make: Callable[[], str] = Renewal(path, connect, HostFiles(), FakeClock(time.time())).run
    assert "renewed" in make()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
