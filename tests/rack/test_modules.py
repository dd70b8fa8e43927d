"""The collection's modules, run by Ansible itself on this machine, without a rack."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.beds.rack import tools

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NODE = "node-1"
UNIT = "nvdra-gpu-plugin.service"
DRIVER = "gpu.nvidia.com"


def run(
    scratch: Path, module: str, arguments: dict[str, Any], **environment: str
) -> tuple[dict[str, Any], str]:
    """Run a module on this machine; its result, and all that Ansible printed."""
    argv = [str(tools.home() / "ansible"), "localhost", "-i", "localhost,", "-c", "local"]
    argv += ["-e", f"ansible_python_interpreter={sys.executable}", "-vvv"]
    argv += ["-m", f"nvdra.node.{module}", "-a", json.dumps(arguments)]
    env = {
        **tools.environment(scratch),
        "ANSIBLE_REMOTE_TMP": str(scratch / "remote"),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        **environment,
    }
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout + done.stderr
    assert "localhost | " in said, said
    text = said.rpartition("localhost | ")[2].partition("=> ")[2]
    found: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    return found, said


def a_token() -> str:
    """A token bound to a Node: the claims that the module reads."""
    claims = {"kubernetes.io": {"node": {"name": NODE}}, "padding": "x" * 40}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{payload}.c2lnbmF0dXJlLW9mLXRoZS1ub2Rl"


def files_with(place: Path, secret: str) -> list[str]:
    """Files below a directory with a text, also as base64 has it."""
    found = []
    for path in place.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if secret.encode() in data or base64.b64encode(secret.encode())[8:-8] in data:
            found.append(str(path))
    return found


@pytest.mark.parametrize("keeps_files", ["0", "1"])
def test_token_without_pipelining_leaves_no_other_file(tmp_path: Path, keeps_files: str) -> None:
    directory, token = tmp_path / "credential", a_token()
    arguments = {
        "token": token,
        "node": NODE,
        "server": "https://api:6443",
        "ca": "-----",
        "directory": str(directory),
        "kubeconfig": str(tmp_path / "kubeconfig"),
    }
    off = {"ANSIBLE_PIPELINING": "0", "ANSIBLE_KEEP_REMOTE_FILES": keeps_files}
    result, said = run(tmp_path, "credential", arguments, **off)
    assert result["changed"] is True, said
    assert (directory / "token").read_text() == f"{token}\n"
    assert (directory / "token").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert files_with(tmp_path, token) == [str(directory / "token")]
    assert list((tmp_path / "remote").rglob("*")) if keeps_files == "1" else True
    assert "EXEC" in said
    executed = [line for line in said.splitlines() if "EXEC" in line]
    assert [line for line in executed if token in line] == [], "it is in no command line"


def test_token_of_another_node_is_refused_and_its_file_removed(tmp_path: Path) -> None:
    directory = tmp_path / "credential"
    arguments = {"token": a_token(), "node": "node-2", "directory": str(directory)}
    result, _ = run(tmp_path, "credential", arguments)
    assert "bound to Node node-1, and not to node-2" in result["msg"]
    assert list(directory.iterdir()) == []


class Service:
    """A service that is well: its unit, its sockets and its pages."""

    def __init__(self, scratch: Path) -> None:
        self.pages = {"/healthz": "ok"}
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = service.pages.get(self.path)
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or "no such page").encode())

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.registry, self.plugins = scratch / "r", scratch / "p"
        self.sockets = [
            self._socket(self.registry / f"{DRIVER}-reg.sock"),
            self._socket(self.plugins / DRIVER / "dra.sock"),
        ]
        program = scratch / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\nprintf 'ActiveState=active\\nMainPID=7\\n'\n")
        program.chmod(0o755)
        self.path = f"{program.parent}:{tools.environment(scratch)['PATH']}"

    @staticmethod
    def _socket(path: Path) -> socket.socket:
        path.parent.mkdir(parents=True)
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(path))
        made.listen()
        return made

    def end(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        for one in self.sockets:
            one.close()

    def gate(self, scratch: Path, **changes: Any) -> dict[str, Any]:
        """Pass the gate, or not."""
        port = self.server.server_address[1]
        known = {"unit": UNIT, "driver": DRIVER, "endpoint": f"127.0.0.1:{port}", "min_devices": 4}
        arguments = {
            "services": [{**known, **changes}],
            "registry_dir": str(self.registry),
            "plugins_dir": str(self.plugins),
            "timeout_s": 2,
            "settle_s": 0,
        }
        return run(scratch, "gate", arguments, PATH=self.path)[0]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.end()


METRICS = f'nvidia_dra_published_devices{{driver="{DRIVER}"}} 4.0\n'


def test_gate_counts_devices_where_the_metrics_are(service: Service, tmp_path: Path) -> None:
    service.pages["/other"] = METRICS
    assert service.gate(tmp_path, metrics_path="/other")["devices"] == {DRIVER: 4}
    missing = service.gate(tmp_path)
    assert "/metrics: HTTP status 404" in missing["msg"]


def test_gate_takes_health_alone_where_metrics_are_off(service: Service, tmp_path: Path) -> None:
    assert service.gate(tmp_path, metrics_path="", min_devices=0)["devices"] == {}
    service.pages.pop("/healthz")
    assert "health at" in service.gate(tmp_path, metrics_path="", min_devices=0)["msg"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def test_peers_answer_while_they_listen_and_not_afterwards(tmp_path: Path) -> None:
    port = free_port()
    peers = {"state": "reached", "ports": [port], "peers": {"other": "127.0.0.1"}, "timeout_s": 2}
    listening = {"state": "listening", "ports": [port], "timeout_s": 60}
    for _ in ("first", "again"):
        run(tmp_path, "peers", listening)
        assert run(tmp_path, "peers", peers)[0]["silent"] == []
    run(tmp_path, "peers", {"state": "stopped"})
    (problem,) = run(tmp_path, "peers", peers)[0]["silent"]
    assert problem == f"other (127.0.0.1) port {port}: Connection refused"
    serving = {**peers, "serving": ["other"]}
    assert run(tmp_path, "peers", serving)[0]["silent"] == [], "refused by a host that was reached"
    assert not Path("/run/nvdra-peers.pid").exists()


def test_port_in_use_is_left_to_its_user(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as user:
        port = user.getsockname()[1]
        run(tmp_path, "peers", {"state": "listening", "ports": [port], "timeout_s": 30})
        run(tmp_path, "peers", {"state": "stopped"})
        socket.create_connection(("127.0.0.1", port)).close()
        user.settimeout(5)
        user.accept()[0].close()


def test_unreachable_host_is_skipped_and_others_checked(tmp_path: Path) -> None:
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho no route to host >&2\nexit 255\n")
    ssh.chmod(0o755)
    down = {"ansible_connection": "ssh", "ansible_ssh_executable": str(ssh)}
    hosts = {"here": {**here, "ansible_become": False}, "down": {**down, "ansible_become": False}}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"nvdra": {"children": {"rack1": {"hosts": hosts}}}}))
    given = {
        "nvdra_on_bad_host": "skip",
        "nvdra_compute_domains": True,
        "nvdra_kubelet_dir": str(tmp_path / "no-kubelet"),
        "nvdra_imex_ports": f"{free_port()}-{free_port()}",
    }
    argv = [str(tools.home() / "ansible-playbook"), "-i", str(inventory), "-e", json.dumps(given)]
    done = subprocess.run(
        [*argv, "nvdra.node.preflight"],
        env=tools.environment(tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = " ".join(done.stdout.split())
    assert "LEFT OUT: down: it cannot be reached" in said, done.stdout + done.stderr
    assert "LEFT OUT: here: " in said
    for words in ("no kubelet", "no /usr/bin/nvidia-imex", "no package"):
        assert words in said.partition("LEFT OUT: here: ")[2]
    assert "here : ok=" in said
    assert not Path("/run/nvdra-peers.pid").exists()
