#define _DEFAULT_SOURCE /* MAP_ANON, sysconf */
#define _DARWIN_C_SOURCE

#include "fuzz_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void fuzz_fail(const char *file, int line, const char *text, const gge_error *err) {
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, text);
    if (err != NULL) {
        fprintf(stderr, "  %s, input %lld: %s\n", gge_status_name(err->status), (long long)err->input_index,
                err->message);
    }
    abort();
}

void fuzz_check_error(gge_status status, const gge_error *err) {
    FUZZ_CHECK(err->status == status, err);
    FUZZ_CHECK(memchr(err->message, '\0', sizeof(err->message)) != NULL, err);
    FUZZ_CHECK((err->message[0] == '\0') == (status == GGE_OK), err);
    FUZZ_CHECK(strchr(err->message, '\n') == NULL, err);
    FUZZ_CHECK(err->input_index >= -1 && (status != GGE_OK || err->input_index == -1), err);
}

/* ------------------------------------------------------------------ input */

static uint64_t take(fuzz_input *in, size_t n) {
    uint64_t value = 0;
    size_t i;
    for (i = 0; i < n && in->size > 0; ++i) {
        value |= (uint64_t)*in->data++ << (8 * i);
        --in->size;
    }
    return value;
}

uint8_t fuzz_u8(fuzz_input *in) {
    return (uint8_t)take(in, 1);
}

uint16_t fuzz_u16(fuzz_input *in) {
    return (uint16_t)take(in, 2);
}

int32_t fuzz_i32(fuzz_input *in) {
    return (int32_t)(uint32_t)take(in, 4);
}

int64_t fuzz_i64(fuzz_input *in) {
    return (int64_t)take(in, 8);
}

int32_t fuzz_option(fuzz_input *in, int32_t n_valid) {
    const uint8_t first = fuzz_u8(in);
    return first >= 0xf0 ? fuzz_i32(in) : first % n_valid;
}

/* ------------------------------------------------------------------ memory */

static size_t page_bytes(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t round_to_pages(size_t bytes) {
    return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

void *fuzz_guarded_new(size_t bytes) {
    const size_t page = page_bytes();
    const size_t room = round_to_pages(bytes);
    char *base = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (base == MAP_FAILED || (room > 0 && mprotect(base + page, room, PROT_READ | PROT_WRITE) != 0)) {
        perror("mmap");
        abort();
    }
    return base + page + room - bytes;
}

void fuzz_guarded_free(void *end_guarded, size_t bytes) {
    if (end_guarded != NULL) {
        const size_t page = page_bytes();
        const size_t room = round_to_pages(bytes);
        munmap((char *)end_guarded + bytes - room - page, room + 2 * page);
    }
}

void *fuzz_guarded_copy(const void *from, size_t bytes) {
    void *to = fuzz_guarded_new(bytes);
    if (bytes > 0) {
        memcpy(to, from, bytes);
    }
    return to;
}

/* ------------------------------------------------------------------ models */

static struct {
    gge_model *model;
    gge_model_info info;
} models[32];
static unsigned n_models = 0;

void fuzz_load_models(void) {
    const char *list = getenv("GGEMBED_TEST_MODEL");
    while (list != NULL && *list != '\0' && n_models < sizeof(models) / sizeof(models[0])) {
        const size_t n = strcspn(list, ":");
        char path[4096];
        gge_error err;
        if (n >= sizeof(path)) {
            fprintf(stderr, "a path in GGEMBED_TEST_MODEL has %zu bytes\n", n);
            exit(1);
        }
        memcpy(path, list, n);
        path[n] = '\0';
        list += n + (list[n] == ':');
        if (n == 0) {
            continue;
        }
        models[n_models].info.struct_size = sizeof(gge_model_info);
        if (gge_model_load(path, NULL, &models[n_models].model, &err) != GGE_OK ||
            gge_model_get_info(models[n_models].model, &models[n_models].info, &err) != GGE_OK) {
            fprintf(stderr, "cannot load %s: %s\n", path, err.message);
            exit(1);
        }
        ++n_models;
    }
    if (n_models == 0) {
        fprintf(stderr, "skipped: GGEMBED_TEST_MODEL names no model\n");
        exit(77);
    }
}

gge_model *fuzz_model(unsigned i, gge_model_info *info) {
    *info = models[i % n_models].info;
    return models[i % n_models].model;
}
