"""The fake API server as a process: ``python -m tests.fakes.apiserver``.

Prints one line of JSON when it serves: ``server`` and ``control`` (URLs), ``token`` (administrator). Ends at SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from tests.fakes.apiserver.auth import ADMIN_TOKEN
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.apiserver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of the API; 0 takes a free one")
    parser.add_argument("--kubeconfig", type=Path, help="write an administrator's kubeconfig here")
    parser.add_argument("--objects", type=Path, help="JSON file with a list of objects to create")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = FakeApiServer(FakeSettings(port=options.port))
    for obj in json.loads(options.objects.read_text()) if options.objects else ():
        server.add(obj)
    server.start()
    server.start_control()
    if options.kubeconfig:
        server.write_kubeconfig(options.kubeconfig)
    found = {"server": server.url, "control": server.control_url, "token": ADMIN_TOKEN}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    stopped.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
