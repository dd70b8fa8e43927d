"""nvidia-smi for a driver root: placeholder until built."""
from pathlib import Path

from tests.sim import files


def install(target: Path) -> None:
    files.write(target, "#!/bin/sh\nexit 0\n", 0o755)
