/* Reaches gge_media_image, gge_media_video, gge_media_add_frame, gge_media_audio, gge_tokenize_parts, and gge_encode with
 * what comes of them: sizes, strides, limits, times and samples of any value, parts in any order. Pixels, samples,
 * texts and rows end at an unmapped page. Rows are the same alone and in company.
 *
 * Input: flags, number of media, for each its kind and what it is made of, number of inputs, for each its parts. Needs
 * GGEMBED_TEST_OMNI: a text model and its projectors for vision and audio, separated by colons. */
#include "fuzz_util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_MEDIA = 3,
    MAX_INPUTS = 3,
    MAX_PARTS = 4,
    MAX_FRAMES = 6,
    MAX_SIDE = 100, /* for speed */
    MAX_SAMPLES = 8000,
    F_COLLECT = 1,
    F_PROMPT = 2,
    F_LIMIT = 4,
    F_SMALL_PASSES = 8
};

typedef struct medium {
    gge_media *handle;
    int complete;
} medium;

static gge_model *model = NULL;
static gge_engine *engines[2]; /* the second encodes one medium at a time */
static gge_model_info info;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *list = getenv("GGEMBED_TEST_OMNI");
    static char paths[4096];
    const char *mmproj[2];
    gge_model_options opts = {0};
    gge_engine_options engine_opts = {0};
    gge_error err;
    int i;
    (void)argc;
    (void)argv;
    if (list == NULL) {
        fprintf(stderr, "skipped: GGEMBED_TEST_OMNI is not set\n");
        exit(77);
    }
    snprintf(paths, sizeof(paths), "%s", list);
    for (i = 0; i < 2; ++i) {
        char *colon = strrchr(paths, ':');
        FUZZ_CHECK(colon != NULL, NULL);
        *colon = '\0';
        mmproj[i] = colon + 1;
    }
    opts.struct_size = sizeof(opts);
    opts.n_mmproj = 2;
    opts.mmproj = mmproj;
    FUZZ_CHECK(gge_model_load(paths, &opts, &model, &err) == GGE_OK, &err);
    info.struct_size = sizeof(info);
    FUZZ_CHECK(gge_model_get_info(model, &info, &err) == GGE_OK, &err);
    engine_opts.struct_size = sizeof(engine_opts);
    engine_opts.n_threads = 1;
    engine_opts.n_ubatch = 32;
    for (i = 0; i < 2; ++i) {
        engine_opts.n_tower_batch = i;
        FUZZ_CHECK(gge_engine_create(model, &engine_opts, &engines[i], &err) == GGE_OK, &err);
    }
    return 0;
}

static int64_t clamped(int64_t value, int64_t most) {
    return value > most ? most : value;
}

/* A size that the library refuses, or one that is quickly done. */
static int read_size(fuzz_input *in, int32_t *width, int32_t *height) {
    *width = fuzz_option(in, MAX_SIDE);
    *height = fuzz_option(in, MAX_SIDE);
    if (*width > MAX_SIDE && *width <= 1 << 16) {
        *width = MAX_SIDE;
    }
    if (*height > MAX_SIDE && *height <= 1 << 16) {
        *height = MAX_SIDE;
    }
    return *width >= 1 && *height >= 1 && *width <= 1 << 16 && *height <= 1 << 16 && *width <= 200 * *height &&
           *height <= 200 * *width;
}

/* Pixels of [height, row_bytes], the last row without what stands behind it. */
static uint8_t *make_pixels(fuzz_input *in, int32_t width, int32_t height, int64_t row_bytes, size_t *bytes) {
    uint8_t *pixels;
    size_t i;
    *bytes = (size_t)(row_bytes * (height - 1) + 3 * width);
    pixels = fuzz_guarded_new(*bytes);
    for (i = 0; i < *bytes; ++i) {
        pixels[i] = in->size == 0 ? (uint8_t)(37 * i) : in->data[i % in->size];
    }
    return pixels;
}

static gge_status make_image(fuzz_input *in, medium *m, gge_error *err) {
    gge_media_options opts = {0};
    int32_t width;
    int32_t height;
    const int size_is_valid = read_size(in, &width, &height);
    int64_t row_bytes = 3 * (int64_t)width + (fuzz_u8(in) % 4) - 1;
    const int is_valid = size_is_valid && row_bytes >= 3 * (int64_t)width;
    size_t bytes = 1;
    uint8_t *pixels;
    gge_status status;
    opts.struct_size = sizeof(opts);
    opts.min_pixels = clamped(64 * (int64_t)fuzz_option(in, 200), 1 << 14);
    opts.max_pixels = 64 * (int64_t)fuzz_option(in, 200);
    if (opts.max_pixels > 1 << 14) {
        opts.max_pixels = INT64_MAX;
    }
    pixels = is_valid ? make_pixels(in, width, height, row_bytes, &bytes) : fuzz_guarded_new(bytes);
    status = gge_media_image(model, pixels, width, height, row_bytes, &opts, &m->handle, err);
    m->complete = 1;
    if (!is_valid || opts.min_pixels < 0 || opts.max_pixels < 0 ||
        (opts.max_pixels > 0 && opts.min_pixels > opts.max_pixels)) {
        FUZZ_CHECK(status == GGE_E_INVALID, err);
    } else {
        FUZZ_CHECK(status == GGE_OK, err);
    }
    fuzz_guarded_free(pixels, bytes);
    return status;
}

static gge_status make_video(fuzz_input *in, medium *m, gge_error *err) {
    int32_t width;
    int32_t height;
    int is_valid = read_size(in, &width, &height);
    const int32_t n_frames = fuzz_option(in, MAX_FRAMES);
    const int n_given = n_frames + 1 - fuzz_u8(in) % 3;
    double *seconds = NULL;
    size_t n_seconds = 0;
    gge_status status;
    int i;
    is_valid = is_valid && n_frames >= 1 && n_frames <= MAX_FRAMES;
    if (n_frames > MAX_FRAMES && n_frames <= 1 << 20) {
        return GGE_E_INVALID; /* allowed, but slow */
    }
    if (is_valid && fuzz_u8(in) % 2) {
        n_seconds = (size_t)n_frames * sizeof(*seconds);
        seconds = fuzz_guarded_new(n_seconds);
        for (i = 0; i < n_frames; ++i) {
            const uint16_t time = fuzz_u16(in);
            seconds[i] = time == 0xffff ? NAN : time / 16.0;
            is_valid = is_valid && time != 0xffff && (i == 0 || seconds[i] >= seconds[i - 1]);
        }
    }
    status = gge_media_video(model, n_frames, width, height, seconds, NULL, &m->handle, err);
    FUZZ_CHECK((status == GGE_OK) == is_valid && (is_valid || status == GGE_E_INVALID), err);
    for (i = 0; status == GGE_OK && i < n_given; ++i) {
        size_t bytes;
        uint8_t *pixels = make_pixels(in, width, height, 3 * (int64_t)width, &bytes);
        const gge_status added = gge_media_add_frame(m->handle, pixels, 3 * (int64_t)width, err);
        fuzz_check_error(added, err);
        FUZZ_CHECK(added == (i < n_frames ? GGE_OK : GGE_E_INVALID), err);
        fuzz_guarded_free(pixels, bytes);
    }
    m->complete = n_given >= n_frames;
    fuzz_guarded_free(seconds, n_seconds);
    return status;
}

static gge_status make_sound(fuzz_input *in, medium *m, gge_error *err) {
    const int64_t n = clamped(32 * (int64_t)fuzz_option(in, 240), MAX_SAMPLES);
    const size_t bytes = n > 0 ? (size_t)n * sizeof(float) : 0;
    float *samples = fuzz_guarded_new(bytes);
    uint32_t bits[4];
    gge_status status;
    int64_t i;
    for (i = 0; i < 4; ++i) {
        bits[i] = (uint32_t)fuzz_i32(in);
    }
    for (i = 0; i < n; ++i) {
        memcpy(&samples[i], &bits[i % 4], sizeof(float));
    }
    status = gge_media_audio(model, samples, n, NULL, &m->handle, err);
    m->complete = 1;
    FUZZ_CHECK(status == (n >= 480 ? GGE_OK : GGE_E_INVALID), err);
    FUZZ_CHECK(status != GGE_OK || gge_media_n_rows(m->handle) == ((n + 159) / 160 + 1) / 4, NULL);
    fuzz_guarded_free(samples, bytes);
    return status;
}

static void make_medium(fuzz_input *in, medium *m) {
    gge_error err = {0};
    const int kind = fuzz_u8(in) % 3;
    const gge_status status = kind == 0   ? make_image(in, m, &err)
                              : kind == 1 ? make_video(in, m, &err)
                                          : make_sound(in, m, &err);
    int32_t width;
    int32_t height;
    int64_t n_frames;
    FUZZ_CHECK((status == GGE_OK) == (m->handle != NULL), &err);
    gge_media_shape(m->handle, &width, &height, &n_frames);
    if (m->handle != NULL) {
        FUZZ_CHECK(gge_media_n_rows(m->handle) > 0 && n_frames > 0, NULL);
        FUZZ_CHECK((width > 0 && height > 0) == (kind != 2), NULL);
    }
}

static int is_ascii(const uint8_t *text, int64_t n) {
    while (n > 0 && text[n - 1] < 0x80) {
        --n;
    }
    return n == 0;
}

/* Of a part that is not valid, the library must say so whatever else there is. */
static int read_part(fuzz_input *in, const medium *media, int n_media, gge_part *part) {
    part->kind = fuzz_option(in, 4);
    if (part->kind == GGE_PART_MEDIA) {
        const int i = fuzz_u8(in) % (n_media + 1);
        part->media = i == n_media ? NULL : media[i].handle;
        return part->media != NULL && media[i].complete;
    }
    part->n_bytes = fuzz_u8(in) % 32;
    part->n_bytes = clamped(part->n_bytes, (int64_t)in->size);
    part->text = fuzz_guarded_copy(in->data, (size_t)part->n_bytes);
    in->data += part->n_bytes;
    in->size -= (size_t)part->n_bytes;
    return part->kind == GGE_PART_TEXT || part->kind == GGE_PART_TEMPLATE;
}

static void check_tokens(const gge_tokens *tokens, const gge_part *parts, const int64_t *offsets, int64_t n_inputs) {
    const int64_t *begin = gge_tokens_offsets(tokens);
    int64_t i;
    FUZZ_CHECK(gge_tokens_n_texts(tokens) == n_inputs && begin[0] == 0, NULL);
    for (i = 0; i < n_inputs; ++i) {
        int64_t n_rows = 0;
        int64_t n_gaps = 0;
        int64_t k;
        for (k = offsets[i]; k < offsets[i + 1]; ++k) {
            n_rows += gge_media_n_rows(parts[k].media);
        }
        for (k = begin[i]; k < begin[i + 1]; ++k) {
            const int32_t id = gge_tokens_ids(tokens)[k];
            FUZZ_CHECK(id >= -1 && id < info.n_vocab, NULL);
            n_gaps += id == -1;
        }
        FUZZ_CHECK(n_gaps == (begin[i + 1] > begin[i] ? n_rows : 0), NULL);
    }
}

/* Rows of all inputs, or NaN; [n_inputs, n_embd] */
static float *encode(const gge_tokens *tokens, gge_engine *engine, int64_t n_inputs, const int32_t *token_status,
                     size_t *bytes) {
    gge_encode_options opts = {0};
    gge_error err;
    int32_t status[MAX_INPUTS];
    float *rows;
    int64_t i;
    *bytes = (size_t)n_inputs * (size_t)info.n_embd * sizeof(float);
    rows = fuzz_guarded_new(*bytes);
    opts.struct_size = sizeof(opts);
    opts.input_status = status;
    FUZZ_CHECK(gge_encode(engine, tokens, &opts, rows, n_inputs, info.n_embd, &err) == GGE_OK, &err);
    for (i = 0; i < n_inputs; ++i) {
        const int is_empty = gge_tokens_offsets(tokens)[i + 1] == gge_tokens_offsets(tokens)[i];
        FUZZ_CHECK(status[i] == (token_status[i] != GGE_OK ? token_status[i] : is_empty ? GGE_E_EMPTY : GGE_OK), NULL);
        FUZZ_CHECK((isfinite(rows[i * info.n_embd]) != 0) == (status[i] == GGE_OK), NULL);
    }
    return rows;
}

static void check_alike(const float *a, const float *b) {
    double dot = 0;
    int32_t i;
    for (i = 0; i < info.n_embd; ++i) {
        dot += (double)a[i] * (double)b[i];
    }
    FUZZ_CHECK(!isfinite(a[0]) || fabs(dot - 1) < 1e-4, NULL);
}

static void check_rows(const gge_tokens *tokens, const gge_part *parts, const int64_t *offsets, int64_t n_inputs,
                       const gge_tokenize_options *opts, const int32_t *status, gge_engine *engine) {
    size_t bytes;
    float *rows = encode(tokens, engine, n_inputs, status, &bytes);
    gge_tokenize_options alone_opts = *opts;
    int64_t i;
    alone_opts.input_status = NULL;
    for (i = 0; i < n_inputs; ++i) {
        size_t alone_bytes;
        float *row;
        gge_tokens *alone = NULL;
        gge_error err;
        if (status[i] != GGE_OK) {
            continue;
        }
        FUZZ_CHECK(gge_tokenize_parts(model, parts, offsets + i, 1, &alone_opts, &alone, &err) == GGE_OK, &err);
        row = encode(alone, engines[0], 1, status + i, &alone_bytes);
        check_alike(rows + i * info.n_embd, row);
        fuzz_guarded_free(row, alone_bytes);
        gge_tokens_free(alone);
    }
    fuzz_guarded_free(rows, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const uint8_t flags = fuzz_u8(&in);
    const int n_media = fuzz_u8(&in) % (MAX_MEDIA + 1);
    medium media[MAX_MEDIA] = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    gge_part parts[MAX_INPUTS * MAX_PARTS];
    int64_t offsets[MAX_INPUTS + 1] = {0};
    int32_t status[MAX_INPUTS] = {0};
    gge_tokenize_options opts = {0};
    gge_tokens *tokens = NULL;
    gge_error err;
    gge_status result;
    int64_t n_inputs;
    int64_t n_parts = 0;
    int64_t i;
    int parts_are_valid = 1;
    int texts_are_ascii = 1;

    for (i = 0; i < n_media; ++i) {
        make_medium(&in, &media[i]);
    }
    memset(parts, 0, sizeof(parts));
    opts.struct_size = sizeof(opts);
    opts.max_tokens = flags & F_LIMIT ? 1 + fuzz_u8(&in) : 0;
    opts.input_status = flags & F_COLLECT ? status : NULL;
    if (flags & F_PROMPT) {
        opts.prompt = (const uint8_t *)"Document: ";
        opts.prompt_bytes = 10;
    }
    n_inputs = fuzz_u8(&in) % (MAX_INPUTS + 1);
    for (i = 0; i < n_inputs; ++i) {
        const int64_t end = n_parts + fuzz_u8(&in) % (MAX_PARTS + 1);
        for (; n_parts < end; ++n_parts) {
            parts_are_valid = read_part(&in, media, n_media, &parts[n_parts]) && parts_are_valid;
            texts_are_ascii = texts_are_ascii && is_ascii(parts[n_parts].text, parts[n_parts].n_bytes);
        }
        offsets[i + 1] = end;
    }

    result = gge_tokenize_parts(model, n_parts == 0 ? NULL : parts, offsets, n_inputs, &opts, &tokens, &err);
    fuzz_check_error(result, &err);
    FUZZ_CHECK((result == GGE_OK) == (tokens != NULL), &err);
    if (!parts_are_valid) {
        FUZZ_CHECK(result == GGE_E_INVALID && err.input_index == -1, &err);
    } else if (!(flags & F_LIMIT) && texts_are_ascii) {
        FUZZ_CHECK(result == GGE_OK, &err);
    }
    if (result == GGE_OK) {
        check_tokens(tokens, parts, offsets, n_inputs);
        check_rows(tokens, parts, offsets, n_inputs, &opts, status, engines[flags & F_SMALL_PASSES ? 1 : 0]);
    } else {
        FUZZ_CHECK(result == GGE_E_INVALID || result == GGE_E_TOO_LONG, &err);
    }
    gge_tokens_free(tokens);
    for (i = 0; i < n_parts; ++i) {
        fuzz_guarded_free((void *)(uintptr_t)parts[i].text, (size_t)parts[i].n_bytes);
    }
    for (i = 0; i < n_media; ++i) {
        gge_media_free(media[i].handle);
    }
    return 0;
}
