"""``python packaging/image.py``: the door to ``imagebuild`` that needs no path set."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from imagebuild.cli import main  # the line above is what makes it importable

if __name__ == "__main__":
    sys.exit(main())
