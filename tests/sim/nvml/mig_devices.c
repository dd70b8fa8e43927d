/* MIG: the mode of a GPU, and MIG devices (one for each compute instance) as device handles. */
#include <stdio.h>
#include <string.h>
#include "mig.h"

NVML_API(nvmlDeviceGetMigMode)(nvmlDevice_t device, u32 *current, u32 *pending)
{
    ENTER_GPU(nvmlDeviceGetMigMode, device);
    REQUIRE(current && pending);
    if (!model_of(device)->mig || is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    *current = state_of(device)->mig_current;
    *pending = state_of(device)->mig_pending;
    return NVML_SUCCESS;
}

/* Models that need a reset only note the wish; it comes true at the next boot (SimRoot.reboot). */
NVML_API(nvmlDeviceSetMigMode)(nvmlDevice_t device, u32 mode, nvmlReturn_t *activation)
{
    ENTER_GPU(nvmlDeviceSetMigMode, device);
    REQUIRE(activation && mode < 2);
    if (!model_of(device)->mig || is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    CHECK(state_lock());
    struct gpu_state *state = state_of(device);
    int busy = 0;
    for (int i = 0; i < MAX_GIS; i++) busy |= state->gis[i].used;
    nvmlReturn_t result = busy && state->mig_current != mode ? NVML_ERROR_IN_USE : NVML_SUCCESS;
    if (result == NVML_SUCCESS) {
        state->mig_pending = mode;
        if (!model_of(device)->mig_needs_reset) state->mig_current = mode;
        *activation = state->mig_current == mode ? NVML_SUCCESS : NVML_ERROR_RESET_REQUIRED;
    }
    state_unlock();
    return result;
}

int mig_device_alive(const struct sim_device *device)
{
    const struct gi_state *gi = &sim.state->gpus[device->gpu].gis[device->gi];
    return gi->used && gi->cis[device->ci].used;
}

static u64 mix(u64 hash, const char *text)
{
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3ULL;
    return hash ^ hash >> 29;
}

/* As with the real driver it follows from the GPU and the two ids: a remade device has its old UUID. */
void mig_uuid(const struct sim_device *device, char out[48])
{
    char seed[80];
    snprintf(seed, sizeof seed, "%s/%d/%d", sim.profile.gpus[device->gpu].uuid, device->gi, device->ci);
    u64 a = mix(0xcbf29ce484222325ULL, seed), b = mix(a * 31, seed);
    snprintf(out, 48, "MIG-%08x-%04x-5%03x-%04x-%012llx", (u32)(a >> 32), (u32)(a >> 16) & 0xffff, (u32)a & 0xfff,
             ((u32)(b >> 48) & 0x3fff) | 0x8000, b & 0xffffffffffffULL);
}

NVML_API(nvmlDeviceIsMigDeviceHandle)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceIsMigDeviceHandle, device);
    REQUIRE(out);
    *out = (u32)is_mig(device);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetGpuInstanceId)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetGpuInstanceId, device);
    REQUIRE(out);
    if (!is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    *out = (u32)device->gi;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetComputeInstanceId)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetComputeInstanceId, device);
    REQUIRE(out);
    if (!is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    *out = (u32)device->ci;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetMaxMigDeviceCount)(nvmlDevice_t device, u32 *out)
{
    ENTER_GPU(nvmlDeviceGetMaxMigDeviceCount, device);
    REQUIRE(out && !is_mig(device));
    *out = model_of(device)->mig ? model_of(device)->mig_slices : 0;
    return NVML_SUCCESS;
}

/* MIG devices of a GPU that this process may see, in the order of their ids: the wanted one, or NULL. */
static nvmlDevice_t mig_at(int gpu, u32 index)
{
    for (int gi = 0; gi < MAX_GIS; gi++)
        for (int ci = 0; ci < MAX_CIS; ci++) {
            struct sim_device *mig = &sim.migs[gpu][gi][ci];
            if (mig_device_alive(mig) && caps_visible(gpu, gi, ci) && index-- == 0) return mig;
        }
    return NULL;
}

u32 mig_index(nvmlDevice_t device)
{
    u32 index = 0;
    while (index < MAX_GIS * MAX_CIS && mig_at(device->gpu, index) != device) index++;
    return index;
}

NVML_API(nvmlDeviceGetMigDeviceHandleByIndex)(nvmlDevice_t device, u32 index, nvmlDevice_t *out)
{
    ENTER_GPU(nvmlDeviceGetMigDeviceHandleByIndex, device);
    REQUIRE(out && !is_mig(device));
    if (!model_of(device)->mig) return NVML_ERROR_NOT_SUPPORTED;
    REQUIRE(index < model_of(device)->mig_slices);
    nvmlDevice_t found = mig_at(device->gpu, index);
    if (!found) return NVML_ERROR_NOT_FOUND;
    *out = found;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetDeviceHandleFromMigDeviceHandle)(nvmlDevice_t device, nvmlDevice_t *out)
{
    ENTER_GPU(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device);
    REQUIRE(out && is_mig(device));
    *out = &sim.gpus[device->gpu];
    return NVML_SUCCESS;
}

static nvmlReturn_t attributes(int fn, nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    CHECK(sim_enter_device(fn, device));
    REQUIRE(out);
    if (!is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    const struct gi_state *gi = &state_of(device)->gis[device->gi];
    const struct gi_profile *profile = &model_of(device)->gi[gi->profile];
    u32 slices = ci_slices_of(gi->cis[device->ci].profile);
    *out = (nvmlDeviceAttributes_t){
        .multiprocessorCount = ci_multiprocessors(model_of(device), profile, slices),
        .sharedCopyEngineCount = profile->copy, .sharedDecoderCount = profile->decoders,
        .sharedEncoderCount = profile->encoders, .sharedJpegCount = profile->jpegs, .sharedOfaCount = profile->ofas,
        .gpuInstanceSliceCount = profile->slices, .computeInstanceSliceCount = slices,
        .memorySizeMB = profile->memory_mb,
    };
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetAttributes)(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    return attributes(FN_nvmlDeviceGetAttributes, device, out);
}
NVML_API(nvmlDeviceGetAttributes_v2)(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    return attributes(FN_nvmlDeviceGetAttributes_v2, device, out);
}
