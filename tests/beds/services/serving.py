"""A plugin in a process of its own, to measure: ``python -m tests.beds.services.serving DIRECTORY``.

Claims named ``slow`` are prepared once there is a file ``go`` in the directory. Ends with its standard input.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.beds.services.plugin import CLOCK, TestPlugin


def main() -> None:
    """Serve until the standard input ends."""
    directory = Path(sys.argv[1])
    plugin = TestPlugin(directory)
    plugin.start()

    def open_gate() -> None:
        never = threading.Event()
        while not (directory / "go").exists():
            CLOCK.wait(never, 0.05)
        plugin.ledger.gate.set()

    threading.Thread(target=open_gate, daemon=True).start()
    print("serving", flush=True)
    sys.stdin.read()
    plugin.ledger.gate.set()
    plugin.stop()


if __name__ == "__main__":
    main()
