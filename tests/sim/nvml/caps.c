/* The capability files of MIG instances: <root>/proc/driver/nvidia/capabilities/... and the nodes behind them.
 *
 * The kernel module shows them while an instance exists; nvidia-modprobe makes the nodes and nobody removes them.
 * Minors are the fixed table of mig-minors: 3 for gpu0/gi0, then 9 for each GPU instance and 135 for each GPU.
 * Where <root>/run/nvsim/proc exists it stands in for <root>/proc (hosts whose root is "/").
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "sim.h"

static u32 cap_minor(int gpu, int gi, int ci)
{
    return 3 + sim.profile.gpus[gpu].minor * 135 + (u32)gi * 9 + (ci < 0 ? 0 : 1 + (u32)ci);
}

/* On the host all instances are seen; in a container those whose capability nodes were put in. */
int caps_visible(int gpu, int gi, int ci)
{
    return sim.on_host || (node_exists("/dev/nvidia-caps/nvidia-cap%u", cap_minor(gpu, gi, -1)) &&
                           node_exists("/dev/nvidia-caps/nvidia-cap%u", cap_minor(gpu, gi, ci)));
}

static const char *proc(void) { return node_exists("/run/nvsim/proc") ? "/run/nvsim/proc" : "/proc"; }

static void instance_directory(char out[1024], int gpu, int gi, int ci)
{
    int used = snprintf(out, 1024, "%s%s/driver/nvidia/capabilities/gpu%u/mig/gi%d", sim.root, proc(),
                        sim.profile.gpus[gpu].minor, gi);
    if (ci >= 0) snprintf(out + used, 1024 - (size_t)used, "/ci%d", ci);
}

static u32 caps_major(void)
{
    char path[1024], line[128], name[64];
    snprintf(path, sizeof path, "%s%s/devices", sim.root, proc());
    FILE *file = fopen(path, "re");
    u32 major = 0, number;
    while (file && !major && fgets(line, sizeof line, file))
        if (sscanf(line, "%u %63s", &number, name) == 2 && !strcmp(name, "nvidia-caps")) major = number;
    if (file) fclose(file);
    return major;
}

static void make_node(u32 minor)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/dev/nvidia-caps", sim.root);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/dev/nvidia-caps/nvidia-cap%u", sim.root, minor);
    u32 major = caps_major();
    if (major && mknod(path, S_IFCHR | 0444, makedev(major, minor)) == 0) return;
    FILE *file = fopen(path, "ae"); /* not root: a plain file stands for the node */
    if (file) fclose(file);
}

void caps_publish(int gpu, int gi, int ci)
{
    char path[1024];
    instance_directory(path, gpu, gi, ci);
    mkdir(path, 0555);
    strcat(path, "/access");
    FILE *file = fopen(path, "we");
    if (file) {
        fprintf(file, "DeviceFileMinor: %u\nDeviceFileMode: 292\nDeviceFileModify: 1\n", cap_minor(gpu, gi, ci));
        fclose(file);
    }
    make_node(cap_minor(gpu, gi, ci));
}

void caps_withdraw(int gpu, int gi, int ci)
{
    char path[1024], file[1040];
    instance_directory(path, gpu, gi, ci);
    snprintf(file, sizeof file, "%s/access", path);
    unlink(file);
    rmdir(path);
}
