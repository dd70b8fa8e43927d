"""The fake API server as a process: ``python -m tests.fakes.apiserver --tls-dir DIR``.

Prints one line of JSON when it serves: ``server`` (URL), ``control`` (URL for /_fake/, plain HTTP, also up during an
outage), ``token`` (administrator) and, with ``--tls-dir`` or ``--kubeconfig``, ``ca_file`` and ``kubeconfig``. Ends
at SIGTERM or SIGINT, saving its objects when ``--state`` names a file.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tests.fakes.apiserver import statefile
from tests.fakes.apiserver.auth import ADMIN_TOKEN
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.apiserver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of the API; 0 takes a free one")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument(
        "--tls-dir", type=Path, help="serve HTTPS; CA and certificate are made here"
    )
    parser.add_argument("--kubeconfig", type=Path, help="write an administrator's kubeconfig here")
    parser.add_argument("--state", type=Path, help="load objects from here, save them at the end")
    parser.add_argument("--objects", type=Path, help="JSON file with a list of objects to create")
    parser.add_argument("--minor", type=int, default=36, help="act as Kubernetes 1.MINOR")
    parser.add_argument("--versions", default="v1", help="served versions of resource.k8s.io")
    parser.add_argument("--gate", action="append", default=[], metavar="NAME=true|false")
    parser.add_argument("--auth", action="store_true", help="check who asks and what they may")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace) -> FakeApiServer:
    """A server that does not listen yet."""
    gates = [gate.partition("=") for gate in options.gate]
    settings = FakeSettings(
        minor=options.minor,
        versions=tuple(options.versions.split(",")),
        gates=tuple((name, value.lower() != "false") for name, _, value in gates),
        is_auth_enforced=options.auth,
        port=options.port,
        control_port=options.control_port,
        tls_directory=options.tls_dir,
    )
    server = FakeApiServer(settings)
    if options.state and options.state.exists():
        statefile.load(server.api, options.state)
    if options.objects:
        for obj in json.loads(options.objects.read_text()):
            server.add(obj)
    return server


def describe(server: FakeApiServer, options: argparse.Namespace) -> dict[str, Any]:
    """What is printed."""
    found = {"server": server.url, "control": server.control_url, "token": ADMIN_TOKEN}
    kubeconfig = options.kubeconfig
    if server.authority:
        found["ca_file"] = str(server.authority.certificate_path.absolute())
        kubeconfig = kubeconfig or options.tls_dir / "kubeconfig"
    if kubeconfig:
        found["kubeconfig"] = str(server.write_kubeconfig(kubeconfig).absolute())
    return found


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = build(options)
    server.start()
    server.start_control()
    sys.stdout.write(json.dumps(describe(server, options)) + "\n")
    sys.stdout.flush()
    stopped.wait()
    server.stop()
    if options.state:
        statefile.save(server.api, options.state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
