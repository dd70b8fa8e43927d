"""What importing nvdra_core costs: heavy packages stay out of a node's process until they are
needed.
"""

import subprocess
import sys
from pathlib import Path

import nvdra_core

HEAVY = {"msgspec", "prometheus_client", "decimal", "fractions", "asyncio", "http.server", "email"}
LIGHT = sorted(path.stem for path in Path(nvdra_core.__file__).parent.glob("[a-z]*.py"))


def test_only_the_api_package_imports_msgspec_and_nobody_prometheus_client():
    imports = ", ".join(f"nvdra_core.{name}" for name in LIGHT)
    code = f"import sys, {imports}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert {"nvdra_core.service", "nvdra_core.pluginmetrics"} <= loaded
    assert not HEAVY & loaded
