/* Temperature, power, clocks, utilisation: an idle, healthy GPU. */
#include <string.h>
#include "sim.h"

enum { IDLE_CELSIUS = 31, IDLE_CLOCK_MHZ = 345 };

#define ENTER_WHOLE(name, device) \
    ENTER_GPU(name, device); \
    if (is_mig(device)) return NVML_ERROR_NOT_SUPPORTED

#define NUMBER_CALL(name, type, value) \
    NVML_API(name)(nvmlDevice_t device, type *out) \
    { \
        ENTER_WHOLE(name, device); \
        REQUIRE(out); \
        *out = (type)(value); \
        return NVML_SUCCESS; \
    }

/* ---- temperature ---- */
static int celsius(nvmlDevice_t device)
{
    return state_of(device)->temperature ? (int)state_of(device)->temperature : IDLE_CELSIUS;
}

NVML_API(nvmlDeviceGetTemperature)(nvmlDevice_t device, u32 sensor, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetTemperature, device);
    REQUIRE(out && sensor == 0);
    *out = (u32)celsius(device);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetTemperatureV)(nvmlDevice_t device, nvmlTemperature_t *out)
{
    ENTER_GPU(nvmlDeviceGetTemperatureV, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    REQUIRE(out->sensorType == 0);
    out->temperature = celsius(device);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetTemperatureThreshold)(nvmlDevice_t device, u32 kind, u32 *out)
{
    ENTER_WHOLE(nvmlDeviceGetTemperatureThreshold, device);
    REQUIRE(out && kind < 8);
    const struct model *model = model_of(device);
    const u32 limits[] = {model->temp_shutdown, model->temp_slowdown, model->temp_memory_max, model->temp_gpu_max};
    if (kind >= 4 || !limits[kind]) return NVML_ERROR_NOT_SUPPORTED;
    *out = limits[kind];
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetMarginTemperature)(nvmlDevice_t device, nvmlMarginTemperature_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetMarginTemperature, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->marginTemperature = (int)model_of(device)->temp_slowdown - celsius(device);
    return NVML_SUCCESS;
}

/* ---- power ---- */
NUMBER_CALL(nvmlDeviceGetPowerUsage, u32, model_of(device)->power_idle_mw)
NUMBER_CALL(nvmlDeviceGetPowerManagementMode, u32, 1)
NUMBER_CALL(nvmlDeviceGetPowerManagementLimit, u32, state_of(device)->power_limit_mw)
NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, u32, state_of(device)->power_limit_mw)
NUMBER_CALL(nvmlDeviceGetPowerManagementDefaultLimit, u32, model_of(device)->power_default_mw)
NUMBER_CALL(nvmlDeviceGetPowerSource, u32, 0)
NUMBER_CALL(nvmlDeviceGetTotalEnergyConsumption, u64, 1000000)

NVML_API(nvmlDeviceGetPowerManagementLimitConstraints)(nvmlDevice_t device, u32 *low, u32 *high)
{
    ENTER_WHOLE(nvmlDeviceGetPowerManagementLimitConstraints, device);
    REQUIRE(low && high);
    *low = model_of(device)->power_min_mw;
    *high = model_of(device)->power_max_mw;
    return NVML_SUCCESS;
}

static nvmlReturn_t set_power_limit(nvmlDevice_t device, u32 mw)
{
    REQUIRE(mw >= model_of(device)->power_min_mw && mw <= model_of(device)->power_max_mw);
    CHECK(state_lock());
    state_of(device)->power_limit_mw = mw;
    state_unlock();
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceSetPowerManagementLimit)(nvmlDevice_t device, u32 mw)
{
    ENTER_WHOLE(nvmlDeviceSetPowerManagementLimit, device);
    return set_power_limit(device, mw);
}

NVML_API(nvmlDeviceSetPowerManagementLimit_v2)(nvmlDevice_t device, nvmlPowerValue_t *value)
{
    ENTER_WHOLE(nvmlDeviceSetPowerManagementLimit_v2, device);
    REQUIRE(value);
    if (value->version != NVML_VERSION_OF(*value, 2)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return set_power_limit(device, value->powerValueMw);
}

/* ---- clocks: 0 graphics, 1 SM, 2 memory, 3 video ---- */
static u32 highest_clock(nvmlDevice_t device, u32 type)
{
    const struct model *model = model_of(device);
    return type == 2 ? model->clock_memory : type == 3 ? model->clock_video : model->clock_graphics;
}

#define CLOCK_CALL(name, value) \
    NVML_API(name)(nvmlDevice_t device, u32 type, u32 *out) \
    { \
        ENTER_WHOLE(name, device); \
        REQUIRE(out && type < 4); \
        *out = value; \
        return NVML_SUCCESS; \
    }
CLOCK_CALL(nvmlDeviceGetClockInfo, type == 2 ? highest_clock(device, type) : IDLE_CLOCK_MHZ)
CLOCK_CALL(nvmlDeviceGetMaxClockInfo, highest_clock(device, type))
CLOCK_CALL(nvmlDeviceGetApplicationsClock, highest_clock(device, type))
CLOCK_CALL(nvmlDeviceGetDefaultApplicationsClock, highest_clock(device, type))
CLOCK_CALL(nvmlDeviceGetMaxCustomerBoostClock, highest_clock(device, type))

NVML_API(nvmlDeviceGetClock)(nvmlDevice_t device, u32 type, u32 which, u32 *out)
{
    ENTER_WHOLE(nvmlDeviceGetClock, device);
    REQUIRE(out && type < 4 && which < 4);
    *out = which == 0 && type != 2 ? IDLE_CLOCK_MHZ : highest_clock(device, type);
    return NVML_SUCCESS;
}

static nvmlReturn_t one_value(u32 value, u32 *count, u32 *out)
{
    REQUIRE(count);
    u32 room = *count;
    *count = 1;
    if (room < 1 || !out) return NVML_ERROR_INSUFFICIENT_SIZE;
    *out = value;
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetSupportedMemoryClocks)(nvmlDevice_t device, u32 *count, u32 *clocks)
{
    ENTER_WHOLE(nvmlDeviceGetSupportedMemoryClocks, device);
    return one_value(model_of(device)->clock_memory, count, clocks);
}
NVML_API(nvmlDeviceGetSupportedGraphicsClocks)(nvmlDevice_t device, u32 memory, u32 *count, u32 *clocks)
{
    ENTER_WHOLE(nvmlDeviceGetSupportedGraphicsClocks, device);
    if (memory != model_of(device)->clock_memory) return NVML_ERROR_NOT_FOUND;
    return one_value(model_of(device)->clock_graphics, count, clocks);
}

NUMBER_CALL(nvmlDeviceGetPerformanceState, u32, 0)
NUMBER_CALL(nvmlDeviceGetPowerState, u32, 0)
NUMBER_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, u64, 1) /* 1: idle */
NUMBER_CALL(nvmlDeviceGetCurrentClocksEventReasons, u64, 1)
NUMBER_CALL(nvmlDeviceGetSupportedClocksThrottleReasons, u64, 0x1ff)
NUMBER_CALL(nvmlDeviceGetSupportedClocksEventReasons, u64, 0x1ff)
NUMBER_CALL(nvmlDeviceGetAdaptiveClockInfoStatus, u32, 0)

NVML_API(nvmlDeviceGetViolationStatus)(nvmlDevice_t device, u32 policy, nvmlViolationTime_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetViolationStatus, device);
    REQUIRE(out && policy < 12);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

/* ---- utilisation; not told for a GPU in MIG mode ---- */
NVML_API(nvmlDeviceGetUtilizationRates)(nvmlDevice_t device, nvmlUtilization_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetUtilizationRates, device);
    REQUIRE(out);
    if (state_of(device)->mig_current) return NVML_ERROR_NOT_SUPPORTED;
    out->gpu = out->memory = 0;
    return NVML_SUCCESS;
}

#define ENGINE_CALL(name) \
    NVML_API(name)(nvmlDevice_t device, u32 *utilization, u32 *period_us) \
    { \
        ENTER_WHOLE(name, device); \
        REQUIRE(utilization && period_us); \
        if (state_of(device)->mig_current) return NVML_ERROR_NOT_SUPPORTED; \
        *utilization = 0; \
        *period_us = 167000; \
        return NVML_SUCCESS; \
    }
ENGINE_CALL(nvmlDeviceGetEncoderUtilization)
ENGINE_CALL(nvmlDeviceGetDecoderUtilization)
ENGINE_CALL(nvmlDeviceGetJpgUtilization)
ENGINE_CALL(nvmlDeviceGetOfaUtilization)

NVML_API(nvmlDeviceGetEncoderStats)(nvmlDevice_t device, u32 *sessions, u32 *fps, u32 *latency)
{
    ENTER_WHOLE(nvmlDeviceGetEncoderStats, device);
    REQUIRE(sessions && fps && latency);
    *sessions = *fps = *latency = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetFBCStats)(nvmlDevice_t device, nvmlFBCStats_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetFBCStats, device);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetFanSpeed)(nvmlDevice_t device, u32 *out)
{
    ENTER_WHOLE(nvmlDeviceGetFanSpeed, device);
    REQUIRE(out);
    if (!model_of(device)->fans) return NVML_ERROR_NOT_SUPPORTED;
    *out = 30;
    return NVML_SUCCESS;
}
