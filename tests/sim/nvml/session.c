/* Init and shutdown: where the driver root is, what it holds, which GPUs this process may see.
 *
 * The root is found from the library's own location, as the real library finds nothing but fixed paths:
 * <root>/usr/lib/.../libnvidia-ml.so.V. In a container, where the file is mounted at its usual place, that is "/".
 * A GPU whose node <root>/dev/nvidia<minor> is missing is invisible, and without nvidiactl there is no driver.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "sim.h"

struct session sim;
static pthread_mutex_t session_mutex = PTHREAD_MUTEX_INITIALIZER;

int node_exists(const char *format, ...)
{
    char path[1024];
    int used = snprintf(path, sizeof path, "%s", sim.root);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + used, sizeof path - (size_t)used, format, arguments);
    va_end(arguments);
    return access(path, F_OK) == 0;
}

/* Absolute path of this library, symlinks resolved; 0 when the loader does not know. */
static int own_path(char out[PATH_MAX])
{
    Dl_info info;
    return dladdr((void *)&sim, &info) && info.dli_fname && realpath(info.dli_fname, out);
}

static void find_root(const char *library)
{
    const char *override = getenv("NVSIM_ROOT");
    if (override) {
        snprintf(sim.root, sizeof sim.root, "%s", strcmp(override, "/") ? override : "");
        return;
    }
    const char *end = NULL;
    for (const char *at = library; (at = strstr(at, "/usr/lib")); at++) end = at;
    if (!end)
        for (const char *at = library; (at = strstr(at, "/lib")); at++)
            if (strncmp(at, "/libnvidia", 10)) end = at;
    size_t length = end ? (size_t)(end - library) : 0;
    if (length >= sizeof sim.root) length = 0;
    memcpy(sim.root, library, length);
    sim.root[length] = 0;
}

static void find_gpus(void)
{
    sim.visible_count = 0;
    for (u32 i = 0; i < sim.profile.gpu_count; i++) {
        sim.gpus[i] = (struct sim_device){(int)i, -1, -1};
        for (int gi = 0; gi < MAX_GIS; gi++) {
            sim.gis[i][gi] = (struct sim_gi_handle){(int)i, gi};
            for (int ci = 0; ci < MAX_CIS; ci++) {
                sim.migs[i][gi][ci] = (struct sim_device){(int)i, gi, ci};
                sim.cis[i][gi][ci] = (struct sim_ci_handle){(int)i, gi, ci};
            }
        }
        if (node_exists("/dev/nvidia%u", sim.profile.gpus[i].minor)) sim.visible[sim.visible_count++] = (int)i;
    }
}

static nvmlReturn_t start(int fn, u32 flags)
{
    char library[PATH_MAX];
    if (!own_path(library) || !profile_load(&sim.profile, library)) return NVML_ERROR_DRIVER_NOT_LOADED;
    find_root(library);
    if (!state_open(library)) return NVML_ERROR_DRIVER_NOT_LOADED;
    sim.references = 1;
    nvmlReturn_t result = sim_enter(fn, ANY_GPU);
    if (result == NVML_SUCCESS && !node_exists("/dev/nvidiactl")) result = NVML_ERROR_DRIVER_NOT_LOADED;
    if (result == NVML_SUCCESS) {
        find_gpus();
        if (sim.visible_count == 0 && !(flags & NVML_INIT_FLAG_NO_GPUS)) result = NVML_ERROR_GPU_NOT_FOUND;
    }
    if (result != NVML_SUCCESS) {
        sim.references = 0;
        state_close();
    }
    return result;
}

static nvmlReturn_t init(int fn, u32 flags)
{
    pthread_mutex_lock(&session_mutex);
    nvmlReturn_t result = NVML_SUCCESS;
    if (sim.references > 0) {
        result = sim_enter(fn, ANY_GPU);
        if (result == NVML_SUCCESS) sim.references++;
    } else {
        result = start(fn, flags);
    }
    pthread_mutex_unlock(&session_mutex);
    return result;
}

NVML_API(nvmlInit)(void) { return init(FN_nvmlInit, 0); }
NVML_API(nvmlInit_v2)(void) { return init(FN_nvmlInit_v2, 0); }
NVML_API(nvmlInitWithFlags)(u32 flags) { return init(FN_nvmlInitWithFlags, flags); }

NVML_API(nvmlShutdown)(void)
{
    ENTER(nvmlShutdown);
    pthread_mutex_lock(&session_mutex);
    if (sim.references > 0 && --sim.references == 0) state_close();
    pthread_mutex_unlock(&session_mutex);
    return NVML_SUCCESS;
}

/* For the tests that compare tests/sim/state.py with struct state. */
NVML_API(nvsimStateSize)(void) { return (int)sizeof(struct state); }
