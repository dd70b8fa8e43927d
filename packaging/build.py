"""``python packaging/build.py``: ``nvdra_packages`` without PYTHONPATH."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nvdra_packages.cli import main  # the line above is what makes it importable

if __name__ == "__main__":
    sys.exit(main())
