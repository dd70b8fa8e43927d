/* Memory sizes, ECC, retired pages and remapped rows. */
#include <string.h>
#include "sim.h"

static const u64 MIB = 1048576;

static u64 total_of(nvmlDevice_t device)
{
    const struct model *model = model_of(device);
    if (!is_mig(device)) return model->memory_mb * MIB;
    return model->gi[state_of(device)->gis[device->gi].profile].memory_mb * MIB;
}

/* The part of `whole_mb` that falls to this device, in bytes: all of it, or a MIG device's share. */
static u64 share_of(nvmlDevice_t device, u32 whole_mb)
{
    return whole_mb * (total_of(device) / MIB) / model_of(device)->memory_mb * MIB;
}

static u64 reserved_of(nvmlDevice_t device) { return share_of(device, model_of(device)->reserved_mb); }

/* The first version has no word for reserved memory and counts it as used. */
NVML_API(nvmlDeviceGetMemoryInfo)(nvmlDevice_t device, nvmlMemory_t *out)
{
    ENTER_GPU(nvmlDeviceGetMemoryInfo, device);
    REQUIRE(out);
    out->total = total_of(device);
    out->used = reserved_of(device);
    out->free = out->total - out->used;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetMemoryInfo_v2)(nvmlDevice_t device, nvmlMemory_v2_t *out)
{
    ENTER_GPU(nvmlDeviceGetMemoryInfo_v2, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 2)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->total = total_of(device);
    out->reserved = reserved_of(device);
    out->used = 0;
    out->free = out->total - out->reserved;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetBAR1MemoryInfo)(nvmlDevice_t device, nvmlBAR1Memory_t *out)
{
    ENTER_GPU(nvmlDeviceGetBAR1MemoryInfo, device);
    REQUIRE(out);
    out->total = share_of(device, model_of(device)->bar1_mb);
    out->used = MIB;
    out->free = out->total - out->used;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetConfComputeMemSizeInfo)(nvmlDevice_t device, nvmlConfComputeMemSizeInfo_t *out)
{
    ENTER_GPU(nvmlDeviceGetConfComputeMemSizeInfo, device);
    REQUIRE(out);
    out->protectedKib = 0;
    out->unprotectedKib = total_of(device) / 1024;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetConfComputeProtectedMemoryUsage)(nvmlDevice_t device, nvmlMemory_t *out)
{
    ENTER_GPU(nvmlDeviceGetConfComputeProtectedMemoryUsage, device);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

/* ---- ECC ---- */
#define ENTER_ECC(name, device) \
    ENTER_GPU(name, device); \
    if (!model_of(device)->ecc) return NVML_ERROR_NOT_SUPPORTED

NVML_API(nvmlDeviceGetEccMode)(nvmlDevice_t device, u32 *current, u32 *pending)
{
    ENTER_ECC(nvmlDeviceGetEccMode, device);
    REQUIRE(current && pending);
    *current = 1;
    *pending = state_of(device)->ecc_pending;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetDefaultEccMode)(nvmlDevice_t device, u32 *mode)
{
    ENTER_ECC(nvmlDeviceGetDefaultEccMode, device);
    REQUIRE(mode);
    *mode = 1;
    return NVML_SUCCESS;
}

static u64 errors(nvmlDevice_t device, u32 type)
{
    return type == 0 ? state_of(device)->ecc_corrected : state_of(device)->ecc_uncorrected;
}

NVML_API(nvmlDeviceGetTotalEccErrors)(nvmlDevice_t device, u32 type, u32 counter, u64 *out)
{
    ENTER_ECC(nvmlDeviceGetTotalEccErrors, device);
    REQUIRE(out && type < 2 && counter < 2);
    *out = errors(device, type);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetMemoryErrorCounter)(nvmlDevice_t device, u32 type, u32 counter, u32 location, u64 *out)
{
    enum { DRAM = 2, SRAM = 7 };
    ENTER_ECC(nvmlDeviceGetMemoryErrorCounter, device);
    REQUIRE(out && type < 2 && counter < 2);
    if (location != DRAM && location != SRAM) return NVML_ERROR_NOT_SUPPORTED;
    *out = location == DRAM ? errors(device, type) : 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetDetailedEccErrors)(nvmlDevice_t device, u32 type, u32 counter, nvmlEccErrorCounts_t *out)
{
    ENTER_ECC(nvmlDeviceGetDetailedEccErrors, device);
    REQUIRE(out && type < 2 && counter < 2);
    memset(out, 0, sizeof *out);
    out->deviceMemory = errors(device, type);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetSramEccErrorStatus)(nvmlDevice_t device, nvmlEccSramErrorStatus_t *out)
{
    ENTER_ECC(nvmlDeviceGetSramEccErrorStatus, device);
    REQUIRE(out);
    u32 version = NVML_VERSION_OF(*out, 1);
    if (out->version != version) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memset(out, 0, sizeof *out);
    out->version = version;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceClearEccErrorCounts)(nvmlDevice_t device, u32 counter)
{
    ENTER_ECC(nvmlDeviceClearEccErrorCounts, device);
    REQUIRE(counter < 2);
    CHECK(state_lock());
    state_of(device)->ecc_corrected = state_of(device)->ecc_uncorrected = 0;
    state_unlock();
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceSetEccMode)(nvmlDevice_t device, u32 mode)
{
    ENTER_ECC(nvmlDeviceSetEccMode, device);
    REQUIRE(mode < 2);
    CHECK(state_lock());
    state_of(device)->ecc_pending = mode;
    state_unlock();
    return NVML_SUCCESS;
}

/* ---- pages and rows: newer models remap rows, older ones retire pages ---- */
static nvmlReturn_t retired(int fn, nvmlDevice_t device, u32 cause, u32 *count)
{
    CHECK(sim_enter_device(fn, device));
    REQUIRE(count && cause < 2);
    if (model_of(device)->remap_rows) return NVML_ERROR_NOT_SUPPORTED;
    *count = 0;
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetRetiredPages)(nvmlDevice_t device, u32 cause, u32 *count, u64 *addresses)
{
    (void)addresses;
    return retired(FN_nvmlDeviceGetRetiredPages, device, cause, count);
}
NVML_API(nvmlDeviceGetRetiredPages_v2)(nvmlDevice_t device, u32 cause, u32 *count, u64 *addresses, u64 *times)
{
    (void)addresses;
    (void)times;
    return retired(FN_nvmlDeviceGetRetiredPages_v2, device, cause, count);
}
NVML_API(nvmlDeviceGetRetiredPagesPendingStatus)(nvmlDevice_t device, u32 *pending)
{
    return retired(FN_nvmlDeviceGetRetiredPagesPendingStatus, device, 0, pending);
}

NVML_API(nvmlDeviceGetRemappedRows)(nvmlDevice_t device, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed)
{
    ENTER_GPU(nvmlDeviceGetRemappedRows, device);
    REQUIRE(corrected && uncorrected && pending && failed);
    if (!model_of(device)->remap_rows) return NVML_ERROR_NOT_SUPPORTED;
    *corrected = 0;
    *uncorrected = state_of(device)->remapped_pending || state_of(device)->remapped_failed;
    *pending = state_of(device)->remapped_pending;
    *failed = state_of(device)->remapped_failed;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetRowRemapperHistogram)(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *out)
{
    ENTER_GPU(nvmlDeviceGetRowRemapperHistogram, device);
    REQUIRE(out);
    if (!model_of(device)->remap_rows) return NVML_ERROR_NOT_SUPPORTED;
    *out = (nvmlRowRemapperHistogramValues_t){.max = 640};
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetRepairStatus)(nvmlDevice_t device, nvmlRepairStatus_t *out)
{
    ENTER_GPU(nvmlDeviceGetRepairStatus, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->channelRepairPending = out->tpcRepairPending = 0;
    return NVML_SUCCESS;
}
