/* Settings that a privileged program may change, kept in the shared state until the next boot. */
#include "sim.h"

static nvmlReturn_t get_word(const u32 *word, u32 *out)
{
    REQUIRE(out);
    *out = *word;
    return NVML_SUCCESS;
}

static nvmlReturn_t set_word(nvmlDevice_t device, u32 *word, u32 value, u32 limit)
{
    if (is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    REQUIRE(value < limit);
    CHECK(state_lock());
    *word = value;
    state_unlock();
    return NVML_SUCCESS;
}

/* One pair of calls around a word of the GPU's state; `limit`: first value that is refused. */
#define SETTING(getter, setter, word, limit) \
    NVML_API(getter)(nvmlDevice_t device, u32 *out) \
    { \
        ENTER_GPU(getter, device); \
        return get_word(&state_of(device)->word, out); \
    } \
    NVML_API(setter)(nvmlDevice_t device, u32 value) \
    { \
        ENTER_GPU(setter, device); \
        return set_word(device, &state_of(device)->word, value, limit); \
    }
SETTING(nvmlDeviceGetPersistenceMode, nvmlDeviceSetPersistenceMode, persistence, 2)
SETTING(nvmlDeviceGetAccountingMode, nvmlDeviceSetAccountingMode, accounting, 2)
/* What `nvidia-smi compute-policy --set-timeslice` reaches through a private door of the real driver. */
SETTING(nvsimDeviceGetTimeslice, nvsimDeviceSetTimeslice, timeslice, 4)

NVML_API(nvmlDeviceGetComputeMode)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetComputeMode, device);
    return get_word(&state_of(device)->compute_mode, out);
}

NVML_API(nvmlDeviceSetComputeMode)(nvmlDevice_t device, u32 mode)
{
    enum { EXCLUSIVE_THREAD = 1, MODES = 4 };
    ENTER_GPU(nvmlDeviceSetComputeMode, device);
    if (mode == EXCLUSIVE_THREAD) return NVML_ERROR_NOT_SUPPORTED; /* given up by the driver long ago */
    return set_word(device, &state_of(device)->compute_mode, mode, MODES);
}

NVML_API(nvmlDeviceGetAccountingBufferSize)(nvmlDevice_t device, u32 *size)
{
    ENTER_GPU(nvmlDeviceGetAccountingBufferSize, device);
    REQUIRE(size);
    *size = 4000;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetAccountingPids)(nvmlDevice_t device, u32 *count, u32 *pids)
{
    (void)pids;
    ENTER_GPU(nvmlDeviceGetAccountingPids, device);
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetAccountingStats)(nvmlDevice_t device, u32 pid, nvmlAccountingStats_t *out)
{
    (void)pid;
    ENTER_GPU(nvmlDeviceGetAccountingStats, device);
    REQUIRE(out);
    return NVML_ERROR_NOT_FOUND;
}

NVML_API(nvmlDeviceGetDisplayMode)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetDisplayMode, device);
    static const u32 enabled = 1;
    return get_word(&enabled, out);
}

NVML_API(nvmlDeviceGetDisplayActive)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetDisplayActive, device);
    static const u32 disabled = 0;
    return get_word(&disabled, out);
}

/* ---- processes: nobody uses the GPUs ---- */
#define PROCESS_CALL(name) \
    NVML_API(name)(nvmlDevice_t device, u32 *count, void *out) \
    { \
        (void)out; \
        ENTER_GPU(name, device); \
        REQUIRE(count); \
        *count = 0; \
        return NVML_SUCCESS; \
    }
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses)
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v2)
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v3)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v2)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3)
PROCESS_CALL(nvmlDeviceGetMPSComputeRunningProcesses)
PROCESS_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v2)
PROCESS_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3)
PROCESS_CALL(nvmlDeviceGetEncoderSessions)
PROCESS_CALL(nvmlDeviceGetFBCSessions)

NVML_API(nvmlDeviceGetRunningProcessDetailList)(nvmlDevice_t device, nvmlProcessDetailList_t *out)
{
    ENTER_GPU(nvmlDeviceGetRunningProcessDetailList, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->numProcArrayEntries = 0;
    return NVML_SUCCESS;
}
