"""Pods of a namespace by the API without kubectl, so that tests can poll them: ``Pods(bed, namespace)``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.beds.cluster.api import ApiError
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.lib.waits import WaitError, wait_until

PREPARE_FAILED = "FailedPrepareDynamicResources"
_UUID = re.compile(r"UUID: (GPU-[0-9a-f-]+)")


@dataclass(frozen=True)
class Identity:
    """One run of a container: a different one means that the pod was disturbed."""

    container: str
    id: str
    started_at: str
    restarts: int


class Pods:
    """The pods of one namespace."""

    def __init__(self, bed: Bed, place: str) -> None:
        self.bed = bed
        self.place = place
        self._api = bed.cluster.client
        self._core = f"/api/v1/namespaces/{place}"

    def names(self) -> list[str]:
        """All pods."""
        return [pod["metadata"]["name"] for pod in self._api.get(f"{self._core}/pods")["items"]]

    def get(self, name: str) -> dict[str, Any] | None:
        """The Pod object; None when there is none."""
        return self.bed.find(f"{self._core}/pods/{name}")

    def claims(self) -> list[Any]:
        """All ResourceClaims."""
        path = f"/apis/resource.k8s.io/v1/namespaces/{self.place}/resourceclaims"
        items: list[Any] = self._api.get(path)["items"]
        return items

    def claim_of(self, name: str) -> Any:
        """The claim that is or will be made for a pod."""

        def statuses() -> Any:
            return (self.get(name) or {}).get("status", {}).get("resourceClaimStatuses")

        (entry,) = wait_until(f"claim of {name} made", statuses, 30)
        return next(c for c in self.claims() if c["metadata"]["name"] == entry["resourceClaimName"])

    def identities(self) -> dict[str, list[Identity]]:
        """Each pod's containers."""
        pods = self._api.get(f"{self._core}/pods")["items"]
        return {
            pod["metadata"]["name"]: [
                Identity(
                    status["name"],
                    status.get("containerID", ""),
                    status["state"].get("running", {}).get("startedAt", "not running"),
                    status["restartCount"],
                )
                for status in pod["status"].get("containerStatuses", ())
            ]
            for pod in pods
        }

    def create(self, manifest: dict[str, Any]) -> None:
        """Create one pod."""
        self._api.request("POST", f"{self._core}/pods", manifest)

    def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a pod without waiting; ``force``: with a grace period of 0."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options = {**body, "gracePeriodSeconds": 0} if force else body
        self._api.request("DELETE", f"{self._core}/pods/{name}", options)

    def wait_deleted(self, name: str, timeout_s: float = 30) -> None:
        """Wait until a pod is deleted."""
        wait_until(f"pod {self.place}/{name} deleted", lambda: self.get(name) is None, timeout_s)

    def exec_gpus(self, name: str, container: str = "ctr") -> list[str]:
        """GPUs that nvidia-smi shows inside a running container now, by UUID."""
        text = self.bed.cluster.kubectl(
            "exec", "-n", self.place, name, "-c", container, "--", "nvidia-smi", "-L"
        )
        return _UUID.findall(text)

    def messages(self, name: str) -> list[str]:
        """Events of a pod as "reason: message", oldest first."""
        events = self._api.get(f"{self._core}/events")["items"]
        own = [event for event in events if event["involvedObject"].get("name") == name]
        own.sort(key=lambda event: event["metadata"]["creationTimestamp"])
        return [f"{event['reason']}: {event['message']}" for event in own]

    def wait_message(self, name: str, *words: str, timeout_s: float = 30) -> str:
        """Wait for an event of a pod that has all ``words``, and return it."""

        def matching() -> str:
            said = (text for text in self.messages(name) if all(word in text for word in words))
            return next(said, "")

        try:
            found: str = wait_until(f"event of {name} with {words}", matching, timeout_s)
        except WaitError as error:
            raise WaitError(f"{error}; events: {self.messages(name)}") from error
        return found


def ignoring_outages(observe: Callable[[], Any]) -> Callable[[], Any]:
    """``observe`` for `wait_until` while the API server restarts: an unreachable or unready server counts as not yet."""

    def careful() -> Any:
        try:
            return observe()
        except OSError:
            return None
        except ApiError as error:
            if error.status not in (401, 403, 429) and error.status < 500:
                raise
            return None

    return careful
