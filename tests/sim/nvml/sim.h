/* What the source files of the simulated NVML share: the profile, the shared state, and the door of every call.
 *
 * Profile: what the hardware is; constant; read from the trailer of the library's own file (profile.c).
 * State: what changes (MIG instances, settings, faults, events); one mapped file that every process of this
 * driver root sees (state.c). tests/sim/state.py declares the same layout for Python.
 */
#ifndef NVSIM_SIM_H
#define NVSIM_SIM_H

#include <stddef.h>
#include "abi.h"
#include "functions.h" /* generated: enum { FN_nvmlInit_v2 = .. } */

#define NVML_API(name) __attribute__((visibility("default"))) nvmlReturn_t name
#define CHECK(call) do { nvmlReturn_t check_ = (call); if (check_ != NVML_SUCCESS) return check_; } while (0)
#define REQUIRE(condition) do { if (!(condition)) return NVML_ERROR_INVALID_ARGUMENT; } while (0)
/* First statement of a call without, and with, a GPU: faults, delays, lost GPUs, an unloaded driver. */
#define ENTER(name) CHECK(sim_enter(FN_##name, ANY_GPU))
#define ENTER_GPU(name, handle) CHECK(sim_enter_device(FN_##name, handle))

enum { MAX_GPUS = 16, MAX_GIS = 15, MAX_CIS = 8, MAX_FAULTS = 64, MAX_EVENTS = 256, MAX_PROFILES = 18, ANY_GPU = -1 };

/* ---- profile ---- */
struct gi_profile {
    u32 offered; /* 0: the model has no such profile */
    u32 id, slices, instances, sms, copy, decoders, encoders, jpegs, ofas, memory_mb, p2p, capabilities;
    u32 size, start_count, starts[8];
    char name[48];
};

struct model {
    char name[96], board_part[32], vbios[32], inforom_image[16], inforom_oem[16], inforom_ecc[16], gsp_firmware[32];
    u32 brand, architecture, cc_major, cc_minor, cores, bus_width;
    u32 pci_device, pci_subsystem;
    u32 memory_mb, reserved_mb, bar1_mb;
    u32 pcie_generation, pcie_width, pcie_speed_mbps;
    u32 clock_graphics, clock_memory, clock_video, temp_slowdown, temp_shutdown, temp_memory_max, temp_gpu_max;
    u32 power_min_mw, power_default_mw, power_max_mw, power_idle_mw;
    u32 ecc, remap_rows, nvlinks, nvlink_version, nvlink_mbps, nvlink_to_switch, c2c, addressing_mode, fabric;
    u32 mig, mig_needs_reset, mig_slices, sms_per_slice, fans;
    struct gi_profile gi[MAX_PROFILES];
};

struct gpu {
    const struct model *model;
    u32 model_index, minor, module_id, domain, bus, slot, pcie_switch, pcie_root, board_id;
    int numa, memory_numa;
    char uuid[48], serial[32], cpus[64];
    u64 pdi;
};

struct profile {
    char driver[32], nvml[32], branch[16];
    u32 cuda, gpu_count, fabric_clique, slot_number, tray, host;
    unsigned char cluster_uuid[16];
    char chassis_serial[16];
    struct model models[4];
    struct gpu gpus[MAX_GPUS];
};

/* ---- shared state ---- */
struct ci_state { u32 used, profile, start, size; };
struct gi_state { u32 used, profile, start, size; struct ci_state cis[MAX_CIS]; };
struct gpu_state {
    u32 lost, mig_current, mig_pending, compute_mode, persistence, timeslice, accounting;
    u32 power_limit_mw, ecc_pending, fabric_state, fabric_status, fabric_health, recovery_action;
    u32 ecc_corrected, ecc_uncorrected, remapped_pending, remapped_failed, temperature;
    u32 cold_ms; /* how long the first use takes while no process has the GPU open and persistence mode is off */
    struct gi_state gis[MAX_GIS];
};
struct fault { u32 used; int fn, gpu, code; u32 delay_ms, hang, remaining, hits; };
struct event { u64 type, data; u32 gpu, gi, ci, unused; };
struct state {
    u32 magic, version, boot, driver_loaded;
    u32 fault_count; /* slots in use or once used; 0 keeps calls free of any search */
    u32 event_head;  /* events ever injected; also the word that waiters sleep on */
    u32 spare[2];
    struct fault faults[MAX_FAULTS];
    struct event events[MAX_EVENTS];
    struct gpu_state gpus[MAX_GPUS];
};
enum { STATE_MAGIC = 0x4E565331, STATE_VERSION = 2 };

/* ---- handles: addresses inside the session's arrays, so a stray pointer is noticed ---- */
struct sim_device { int gpu; int gi, ci; /* gi < 0: the whole GPU */ };
struct sim_gi_handle { int gpu, gi; };
struct sim_ci_handle { int gpu, gi, ci; };

struct session {
    int references;
    char root[512]; /* "" for / */
    int on_host;    /* the state file of the host is in reach: not inside a container */
    struct profile profile;
    struct state *state;
    int state_writable, state_fd;
    int open_fds[MAX_GPUS]; /* 1 + descriptor of GPUs that this process keeps initialised; see warm.c */
    int visible_count, visible[MAX_GPUS]; /* NVML index -> position in the profile */
    struct sim_device gpus[MAX_GPUS], migs[MAX_GPUS][MAX_GIS][MAX_CIS];
    struct sim_gi_handle gis[MAX_GPUS][MAX_GIS];
    struct sim_ci_handle cis[MAX_GPUS][MAX_GIS][MAX_CIS];
};
extern struct session sim;

/* gate.c */
nvmlReturn_t sim_enter(int fn, int gpu);
nvmlReturn_t sim_enter_device(int fn, nvmlDevice_t device);
nvmlReturn_t sim_stub(int fn);
nvmlReturn_t sim_copy(char *out, u32 length, const char *text);

/* state.c */
int state_open(const char *library_path);
void state_close(void);
nvmlReturn_t state_lock(void); /* for writers; NO_PERMISSION when the file is read-only */
void state_unlock(void);

/* warm.c */
void warm_up(int gpu);
void cool_down(void);

/* profile.c */
int profile_load(struct profile *out, const char *library_path);
long trailer_state_offset(const char *path); /* 0: a plain file, the state begins it */

/* session.c */
int node_exists(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* helpers of device.c */
static inline const struct gpu *gpu_of(nvmlDevice_t device) { return &sim.profile.gpus[device->gpu]; }
static inline const struct model *model_of(nvmlDevice_t device) { return gpu_of(device)->model; }
static inline struct gpu_state *state_of(nvmlDevice_t device) { return &sim.state->gpus[device->gpu]; }
static inline int is_mig(nvmlDevice_t device) { return device->gi >= 0; }

/* mig_*.c and caps.c */
struct gi_state *gi_find(nvmlGpuInstance_t handle);
struct ci_state *ci_find(nvmlComputeInstance_t handle);
int mig_device_alive(const struct sim_device *device);
u32 ci_slices_of(u32 ci_profile);
u32 ci_multiprocessors(const struct model *model, const struct gi_profile *gi, u32 slices);
u32 mig_index(nvmlDevice_t device);
void mig_uuid(const struct sim_device *device, char out[48]);
int caps_visible(int gpu, int gi, int ci);
void caps_publish(int gpu, int gi, int ci);
void caps_withdraw(int gpu, int gi, int ci);

#endif
