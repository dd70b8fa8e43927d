/* The door of every call: is the session open, is there a fault for this call, is the GPU still there.
 *
 * Without faults a call costs two loads and a compare. A fault that never returns ends when it is cleared, so
 * that a test can let its victim go.
 */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>
#include "sim.h"

static void sleep_ms(u32 ms)
{
    struct timespec wait = {ms / 1000, (long)(ms % 1000) * 1000000L};
    while (nanosleep(&wait, &wait)) {}
}

/* 1 when this fault is still to be given; counts it. */
static int take(struct fault *fault)
{
    if (!sim.state_writable) return 1;
    __atomic_add_fetch(&fault->hits, 1, __ATOMIC_RELAXED);
    if (fault->remaining == 0) return 1; /* no limit */
    if (__atomic_sub_fetch(&fault->remaining, 1, __ATOMIC_RELAXED) == 0) fault->used = 0;
    return 1;
}

static nvmlReturn_t apply_faults(int fn, int gpu)
{
    for (u32 i = 0; i < sim.state->fault_count && i < MAX_FAULTS; i++) {
        volatile struct fault *fault = &sim.state->faults[i];
        if (!fault->used || (fault->fn >= 0 && fault->fn != fn)) continue;
        if (fault->gpu != ANY_GPU && fault->gpu != gpu) continue;
        struct fault found = *fault;
        take((struct fault *)fault);
        if (found.delay_ms) sleep_ms(found.delay_ms);
        while (found.hang && fault->used) sleep_ms(20);
        if (found.code) return found.code;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t sim_enter(int fn, int gpu)
{
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    if (sim.state->fault_count) CHECK(apply_faults(fn, gpu));
    if (!sim.state->driver_loaded) return NVML_ERROR_DRIVER_NOT_LOADED;
    if (gpu != ANY_GPU && sim.state->gpus[gpu].lost) return NVML_ERROR_GPU_IS_LOST;
    if (gpu != ANY_GPU && sim.state->gpus[gpu].cold_ms) warm_up(gpu);
    return NVML_SUCCESS;
}

static int is_ours(const void *pointer, const void *array, size_t size)
{
    return (const char *)pointer >= (const char *)array && (const char *)pointer < (const char *)array + size;
}

nvmlReturn_t sim_enter_device(int fn, nvmlDevice_t device)
{
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    if (!is_ours(device, sim.gpus, sizeof sim.gpus) && !is_ours(device, sim.migs, sizeof sim.migs))
        return NVML_ERROR_INVALID_ARGUMENT;
    CHECK(sim_enter(fn, device->gpu));
    return is_mig(device) && !mig_device_alive(device) ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS;
}

/* A function that this simulation knows by name only. Its arguments are unknown, so faults match any GPU. */
nvmlReturn_t sim_stub(int fn)
{
    CHECK(sim_enter(fn, ANY_GPU));
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t sim_copy(char *out, u32 length, const char *text)
{
    REQUIRE(out);
    size_t size = strlen(text) + 1;
    if (length < size) return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, size);
    return NVML_SUCCESS;
}
