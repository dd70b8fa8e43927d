/* MIG: making, listing and destroying GPU instances and compute instances. Every change is under the writers' lock. */
#include <string.h>
#include "mig.h"

/* ---- handles ---- */
struct gi_state *gi_find(nvmlGpuInstance_t handle) { return &sim.state->gpus[handle->gpu].gis[handle->gi]; }
struct ci_state *ci_find(nvmlComputeInstance_t handle)
{
    return &sim.state->gpus[handle->gpu].gis[handle->gi].cis[handle->ci];
}

nvmlReturn_t gi_enter(int fn, nvmlGpuInstance_t handle)
{
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    const char *at = (const char *)handle, *first = (const char *)sim.gis;
    REQUIRE(at >= first && at < first + sizeof sim.gis);
    CHECK(sim_enter(fn, handle->gpu));
    return gi_find(handle)->used ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t ci_enter(int fn, nvmlComputeInstance_t handle)
{
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    const char *at = (const char *)handle, *first = (const char *)sim.cis;
    REQUIRE(at >= first && at < first + sizeof sim.cis);
    CHECK(sim_enter(fn, handle->gpu));
    return ci_find(handle)->used ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* ---- places ---- */
static int overlaps(u32 a, u32 a_size, u32 b, u32 b_size) { return a < b + b_size && b < a + a_size; }

/* Ids as the hardware gives them: they follow from size and start. */
static int gi_id(u32 start, u32 size)
{
    return size >= 8 ? 0 : size >= 4 ? (int)(1 + start / 4) : size >= 2 ? (int)(3 + start / 2) : (int)(7 + start);
}

static int gi_fits(const struct model *model, const struct gpu_state *state, u32 profile, u32 start)
{
    u32 slices = model->gi[profile].slices, same = 0;
    for (int i = 0; i < MAX_GIS; i++) {
        const struct gi_state *gi = &state->gis[i];
        if (!gi->used) continue;
        if (overlaps(start, model->gi[profile].size, gi->start, gi->size)) return 0;
        slices += model->gi[gi->profile].slices;
        same += gi->profile == profile;
    }
    return slices <= model->mig_slices && same < model->gi[profile].instances;
}

int gi_place(const struct model *model, struct gpu_state *state, u32 profile, const nvmlPlacement_t *wanted)
{
    const struct gi_profile *info = &model->gi[profile];
    for (u32 i = 0; i < info->start_count; i++) {
        u32 start = info->starts[i];
        if ((wanted && wanted->start != start) || !gi_fits(model, state, profile, start)) continue;
        int id = gi_id(start, info->size);
        memset(&state->gis[id], 0, sizeof state->gis[id]);
        state->gis[id].profile = profile;
        state->gis[id].start = start;
        state->gis[id].size = info->size;
        state->gis[id].used = 1;
        return id;
    }
    return -1;
}

int ci_place(const struct gi_profile *gi, struct gi_state *state, u32 profile, const nvmlPlacement_t *wanted)
{
    u32 slices = ci_slices_of(profile);
    int free_id = -1;
    for (int i = MAX_CIS - 1; i >= 0; i--)
        if (!state->cis[i].used) free_id = i;
    for (u32 start = 0; free_id >= 0 && start + slices <= gi->slices; start++) {
        int taken = wanted && wanted->start != start;
        for (int i = 0; i < MAX_CIS && !taken; i++)
            taken = state->cis[i].used && overlaps(start, slices, state->cis[i].start, state->cis[i].size);
        if (taken) continue;
        state->cis[free_id] = (struct ci_state){.used = 1, .profile = profile, .start = start, .size = slices};
        return free_id;
    }
    return -1;
}

/* ---- GPU instances ---- */
static nvmlReturn_t create_gi(int fn, nvmlDevice_t device, u32 id, const nvmlPlacement_t *wanted, nvmlGpuInstance_t *out)
{
    CHECK(sim_enter_device(fn, device));
    REQUIRE(out);
    if (!model_of(device)->mig || is_mig(device) || !state_of(device)->mig_current) return NVML_ERROR_NOT_SUPPORTED;
    int profile = gi_profile_by_id(model_of(device), id);
    REQUIRE(profile >= 0);
    const struct gi_profile *info = &model_of(device)->gi[profile];
    if (wanted) {
        int known = 0;
        for (u32 i = 0; i < info->start_count; i++) known |= info->starts[i] == wanted->start;
        REQUIRE(known && wanted->size == info->size);
    }
    CHECK(state_lock());
    int made = gi_place(model_of(device), state_of(device), (u32)profile, wanted);
    state_unlock();
    if (made < 0) return NVML_ERROR_INSUFFICIENT_RESOURCES;
    caps_publish(device->gpu, made, -1);
    *out = &sim.gis[device->gpu][made];
    return NVML_SUCCESS;
}
NVML_API(nvmlDeviceCreateGpuInstance)(nvmlDevice_t device, u32 id, nvmlGpuInstance_t *out)
{
    return create_gi(FN_nvmlDeviceCreateGpuInstance, device, id, NULL, out);
}
NVML_API(nvmlDeviceCreateGpuInstanceWithPlacement)(nvmlDevice_t device, u32 id, const nvmlPlacement_t *placement,
                                                   nvmlGpuInstance_t *out)
{
    REQUIRE(placement);
    return create_gi(FN_nvmlDeviceCreateGpuInstanceWithPlacement, device, id, placement, out);
}

NVML_API(nvmlGpuInstanceDestroy)(nvmlGpuInstance_t handle)
{
    CHECK(gi_enter(FN_nvmlGpuInstanceDestroy, handle));
    CHECK(state_lock());
    struct gi_state *gi = gi_find(handle);
    int busy = 0;
    for (int i = 0; i < MAX_CIS; i++) busy |= gi->cis[i].used;
    if (!busy) gi->used = 0;
    state_unlock();
    if (busy) return NVML_ERROR_IN_USE;
    caps_withdraw(handle->gpu, handle->gi, -1);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetGpuInstances)(nvmlDevice_t device, u32 id, nvmlGpuInstance_t *out, u32 *count)
{
    ENTER_GPU(nvmlDeviceGetGpuInstances, device);
    CHECK(mig_queryable(device));
    if (!state_of(device)->mig_current) return NVML_ERROR_NOT_SUPPORTED;
    int profile = gi_profile_by_id(model_of(device), id);
    REQUIRE(count && out && profile >= 0);
    u32 found = 0;
    for (int i = 0; i < MAX_GIS; i++) {
        const struct gi_state *gi = &state_of(device)->gis[i];
        if (gi->used && gi->profile == (u32)profile) out[found++] = &sim.gis[device->gpu][i];
    }
    *count = found;
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceGetGpuInstanceById)(nvmlDevice_t device, u32 id, nvmlGpuInstance_t *out)
{
    ENTER_GPU(nvmlDeviceGetGpuInstanceById, device);
    REQUIRE(out);
    if (!model_of(device)->mig || !state_of(device)->mig_current) return NVML_ERROR_NOT_SUPPORTED;
    if (id >= MAX_GIS || !state_of(device)->gis[id].used) return NVML_ERROR_NOT_FOUND;
    *out = &sim.gis[device->gpu][id];
    return NVML_SUCCESS;
}

NVML_API(nvmlGpuInstanceGetInfo)(nvmlGpuInstance_t handle, nvmlGpuInstanceInfo_t *out)
{
    CHECK(gi_enter(FN_nvmlGpuInstanceGetInfo, handle));
    REQUIRE(out);
    const struct gi_state *gi = gi_find(handle);
    out->device = &sim.gpus[handle->gpu];
    out->id = (u32)handle->gi;
    out->profileId = sim.profile.gpus[handle->gpu].model->gi[gi->profile].id;
    out->placement = (nvmlPlacement_t){gi->start, gi->size};
    return NVML_SUCCESS;
}

/* ---- compute instances ---- */
static nvmlReturn_t create_ci(int fn, nvmlGpuInstance_t handle, u32 profile, const nvmlPlacement_t *wanted,
                              nvmlComputeInstance_t *out)
{
    CHECK(gi_enter(fn, handle));
    REQUIRE(out);
    const struct gi_profile *gi = &sim.profile.gpus[handle->gpu].model->gi[gi_find(handle)->profile];
    if (!ci_offered(gi, profile)) return NVML_ERROR_NOT_SUPPORTED;
    CHECK(state_lock());
    int made = gi_find(handle)->used ? ci_place(gi, gi_find(handle), profile, wanted) : -1;
    state_unlock();
    if (made < 0) return NVML_ERROR_INSUFFICIENT_RESOURCES;
    caps_publish(handle->gpu, handle->gi, made);
    *out = &sim.cis[handle->gpu][handle->gi][made];
    return NVML_SUCCESS;
}
NVML_API(nvmlGpuInstanceCreateComputeInstance)(nvmlGpuInstance_t handle, u32 profile, nvmlComputeInstance_t *out)
{
    return create_ci(FN_nvmlGpuInstanceCreateComputeInstance, handle, profile, NULL, out);
}
NVML_API(nvmlGpuInstanceCreateComputeInstanceWithPlacement)(nvmlGpuInstance_t handle, u32 profile,
                                                            const nvmlPlacement_t *placement,
                                                            nvmlComputeInstance_t *out)
{
    REQUIRE(placement);
    return create_ci(FN_nvmlGpuInstanceCreateComputeInstanceWithPlacement, handle, profile, placement, out);
}

NVML_API(nvmlComputeInstanceDestroy)(nvmlComputeInstance_t handle)
{
    CHECK(ci_enter(FN_nvmlComputeInstanceDestroy, handle));
    CHECK(state_lock());
    ci_find(handle)->used = 0;
    state_unlock();
    caps_withdraw(handle->gpu, handle->gi, handle->ci);
    return NVML_SUCCESS;
}

NVML_API(nvmlGpuInstanceGetComputeInstances)(nvmlGpuInstance_t handle, u32 profile, nvmlComputeInstance_t *out,
                                             u32 *count)
{
    CHECK(gi_enter(FN_nvmlGpuInstanceGetComputeInstances, handle));
    REQUIRE(out && count);
    u32 found = 0;
    for (int i = 0; i < MAX_CIS; i++)
        if (gi_find(handle)->cis[i].used && gi_find(handle)->cis[i].profile == profile)
            out[found++] = &sim.cis[handle->gpu][handle->gi][i];
    *count = found;
    return NVML_SUCCESS;
}

NVML_API(nvmlGpuInstanceGetComputeInstanceById)(nvmlGpuInstance_t handle, u32 id, nvmlComputeInstance_t *out)
{
    CHECK(gi_enter(FN_nvmlGpuInstanceGetComputeInstanceById, handle));
    REQUIRE(out);
    if (id >= MAX_CIS || !gi_find(handle)->cis[id].used) return NVML_ERROR_NOT_FOUND;
    *out = &sim.cis[handle->gpu][handle->gi][id];
    return NVML_SUCCESS;
}

static nvmlReturn_t ci_info(int fn, nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *out)
{
    CHECK(ci_enter(fn, handle));
    REQUIRE(out);
    const struct ci_state *ci = ci_find(handle);
    *out = (nvmlComputeInstanceInfo_t){
        .device = &sim.gpus[handle->gpu], .gpuInstance = &sim.gis[handle->gpu][handle->gi], .id = (u32)handle->ci,
        .profileId = ci->profile, .placement = {ci->start, ci->size},
    };
    return NVML_SUCCESS;
}
NVML_API(nvmlComputeInstanceGetInfo)(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *out)
{
    return ci_info(FN_nvmlComputeInstanceGetInfo, handle, out);
}
NVML_API(nvmlComputeInstanceGetInfo_v2)(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *out)
{
    return ci_info(FN_nvmlComputeInstanceGetInfo_v2, handle, out);
}
