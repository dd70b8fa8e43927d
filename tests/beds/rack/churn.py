"""Creates and deletes pods with a GPU during a rollout."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.beds.cluster.errors import ClusterError
from tests.lib.waits import WaitError

PLACE = "churn"
START_S = 180.0
"""Limit for the start of a pod: the kubelet retries a prepare that fails during a restart."""


@dataclass
class Churn:
    """Runs in a thread while entered; counts started pods and keeps errors."""

    bed: Bed
    came: int = 0
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Churn:
        self.bed.create_namespace(PLACE)
        self.bed.apply(m.template(PLACE, "gpu", m.claim_spec()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bed.delete_namespace(PLACE, timeout_s=180)

    def _run(self) -> None:
        names = list(self.bed.nodes)
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"pod-{number}"
            node = names[number % len(names)]
            try:
                self.bed.apply(m.pod(PLACE, name, templates={"gpu": "gpu"}, node=node))
                self.bed.wait_running(PLACE, name, timeout_s=START_S)
                self.came += 1
            except (WaitError, ClusterError) as error:
                self.failed.append(str(error))
            self.bed.cluster.kubectl(
                "delete", "pod", "-n", PLACE, name, "--wait=false", check=False
            )
