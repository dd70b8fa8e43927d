"""``make demo``: a pod on a real Kubernetes gets a simulated GPU, shown step by step, with a timeline at the end.

Nothing is left behind, also when it fails or is interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.beds.cluster.artifacts import build, programs
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.beds.cluster.errors import ClusterError
from tests.lib.waits import WaitError, wait_until

PLACE = "demo"
CEL = (
    "device.attributes['gpu.nvidia.com'].architecture == '{architecture}' && "
    "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('16Gi')) > 0"
)


class Timeline:
    """When each step began and ended, in seconds since the start."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._steps: list[tuple[str, float, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Say what is being done, and remember how long it took."""
        print(f"-> {title}", flush=True)
        began_s = time.monotonic() - self._start_s
        yield
        self._steps.append((title, began_s, time.monotonic() - self._start_s))

    def show(self, width: int = 40) -> None:
        """Print a bar for each step."""
        whole_s = max(end for _, _, end in self._steps)
        print(f"\nWhere the time went ({whole_s:.1f} s in all)\n")
        for title, began_s, end_s in self._steps:
            left = round(width * began_s / whole_s)
            bar = "#" * max(1, round(width * (end_s - began_s) / whole_s))
            print(f"  {title:<46} {end_s - began_s:6.2f} s  |{' ' * left}{bar:<{width - left}}|")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 when something did not come about."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--kubernetes", default=programs.NEWEST, choices=programs.KUBERNETES)
    parser.add_argument("--profile", default="gb200-nvl4", help="the simulated machine")
    arguments = parser.parse_args(argv)
    try:
        build.ensure(arguments.kubernetes)
        show(arguments.kubernetes, arguments.profile)
    except (ClusterError, WaitError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def show(kubernetes: str, profile: str) -> None:
    """The demo itself."""
    timeline = Timeline()
    with ExitStack() as stack:
        with timeline.step(f"Kubernetes {kubernetes} up, one node"):
            made = Bed.up("demo", kubernetes=kubernetes, profile=profile, start=False)
            bed = stack.enter_context(made)
        with timeline.step("nvdra-gpu-plugin started, GPUs published"):
            bed.only.start()
            bed.wait_for_devices()
        print_devices(bed)
        run_pod(bed, timeline)
        with timeline.step("pod deleted, nothing left on the node"):
            bed.delete_namespace(PLACE)
            bed.wait_clean()
        with timeline.step("everything down"):
            stack.close()
    timeline.show()


def run_pod(bed: Bed, timeline: Timeline) -> None:
    """A pod that picks its GPU by CEL, and what its container sees."""
    cel = CEL.format(architecture=next(iter(attribute(bed, "architecture"))))
    print(f"   claim: {cel}")
    with timeline.step("pod with a claim: apply to Running"):
        bed.apply(
            m.namespace(PLACE),
            m.template(PLACE, "gpu", m.claim_spec(cel=cel)),
            m.pod(PLACE, "pod", templates={"gpu": "gpu"}),
        )
        bed.wait_running(PLACE, "pod")
    with timeline.step("nvidia-smi -L in the container"):
        (uuid,) = bed.uuids(PLACE, "pod")
    print(indented(bed.cluster.kubectl("logs", "-n", PLACE, "pod")))
    inside = (
        "ls /dev | grep nvidia; ls /usr/lib/*/ | grep -E '^lib(cuda|nvidia-ml)'; env | grep NVIDIA"
    )
    print(indented(bed.cluster.kubectl("exec", "-n", PLACE, "pod", "--", "sh", "-c", inside)))
    claim = wait_until(
        "the claim of the pod", lambda: bed.get("resourceclaims", "-n", PLACE)["items"]
    )[0]
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    published = bed.devices(result["pool"])[result["device"]]["attributes"]["uuid"]["string"]
    if published != uuid:
        raise WaitError(f"allocated {published}, but the container sees {uuid}")


def attribute(bed: Bed, name: str) -> set[str]:
    """All values of a text attribute among the published devices."""
    return {d["attributes"][name]["string"] for d in bed.devices(bed.only.name).values()}


def print_devices(bed: Bed) -> None:
    """The ResourceSlices as a table."""
    rows: list[tuple[str, ...]] = [
        ("NODE", "DEVICE", "PRODUCT", "MEMORY", "DRIVER", "NUMA", "PCI ADDRESS")
    ]
    for name in bed.nodes:
        for device, spec in sorted(bed.devices(name).items()):
            rows.append((name, device, *facts(spec)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "   " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        )


def facts(spec: dict[str, Any]) -> tuple[str, ...]:
    """The columns of one device."""
    values = {k.rpartition("/")[2]: next(iter(v.values())) for k, v in spec["attributes"].items()}
    memory = spec.get("capacity", {}).get("memory", {}).get("value", "-")
    names = ("driverVersion", "numaNode", "pciBusID")
    return (str(values["productName"]), memory, *(str(values.get(n, "-")) for n in names))


def indented(text: str) -> str:
    """Output of a container, set off."""
    return "\n".join("   | " + line for line in text.rstrip().splitlines())


if __name__ == "__main__":
    sys.exit(main())
