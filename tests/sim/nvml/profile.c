/* Reads the profile from the trailer of the library file (written by tests/sim/library.py).
 *
 * File: ELF image, padding to a page, shared state (struct state), profile text, footer of 32 bytes:
 * "NVSIMTRL", then three little-endian 64-bit numbers: offset of the state, offset and length of the text.
 * Text: one `key value...` a line; `model N` and `gpu N` open a section; unknown keys are an error, so that a
 * renderer and a parser that drifted apart are noticed at once.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sim.h"

struct footer { char magic[8]; uint64_t state, text, length; };
enum kind { TEXT, NUMBER, SIGNED, WIDE, BYTES };
struct key { const char *name; size_t offset, size; enum kind kind; };

#define FIELD(type, name, kind) {#name, offsetof(type, name), sizeof(((type *)0)->name), kind}
#define S(name) FIELD(struct profile, name, TEXT)
#define N(name) FIELD(struct profile, name, NUMBER)
static const struct key system_keys[] = {
    S(driver), S(nvml), S(branch), S(chassis_serial), N(cuda), N(fabric_clique), N(slot_number), N(tray), N(host),
    FIELD(struct profile, cluster_uuid, BYTES), {0},
};
#undef S
#undef N
#define S(name) FIELD(struct model, name, TEXT)
#define N(name) FIELD(struct model, name, NUMBER)
static const struct key model_keys[] = {
    S(name), S(board_part), S(vbios), S(inforom_image), S(inforom_oem), S(inforom_ecc), S(gsp_firmware),
    N(brand), N(architecture), N(cc_major), N(cc_minor), N(cores), N(bus_width), N(pci_device), N(pci_subsystem),
    N(memory_mb), N(reserved_mb), N(bar1_mb), N(pcie_generation), N(pcie_width), N(pcie_speed_mbps),
    N(clock_graphics), N(clock_memory), N(clock_video), N(temp_slowdown), N(temp_shutdown), N(temp_memory_max),
    N(temp_gpu_max), N(power_min_mw), N(power_default_mw), N(power_max_mw), N(power_idle_mw), N(ecc), N(remap_rows),
    N(nvlinks), N(nvlink_version), N(nvlink_mbps), N(nvlink_to_switch), N(c2c), N(addressing_mode), N(fabric),
    N(mig), N(mig_needs_reset), N(mig_slices), N(sms_per_slice), N(fans), {0},
};
#undef S
#undef N
#define S(name) FIELD(struct gpu, name, TEXT)
#define N(name) FIELD(struct gpu, name, NUMBER)
static const struct key gpu_keys[] = {
    S(uuid), S(serial), S(cpus), N(model_index), N(minor), N(module_id), N(domain), N(bus), N(slot), N(pcie_switch),
    N(pcie_root), N(board_id), FIELD(struct gpu, numa, SIGNED), FIELD(struct gpu, memory_numa, SIGNED),
    FIELD(struct gpu, pdi, WIDE), {0},
};
#undef S
#undef N

static void set_bytes(unsigned char *out, size_t size, const char *hex)
{
    for (size_t i = 0; i < size; i++) {
        unsigned int byte = 0;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (unsigned char)byte;
    }
}

static int set(void *base, const struct key *keys, const char *name, const char *value)
{
    for (const struct key *key = keys; key->name; key++) {
        if (strcmp(key->name, name)) continue;
        char *at = (char *)base + key->offset;
        if (key->kind == TEXT) snprintf(at, key->size, "%s", value);
        if (key->kind == NUMBER) *(u32 *)at = (u32)strtoul(value, NULL, 0);
        if (key->kind == SIGNED) *(int *)at = (int)strtol(value, NULL, 0);
        if (key->kind == WIDE) *(u64 *)at = strtoull(value, NULL, 0);
        if (key->kind == BYTES) set_bytes((unsigned char *)at, key->size, value);
        return 1;
    }
    fprintf(stderr, "nvsim: unknown profile key %s\n", name);
    return 0;
}

/* `gi ENUM id slices instances sms copy dec enc jpeg ofa memory_mb p2p caps size name start start ...` */
static int set_gi(struct model *model, char *value)
{
    u32 number, count = 0;
    struct gi_profile gi = {.offered = 1};
    int used = 0;
    int fields = sscanf(value, "%u %u %u %u %u %u %u %u %u %u %u %u %u %u %47s%n", &number, &gi.id, &gi.slices,
                        &gi.instances, &gi.sms, &gi.copy, &gi.decoders, &gi.encoders, &gi.jpegs, &gi.ofas,
                        &gi.memory_mb, &gi.p2p, &gi.capabilities, &gi.size, gi.name, &used);
    if (fields != 15 || number >= MAX_PROFILES) return 0;
    for (char *at = strtok(value + used, " "); at && count < 8; at = strtok(NULL, " "))
        gi.starts[count++] = (u32)strtoul(at, NULL, 10);
    gi.start_count = count;
    model->gi[number] = gi;
    return 1;
}

static int parse(struct profile *out, char *text)
{
    struct model *model = NULL;
    struct gpu *gpu = NULL;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *value = strchr(line, ' ');
        if (!value) return 0;
        *value++ = 0;
        u32 number = (u32)strtoul(value, NULL, 10);
        if (!strcmp(line, "model")) {
            if (number >= 4) return 0;
            model = &out->models[number];
        } else if (!strcmp(line, "gpu")) {
            if (number >= MAX_GPUS) return 0;
            gpu = &out->gpus[number];
            out->gpu_count = number + 1;
        } else if (gpu ? !set(gpu, gpu_keys, line, value)
                   : !model ? !set(out, system_keys, line, value)
                   : !strcmp(line, "gi") ? !set_gi(model, value)
                                         : !set(model, model_keys, line, value)) {
            return 0;
        }
    }
    for (u32 i = 0; i < out->gpu_count; i++) out->gpus[i].model = &out->models[out->gpus[i].model_index & 3];
    return 1;
}

static int read_footer(FILE *file, struct footer *out)
{
    return fseek(file, -(long)sizeof *out, SEEK_END) == 0 && fread(out, sizeof *out, 1, file) == 1 &&
           !memcmp(out->magic, "NVSIMTRL", 8) && out->length < 1 << 20;
}

long trailer_state_offset(const char *path)
{
    struct footer footer;
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    long offset = read_footer(file, &footer) ? (long)footer.state : 0;
    fclose(file);
    return offset;
}

int profile_load(struct profile *out, const char *library_path)
{
    struct footer footer;
    FILE *file = fopen(library_path, "re");
    if (!file) return 0;
    char *text = NULL;
    int good = read_footer(file, &footer) && (text = malloc(footer.length + 1)) &&
               fseek(file, (long)footer.text, SEEK_SET) == 0 && fread(text, 1, footer.length, file) == footer.length;
    fclose(file);
    if (good) {
        text[footer.length] = 0;
        memset(out, 0, sizeof *out);
        good = parse(out, text);
    }
    free(text);
    return good;
}
