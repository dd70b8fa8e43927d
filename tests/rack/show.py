"""``make rack``: the collection on a whole rack, from bare hosts to a removed driver, with a summary at the end.

Each step is one promise of the rollout; the summary says for each whether it was kept, and how long it took.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.errors import ClusterError
from tests.beds.rack import credential
from tests.beds.rack.churn import Churn
from tests.beds.rack.hosts import Rack
from tests.beds.rack.playbooks import Run, play, show
from tests.beds.rack.releases import BROKEN, NEXT, THIS, Releases
from tests.lib.waits import wait_until

PLACE = "rack"
WAIT_S = 300.0
GPUS = 4
"""Of one host."""


class BrokenPromiseError(AssertionError):
    """A step did not come out as it should."""


def need(truth: object, otherwise: str) -> None:
    """Raise BrokenPromiseError with ``otherwise`` unless ``truth``."""
    if not truth:
        raise BrokenPromiseError(otherwise)


@dataclass
class Show:
    """The steps on one rack. Each returns what the summary says of it."""

    rack: Rack
    releases: Releases
    lines: list[tuple[str, str, float, bool]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All hosts."""
        return list(self.rack.hosts)

    def run(self) -> bool:
        """All steps; True when every promise was kept. Nothing goes on after one that was not."""
        for title, step in STEPS.items():
            show(f"-> {title}")
            began_s = time.monotonic()
            try:
                said, is_kept = step(self), True
            except (AssertionError, ClusterError) as error:
                said, is_kept = str(error), False
            self.lines.append((title, said, time.monotonic() - began_s, is_kept))
            show(f"   {said}")
            if not is_kept:
                return False
        return True

    def summary(self) -> str:
        """What a person reads in ten seconds."""
        lines = [f"\nRack of {len(self.names)} hosts, {len(self.names) * GPUS} GPUs\n"]
        for title, said, took_s, is_kept in self.lines:
            mark = "ok  " if is_kept else "FAIL"
            lines.append(f"  {mark} {title:<39} {took_s:6.0f} s  {said.splitlines()[0]}")
        return "\n".join(lines)

    # The steps

    def install(self) -> str:
        """From bare hosts to published GPUs."""
        done = self.play("site", nvdra_package_dir=self.releases.this)
        need(done.status == 0, failure(done))
        self.need_versions({THIS})
        self.rack.bed.wait_for_devices(GPUS, timeout_s=WAIT_S)
        return f"{len(self.names)} nodes publish {len(self.names) * GPUS} GPUs"

    def install_again(self) -> str:
        """A second run changes nothing."""
        before = self.starts()
        done = self.play("site", nvdra_package_dir=self.releases.this)
        need(done.status == 0, failure(done))
        need(not done.hosts_with("changed"), f"changed: {done.hosts_with('changed')}")
        need(not self.restarted(before), f"restarted: {self.restarted(before)}")
        return "nothing changed, no service restarted"

    def pods_on_all(self) -> str:
        """One pod with a GPU on each host; they stay for the steps that follow."""
        bed = self.rack.bed
        bed.create_namespace(PLACE)
        bed.apply(m.template(PLACE, "gpu", m.claim_spec()))
        pods = [m.pod(PLACE, n, templates={"gpu": "gpu"}, node=n) for n in self.names]
        bed.apply(*pods)
        bed.wait_running(PLACE, *self.names, timeout_s=WAIT_S)
        seen = {bed.uuids(PLACE, name)[0] for name in self.names}
        need(len(seen) == len(self.names), f"{len(seen)} different GPUs")
        return f"{len(self.names)} pods Running, each with a GPU of its own"

    def own_credential(self) -> str:
        """Each node gets and uses a token of its own that appears in no process list or log; a second run requests none."""
        before, began_s = self.workloads(), time.time()
        credential.set_up(self.rack)
        variables = {"nvdra_package_dir": self.releases.this, **credential.variables(self.rack)}
        with credential.watched() as seen:
            done = play(self.rack, "site", "-vvv", "--diff", variables=variables)
        need(done.status == 0, failure(done))
        need(not seen, f"{len(seen)} tokens in arguments or environments")
        wrong = {n: bad for n in self.names if (bad := credential.problems(self.rack, n))}
        need(not wrong, f"{wrong}")
        traced = {n: at for n in self.names if (at := credential.traces(self.rack, n, began_s))}
        need(not traced, f"tokens can be read in {traced}")
        first, last = self.names[0], self.names[-1]
        wait_until(
            "policies", lambda: not credential.foreign_tokens(self.rack, first, last), WAIT_S
        )
        starts = self.starts()
        done = play(self.rack, "site", variables=variables)
        need(done.status == 0 and not done.hosts_with("changed"), failure(done))
        need(not self.restarted(starts), f"restarted: {self.restarted(starts)}")
        self.need_undisturbed(before)
        return "a token bound to its own Node on each host, in no process list or log; a second run changes nothing"

    def renew_credential(self) -> str:
        """A node gets itself another token when a quarter of the life has passed; the service takes it as it runs."""
        host, starts = self.names[0], self.starts()
        # The shortest life that the API server gives.
        first = credential.make(self.rack, host, "10m")
        self.rack.hosts[host].path(credential.TOKEN).write_text(first)
        said = credential.renew(self.rack, host)
        need(credential.token(self.rack, host) == first, f"renewed at once: {said}")
        need(not said, f"nothing was to do, and it was said at length: {said}")

        def is_renewed() -> bool:
            credential.renew(self.rack, host)
            return credential.token(self.rack, host) != first

        wait_until("the token is renewed", is_renewed, WAIT_S, interval_s=5)
        wrong = credential.problems(self.rack, host)
        need(not wrong, f"{wrong}")
        need(not self.restarted(starts), f"restarted: {self.restarted(starts)}")
        return f"{host} got itself another token; no service restarted"

    def upgrade_under_load(self) -> str:
        """Prepared claims and running containers do not notice; pods that come meanwhile start."""
        before = self.workloads()
        with Churn(self.rack.bed) as churn:
            done = self.play("upgrade", nvdra_package_dir=self.releases.next)
        need(done.status == 0, failure(done))
        self.need_versions({NEXT})
        self.need_undisturbed(before)
        need(churn.came and not churn.failed, f"pods that did not start: {churn.failed}")
        kept = f"{len(self.names)} claims and containers undisturbed"
        return f"{kept}, {churn.came} pods came and went, none failed"

    def broken_release(self) -> str:
        """It stops at the canary, which goes back by itself."""
        before, starts = self.workloads(), self.starts()
        done = self.play("upgrade", nvdra_package_dir=self.releases.broken, nvdra_gate_timeout_s=60)
        canary = self.names[0]
        need(done.status != 0, "the run did not fail")
        need(done.hosts_with("failed") == [canary], f"failed: {done.hosts_with('failed')}")
        need("ROLLED BACK" in done.text, failure(done))
        self.need_versions({NEXT})
        changed = self.restarted(starts)
        need(set(changed) <= {canary}, f"restarted: {changed}")
        self.rack.bed.wait_for_devices(GPUS, timeout_s=WAIT_S)
        self.need_undisturbed(before)
        return f"stopped at {canary}, rolled back to {NEXT} by itself; the others untouched"

    def down_and_stop(self) -> str:
        """A run that must not go on without a host changes nothing."""
        victim = self.names[-1]
        self.rack.hosts[victim].power_off()
        starts = self.starts(but=victim)
        done = self.play("site", nvdra_package_dir=self.releases.this)
        need(done.status != 0, "the run did not fail")
        need(f"{victim}" in done.text and "cannot be reached" in done.text, failure(done))
        need(not self.restarted(starts), f"restarted: {self.restarted(starts)}")
        return f"{victim} reported, nothing changed anywhere"

    def down_and_skip(self) -> str:
        """A run that may go on without it does, and says so."""
        victim = self.names[-1]
        done = self.play(
            "site",
            nvdra_package_dir=self.releases.next,
            nvdra_on_bad_host="skip",
            nvdra_config=self.verbose(3),
        )
        need(done.status == 0, failure(done))
        need(f"LEFT OUT: {victim}" in done.text, failure(done))
        changed = [n for n in self.names if n in done.hosts_with("changed")]
        need(changed == self.names[:-1], f"changed: {changed}")
        return f"{victim} left out and reported, {len(changed)} hosts configured"

    def go_back(self) -> str:
        """The host is on again, and all go back to the version before."""
        victim = self.names[-1]
        self.rack.hosts[victim].power_on()
        self.rack.boot(victim)
        self.rack.hosts[victim].run(["systemctl", "restart", "nvdra-gpu-plugin"])
        self.rack.hosts[victim].wait_until_ready(WAIT_S)
        self.rack.bed.wait_for_devices(GPUS, timeout_s=WAIT_S)
        before = self.workloads(but=victim)
        done = self.play("rollback", nvdra_version=THIS)
        need(done.status == 0, failure(done))
        self.need_versions({THIS})
        self.need_undisturbed(before)
        return f"{len(self.names)} hosts on {THIS}, claims and containers undisturbed"

    def drain_and_collect(self) -> str:
        """One node is emptied and let back; its support bundle has its journal and no token."""
        host, only = self.names[0], ("--limit", self.names[0])
        kubectl = credential.kubectl(self.rack)
        done = play(self.rack, "drain", *only, variables={**kubectl, "nvdra_force": True})
        need(done.status == 0, failure(done))
        left = [pod["metadata"]["name"] for pod in self.rack.bed.get("pods", "-n", PLACE)["items"]]
        need(host not in left, f"pod {host} is still there")
        need(self.is_cordoned(host), f"{host} takes pods")
        done = play(self.rack, "drain", *only, variables={**kubectl, "nvdra_drain_undo": True})
        need(done.status == 0 and not self.is_cordoned(host), failure(done))
        # The rollouts before went back to the kubelet's credential, as their variables said.
        variables = {"nvdra_package_dir": self.releases.this, **credential.variables(self.rack)}
        done = play(self.rack, "site", *only, variables=variables)
        need(done.status == 0, failure(done))
        place = self.rack.home / "bundles"
        done = play(self.rack, "support_bundle", *only, variables={"nvdra_bundle_dir": place})
        need(done.status == 0, failure(done))
        with tarfile.open(place / f"{host}.tar.gz") as archive:
            names = archive.getnames()
            texts = [file.read() for name in names if (file := archive.extractfile(name))]
        need("nvdra-support/journal/nvdra.txt" in names, f"the bundle has {names}")
        token = credential.token(self.rack, host).encode()
        need(not any(token in text for text in texts), "the token is in the bundle")
        return f"{host} emptied and let back; {len(names)} files in its bundle, and no token"

    def is_cordoned(self, host: str) -> bool:
        """Whether the node takes no new pods."""
        return bool(self.rack.bed.get("node", host)["spec"].get("unschedulable"))

    def uninstall(self) -> str:
        """Refused while claims are prepared; then nothing of it is left."""
        done = self.play("uninstall", nvdra_purge=True)
        need(done.status != 0 and "claims are prepared" in done.text, failure(done))
        self.need_versions({THIS})
        self.rack.bed.delete_namespace(PLACE, timeout_s=WAIT_S)
        self.rack.bed.wait_clean(WAIT_S)
        done = self.play("uninstall", nvdra_purge=True)
        need(done.status == 0, failure(done))
        self.need_versions({""})
        need(not self.rack.bed.slices(), "slices are left")
        left = {n: files for n in self.names if (files := self.leftovers(n))}
        need(not left, f"left: {left}")
        return "refused while claims were prepared; then nothing is left"

    # Observations

    def play(self, playbook: str, **variables: Any) -> Run:
        """Run a playbook on all hosts."""
        return play(self.rack, playbook, variables=variables)

    def verbose(self, level: int) -> dict[str, Any]:
        """The settings of the service, with another verbosity of its log."""
        settings: dict[str, Any] = self.rack.inventory()["nvdra"]["vars"]["nvdra_config"]
        return {**settings, "logVerbosity": level}

    def need_versions(self, wanted: set[str]) -> None:
        """All hosts have this version."""
        found = {self.rack.version(name) for name in self.names}
        need(found == wanted, f"versions on the hosts: {found}, expected {wanted}")

    def starts(self, but: str = "") -> dict[str, tuple[int, int]]:
        """When each host's service started, and how often systemd started it again by itself."""
        names = ["-P", "ActiveEnterTimestampMonotonic", "-P", "NRestarts"]
        argv = ["systemctl", "show", *names, "nvdra-gpu-plugin"]
        found = {}
        for name, host in self.rack.hosts.items():
            if name != but:
                since, again = host.run(argv).stdout.split()
                found[name] = (int(since), int(again))
        return found

    def restarted(self, before: dict[str, tuple[int, int]]) -> list[str]:
        """Hosts whose service was restarted, but for restarts by the watchdog on a busy machine."""
        now = self.starts(but=next(iter(set(self.names) - set(before)), ""))
        return [
            n for n, (since, again) in before.items() if now[n][0] != since and now[n][1] <= again
        ]

    def workloads(self, but: str = "") -> dict[str, Any]:
        """Containers with their starts and restarts, and the records and CDI files of their claims, by host."""
        found: dict[str, Any] = {}
        for pod in self.rack.bed.get("pods", "-n", PLACE)["items"]:
            name = pod["metadata"]["name"]
            if name == but:
                continue
            (status,) = pod["status"]["containerStatuses"]
            uid = pod["metadata"]["uid"]
            claims = self.claims_of(uid)
            need(len(claims) == 1, f"{name} has claims {claims}")
            files = [path for path in self.rack.bed.nodes[name].leftovers() if claims[0] in path]
            content = {Path(path).name: Path(path).read_bytes() for path in files}
            found[name] = (status["containerID"], status["restartCount"], status["state"], content)
        return found

    def claims_of(self, pod_uid: str) -> list[str]:
        """UIDs of the claims of a pod."""
        claims = self.rack.bed.get("resourceclaims", "-n", PLACE)["items"]
        owners = {c["metadata"]["uid"]: c["metadata"].get("ownerReferences", []) for c in claims}
        return [uid for uid, refs in owners.items() if pod_uid in {ref["uid"] for ref in refs}]

    def need_undisturbed(self, before: dict[str, Any]) -> None:
        """The same containers, not restarted, with the same records and CDI files."""
        now = self.workloads()
        disturbed = [name for name, state in before.items() if now.get(name) != state]
        need(not disturbed, f"disturbed: {disturbed}")

    def leftovers(self, host: str) -> list[str]:
        """What is left of nvdra on a host."""
        argv = ["sh", "-c", "ls -d /usr/lib/nvdra /etc/nvdra /var/lib/nvdra /var/cache/nvdra /run/cdi/*gpu.nvidia.com*"]  # fmt: skip
        return self.rack.hosts[host].run(argv, check=False).stdout.split()


STEPS: dict[str, Callable[[Show], str]] = {
    f"install {THIS} from the deb": Show.install,
    "run it again": Show.install_again,
    "a pod with a GPU on each host": Show.pods_on_all,
    "a credential of its own for each node": Show.own_credential,
    "a node renews its credential": Show.renew_credential,
    f"upgrade to {NEXT} under load": Show.upgrade_under_load,
    f"a broken {BROKEN}": Show.broken_release,
    "a host that is down: stop": Show.down_and_stop,
    "a host that is down: skip it": Show.down_and_skip,
    f"back to {THIS}": Show.go_back,
    "drain a node, collect a support bundle": Show.drain_and_collect,
    "uninstall": Show.uninstall,
}
"""Title -> step, in their order."""


def failure(done: Run) -> str:
    """The first words of what a run said that went wrong."""
    lines = [line for line in done.text.splitlines() if "fatal:" in line or "msg:" in line]
    return f"exit status {done.status}; {' '.join(lines)[:600]}"
