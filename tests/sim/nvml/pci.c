/* Where a GPU sits: PCI, NUMA, CPU affinity, topology between GPUs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sim.h"

static void fill_pci(const struct gpu *gpu, nvmlPciInfo_t *out)
{
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.0", gpu->domain, gpu->bus, gpu->slot);
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "%04X:%02X:%02X.0", gpu->domain & 0xffff, gpu->bus & 0xff,
             gpu->slot & 0xff);
    out->domain = gpu->domain;
    out->bus = gpu->bus;
    out->device = gpu->slot;
    out->pciDeviceId = gpu->model->pci_device;
    out->pciSubSystemId = gpu->model->pci_subsystem;
}

static nvmlReturn_t pci_info(int fn, nvmlDevice_t device, nvmlPciInfo_t *out)
{
    CHECK(sim_enter_device(fn, device));
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    fill_pci(gpu_of(device), out);
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetPciInfo)(nvmlDevice_t d, nvmlPciInfo_t *out) { return pci_info(FN_nvmlDeviceGetPciInfo, d, out); }
NVML_API(nvmlDeviceGetPciInfo_v2)(nvmlDevice_t d, nvmlPciInfo_t *out)
{
    return pci_info(FN_nvmlDeviceGetPciInfo_v2, d, out);
}
NVML_API(nvmlDeviceGetPciInfo_v3)(nvmlDevice_t d, nvmlPciInfo_t *out)
{
    return pci_info(FN_nvmlDeviceGetPciInfo_v3, d, out);
}

NVML_API(nvmlDeviceGetPciInfoExt)(nvmlDevice_t device, nvmlPciInfoExt_t *out)
{
    ENTER_GPU(nvmlDeviceGetPciInfoExt, device);
    REQUIRE(out);
    if (out->version != NVML_VERSION_OF(*out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlPciInfo_t pci;
    fill_pci(gpu_of(device), &pci);
    out->domain = pci.domain;
    out->bus = pci.bus;
    out->device = pci.device;
    out->pciDeviceId = pci.pciDeviceId;
    out->pciSubSystemId = pci.pciSubSystemId;
    out->baseClass = 3;
    out->subClass = 2;
    memcpy(out->busId, pci.busId, sizeof out->busId);
    return NVML_SUCCESS;
}

#define NUMBER_CALL(name, value) \
    NVML_API(name)(nvmlDevice_t device, u32 *out) \
    { \
        ENTER_GPU(name, device); \
        REQUIRE(out); \
        if (is_mig(device)) return NVML_ERROR_NOT_SUPPORTED; \
        *out = (u32)(value); \
        return NVML_SUCCESS; \
    }
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, model_of(device)->pcie_generation)
NUMBER_CALL(nvmlDeviceGetGpuMaxPcieLinkGeneration, model_of(device)->pcie_generation)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, model_of(device)->pcie_generation)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, model_of(device)->pcie_width)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, model_of(device)->pcie_width)
NUMBER_CALL(nvmlDeviceGetPcieLinkMaxSpeed, model_of(device)->pcie_generation)
NUMBER_CALL(nvmlDeviceGetPcieSpeed, model_of(device)->pcie_speed_mbps)
NUMBER_CALL(nvmlDeviceGetPcieReplayCounter, 0)

NVML_API(nvmlDeviceGetPcieThroughput)(nvmlDevice_t device, u32 counter, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetPcieThroughput, device);
    REQUIRE(out && counter < 2);
    *out = 0;
    return NVML_SUCCESS;
}

/* ---- NUMA and CPUs ---- */
NVML_API(nvmlDeviceGetNumaNodeId)(nvmlDevice_t device, u32 *node)
{
    ENTER_GPU(nvmlDeviceGetNumaNodeId, device);
    REQUIRE(node);
    int own = gpu_of(device)->memory_numa; /* the node of the GPU's own memory: coherent platforms only */
    if (own < 0) return NVML_ERROR_NOT_SUPPORTED;
    *node = (u32)own;
    return NVML_SUCCESS;
}

static void set_bit(unsigned long *words, u32 count, unsigned long bit)
{
    if (bit / 64 < count) words[bit / 64] |= 1UL << bit % 64;
}

/* "0-55,112-167" to a bit mask. */
static nvmlReturn_t cpu_mask(nvmlDevice_t device, u32 count, unsigned long *out)
{
    REQUIRE(out && count);
    const char *at = gpu_of(device)->cpus;
    if (!*at) return NVML_ERROR_NOT_SUPPORTED;
    memset(out, 0, count * sizeof *out);
    while (*at) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        if (*end == '-') last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last; cpu++) set_bit(out, count, cpu);
        at = *end == ',' ? end + 1 : end;
        if (*end && *end != ',') break;
    }
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetCpuAffinity)(nvmlDevice_t device, u32 count, unsigned long *out)
{
    ENTER_GPU(nvmlDeviceGetCpuAffinity, device);
    return cpu_mask(device, count, out);
}

NVML_API(nvmlDeviceGetCpuAffinityWithinScope)(nvmlDevice_t device, u32 count, unsigned long *out, u32 scope)
{
    ENTER_GPU(nvmlDeviceGetCpuAffinityWithinScope, device);
    REQUIRE(scope < 2);
    return cpu_mask(device, count, out);
}

NVML_API(nvmlDeviceGetMemoryAffinity)(nvmlDevice_t device, u32 count, unsigned long *out, u32 scope)
{
    ENTER_GPU(nvmlDeviceGetMemoryAffinity, device);
    REQUIRE(out && count && scope < 2);
    if (gpu_of(device)->numa < 0) return NVML_ERROR_NOT_SUPPORTED;
    memset(out, 0, count * sizeof *out);
    set_bit(out, count, (unsigned long)gpu_of(device)->numa);
    return NVML_SUCCESS;
}

/* ---- topology ---- */
enum { INTERNAL = 0, SINGLE_SWITCH = 10, SEVERAL_SWITCHES = 20, HOST_BRIDGE = 30, ONE_NODE = 40, WHOLE_SYSTEM = 50 };

static u32 common_ancestor(const struct gpu *a, const struct gpu *b)
{
    if (a->board_id == b->board_id) return INTERNAL;
    if (a->pcie_switch && a->pcie_switch == b->pcie_switch) return SINGLE_SWITCH;
    if (a->pcie_root == b->pcie_root) return HOST_BRIDGE;
    return a->numa == b->numa ? ONE_NODE : WHOLE_SYSTEM;
}

NVML_API(nvmlDeviceGetTopologyCommonAncestor)(nvmlDevice_t a, nvmlDevice_t b, u32 *level)
{
    ENTER_GPU(nvmlDeviceGetTopologyCommonAncestor, a);
    ENTER_GPU(nvmlDeviceGetTopologyCommonAncestor, b);
    REQUIRE(level);
    *level = common_ancestor(gpu_of(a), gpu_of(b));
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetTopologyNearestGpus)(nvmlDevice_t device, u32 level, u32 *count, nvmlDevice_t *out)
{
    ENTER_GPU(nvmlDeviceGetTopologyNearestGpus, device);
    REQUIRE(count);
    u32 room = *count, found = 0;
    for (int v = 0; v < sim.visible_count; v++) {
        int other = sim.visible[v];
        if (other == device->gpu || common_ancestor(gpu_of(device), &sim.profile.gpus[other]) != level) continue;
        if (out && found < room) out[found] = &sim.gpus[other];
        found++;
    }
    *count = out && found > room ? room : found;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceOnSameBoard)(nvmlDevice_t a, nvmlDevice_t b, int *same)
{
    ENTER_GPU(nvmlDeviceOnSameBoard, a);
    ENTER_GPU(nvmlDeviceOnSameBoard, b);
    REQUIRE(same);
    *same = gpu_of(a)->board_id == gpu_of(b)->board_id;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetP2PStatus)(nvmlDevice_t a, nvmlDevice_t b, u32 capability, u32 *status)
{
    ENTER_GPU(nvmlDeviceGetP2PStatus, a);
    ENTER_GPU(nvmlDeviceGetP2PStatus, b);
    REQUIRE(status && capability < 5);
    enum { OK = 0, NOT_SUPPORTED = 5, BY_NVLINK = 2 };
    *status = capability == BY_NVLINK && !model_of(a)->nvlinks ? NOT_SUPPORTED : OK;
    return NVML_SUCCESS;
}
