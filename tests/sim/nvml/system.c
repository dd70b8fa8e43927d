/* Calls about the machine: versions, names of errors and processes, units, confidential computing (off). */
#include <stdio.h>
#include <string.h>
#include "sim.h"

NVML_API(nvmlSystemGetDriverVersion)(char *version, u32 length)
{
    ENTER(nvmlSystemGetDriverVersion);
    return sim_copy(version, length, sim.profile.driver);
}

NVML_API(nvmlSystemGetNVMLVersion)(char *version, u32 length)
{
    ENTER(nvmlSystemGetNVMLVersion);
    return sim_copy(version, length, sim.profile.nvml);
}

NVML_API(nvmlSystemGetCudaDriverVersion)(int *version)
{
    ENTER(nvmlSystemGetCudaDriverVersion);
    REQUIRE(version);
    *version = (int)sim.profile.cuda;
    return NVML_SUCCESS;
}

NVML_API(nvmlSystemGetCudaDriverVersion_v2)(int *version)
{
    ENTER(nvmlSystemGetCudaDriverVersion_v2);
    REQUIRE(version);
    *version = (int)sim.profile.cuda;
    return NVML_SUCCESS;
}

NVML_API(nvmlSystemGetDriverBranch)(nvmlSystemDriverBranchInfo_t *info, u32 length)
{
    ENTER(nvmlSystemGetDriverBranch);
    REQUIRE(info);
    if (info->version != NVML_VERSION_OF(*info, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return sim_copy(info->branch, length < sizeof info->branch ? length : sizeof info->branch, sim.profile.branch);
}

NVML_API(nvmlSystemGetProcessName)(u32 pid, char *name, u32 length)
{
    ENTER(nvmlSystemGetProcessName);
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (!file) return NVML_ERROR_NOT_FOUND;
    size_t got = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[got] = 0;
    return sim_copy(name, length, text);
}

NVML_API(nvmlSystemGetHicVersion)(u32 *count, void *entries)
{
    ENTER(nvmlSystemGetHicVersion);
    (void)entries;
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlUnitGetCount)(u32 *count)
{
    ENTER(nvmlUnitGetCount);
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlGetExcludedDeviceCount)(u32 *count)
{
    ENTER(nvmlGetExcludedDeviceCount);
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

/* Confidential computing: capable machine parts are none, everything is off. */
NVML_API(nvmlSystemGetConfComputeCapabilities)(nvmlConfComputeSystemCaps_t *out)
{
    ENTER(nvmlSystemGetConfComputeCapabilities);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

NVML_API(nvmlSystemGetConfComputeState)(nvmlConfComputeSystemState_t *out)
{
    ENTER(nvmlSystemGetConfComputeState);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

NVML_API(nvmlSystemGetConfComputeSettings)(nvmlSystemConfComputeSettings_t *out)
{
    ENTER(nvmlSystemGetConfComputeSettings);
    REQUIRE(out);
    u32 version = NVML_VERSION_OF(*out, 1);
    if (out->version != version) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memset(out, 0, sizeof *out);
    out->version = version;
    return NVML_SUCCESS;
}

static const char *const error_names[] = {
    "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
    "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
    "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM",
    "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
    "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
    "vGPU ECC is not supported", "Insufficient Resources", "Frequency not supported", "Argument version mismatch",
    "Deprecated", "Not Ready", "GPU not found", "Invalid state", "Reset type not supported",
};

__attribute__((visibility("default"))) const char *nvmlErrorString(nvmlReturn_t code)
{
    int known = code >= 0 && (size_t)code < sizeof error_names / sizeof *error_names;
    return known ? error_names[code] : "Unknown Error";
}

/* The private table of functions that NVIDIA's own programs ask for and cannot do without: its size in bytes, then
 * functions. Ours all answer that they are not supported, so those programs fall back to the public ones.
 */
enum { PRIVATE_FUNCTIONS = 255 };
static nvmlReturn_t not_supported(void) { return NVML_ERROR_NOT_SUPPORTED; }
static struct { size_t size; nvmlReturn_t (*functions[PRIVATE_FUNCTIONS])(void); } private_table;

NVML_API(nvmlInternalGetExportTable)(const void **table, const void *id)
{
    REQUIRE(table && id);
    private_table.size = sizeof private_table;
    for (int i = 0; i < PRIVATE_FUNCTIONS; i++) private_table.functions[i] = not_supported;
    *table = &private_table;
    return NVML_SUCCESS;
}
