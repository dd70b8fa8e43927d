/* nvmlDeviceGetFieldValues: many small numbers through one call, each with its own return code. */
#include <time.h>
#include "sim.h"

enum field {
    ECC_CURRENT = 1, ECC_PENDING = 2, ECC_SBE_VOLATILE = 3, ECC_DBE_VOLATILE = 4, ECC_SBE_AGGREGATE = 5,
    ECC_DBE_AGGREGATE = 6, MEMORY_TEMP = 82, ENERGY_TOTAL = 83, NVLINK_SPEED_COMMON = 90, NVLINK_COUNT = 91,
    PCIE_REPLAYS = 94, REMAPPED_CORRECTED = 142, REMAPPED_UNCORRECTED = 143, REMAPPED_PENDING = 144,
    REMAPPED_FAILURE = 145, NVSWITCH_LINKS = 147, NVLINK_SPEED = 164, NVLINK_STATE = 165, NVLINK_VERSION = 166,
    C2C_LINKS = 170, C2C_STATUS = 171, RESETLESS_MIG = 184, POWER_AVERAGE = 185, POWER_INSTANT = 186, POWER_MIN = 187,
    POWER_MAX = 188, POWER_DEFAULT = 189, POWER_CURRENT = 190, POWER_REQUESTED = 192, TLIMIT_SHUTDOWN = 193,
    TLIMIT_SLOWDOWN = 194, TLIMIT_MEMORY = 195, TLIMIT_GPU = 196, MIG_QUERY_ANY_MODE = 199, RECOVERY_ACTION = 230,
};

static nvmlReturn_t put(nvmlFieldValue_t *out, u32 type, u64 value)
{
    out->valueType = type;
    out->value.ullVal = 0;
    if (type == NVML_VALUE_ULONGLONG) out->value.ullVal = value;
    else if (type == NVML_VALUE_INT) out->value.siVal = (int)value;
    else out->value.uiVal = (u32)value;
    return NVML_SUCCESS;
}

static nvmlReturn_t link_field(const struct model *model, nvmlFieldValue_t *out)
{
    if (!model->nvlinks) return NVML_ERROR_NOT_SUPPORTED;
    if (out->fieldId != NVLINK_SPEED_COMMON && out->fieldId != NVSWITCH_LINKS && out->scopeId >= model->nvlinks)
        return NVML_ERROR_INVALID_ARGUMENT;
    switch (out->fieldId) {
    case NVLINK_SPEED_COMMON:
    case NVLINK_SPEED: return put(out, NVML_VALUE_UINT, model->nvlink_mbps);
    case NVLINK_STATE: return put(out, NVML_VALUE_UINT, 1);
    case NVLINK_VERSION: return put(out, NVML_VALUE_UINT, model->nvlink_version);
    default: return put(out, NVML_VALUE_UINT, model->nvlink_to_switch ? model->nvlinks : 0);
    }
}

static nvmlReturn_t power_field(nvmlDevice_t device, nvmlFieldValue_t *out)
{
    const struct model *model = model_of(device);
    switch (out->fieldId) {
    case POWER_AVERAGE:
    case POWER_INSTANT: return put(out, NVML_VALUE_UINT, model->power_idle_mw);
    case POWER_MIN: return put(out, NVML_VALUE_UINT, model->power_min_mw);
    case POWER_MAX: return put(out, NVML_VALUE_UINT, model->power_max_mw);
    case POWER_DEFAULT: return put(out, NVML_VALUE_UINT, model->power_default_mw);
    case POWER_CURRENT:
    case POWER_REQUESTED: return put(out, NVML_VALUE_UINT, state_of(device)->power_limit_mw);
    case TLIMIT_SHUTDOWN: return put(out, NVML_VALUE_INT, (u64)-8);
    case TLIMIT_SLOWDOWN: return put(out, NVML_VALUE_INT, (u64)-2);
    case TLIMIT_MEMORY:
    case TLIMIT_GPU: return put(out, NVML_VALUE_INT, 0);
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

static nvmlReturn_t ecc_field(nvmlDevice_t device, nvmlFieldValue_t *out)
{
    const struct gpu_state *state = state_of(device);
    if (!model_of(device)->ecc) return NVML_ERROR_NOT_SUPPORTED;
    switch (out->fieldId) {
    case ECC_CURRENT: return put(out, NVML_VALUE_UINT, 1);
    case ECC_PENDING: return put(out, NVML_VALUE_UINT, state->ecc_pending);
    case ECC_SBE_VOLATILE:
    case ECC_SBE_AGGREGATE: return put(out, NVML_VALUE_ULONGLONG, state->ecc_corrected);
    default: return put(out, NVML_VALUE_ULONGLONG, state->ecc_uncorrected);
    }
}

static nvmlReturn_t remap_field(nvmlDevice_t device, nvmlFieldValue_t *out)
{
    const struct gpu_state *state = state_of(device);
    if (!model_of(device)->remap_rows) return NVML_ERROR_NOT_SUPPORTED;
    switch (out->fieldId) {
    case REMAPPED_PENDING: return put(out, NVML_VALUE_UINT, state->remapped_pending);
    case REMAPPED_FAILURE: return put(out, NVML_VALUE_UINT, state->remapped_failed);
    case REMAPPED_UNCORRECTED:
        return put(out, NVML_VALUE_UINT, state->remapped_pending || state->remapped_failed);
    default: return put(out, NVML_VALUE_UINT, 0);
    }
}

static nvmlReturn_t field(nvmlDevice_t device, nvmlFieldValue_t *out)
{
    const struct model *model = model_of(device);
    u32 id = out->fieldId;
    if (id >= ECC_CURRENT && id <= ECC_DBE_AGGREGATE) return ecc_field(device, out);
    if (id >= REMAPPED_CORRECTED && id <= REMAPPED_FAILURE) return remap_field(device, out);
    if (id >= POWER_AVERAGE && id <= TLIMIT_GPU) return power_field(device, out);
    switch (id) {
    case MEMORY_TEMP: return put(out, NVML_VALUE_UINT, 40);
    case ENERGY_TOTAL: return put(out, NVML_VALUE_ULONGLONG, 1000000);
    case NVLINK_COUNT: return put(out, NVML_VALUE_UINT, model->nvlinks);
    case PCIE_REPLAYS: return put(out, NVML_VALUE_UINT, 0);
    case NVLINK_SPEED_COMMON:
    case NVSWITCH_LINKS:
    case NVLINK_SPEED:
    case NVLINK_STATE:
    case NVLINK_VERSION: return link_field(model, out);
    case C2C_LINKS: return model->c2c ? put(out, NVML_VALUE_UINT, model->c2c) : NVML_ERROR_NOT_SUPPORTED;
    case C2C_STATUS: return model->c2c ? put(out, NVML_VALUE_UINT, 1) : NVML_ERROR_NOT_SUPPORTED;
    case RESETLESS_MIG:
    case MIG_QUERY_ANY_MODE: return put(out, NVML_VALUE_UINT, model->mig && !model->mig_needs_reset);
    case RECOVERY_ACTION: return put(out, NVML_VALUE_UINT, state_of(device)->recovery_action);
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

NVML_API(nvmlDeviceGetFieldValues)(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    ENTER_GPU(nvmlDeviceGetFieldValues, device);
    REQUIRE(values && count > 0);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        values[i].timestamp = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
        values[i].latencyUsec = 0;
        values[i].nvmlReturn = field(device, &values[i]);
    }
    return NVML_SUCCESS;
}
