/* nvidia-smi of a simulated driver root.
 *
 * What it does itself: `compute-policy` (the real program reaches that setting through a private door that the
 * simulated library does not have). Everything else is done by NVIDIA's own nvidia-smi, when it could be had: its file
 * follows this program's image (footer of 24 bytes: "NVSMIREL", offset, length) and is run from memory, so that one
 * file mounted into a container is enough. Without it: -L, --version, -i, -c and -pm, in the real one's words.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <getopt.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void *device_t;
static void *nvml;
static char own_path[PATH_MAX];

/* Address of an NVML function, called with any arguments: they are integers and pointers all. */
static int (*function(const char *name))()
{
    int (*found)() = (int (*)())dlsym(nvml, name);
    if (!found) {
        fprintf(stderr, "NVIDIA-SMI: libnvidia-ml has no %s\n", name);
        exit(12);
    }
    return found;
}

static int check(int code, const char *what)
{
    if (code == 0) return 0;
    const char *(*text)(int) = (const char *(*)(int))dlsym(nvml, "nvmlErrorString");
    fprintf(stderr, "%s: %s\n", what, text ? text(code) : "unknown");
    exit(code);
}

static void open_nvml(void)
{
    nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!nvml) {
        puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA "
             "Display Driver is properly installed and present in your system.");
        exit(12);
    }
    if (function("nvmlInit_v2")() != 0) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
             "NVIDIA driver is installed and running.\n");
        exit(9);
    }
}

/* Under a driver root that is not "/", the libraries beside this program come first. */
static void prefer_own_libraries(char **argv)
{
    char directory[PATH_MAX + 32], path[2 * PATH_MAX];
    const char *end = strstr(own_path, "/usr/bin/nvidia-smi");
    if (!end || end == own_path) return;
    for (const char *const *arch = (const char *const[]){"x86_64", "aarch64", NULL}; *arch; arch++) {
        snprintf(directory, sizeof directory, "%.*s/usr/lib/%s-linux-gnu", (int)(end - own_path), own_path, *arch);
        if (access(directory, F_OK)) continue;
        const char *before = getenv("LD_LIBRARY_PATH");
        snprintf(path, sizeof path, "%s%s%s", directory, before ? ":" : "", before ? before : "");
        if (before && strstr(before, directory)) return;
        setenv("LD_LIBRARY_PATH", path, 1);
        execv(own_path, argv); /* the loader reads it at start only */
    }
}

static void run_real(char **argv)
{
    struct { char magic[8]; uint64_t offset, length; } footer;
    FILE *file = fopen(own_path, "re");
    if (!file || fseek(file, -(long)sizeof footer, SEEK_END) || fread(&footer, sizeof footer, 1, file) != 1 ||
        memcmp(footer.magic, "NVSMIREL", 8))
        return;
    char *image = malloc(footer.length);
    int fd = memfd_create("nvidia-smi", MFD_CLOEXEC);
    if (image && fd >= 0 && fseek(file, (long)footer.offset, SEEK_SET) == 0 &&
        fread(image, 1, footer.length, file) == footer.length && write(fd, image, footer.length) == (long)footer.length)
        fexecve(fd, argv, environ);
    perror("nvidia-smi: cannot run the program behind this one");
    exit(1);
}

/* Index, UUID or bus id to a handle. */
static device_t find(const char *text)
{
    device_t device = NULL;
    char *end;
    unsigned int index = (unsigned int)strtoul(text, &end, 10);
    int code = !*end                    ? function("nvmlDeviceGetHandleByIndex_v2")(index, &device)
               : strstr(text, "GPU-") ? function("nvmlDeviceGetHandleByUUID")(text, &device)
                                        : function("nvmlDeviceGetHandleByPciBusId_v2")(text, &device);
    check(code, "Unable to determine the device handle for GPU");
    return device;
}

static unsigned int gpu_count(void)
{
    unsigned int count = 0;
    check(function("nvmlDeviceGetCount_v2")(&count), "Unable to get the number of GPUs");
    return count;
}

/* Runs `action` on the GPU given with -i, or on all. */
static void for_each(const char *chosen, void (*action)(device_t device, int value), int value)
{
    if (chosen) {
        action(find(chosen), value);
        return;
    }
    for (unsigned int i = 0, count = gpu_count(); i < count; i++) {
        device_t device;
        check(function("nvmlDeviceGetHandleByIndex_v2")(i, &device), "Unable to determine the device handle");
        action(device, value);
    }
}

static void set_timeslice(device_t device, int value)
{
    check(function("nvsimDeviceSetTimeslice")(device, value), "Failed to set timeslice for requested devices");
}

static void show_timeslice(device_t device, int unused)
{
    static const char *const names[] = {"Default", "Short", "Medium", "Long"};
    unsigned int index, value;
    (void)unused;
    check(function("nvmlDeviceGetIndex")(device, &index), "Unable to get the index");
    check(function("nvsimDeviceGetTimeslice")(device, &value), "Failed to get compute policies");
    printf("|%4u     Timeslice      %-12s|\n", index, names[value & 3]);
}

static int compute_policy(int argc, char **argv)
{
    static const struct option options[] = {
        {"id", required_argument, NULL, 'i'}, {"set-timeslice", required_argument, NULL, 's'},
        {"list", no_argument, NULL, 'l'}, {0},
    };
    const char *chosen = NULL;
    int timeslice = -1, list = 0, option;
    while ((option = getopt_long(argc, argv, "i:l", options, NULL)) != -1) {
        if (option == 'i') chosen = optarg;
        else if (option == 's') timeslice = atoi(optarg);
        else if (option == 'l') list = 1;
        else return 2;
    }
    if (timeslice < 0 && !list) return 2;
    open_nvml();
    if (list) puts("+-------------------------------------+\n| GPU compute policies:               |");
    for_each(chosen, list ? show_timeslice : set_timeslice, timeslice);
    if (list) puts("+-------------------------------------+");
    return 0;
}

static void list_gpu(device_t device, int unused)
{
    unsigned int index;
    char name[96], uuid[96];
    (void)unused;
    check(function("nvmlDeviceGetIndex")(device, &index), "Unable to get the index");
    check(function("nvmlDeviceGetName")(device, name, 96), "Unable to get the name");
    check(function("nvmlDeviceGetUUID")(device, uuid, 96), "Unable to get the UUID");
    printf("GPU %u: %s (UUID: %s)\n", index, name, uuid);
}

static void set_compute_mode(device_t device, int mode)
{
    check(function("nvmlDeviceSetComputeMode")(device, mode), "Unable to set the compute mode");
}

static void set_persistence(device_t device, int mode)
{
    check(function("nvmlDeviceSetPersistenceMode")(device, mode), "Unable to set the persistence mode");
}

static int compute_mode(const char *text)
{
    return !strcmp(text, "EXCLUSIVE_PROCESS") || !strcmp(text, "3") ? 3
           : !strcmp(text, "PROHIBITED") || !strcmp(text, "2")      ? 2
                                                                    : 0;
}

/* The real one's options are one dash and a word too (-pm), so getopt is of no use. */
static int own_commands(int argc, char **argv)
{
    const char *chosen = NULL;
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "-i") || !strcmp(argv[i], "--id")) chosen = argv[i + 1];
    open_nvml();
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "-L")) for_each(chosen, list_gpu, 0);
        if (!strcmp(argv[i], "-c")) for_each(chosen, set_compute_mode, compute_mode(value));
        if (!strcmp(argv[i], "-pm")) for_each(chosen, set_persistence, atoi(value));
    }
    char version[80];
    check(function("nvmlSystemGetDriverVersion")(version, 80), "Unable to get the driver version");
    if (argc == 1 || !strcmp(argv[1], "--version")) printf("NVIDIA-SMI (simulated)\nDRIVER version      : %s\n", version);
    if (argc == 1) for_each(NULL, list_gpu, 0);
    return 0;
}

int main(int argc, char **argv)
{
    ssize_t length = readlink("/proc/self/exe", own_path, sizeof own_path - 1);
    own_path[length > 0 ? length : 0] = 0;
    prefer_own_libraries(argv);
    if (argc > 1 && !strcmp(argv[1], "compute-policy")) return compute_policy(argc - 1, argv + 1);
    run_real(argv);
    return own_commands(argc, argv);
}
