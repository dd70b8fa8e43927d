/* NVLink, the multi-node fabric, and the link to the CPU. */
#include <string.h>
#include "sim.h"

/* ---- fabric registration ---- */
static void fill_fabric(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *out)
{
    enum { COMPLETED = 3, HEALTHY = 1, UNHEALTHY = 2 };
    const struct gpu_state *state = state_of(device);
    memset(out, 0, sizeof *out);
    out->state = (unsigned char)state->fabric_state;
    out->status = (nvmlReturn_t)state->fabric_status;
    out->healthMask = state->fabric_health;
    if (out->state != COMPLETED) return;
    memcpy(out->clusterUuid, sim.profile.cluster_uuid, sizeof out->clusterUuid);
    out->cliqueId = sim.profile.fabric_clique;
    out->healthSummary = out->status == NVML_SUCCESS ? HEALTHY : UNHEALTHY;
}

NVML_API(nvmlDeviceGetGpuFabricInfo)(nvmlDevice_t device, nvmlGpuFabricInfo_t *out)
{
    ENTER_GPU(nvmlDeviceGetGpuFabricInfo, device);
    REQUIRE(out);
    if (!model_of(device)->fabric || is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    nvmlGpuFabricInfo_v3_t all;
    fill_fabric(device, &all);
    memcpy(out->clusterUuid, all.clusterUuid, sizeof out->clusterUuid);
    out->status = all.status;
    out->cliqueId = all.cliqueId;
    out->state = all.state;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetGpuFabricInfoV)(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *out)
{
    ENTER_GPU(nvmlDeviceGetGpuFabricInfoV, device);
    REQUIRE(out);
    u32 version = out->version;
    int third = version == NVML_VERSION_OF(*out, 3);
    if (!third && version != NVML_VERSION_OF(nvmlGpuFabricInfo_v2_t, 2)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (!model_of(device)->fabric || is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    nvmlGpuFabricInfo_v3_t all;
    fill_fabric(device, &all);
    all.version = version;
    memcpy(out, &all, third ? sizeof all : sizeof(nvmlGpuFabricInfo_v2_t));
    return NVML_SUCCESS;
}

/* ---- the link to the CPU ---- */
NVML_API(nvmlDeviceGetC2cModeInfoV)(nvmlDevice_t device, nvmlC2cModeInfo_t *out)
{
    ENTER_GPU(nvmlDeviceGetC2cModeInfoV, device);
    REQUIRE(out);
    if (!model_of(device)->c2c) return NVML_ERROR_NOT_SUPPORTED;
    out->isC2cEnabled = 1;
    return NVML_SUCCESS;
}

/* ---- NVLink ---- */
enum { MAX_LINKS = 36 };
#define ENTER_LINK(name, device, link) \
    ENTER_GPU(name, device); \
    REQUIRE(link < MAX_LINKS); \
    if (link >= model_of(device)->nvlinks) return NVML_ERROR_NOT_SUPPORTED

NVML_API(nvmlDeviceGetNvLinkState)(nvmlDevice_t device, u32 link, u32 *active)
{
    ENTER_LINK(nvmlDeviceGetNvLinkState, device, link);
    REQUIRE(active);
    *active = 1;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetNvLinkVersion)(nvmlDevice_t device, u32 link, u32 *version)
{
    ENTER_LINK(nvmlDeviceGetNvLinkVersion, device, link);
    REQUIRE(version);
    *version = model_of(device)->nvlink_version;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetNvLinkCapability)(nvmlDevice_t device, u32 link, u32 capability, u32 *out)
{
    ENTER_LINK(nvmlDeviceGetNvLinkCapability, device, link);
    REQUIRE(out && capability < 6);
    *out = capability != 4; /* 4: SLI bridge */
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetNvLinkErrorCounter)(nvmlDevice_t device, u32 link, u32 counter, u64 *out)
{
    ENTER_LINK(nvmlDeviceGetNvLinkErrorCounter, device, link);
    REQUIRE(out && counter < 5);
    *out = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetNvLinkRemoteDeviceType)(nvmlDevice_t device, u32 link, u32 *type)
{
    enum { A_GPU = 0, A_SWITCH = 2 };
    ENTER_LINK(nvmlDeviceGetNvLinkRemoteDeviceType, device, link);
    REQUIRE(type);
    *type = model_of(device)->nvlink_to_switch ? A_SWITCH : A_GPU;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetNvLinkRemotePciInfo_v2)(nvmlDevice_t device, u32 link, nvmlPciInfo_t *out)
{
    ENTER_LINK(nvmlDeviceGetNvLinkRemotePciInfo_v2, device, link);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    strcpy(out->busId, "00000000:00:00.0"); /* a switch outside this machine's PCI tree */
    strcpy(out->busIdLegacy, "0000:00:00.0");
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetNvLinkInfo)(nvmlDevice_t device, nvmlNvLinkInfo_v1_t *out)
{
    ENTER_GPU(nvmlDeviceGetNvLinkInfo, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (!model_of(device)->nvlinks) return NVML_ERROR_NOT_SUPPORTED;
    out->isNvleEnabled = 0;
    return NVML_SUCCESS;
}
