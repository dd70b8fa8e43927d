/* Who a GPU is: handles and the constants of its identity. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "sim.h"

/* Most constants of the GPU itself are not answered for a MIG device. */
#define ENTER_WHOLE(name, device) \
    ENTER_GPU(name, device); \
    if (is_mig(device)) return NVML_ERROR_NOT_SUPPORTED

static nvmlReturn_t count(int fn, u32 *out)
{
    CHECK(sim_enter(fn, ANY_GPU));
    REQUIRE(out);
    *out = (u32)sim.visible_count;
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetCount)(u32 *out) { return count(FN_nvmlDeviceGetCount, out); }
NVML_API(nvmlDeviceGetCount_v2)(u32 *out) { return count(FN_nvmlDeviceGetCount_v2, out); }

static nvmlReturn_t by_index(int fn, u32 index, nvmlDevice_t *out)
{
    int gpu = sim.references && index < (u32)sim.visible_count ? sim.visible[index] : ANY_GPU;
    CHECK(sim_enter(fn, gpu));
    REQUIRE(out && gpu != ANY_GPU);
    *out = &sim.gpus[gpu];
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetHandleByIndex)(u32 index, nvmlDevice_t *out)
{
    return by_index(FN_nvmlDeviceGetHandleByIndex, index, out);
}
NVML_API(nvmlDeviceGetHandleByIndex_v2)(u32 index, nvmlDevice_t *out)
{
    return by_index(FN_nvmlDeviceGetHandleByIndex_v2, index, out);
}

static nvmlDevice_t find_mig(const char *uuid)
{
    char own[48];
    for (int v = 0; v < sim.visible_count; v++)
        for (int gi = 0; gi < MAX_GIS; gi++)
            for (int ci = 0; ci < MAX_CIS; ci++) {
                struct sim_device *mig = &sim.migs[sim.visible[v]][gi][ci];
                if (!mig_device_alive(mig) || !caps_visible(mig->gpu, gi, ci)) continue;
                mig_uuid(mig, own);
                if (!strcasecmp(own, uuid)) return mig;
            }
    return NULL;
}

static nvmlReturn_t by_uuid(int fn, const char *uuid, nvmlDevice_t *out)
{
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    REQUIRE(uuid && out);
    nvmlDevice_t found = strncmp(uuid, "MIG-", 4) ? NULL : find_mig(uuid);
    for (int v = 0; v < sim.visible_count && !found; v++)
        if (!strcasecmp(sim.profile.gpus[sim.visible[v]].uuid, uuid)) found = &sim.gpus[sim.visible[v]];
    CHECK(sim_enter(fn, found ? found->gpu : ANY_GPU));
    if (!found) return NVML_ERROR_NOT_FOUND;
    *out = found;
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetHandleByUUID)(const char *uuid, nvmlDevice_t *out)
{
    return by_uuid(FN_nvmlDeviceGetHandleByUUID, uuid, out);
}
NVML_API(nvmlDeviceGetHandleByUUIDV)(const nvmlUUID_t *uuid, nvmlDevice_t *out)
{
    REQUIRE(uuid);
    if (uuid->version != NVML_VERSION_OF(*uuid, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (uuid->type == 1) return by_uuid(FN_nvmlDeviceGetHandleByUUIDV, uuid->value.str, out);
    REQUIRE(uuid->type == 2);
    char text[48] = "GPU-";
    for (int i = 0, at = 4; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
        at += snprintf(text + at, sizeof text - (size_t)at, "%02x", uuid->value.bytes[i]);
    }
    return by_uuid(FN_nvmlDeviceGetHandleByUUIDV, text, out);
}

NVML_API(nvmlDeviceGetHandleBySerial)(const char *serial, nvmlDevice_t *out)
{
    ENTER(nvmlDeviceGetHandleBySerial);
    REQUIRE(serial && out);
    for (int v = 0; v < sim.visible_count; v++)
        if (!strcmp(sim.profile.gpus[sim.visible[v]].serial, serial)) {
            *out = &sim.gpus[sim.visible[v]];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

/* Takes 0000:19:00.0, 00000000:19:00.0 and the forms without domain or function. */
static nvmlReturn_t by_bus_id(int fn, const char *text, nvmlDevice_t *out)
{
    REQUIRE(text && out);
    u32 domain = 0, bus, slot, function = 0;
    if (sscanf(text, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
        domain = 0;
        if (sscanf(text, "%x:%x.%x", &bus, &slot, &function) < 2) return NVML_ERROR_INVALID_ARGUMENT;
    }
    int gpu = ANY_GPU;
    for (int v = 0; v < sim.visible_count; v++) {
        const struct gpu *at = &sim.profile.gpus[sim.visible[v]];
        if (at->domain == domain && at->bus == bus && at->slot == slot && function == 0) gpu = sim.visible[v];
    }
    CHECK(sim_enter(fn, gpu));
    if (gpu == ANY_GPU) return NVML_ERROR_NOT_FOUND;
    *out = &sim.gpus[gpu];
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetHandleByPciBusId)(const char *text, nvmlDevice_t *out)
{
    return by_bus_id(FN_nvmlDeviceGetHandleByPciBusId, text, out);
}
NVML_API(nvmlDeviceGetHandleByPciBusId_v2)(const char *text, nvmlDevice_t *out)
{
    return by_bus_id(FN_nvmlDeviceGetHandleByPciBusId_v2, text, out);
}

NVML_API(nvmlDeviceGetIndex)(nvmlDevice_t device, u32 *index)
{
    ENTER_GPU(nvmlDeviceGetIndex, device);
    REQUIRE(index);
    if (is_mig(device)) {
        *index = mig_index(device);
        return NVML_SUCCESS;
    }
    for (int v = 0; v < sim.visible_count; v++)
        if (sim.visible[v] == device->gpu) *index = (u32)v;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetName)(nvmlDevice_t device, char *name, u32 length)
{
    ENTER_GPU(nvmlDeviceGetName, device);
    const struct model *model = model_of(device);
    if (!is_mig(device)) return sim_copy(name, length, model->name);
    char text[192];
    const struct gi_state *gi = &state_of(device)->gis[device->gi];
    const struct ci_state *ci = &gi->cis[device->ci];
    u32 slices = ci_slices_of(ci->profile);
    const struct gi_profile *profile = &model->gi[gi->profile];
    if (slices == profile->slices)
        snprintf(text, sizeof text, "%s MIG %s", model->name, profile->name);
    else
        snprintf(text, sizeof text, "%s MIG %uc.%s", model->name, slices, profile->name);
    return sim_copy(name, length, text);
}

NVML_API(nvmlDeviceGetUUID)(nvmlDevice_t device, char *uuid, u32 length)
{
    ENTER_GPU(nvmlDeviceGetUUID, device);
    char mig[48];
    if (is_mig(device)) mig_uuid(device, mig);
    return sim_copy(uuid, length, is_mig(device) ? mig : gpu_of(device)->uuid);
}

#define TEXT_CALL(name, text) \
    NVML_API(name)(nvmlDevice_t device, char *out, u32 length) \
    { \
        ENTER_WHOLE(name, device); \
        const char *value = text; \
        return *value ? sim_copy(out, length, value) : NVML_ERROR_NOT_SUPPORTED; \
    }
TEXT_CALL(nvmlDeviceGetSerial, gpu_of(device)->serial)
TEXT_CALL(nvmlDeviceGetBoardPartNumber, model_of(device)->board_part)
TEXT_CALL(nvmlDeviceGetVbiosVersion, model_of(device)->vbios)
TEXT_CALL(nvmlDeviceGetInforomImageVersion, model_of(device)->inforom_image)

#define NUMBER_CALL(name, type, value) \
    NVML_API(name)(nvmlDevice_t device, type *out) \
    { \
        ENTER_WHOLE(name, device); \
        REQUIRE(out); \
        *out = (type)(value); \
        return NVML_SUCCESS; \
    }
NUMBER_CALL(nvmlDeviceGetMinorNumber, u32, gpu_of(device)->minor)
NUMBER_CALL(nvmlDeviceGetModuleId, u32, gpu_of(device)->module_id)
NUMBER_CALL(nvmlDeviceGetBoardId, u32, gpu_of(device)->board_id)
NUMBER_CALL(nvmlDeviceGetMultiGpuBoard, u32, 0)
NUMBER_CALL(nvmlDeviceGetNumGpuCores, u32, model_of(device)->cores)
NUMBER_CALL(nvmlDeviceGetMemoryBusWidth, u32, model_of(device)->bus_width)
NUMBER_CALL(nvmlDeviceGetBusType, u32, 2)
NUMBER_CALL(nvmlDeviceGetIrqNum, u32, 64 + device->gpu)
NUMBER_CALL(nvmlDeviceGetNumFans, u32, model_of(device)->fans)
NUMBER_CALL(nvmlDeviceGetVirtualizationMode, u32, 0)

#define BOTH_CALL(name, type, value) \
    NVML_API(name)(nvmlDevice_t device, type *out) \
    { \
        ENTER_GPU(name, device); \
        REQUIRE(out); \
        *out = (type)(value); \
        return NVML_SUCCESS; \
    }
BOTH_CALL(nvmlDeviceGetBrand, u32, model_of(device)->brand)
BOTH_CALL(nvmlDeviceGetArchitecture, u32, model_of(device)->architecture)

NVML_API(nvmlDeviceGetCudaComputeCapability)(nvmlDevice_t device, int *major, int *minor)
{
    ENTER_GPU(nvmlDeviceGetCudaComputeCapability, device);
    REQUIRE(major && minor);
    *major = (int)model_of(device)->cc_major;
    *minor = (int)model_of(device)->cc_minor;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetInforomVersion)(nvmlDevice_t device, u32 object, char *out, u32 length)
{
    ENTER_WHOLE(nvmlDeviceGetInforomVersion, device);
    const struct model *model = model_of(device);
    const char *text = object == 0 ? model->inforom_oem : object == 1 ? model->inforom_ecc : "";
    return *text ? sim_copy(out, length, text) : NVML_ERROR_NOT_SUPPORTED;
}

NVML_API(nvmlDeviceGetAddressingMode)(nvmlDevice_t device, nvmlDeviceAddressingMode_t *out)
{
    ENTER_GPU(nvmlDeviceGetAddressingMode, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->value = model_of(device)->addressing_mode;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetPdi)(nvmlDevice_t device, nvmlPdi_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetPdi, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->value = gpu_of(device)->pdi;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetCapabilities)(nvmlDevice_t device, nvmlDeviceCapabilities_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetCapabilities, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->capMask = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetGspFirmwareVersion)(nvmlDevice_t device, char *version)
{
    ENTER_WHOLE(nvmlDeviceGetGspFirmwareVersion, device);
    return sim_copy(version, 64, sim.profile.driver);
}

NVML_API(nvmlDeviceGetGspFirmwareMode)(nvmlDevice_t device, u32 *enabled, u32 *standard)
{
    ENTER_WHOLE(nvmlDeviceGetGspFirmwareMode, device);
    REQUIRE(enabled && standard);
    *enabled = *standard = 1;
    return NVML_SUCCESS;
}

/* A tray's place in its rack; only models with a fabric tell it. */
NVML_API(nvmlDeviceGetPlatformInfo)(nvmlDevice_t device, nvmlPlatformInfo_v2_t *out)
{
    ENTER_WHOLE(nvmlDeviceGetPlatformInfo, device);
    REQUIRE(out);
    if (!model_of(device)->fabric) return NVML_ERROR_NOT_SUPPORTED;
    u32 version = out->version;
    if (version != NVML_VERSION_OF(nvmlPlatformInfo_v1_t, 1) && version != NVML_VERSION_OF(*out, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memset(out, 0, sizeof *out); /* both versions have one size and one order of places */
    out->version = version;
    memcpy(out->chassisSerialNumber, sim.profile.chassis_serial, sizeof out->chassisSerialNumber);
    out->slotNumber = (unsigned char)sim.profile.slot_number;
    out->trayIndex = (unsigned char)sim.profile.tray;
    out->hostId = (unsigned char)sim.profile.host;
    out->peerType = (unsigned char)model_of(device)->nvlink_to_switch;
    out->moduleId = (unsigned char)gpu_of(device)->module_id;
    return NVML_SUCCESS;
}
