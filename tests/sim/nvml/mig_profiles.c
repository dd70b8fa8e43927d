/* MIG: what could be made. Profiles of GPU and compute instances, placements, what is left. */
#include <stdio.h>
#include <string.h>
#include "mig.h"

/* Models that need a reset to change the mode tell their profiles in MIG mode only; newer ones always. */
nvmlReturn_t mig_queryable(nvmlDevice_t device)
{
    const struct model *model = model_of(device);
    if (!model->mig || is_mig(device)) return NVML_ERROR_NOT_SUPPORTED;
    return model->mig_needs_reset && !state_of(device)->mig_current ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

static nvmlReturn_t gi_profile(int fn, nvmlDevice_t device, u32 number, const struct gi_profile **out)
{
    CHECK(sim_enter_device(fn, device));
    REQUIRE(number < MAX_PROFILES);
    CHECK(mig_queryable(device));
    *out = &model_of(device)->gi[number];
    return (*out)->offered ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* Number of the profile whose hardware id is `id`; -1 when the model has none. */
int gi_profile_by_id(const struct model *model, u32 id)
{
    for (int number = 0; number < MAX_PROFILES; number++)
        if (model->gi[number].offered && model->gi[number].id == id) return number;
    return -1;
}

static void fill_gi(const struct gi_profile *from, nvmlGpuInstanceProfileInfo_t *out)
{
    *out = (nvmlGpuInstanceProfileInfo_t){
        .id = from->id, .isP2pSupported = from->p2p, .sliceCount = from->slices, .instanceCount = from->instances,
        .multiprocessorCount = from->sms, .copyEngineCount = from->copy, .decoderCount = from->decoders,
        .encoderCount = from->encoders, .jpegCount = from->jpegs, .ofaCount = from->ofas,
        .memorySizeMB = from->memory_mb,
    };
}

NVML_API(nvmlDeviceGetGpuInstanceProfileInfo)(nvmlDevice_t device, u32 number, nvmlGpuInstanceProfileInfo_t *out)
{
    const struct gi_profile *profile;
    CHECK(gi_profile(FN_nvmlDeviceGetGpuInstanceProfileInfo, device, number, &profile));
    REQUIRE(out);
    fill_gi(profile, out);
    return NVML_SUCCESS;
}

static nvmlReturn_t fill_gi_versioned(const struct gi_profile *from, nvmlGpuInstanceProfileInfo_v2_t *out)
{
    char name[96];
    snprintf(name, sizeof name, "MIG %s", from->name);
    nvmlGpuInstanceProfileInfo_t base;
    fill_gi(from, &base);
    if (out->version == NVML_VERSION_OF(nvmlGpuInstanceProfileInfo_v3_t, 3)) {
        nvmlGpuInstanceProfileInfo_v3_t *v3 = (nvmlGpuInstanceProfileInfo_v3_t *)(void *)out;
        memcpy(&v3->sliceCount, &base.sliceCount, 8 * sizeof(u32));
        v3->id = base.id;
        v3->memorySizeMB = base.memorySizeMB;
        v3->capabilities = from->capabilities | (from->p2p ? 1 : 0);
        memcpy(v3->name, name, sizeof name);
        return NVML_SUCCESS;
    }
    if (out->version != NVML_VERSION_OF(*out, 2)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memcpy(&out->id, &base.id, 10 * sizeof(u32));
    out->memorySizeMB = base.memorySizeMB;
    memcpy(out->name, name, sizeof name);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetGpuInstanceProfileInfoV)(nvmlDevice_t device, u32 number, nvmlGpuInstanceProfileInfo_v2_t *out)
{
    const struct gi_profile *profile;
    CHECK(gi_profile(FN_nvmlDeviceGetGpuInstanceProfileInfoV, device, number, &profile));
    REQUIRE(out);
    return fill_gi_versioned(profile, out);
}

NVML_API(nvmlDeviceGetGpuInstanceProfileInfoByIdV)(nvmlDevice_t device, u32 id, nvmlGpuInstanceProfileInfo_v2_t *out)
{
    ENTER_GPU(nvmlDeviceGetGpuInstanceProfileInfoByIdV, device);
    CHECK(mig_queryable(device));
    int number = gi_profile_by_id(model_of(device), id);
    REQUIRE(out && number >= 0);
    return fill_gi_versioned(&model_of(device)->gi[number], out);
}

/* All places of the profile, taken or not. */
static nvmlReturn_t placements(int fn, nvmlDevice_t device, u32 id, nvmlPlacement_t *out, u32 *count)
{
    CHECK(sim_enter_device(fn, device));
    CHECK(mig_queryable(device));
    int number = gi_profile_by_id(model_of(device), id);
    REQUIRE(count && number >= 0);
    const struct gi_profile *profile = &model_of(device)->gi[number];
    u32 room = *count;
    *count = profile->start_count;
    if (!out) return NVML_SUCCESS;
    if (room < profile->start_count) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (u32 i = 0; i < profile->start_count; i++) out[i] = (nvmlPlacement_t){profile->starts[i], profile->size};
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceGetGpuInstancePossiblePlacements)(nvmlDevice_t device, u32 id, nvmlPlacement_t *out, u32 *count)
{
    /* the first version has no room in its count: the array holds all */
    u32 all = 8;
    nvmlReturn_t result = placements(FN_nvmlDeviceGetGpuInstancePossiblePlacements, device, id, out, &all);
    if (count) *count = all;
    return result;
}
NVML_API(nvmlDeviceGetGpuInstancePossiblePlacements_v2)(nvmlDevice_t device, u32 id, nvmlPlacement_t *out, u32 *count)
{
    return placements(FN_nvmlDeviceGetGpuInstancePossiblePlacements_v2, device, id, out, count);
}

NVML_API(nvmlDeviceGetGpuInstanceRemainingCapacity)(nvmlDevice_t device, u32 id, u32 *count)
{
    ENTER_GPU(nvmlDeviceGetGpuInstanceRemainingCapacity, device);
    CHECK(mig_queryable(device));
    int number = gi_profile_by_id(model_of(device), id);
    REQUIRE(count && number >= 0);
    struct gpu_state copy = *state_of(device);
    u32 made = 0;
    while (gi_place(model_of(device), &copy, (u32)number, NULL) >= 0) made++;
    *count = made;
    return NVML_SUCCESS;
}

/* ---- compute instances ---- */
static const u32 ci_slices[] = {1, 2, 3, 4, 7, 8, 6}; /* by profile number */

u32 ci_slices_of(u32 number) { return number < 7 ? ci_slices[number] : 0; }

/* Sizes that a GPU instance offers: its own, 1 and 2, and in the 7-slice one 3 and 4 too. */
int ci_offered(const struct gi_profile *gi, u32 number)
{
    u32 slices = ci_slices_of(number);
    if (slices == 0 || slices > gi->slices) return 0;
    if (slices == gi->slices) return 1;
    return slices <= 2 || (slices <= 4 && gi->slices == 7);
}

u32 ci_multiprocessors(const struct model *model, const struct gi_profile *gi, u32 slices)
{
    return slices == gi->slices ? gi->sms : slices * model->sms_per_slice;
}

static nvmlReturn_t ci_profile(int fn, nvmlGpuInstance_t handle, u32 number, u32 engine,
                               nvmlComputeInstanceProfileInfo_t *out)
{
    CHECK(gi_enter(fn, handle));
    REQUIRE(number < 9 && engine == 0);
    const struct model *model = sim.profile.gpus[handle->gpu].model;
    const struct gi_profile *gi = &model->gi[gi_find(handle)->profile];
    if (!ci_offered(gi, number)) return NVML_ERROR_NOT_SUPPORTED;
    u32 slices = ci_slices_of(number);
    *out = (nvmlComputeInstanceProfileInfo_t){
        .id = number, .sliceCount = slices, .instanceCount = gi->slices / slices,
        .multiprocessorCount = ci_multiprocessors(model, gi, slices), .sharedCopyEngineCount = gi->copy,
        .sharedDecoderCount = gi->decoders, .sharedEncoderCount = gi->encoders, .sharedJpegCount = gi->jpegs,
        .sharedOfaCount = gi->ofas,
    };
    return NVML_SUCCESS;
}

NVML_API(nvmlGpuInstanceGetComputeInstanceProfileInfo)(nvmlGpuInstance_t handle, u32 number, u32 engine,
                                                       nvmlComputeInstanceProfileInfo_t *out)
{
    REQUIRE(out);
    return ci_profile(FN_nvmlGpuInstanceGetComputeInstanceProfileInfo, handle, number, engine, out);
}

NVML_API(nvmlGpuInstanceGetComputeInstanceProfileInfoV)(nvmlGpuInstance_t handle, u32 number, u32 engine,
                                                        nvmlComputeInstanceProfileInfo_v3_t *out)
{
    REQUIRE(out);
    nvmlComputeInstanceProfileInfo_t info;
    CHECK(ci_profile(FN_nvmlGpuInstanceGetComputeInstanceProfileInfoV, handle, number, engine, &info));
    int third = out->version == NVML_VERSION_OF(*out, 3);
    if (!third && out->version != NVML_VERSION_OF(nvmlComputeInstanceProfileInfo_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct gi_profile *gi = &sim.profile.gpus[handle->gpu].model->gi[gi_find(handle)->profile];
    out->info = info;
    if (info.sliceCount == gi->slices)
        snprintf(out->name, sizeof out->name, "MIG %s", gi->name);
    else
        snprintf(out->name, sizeof out->name, "MIG %uc.%s", info.sliceCount, gi->name);
    if (third) out->capabilities = 0;
    return NVML_SUCCESS;
}

NVML_API(nvmlGpuInstanceGetComputeInstanceRemainingCapacity)(nvmlGpuInstance_t handle, u32 number, u32 *count)
{
    CHECK(gi_enter(FN_nvmlGpuInstanceGetComputeInstanceRemainingCapacity, handle));
    const struct gi_profile *gi = &sim.profile.gpus[handle->gpu].model->gi[gi_find(handle)->profile];
    REQUIRE(count && ci_offered(gi, number));
    struct gi_state copy = *gi_find(handle);
    u32 made = 0;
    while (ci_place(gi, &copy, number, NULL) >= 0) made++;
    *count = made;
    return NVML_SUCCESS;
}

NVML_API(nvmlGpuInstanceGetComputeInstancePossiblePlacements)(nvmlGpuInstance_t handle, u32 number,
                                                              nvmlPlacement_t *out, u32 *count)
{
    CHECK(gi_enter(FN_nvmlGpuInstanceGetComputeInstancePossiblePlacements, handle));
    const struct gi_profile *gi = &sim.profile.gpus[handle->gpu].model->gi[gi_find(handle)->profile];
    REQUIRE(count && ci_offered(gi, number));
    u32 slices = ci_slices_of(number), room = *count, all = gi->slices / slices;
    *count = all;
    if (!out) return NVML_SUCCESS;
    if (room < all) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (u32 i = 0; i < all; i++) out[i] = (nvmlPlacement_t){i * slices, slices};
    return NVML_SUCCESS;
}
