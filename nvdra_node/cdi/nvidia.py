"""Container edits that every GPU container needs: the NVIDIA driver's libraries, programs, control devices and hooks.

``nvidia-ctk cdi generate`` lists them, once per driver version, boot and toolkit; the result is kept in memory and in
``<state>/cdi-common.json``. Used by ``cdi.store``. A background worker calls ``warm_up`` at start and every few
seconds; this is also the check whether any claim can be prepared. A prepare before the first result waits inside its
deadline.

Changes to the output of nvidia-ctk:

- Its devices are dropped (``--device-id none`` does not open GPUs, so a faulty one does not fail it); devices come from
  the claim.
- Sockets and pipes of host daemons are dropped: through Fabric Manager's a tenant could repartition the node, through
  nvidia-persistenced's switch the persistence mode of other tenants' GPUs, and the host's ``/tmp/nvidia-mps`` would
  connect containers to a foreign MPS daemon. No CUDA program needs them; MPS claims get their own pipe.
- Device numbers are dropped: nvidia-uvm's major is dynamic, the container runtime reads it from the node.
- Consecutive hooks that create links are joined: each hook is a program started in every container, 8 ms of CPU.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from nvdra_core.errors import HostError, NotReadyError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.cdi.spec import Common, parse_version
from nvdra_node.cdi.toolkit import Toolkit, ToolkitRunner, missing_hook
from nvdra_node.host.ports import Commands, Files, Sysfs

_LOG = log.get(__name__)

_CONTROL, _UVM = "/dev/nvidiactl", "/dev/nvidia-uvm"
NEEDED_NODES = (_CONTROL, _UVM)
"""No CUDA program starts without these; nvidia-ctk silently omits missing ones."""

_GPU_MAJOR = 195
"""Of /dev/nvidiactl, fixed in NVIDIA's driver."""

NEEDED_LIBRARY = "libcuda.so"
"""No CUDA program starts without it; nvidia-ctk silently omits missing libraries."""

_LINKS = "create-symlinks"
_GENERATE_S = 60.0
_RECHECK_S = 1.0
"""Between two checks that all listed files exist: a check takes 0.4 ms of a prepare's 2 ms of CPU (8 callers: 4x)."""
_DAEMON_PATHS = ("/nvidia-fabricmanager/", "/nvidia-persistenced/", "/tmp/nvidia-mps")  # noqa: S108 - a host path to drop


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    """What the edits depend on."""

    driver_version: str
    boot_id: str
    toolkit: str
    """Fingerprints of nvidia-ctk and of the hook."""
    settings: str


class _Entry(msgspec.Struct, frozen=True):
    """Edits made by nvidia-ctk."""

    key: _Key
    common: Common
    paths: tuple[str, ...]
    """Files of the host that the edits refer to."""


class _Check(msgspec.Struct, frozen=True):
    """When all files of an entry last existed."""

    entry: _Entry
    at_s: float


class CommonEdits:
    """See ``cdi.store.DriverFiles``. Thread safe."""

    def __init__(
        self, toolkit: Toolkit, commands: Commands, sysfs: Sysfs, files: Files, clock: Clock
    ) -> None:
        self._toolkit = ToolkitRunner(toolkit, commands, files)
        self._sysfs = sysfs
        self._files = files
        self._clock = clock
        self._entry: _Entry | None = None
        self._checked: _Check | None = None
        self._making = threading.Lock()
        self._failed: list[Callable[[], None]] = []
        self._logged = ""
        """The last error of ``warm_up``, which is logged once."""
        self.made = 0
        """How often the edits were generated or read from the cache: CDI files written before may differ."""

    def on_failure(self, failed: Callable[[], None]) -> None:
        """Call ``failed`` (cheap, from any thread) when a prepare found the edits unusable."""
        self._failed.append(failed)

    def current(self, deadline: Deadline) -> Common:
        """The edits for the loaded NVIDIA driver; their files exist (checked once a second). Raises HostError or
        NotReadyError."""
        try:
            return self._current(deadline)
        except NvdraError:
            for failed in self._failed:
                failed()
            raise

    def _current(self, deadline: Deadline) -> Common:
        version = self._driver_version()
        entry = self._entry
        if entry is not None and self._is_usable(entry, version):
            return entry.common
        if not self._making.acquire(timeout=deadline.remaining_s()):
            raise NotReadyError("nvidia-ctk is still listing the driver's files")
        try:
            entry = self._entry
            if entry is None or not self._is_usable(entry, version):
                entry = self._entry = self._load_or_make(version, deadline)
                self.made += 1
        finally:
            self._making.release()
        if fault := self._fault(entry):
            raise HostError(fault)
        return entry.common

    def warm_up(self) -> str:
        """Make the edits before the first prepare, and again after an upgrade of the toolkit. Returns why they cannot
        be made (no claim can be prepared then); empty: they are ready."""
        deadline = Deadline(_GENERATE_S, self._clock)
        try:
            self._current(deadline)
            self._check_new_hook(deadline)
        except NvdraError as error:
            self._warn("driver files not listed", error)
            return str(error)
        try:
            self._renew_for_toolkit(deadline)
        except NvdraError as error:
            # The earlier toolkit's list is still complete: claims can be prepared.
            self._warn("driver files not listed with the new toolkit", error)
        else:
            self._logged = ""
        return ""

    def _warn(self, what: str, error: NvdraError) -> None:
        if self._logged != str(error):
            self._logged = str(error)
            _LOG.warning(what, error)

    def _is_of_toolkit(self, entry: _Entry | None) -> bool:
        """Whether the edits were made by the installed programs."""
        return entry is None or entry.key == self._key(entry.key.driver_version)

    def _check_new_hook(self, deadline: Deadline) -> None:
        """An upgraded hook is used by containers at once. Raises HostError."""
        if not self._is_of_toolkit(self._entry):
            self._toolkit.run_hook(deadline)

    def _renew_for_toolkit(self, deadline: Deadline) -> None:
        entry = self._entry
        if entry is None or self._is_of_toolkit(entry):
            return
        with self._making:
            self._entry = self._make(self._key(entry.key.driver_version), deadline)
            self.made += 1

    def _driver_version(self) -> str:
        version = self._sysfs.driver_version()
        if version is None:
            raise HostError(self._sysfs.why_no_driver())
        return version

    def _is_usable(self, entry: _Entry, version: str) -> bool:
        if entry.key.driver_version != version:
            return False
        return not self._fault(entry)

    def _fault(self, entry: _Entry) -> str:
        """What is wrong with the first missing or wrong file of the entry; empty: nothing."""
        checked, now_s = self._checked, self._clock.monotonic()
        if checked is not None and checked.entry is entry and now_s - checked.at_s < _RECHECK_S:
            return ""
        missing = self._files.first_missing(entry.paths)
        fault = self._explain(missing, entry) if missing is not None else self._wrong_node()
        self._checked = None if fault else _Check(entry, now_s)
        return fault

    def _wrong_node(self) -> str:
        """A control device with a wrong number: nvidia-uvm gets a new major with each load of its module."""
        for path, major in (
            (_CONTROL, _GPU_MAJOR),
            (_UVM, self._sysfs.char_major("nvidia-uvm")),
        ):
            stat = self._sysfs.device_node(path)
            if major is None:
                return f"the kernel module of {path} is not loaded: run nvidia-modprobe -c 0 -u"
            if stat is None or stat.major != major:
                found = (
                    "no character device" if stat is None else f"device {stat.major}:{stat.minor}"
                )
                return (
                    f"{path} is {found}, expected major number {major}: remove it and run"
                    " nvidia-modprobe -c 0 -u"
                )
        return ""

    def _explain(self, missing: str, entry: _Entry) -> str:
        kit = self._toolkit.kit
        if missing == str(kit.hook):
            return missing_hook(kit.hook)
        if missing.startswith(f"{kit.roots.dev}/"):
            return f"{missing} is missing, and no CUDA program starts without it: run nvidia-modprobe -c 0 -u"
        return (
            f"{missing} is missing, but the loaded driver {entry.key.driver_version} needs it: the driver's package "
            "was changed without loading the new driver; reboot, or reload the driver"
        )

    def _load_or_make(self, version: str, deadline: Deadline) -> _Entry:
        key = self._key(version)
        cached = self._load(key)
        if cached is not None and self._files.first_missing(cached.paths) is None:
            return cached
        return self._make(key, deadline)

    def _key(self, version: str) -> _Key:
        kit = self._toolkit.kit
        return _Key(
            driver_version=version,
            boot_id=self._sysfs.boot_id(),
            toolkit=self._toolkit.fingerprint(),
            settings=f"{kit.roots.driver} {kit.roots.dev}",
        )

    def _load(self, key: _Key) -> _Entry | None:
        data = self._files.read(self._toolkit.kit.cache)
        if data is None:
            return None
        try:
            body = json.loads(data)
            if body["key"] == msgspec.to_builtins(key):
                return _entry(key, body["edits"], body["version"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("ignoring unusable cache", path=self._toolkit.kit.cache, error=repr(error))
        return None

    def _make(self, key: _Key, deadline: Deadline) -> _Entry:
        entry, body = self._generate(key, deadline)
        try:
            self._files.replace(self._toolkit.kit.cache, json.dumps(body).encode())
        except NvdraError as error:
            _LOG.warning("list of driver files not cached", error)
        _LOG.info("driver files listed", driver=key.driver_version, files=len(entry.paths))
        return entry

    def _generate(self, key: _Key, deadline: Deadline) -> tuple[_Entry, dict[str, Any]]:
        """The edits from nvidia-ctk, and what the cache keeps of them."""
        output = self._toolkit.generate(deadline)
        try:
            body = json.loads(output)
            edits, version = reduce_edits(body["containerEdits"]), body["cdiVersion"]
            _require_library(edits, key.driver_version)
            kept = {"key": msgspec.to_builtins(key), "version": version, "edits": edits}
            return _entry(key, edits, version), kept
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HostError(
                f"{self._toolkit.kit.ctk} cdi generate did not write a CDI spec: {error!r}"
            ) from error


def reduce_edits(edits: Mapping[str, Any]) -> dict[str, Any]:
    """NVIDIA's edits with the changes above. Raises NotReadyError while control devices are missing."""
    kept = dict(edits)
    kept["mounts"] = [mount for mount in edits.get("mounts", ()) if not _is_daemon_mount(mount)]
    kept["deviceNodes"] = [
        {key: node[key] for key in ("path", "hostPath", "permissions") if key in node}
        for node in edits.get("deviceNodes", ())
    ]
    if "hooks" in edits:
        kept["hooks"] = join_links(edits["hooks"])
    missing = set(NEEDED_NODES) - {node["path"] for node in kept["deviceNodes"]}
    if missing:
        raise NotReadyError(
            f"{', '.join(sorted(missing))} missing: run nvidia-modprobe -c 0 -u",
            retry_after_s=1.0,
        )
    return kept


def join_links(hooks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same hooks, with consecutive hooks that create links joined."""
    joined: list[Mapping[str, Any]] = []
    for hook in hooks:
        head, links = _split_links(hook)
        if links and joined and head == _split_links(joined[-1])[0]:
            joined[-1] = {**joined[-1], "args": [*joined[-1]["args"], *links]}
        else:
            joined.append(hook)
    return joined


def _split_links(hook: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """A hook without its links, and these (``--link``, ``TARGET::LINK``, ...); none of another kind of hook."""
    args = list(hook.get("args", ()))
    at = args.index(_LINKS) + 1 if _LINKS in args else len(args)
    links = args[at:]
    if set(links[::2]) != {"--link"} or len(links) % 2:
        return hook, []
    return {**hook, "args": args[:at]}, links


def _require_library(edits: Mapping[str, Any], driver_version: str) -> None:
    names = (mount["containerPath"].rpartition("/")[2] for mount in edits["mounts"])
    if not any(name.startswith(NEEDED_LIBRARY) for name in names):
        raise HostError(
            f"{NEEDED_LIBRARY}.{driver_version}, a library of the loaded driver, was not found: the driver's package "
            "was changed without loading the new driver, or lacks its CUDA library; reboot, reload the driver, or "
            "install it"
        )


def _is_daemon_mount(mount: Mapping[str, Any]) -> bool:
    return any(part in mount["containerPath"] for part in _DAEMON_PATHS)


def _entry(key: _Key, edits: Mapping[str, Any], version: str) -> _Entry:
    paths = [mount["hostPath"] for mount in edits.get("mounts", ())]
    paths += [node.get("hostPath", node["path"]) for node in edits.get("deviceNodes", ())]
    paths += sorted({hook["path"] for hook in edits.get("hooks", ())})
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"a path is no text: {paths}")
    rendered = json.dumps(edits, separators=(",", ":")).encode()
    return _Entry(key, Common(rendered, parse_version(version)), tuple(paths))
