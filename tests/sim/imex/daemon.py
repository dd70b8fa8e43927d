"""`nvidia-imex`, simulated."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import ssl
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from tests.sim.imex import kernel, settings
from tests.sim.imex.commands import CommandService
from tests.sim.imex.names import Names
from tests.sim.imex.peers import Fabric
from tests.sim.imex.settings import Control, WrongSettingsError

VERSION = "580.65.06"
USR1_PAUSE_S = 5.0
TICK_S = 0.02
LIFE_S = 3600.0
"""A daemon whose test was killed ends by itself."""


def local_addresses() -> list[str]:
    """Addresses of this machine."""
    found = []
    for line in Path("/proc/net/fib_trie").read_text().splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:2] == ["/32", "host"] and words[2:] == ["LOCAL"]:
            found.append(last)
    return found


class Daemon:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, root: Path, control: Control) -> None:
        self.values = settings.parse(Path(arguments.c).read_text())
        if arguments.p:
            self.values["SERVER_PORT"] = arguments.p
        self.nogpu = arguments.nogpu
        self.root = root
        self.control = control
        self.state = "INITIALIZING"
        self.stop_signal = threading.Event()
        self.asked_to_reload = threading.Event()
        self.version = "NO_GPU" if self.nogpu else control.text("version", VERSION)
        self.nodes = settings.read_nodes(self.values["IMEX_NODE_CONFIG_FILE"])
        self.digest = hashlib.sha256("\n".join(self.nodes).encode()).hexdigest()
        self.names = Names(
            Path(control.text("hosts", "/etc/hosts")),
            Path(control.text("nsswitch", "/etc/nsswitch.conf")),
        )
        self.persist = Path(control.text("persist_dir", "/var/run/nvidia-imex")) / "persist.dat"
        self.recover: set[int] = set()
        self._log = self._open_log()

    def _open_log(self) -> int:
        name = self.values["LOG_FILE_NAME"]
        if not name:
            return 2
        mode = os.O_APPEND if self.values["LOG_APPEND_TO_LOG"] == "1" else os.O_TRUNC
        return os.open(name, os.O_WRONLY | os.O_CREAT | mode, 0o644)

    def log(self, text: str) -> None:
        os.write(self._log, f"[{time.strftime('%b %d %Y %H:%M:%S')}] [INFO] {text}\n".encode())

    def run(self) -> int:
        """The exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._request_stop)
        signal.signal(signal.SIGHUP, lambda *_: self.log(f"dump: {json.dumps(self.domain())}"))
        signal.signal(signal.SIGUSR1, lambda *_: self.asked_to_reload.set())
        own, address = self._identify()
        session = kernel.Session(self.root / settings.SESSION)
        if not self.nogpu:
            if not kernel.may_open(self.root):
                raise WrongSettingsError("cannot open the fabric-imex-mgmt capability")
            if session.open():
                self.log("the session before ended by an abrupt shutdown")
        self._load_persist()
        self.fabric = Fabric(
            own=own, nodes=self.nodes, digest=self.digest, version=self.version,
            port=int(self.values["SERVER_PORT"]), names=self.names, control=self.control,
            log=self.log, state=lambda: self.state, server_tls=self._server_tls,
            client_tls=self._client_tls, target=self.values["IMEX_SECURITY_TARGET_OVERRIDE"],
        )  # fmt: skip
        commands = CommandService(self.values, self.answer, self.control)
        commands.start()
        self.fabric.start(address)
        status = self._run_loop()
        self.state = "SHUTTING_DOWN"
        self._wait(0.05)
        commands.stop()
        self.fabric.stop()
        if status == 0:
            self.persist.unlink(missing_ok=True)
            if not self.nogpu:
                session.close()
        return status

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if not self.control.get("ignore_term"):
            self.stop_signal.set()

    def _identify(self) -> tuple[int, str]:
        """Own id and the address to listen on."""
        bind = self.values["BIND_INTERFACE_IP"]
        own = [bind] if bind else local_addresses()
        if bind and not _is_local(self.control.reached_at(bind)):
            raise WrongSettingsError(f"No matching network interface found for {bind}")
        for index, node in enumerate(self.nodes):
            address = self.names.address(node)
            if address and address in own:
                wrong = self.control.get("wrong_id")
                index = int(str(wrong)) if wrong is not None else index
                self.log(f"Identified this node as ID {index}, using address {address}")
                return index, address
        raise WrongSettingsError(
            "No matching network interface found for any node of the nodes config"
        )

    def _load_persist(self) -> None:
        if self.values["IMEX_WAIT_FOR_QUORUM"] != "RECOVERY" or not self.persist.exists():
            return
        try:
            found = json.loads(self.persist.read_text())
        except ValueError:
            found = {}
        if found.get("digest") == self.digest:
            self.recover = set(found["peers"])
            self.log(f"recovering: waiting for nodes {sorted(self.recover)}")
        else:
            self.log("persist.dat is of another nodes config: discarded")

    def _save_persist(self) -> None:
        peers = sorted(self.fabric.connected() | self.recover)
        self.persist.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.persist.with_suffix(".new")
        temporary.write_text(json.dumps({"digest": self.digest, "peers": peers}))
        temporary.replace(self.persist)

    def _run_loop(self) -> int:
        started = time.monotonic()
        reloaded_at = float("-inf")
        self._save_persist()
        while not self.stop_signal.is_set() and time.monotonic() - started < LIFE_S:
            after = self.control.get("crash_after_s")
            if after is not None and time.monotonic() - started >= float(str(after)):
                os.kill(os.getpid(), signal.SIGKILL)
            pause_s = self.control.seconds(USR1_PAUSE_S)
            if self.asked_to_reload.is_set() and time.monotonic() - reloaded_at >= pause_s:
                self.asked_to_reload.clear()
                reloaded_at = time.monotonic()
                self.log("reloading certificates and connections")
                self.fabric.restart()
            if self.fabric.changed.is_set():
                self.fabric.changed.clear()
                self._save_persist()
            self.state = self._next_state(time.monotonic() - started)
            self._wait(TICK_S)
        return 0

    def _next_state(self, age_s: float) -> str:
        stuck = self.control.get("stuck_state")
        if stuck:
            return str(stuck)
        if age_s < float(str(self.control.get("start_delay_s", 0.0))):
            return "INITIALIZING"
        if self.state == "READY":
            return "READY"
        connected = self.fabric.connected()
        quorum = self.values["IMEX_WAIT_FOR_QUORUM"]
        if quorum == "FULL" and len(connected) < len(self.nodes) - 1:
            return "WAITING_FOR_PEERS"
        if quorum == "RECOVERY" and not self.recover <= connected:
            return "WAITING_FOR_RECOVERY"
        self.recover = set()
        return "READY" if self.state == "INIT_GPU" else "INIT_GPU"

    def _wait(self, seconds: float) -> None:
        self.stop_signal.wait(seconds)

    def answer(self, query: str) -> dict[str, object]:
        """To the command service."""
        if query == "domain":
            return self.domain()
        return {
            "status": self.state,
            "id": self.fabric.own,
            "dnsQueries": self.names.dns_queries,
        }

    def domain(self) -> dict[str, object]:
        """`-N -j`."""
        own = self.fabric.own
        nodes: dict[str, object] = {
            str(own): {
                "status": self.state,
                "host": self.values["BIND_INTERFACE_IP"],
                "hostName": self.nodes[own],
                "connections": {
                    **self.fabric.connections(),
                    str(own): {"host": "", "status": "CONNECTED", "changed": 0},
                },
                "changed": 0,
                "version": self.version,
            }
        }
        for peer in self.fabric.peers.values():
            nodes[str(peer.id)] = {
                "status": peer.state,
                "host": peer.host,
                "hostName": peer.name,
                "connections": peer.connections,
                "changed": peer.changed,
                "version": peer.version,
            }
        ready = [n for n in nodes.values() if isinstance(n, dict) and n["status"] == "READY"]
        status = "UP" if len(ready) == len(nodes) else "DEGRADED" if ready else "DOWN"
        return {"nodes": nodes, "timestamp": time.time(), "status": status}

    def _tls(self, side: str, purpose: ssl.Purpose) -> ssl.SSLContext | None:
        values = self.values
        if values["IMEX_ENABLE_AUTH_ENCRYPTION"] != "1":
            return None
        context = ssl.create_default_context(purpose, cafile=values[f"IMEX_{side}_CERT_AUTH"])
        context.load_cert_chain(values[f"IMEX_{side}_CERT"], values[f"IMEX_{side}_KEY"])
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _server_tls(self) -> ssl.SSLContext | None:
        return self._tls("SERVER", ssl.Purpose.CLIENT_AUTH)

    def _client_tls(self) -> ssl.SSLContext | None:
        return self._tls("CLIENT", ssl.Purpose.SERVER_AUTH)


def _is_local(address: str) -> bool:
    return address.startswith("127.") or address == "::1" or address in local_addresses()


def main() -> int:
    parser = argparse.ArgumentParser(prog="nvidia-imex", add_help=True)
    parser.add_argument("-c", default="/etc/nvidia-imex/config.cfg", metavar="FILE")
    parser.add_argument("-p", default="", metavar="PORT")
    parser.add_argument("--nogpu", action="store_true")
    parser.add_argument("-v", "--version", action="store_true")
    arguments = parser.parse_args()
    root = settings.root()
    control = Control(root / settings.CONTROL)
    if arguments.version:
        sys.stdout.write(f"IMEX version is: {control.text('version', VERSION)}\n")
        return 0
    exit_status = control.get("exit_status")
    if exit_status is not None:
        sys.stderr.write(control.text("exit_message", "failing as configured") + "\n")
        return int(str(exit_status))
    if not arguments.nogpu and not kernel.has_fabric(root):
        sys.stderr.write("No fabric devices found: nothing to do\n")
        return 0
    try:
        return Daemon(arguments, root, control).run()
    except (WrongSettingsError, OSError) as error:
        sys.stderr.write(f"[ERROR] {error}\n")
    except kernel.SessionInUseError:
        sys.stderr.write("[ERROR] cannot register the IMEX event: NV_ERR_IN_USE\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
