/* Events: sets, registration, waiting. Events come from the shared state, where tests/sim/state.py injects them.
 *
 * A waiter sleeps on the event counter of the shared file, so that an injection in another process wakes it at once.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "sim.h"

enum { NAP_MS = 500 }; /* upper bound of one sleep: faults and an unloaded driver are noticed without an event */

struct sim_event_set {
    u32 magic, position;
    u64 types[MAX_GPUS];
};
enum { SET_MAGIC = 0x45564E54 };

static u64 supported(nvmlDevice_t device)
{
    enum { SINGLE_BIT = 1, DOUBLE_BIT = 2, PSTATE = 4, XID = 8, CLOCK = 16 };
    return XID | PSTATE | CLOCK | (model_of(device)->ecc ? SINGLE_BIT | DOUBLE_BIT : 0);
}

NVML_API(nvmlDeviceGetSupportedEventTypes)(nvmlDevice_t device, u64 *types)
{
    ENTER_GPU(nvmlDeviceGetSupportedEventTypes, device);
    REQUIRE(types);
    *types = is_mig(device) ? 0 : supported(device);
    return NVML_SUCCESS;
}

NVML_API(nvmlEventSetCreate)(nvmlEventSet_t *out)
{
    ENTER(nvmlEventSetCreate);
    REQUIRE(out);
    *out = calloc(1, sizeof **out);
    if (!*out) return NVML_ERROR_MEMORY;
    (*out)->magic = SET_MAGIC;
    (*out)->position = sim.state->event_head;
    return NVML_SUCCESS;
}

NVML_API(nvmlEventSetFree)(nvmlEventSet_t set)
{
    ENTER(nvmlEventSetFree);
    REQUIRE(set && set->magic == SET_MAGIC);
    set->magic = 0;
    free(set);
    return NVML_SUCCESS;
}

NVML_API(nvmlDeviceRegisterEvents)(nvmlDevice_t device, u64 types, nvmlEventSet_t set)
{
    ENTER_GPU(nvmlDeviceRegisterEvents, device);
    REQUIRE(set && set->magic == SET_MAGIC);
    if (is_mig(device) || types & ~supported(device)) return NVML_ERROR_NOT_SUPPORTED;
    set->types[device->gpu] |= types;
    return NVML_SUCCESS;
}

static int next_event(nvmlEventSet_t set, struct event *out)
{
    u32 head = __atomic_load_n(&sim.state->event_head, __ATOMIC_ACQUIRE);
    if (head - set->position > MAX_EVENTS) set->position = head - MAX_EVENTS;
    while (set->position != head) {
        *out = sim.state->events[set->position++ % MAX_EVENTS];
        if (out->gpu < MAX_GPUS && set->types[out->gpu] & out->type) return 1;
    }
    return 0;
}

static int any_lost(nvmlEventSet_t set)
{
    for (int i = 0; i < MAX_GPUS; i++)
        if (set->types[i] && sim.state->gpus[i].lost) return 1;
    return 0;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void nap(nvmlEventSet_t set, long long ms)
{
    if (ms > NAP_MS) ms = NAP_MS;
    struct timespec wait = {ms / 1000, (ms % 1000) * 1000000L};
    syscall(SYS_futex, &sim.state->event_head, FUTEX_WAIT, set->position, &wait, NULL, 0);
}

static nvmlReturn_t wait_for(int fn, nvmlEventSet_t set, u32 timeout_ms, struct event *out)
{
    long long deadline = now_ms() + timeout_ms;
    REQUIRE(set && set->magic == SET_MAGIC);
    for (;;) {
        CHECK(sim_enter(fn, ANY_GPU));
        if (next_event(set, out)) return NVML_SUCCESS;
        if (any_lost(set)) return NVML_ERROR_GPU_IS_LOST;
        long long left = deadline - now_ms();
        if (left <= 0) return NVML_ERROR_TIMEOUT;
        nap(set, left);
    }
}

NVML_API(nvmlEventSetWait)(nvmlEventSet_t set, nvmlEventData_v1_t *out, u32 timeout_ms)
{
    struct event event;
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    REQUIRE(out);
    CHECK(wait_for(FN_nvmlEventSetWait, set, timeout_ms, &event));
    *out = (nvmlEventData_v1_t){&sim.gpus[event.gpu], event.type, event.data};
    return NVML_SUCCESS;
}

NVML_API(nvmlEventSetWait_v2)(nvmlEventSet_t set, nvmlEventData_t *out, u32 timeout_ms)
{
    struct event event;
    if (sim.references == 0) return NVML_ERROR_UNINITIALIZED;
    REQUIRE(out);
    CHECK(wait_for(FN_nvmlEventSetWait_v2, set, timeout_ms, &event));
    *out = (nvmlEventData_t){&sim.gpus[event.gpu], event.type, event.data, event.gi, event.ci};
    return NVML_SUCCESS;
}
