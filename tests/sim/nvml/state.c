/* The state that all processes of a driver root share: opening it, mapping it, and the lock of its writers.
 *
 * On the host it is <root>/run/nvsim/state, a hard link to the library file itself: its pages lie behind the ELF
 * image. So a container that got the library file and nothing else reads the very same state, read-only.
 * Where the link is missing the library's own file is used. Readers take no lock: words are written whole.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>
#include "sim.h"

static pthread_mutex_t writer_mutex = PTHREAD_MUTEX_INITIALIZER;

static int open_file(const char *library_path, char *path, size_t size)
{
    snprintf(path, size, "%s/run/nvsim/state", sim.root);
    sim.on_host = 1;
    sim.state_writable = 1;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) return fd;
    sim.state_writable = 0;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) return fd;
    sim.on_host = 0;
    snprintf(path, size, "%s", library_path);
    return open(path, O_RDONLY | O_CLOEXEC);
}

int state_open(const char *library_path)
{
    char path[PATH_MAX];
    sim.state_fd = open_file(library_path, path, sizeof path);
    if (sim.state_fd < 0) return 0;
    long offset = trailer_state_offset(path);
    int protection = PROT_READ | (sim.state_writable ? PROT_WRITE : 0);
    sim.state = mmap(NULL, sizeof(struct state), protection, MAP_SHARED, sim.state_fd, offset);
    if (sim.state == MAP_FAILED || sim.state->magic != STATE_MAGIC || sim.state->version != STATE_VERSION) {
        state_close();
        return 0;
    }
    return 1;
}

void state_close(void)
{
    cool_down();
    if (sim.state && sim.state != MAP_FAILED) munmap(sim.state, sizeof(struct state));
    sim.state = NULL;
    if (sim.state_fd >= 0) close(sim.state_fd);
    sim.state_fd = -1;
}

nvmlReturn_t state_lock(void)
{
    if (!sim.state_writable) return NVML_ERROR_NO_PERMISSION;
    pthread_mutex_lock(&writer_mutex);
    while (flock(sim.state_fd, LOCK_EX) < 0) {
        if (errno == EINTR) continue;
        pthread_mutex_unlock(&writer_mutex);
        return NVML_ERROR_OPERATING_SYSTEM;
    }
    return NVML_SUCCESS;
}

void state_unlock(void)
{
    flock(sim.state_fd, LOCK_UN);
    pthread_mutex_unlock(&writer_mutex);
}
