"""What beds on a real cluster have in common: namespaces, objects, and the wait for nothing to be left of claims."""

from __future__ import annotations

import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.beds.cluster.api import ApiError, Cluster
from tests.beds.cluster.driver import manifests as m
from tests.lib.waits import WaitError, wait_until

Self = TypeVar("Self", bound="ClusterBed")


class ClusterBed:
    """A cluster whose nodes run our services on simulated hosts; a context manager that removes everything."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def down(self) -> None:
        """Remove the cluster and its simulated hosts."""
        self.cluster.down()
        shutil.rmtree(sim_home(self.cluster.name), ignore_errors=True)

    def __enter__(self: Self) -> Self:
        self.cluster.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What nodes still have of claims."""

    def wait_clean(self, timeout_s: float = 60) -> None:
        """Wait until no node has anything of a claim left."""
        try:
            wait_until("nothing left of any claim", lambda: not self.leftovers(), timeout_s)
        except WaitError as error:
            raise WaitError(f"{error}: {self.leftovers()}") from error

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects."""
        self.cluster.apply("\n---\n".join(json.dumps(m) for m in manifests))

    def find(self, path: str) -> dict[str, Any] | None:
        """The object at a path of the API; None when there is none."""
        try:
            return self.cluster.client.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def create_namespace(self, name: str) -> None:
        """Create a namespace, and wait for its ServiceAccount, without which no pod is admitted."""
        self.apply(m.namespace(name))
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_until(f"{account} exists", lambda: self.cluster.client.says_ok(account), 180)

    def events(self, place: str) -> str:
        """Events of a namespace, oldest first."""
        argv = ("get", "events", "-n", place, "--sort-by=.lastTimestamp")
        return self.cluster.kubectl(*argv, check=False)


def sim_home(name: str) -> Path:
    """Directory of the simulated hosts of a bed."""
    return Path(os.environ.get("NVDRA_SIM_HOME", "/var/lib/nvdra-sim")) / name
