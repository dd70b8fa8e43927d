/* What the MIG files share: finding profiles, and putting instances into the free places. */
#ifndef NVSIM_MIG_H
#define NVSIM_MIG_H

#include "sim.h"

/* mig_profiles.c */
nvmlReturn_t mig_queryable(nvmlDevice_t device);
int gi_profile_by_id(const struct model *model, u32 id);
int ci_offered(const struct gi_profile *gi, u32 number);

/* mig_instances.c */
nvmlReturn_t gi_enter(int fn, nvmlGpuInstance_t handle);
nvmlReturn_t ci_enter(int fn, nvmlComputeInstance_t handle);
/* Put one instance into `state` at `wanted`, or at the first free place when NULL; its id, or -1 when none is free. */
int gi_place(const struct model *model, struct gpu_state *state, u32 profile, const nvmlPlacement_t *wanted);
int ci_place(const struct gi_profile *gi, struct gi_state *state, u32 profile, const nvmlPlacement_t *wanted);

#endif
