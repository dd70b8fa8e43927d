"""The C declarations against nvidia-ml-py's: names, sizes, version words, return codes."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pynvml
import pytest

from tests.sim import library, state
from tests.sim.api import SimRoot
from tests.sim.client import session

ABI = (library.SOURCES / "abi.h").read_text()
# our name -> nvidia-ml-py's, where they are not alike
ALIASES = {
    "nvmlPlacement_t": "c_nvmlGpuInstancePlacement_t",
    "nvmlSystemDriverBranchInfo_t": "c_nvmlSystemDriverBranchInfo_v1_t",
    "nvmlEccSramErrorStatus_t": "c_nvmlEccSramErrorStatus_v1_t",
    "nvmlTemperature_t": "c_nvmlTemperature_v1_t",
    "nvmlMarginTemperature_t": "c_nvmlMarginTemperature_v1_t",
    "nvmlDeviceCapabilities_t": "c_nvmlDeviceCapabilities_v1_t",
    "nvmlC2cModeInfo_t": "c_nvmlC2cModeInfo_v1_t",
    "nvmlSystemConfComputeSettings_t": "c_nvmlSystemConfComputeSettings_v1_t",
    "nvmlProcessDetailList_t": "c_nvmlProcessDetailList_v1_t",
    "nvmlPdi_t": "c_nvmlPdi_v1_t",
    "nvmlPowerValue_t": "c_nvmlPowerValue_v2_t",
    "nvmlRowRemapperHistogramValues_t": "c_nvmlRowRemapperHistogramValues",
}


def _pairs() -> list[tuple[str, str]]:
    """Every struct of abi.h that nvidia-ml-py declares too."""
    ours = re.findall(r"^(?:typedef struct .*)?\} (nvml\w+);", ABI, re.M)
    pairs = []
    for name in ours:
        for theirs in (ALIASES.get(name, ""), f"c_{name}", name):
            if isinstance(getattr(pynvml, theirs, None), type):
                pairs.append((name, theirs))
                break
    return pairs


def test_every_struct_has_the_size_that_clients_expect(tmp_path: Path) -> None:
    pairs = _pairs()
    assert len(pairs) > 30
    lines = "".join(f'printf("{ours} %zu\\n", sizeof({ours}));' for ours, _ in pairs)
    source = tmp_path / "sizes.c"
    source.write_text(
        f'#include <stdio.h>\n#include "abi.h"\nint main(void) {{ {lines} return 0; }}\n'
    )
    subprocess.run(["gcc", f"-I{library.SOURCES}", "-o", tmp_path / "sizes", source], check=True)
    output = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    sizes = dict(line.split() for line in output.splitlines())
    wrong = {
        ours: (int(sizes[ours]), ctypes.sizeof(getattr(pynvml, theirs)))
        for ours, theirs in pairs
        if int(sizes[ours]) != ctypes.sizeof(getattr(pynvml, theirs))
    }
    assert not wrong


def test_return_codes_have_nvidias_numbers() -> None:
    codes = dict(re.findall(r"(NVML_(?:SUCCESS|ERROR_\w+)) = (\d+)", ABI))
    assert len(codes) > 15
    assert {name: getattr(pynvml, name) for name in codes} == {
        name: int(code) for name, code in codes.items()
    }


def test_functions_resolved_by_clients_are_exported(h100: SimRoot) -> None:
    source = Path(pynvml.__file__).read_text()
    wanted = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', source))
    assert wanted <= set(library.functions())
    built = ctypes.CDLL(str(h100.nvml_library))
    missing = [name for name in library.functions() if not hasattr(built, name)]
    assert not missing


def test_functions_known_by_name_only_are_not_supported(h100: SimRoot) -> None:
    stubs = library.stub_names()
    assert "nvmlVgpuTypeGetName" in stubs
    with session(h100.nvml_library) as nvml:
        answers = {nvml.nvmlLib[name]() for name in stubs}
    assert answers == {pynvml.NVML_ERROR_NOT_SUPPORTED}


def test_python_and_c_have_one_layout_of_the_shared_state(h100: SimRoot) -> None:
    built = ctypes.CDLL(str(h100.nvml_library))
    assert built.nvsimStateSize() == ctypes.sizeof(state.Layout)


VERSIONED = [
    ("nvmlDeviceGetMemoryInfo_v2", "c_nvmlMemory_v2_t", (2,)),
    ("nvmlDeviceGetPciInfoExt", "nvmlPciInfoExt_v1_t", (1,)),
    ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t", (2, 3)),
    ("nvmlDeviceGetAddressingMode", "c_nvmlDeviceAddressingMode_t", (1,)),
    ("nvmlDeviceGetPlatformInfo", "c_nvmlPlatformInfo_v2_t", (1, 2)),
    ("nvmlDeviceGetRepairStatus", "c_nvmlRepairStatus_t", (1,)),
    ("nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t", (1,)),
    ("nvmlDeviceGetTemperatureV", "c_nvmlTemperature_v1_t", (1,)),
    ("nvmlDeviceGetCapabilities", "c_nvmlDeviceCapabilities_v1_t", (1,)),
]


@pytest.mark.parametrize(
    ("function", "struct", "versions"), VERSIONED, ids=[v[0] for v in VERSIONED]
)
def test_a_struct_version_the_driver_does_not_know_is_refused(
    gb200: SimRoot, function: str, struct: str, versions: tuple[int, ...]
) -> None:
    made = getattr(pynvml, struct)()
    with session(gb200.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        made.version = ctypes.sizeof(made) | max(versions) << 24
        assert nvml.nvmlLib[function](device, ctypes.byref(made)) == pynvml.NVML_SUCCESS
        for word in (
            0,
            ctypes.sizeof(made),
            ctypes.sizeof(made) | 9 << 24,
            4 | max(versions) << 24,
        ):
            made.version = word
            answer = nvml.nvmlLib[function](device, ctypes.byref(made))
            assert answer == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
