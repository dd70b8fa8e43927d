/* Cold GPUs: without persistence mode the driver initialises a GPU when the first process opens it, which takes seconds,
 * and forgets it when the last one goes.
 *
 * Who has a GPU open is kept by the kernel: a process holds a shared lock on <root>/run/nvsim/open<gpu>, so a killed one
 * lets go too. Whoever gets the exclusive lock found nobody: he waits for the time that the hardware takes, and those who
 * come meanwhile wait for him.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>
#include "sim.h"

static void lock(int fd, int how)
{
    while (flock(fd, how) < 0 && errno == EINTR) {}
}

void warm_up(int gpu)
{
    const struct gpu_state *state = &sim.state->gpus[gpu];
    if (sim.open_fds[gpu] || state->persistence || !sim.on_host) return;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/run/nvsim/open%d", sim.root, gpu);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        struct timespec wait = {state->cold_ms / 1000, (long)(state->cold_ms % 1000) * 1000000L};
        while (nanosleep(&wait, &wait)) {}
    }
    lock(fd, LOCK_SH);
    sim.open_fds[gpu] = fd + 1;
}

void cool_down(void)
{
    for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
        if (sim.open_fds[gpu]) close(sim.open_fds[gpu] - 1);
        sim.open_fds[gpu] = 0;
    }
}
