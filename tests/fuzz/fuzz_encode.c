/* Reaches gge_engine_create and gge_encode: the checks of options and shapes, the planner, inputs that span micro-batches,
 * a session that grows, pooling, truncation, normalising, statuses per input, abort and close. Several calls go to one
 * engine. Ids, offsets, statuses and rows end at an unmapped page, the rows right after the last float that the header
 * lets the library write.
 *
 * Input: model, engine options, then for each call flags, encode options, number of texts, and per text a length and its
 * ids. Needs GGEMBED_TEST_MODEL. */
#include "fuzz_util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_TEXTS = 12,
    MAX_CALLS = 4,
    MAX_TOKENS = 1500, /* of a call: for speed */
    F_STATUS = 1,
    F_WIDE = 2,
    F_WRONG_ROWS = 4,
    F_ABORT = 8,
    F_FROM_BYTES = 16,
    F_NO_OUT = 32,
    F_CLOSE = 64,
    F_ALONE = 128
};

static const float untouched = -12345.0f;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    fuzz_load_models();
    return 0;
}

static int32_t abort_later(void *user_data) {
    return --*(int *)user_data < 0;
}

static void check_progress(void *user_data, int64_t done, int64_t total) {
    (void)user_data;
    FUZZ_CHECK(done >= 0 && done <= total, NULL);
}

static int in_range(int64_t value, int64_t low, int64_t high) {
    return value >= low && value <= high;
}

/* NULL where the options are not valid or the model cannot be used so. */
static gge_engine *make_engine(fuzz_input *in, gge_model *model, const gge_model_info *info) {
    gge_engine_options opts = {0};
    gge_engine *engine = NULL;
    gge_engine_info engine_info = {0};
    gge_error err;
    gge_status status;
    int valid;
    opts.struct_size = sizeof(opts);
    opts.attention = fuzz_option(in, 3);
    opts.flash_attention = fuzz_option(in, 3);
    opts.n_ctx = fuzz_option(in, 240);
    opts.n_ubatch = fuzz_option(in, 80);
    opts.n_seq_max = fuzz_option(in, 10);
    opts.n_threads = fuzz_u8(in) % 16 == 15 ? 2 : 1; /* two wait for each other: slow where cores are shared */
    if (opts.n_ubatch > 2048 && opts.n_ubatch <= 1 << 20) {
        opts.n_ubatch = 2048; /* allowed, but slow */
    }
    valid = in_range(opts.attention, 0, 2) && in_range(opts.flash_attention, 0, 2) &&
            in_range(opts.n_ctx, 0, info->n_ctx_train) && in_range(opts.n_ubatch, 0, 1 << 20) &&
            in_range(opts.n_seq_max, 0, 256);
    status = gge_engine_create(model, &opts, &engine, &err);
    fuzz_check_error(status, &err);
    FUZZ_CHECK((status == GGE_OK) == (engine != NULL), &err);
    if (!valid) {
        FUZZ_CHECK(status == GGE_E_INVALID || status == GGE_E_UNSUPPORTED, &err);
    } else if (!info->has_cache && opts.attention == GGE_ATTENTION_CAUSAL) {
        FUZZ_CHECK(status == GGE_E_UNSUPPORTED, &err);
    } else {
        FUZZ_CHECK(status == GGE_OK, &err);
        engine_info.struct_size = sizeof(engine_info);
        FUZZ_CHECK(gge_engine_get_info(engine, &engine_info, &err) == GGE_OK, &err);
        FUZZ_CHECK(engine_info.n_ctx == (opts.n_ctx > 0 ? opts.n_ctx : info->n_ctx_train), NULL);
        FUZZ_CHECK(engine_info.n_ubatch >= 1 && engine_info.n_seq_max >= 1, NULL);
        FUZZ_CHECK(engine_info.attention != GGE_ATTENTION_DEFAULT, NULL);
    }
    return engine;
}

/* Token ids of the next texts; some are out of range at first, which must be noticed. */
static gge_tokens *make_tokens(fuzz_input *in, const gge_model *model, const gge_model_info *info, int64_t n_texts) {
    int32_t *all = malloc(MAX_TOKENS * sizeof(*all));
    int64_t offsets[MAX_TEXTS + 1] = {0};
    int64_t first_bad = -1;
    int64_t n = 0;
    int64_t i;
    gge_tokens *tokens = NULL;
    gge_error err;
    gge_status status;
    int32_t *ids;
    for (i = 0; i < n_texts; ++i) {
        const uint8_t code = fuzz_u8(in);
        const int repeats = code >= 0xe0; /* a long one, of which the input holds the first id and the step only */
        const int64_t left = MAX_TOKENS - n;
        const int64_t wanted = repeats ? (code - 0xe0 + 1) * 24 : code % 24;
        const int64_t n_text = wanted < left ? wanted : left;
        int32_t id = 0;
        int32_t step = 0;
        int64_t k;
        for (k = 0; k < n_text; ++k) {
            if (k == 0 || !repeats) {
                const uint16_t x = fuzz_u16(in);
                id = x >= 0xff00 ? fuzz_i32(in) : x % info->n_vocab;
                step = repeats ? fuzz_u8(in) : 0;
            } else if (in_range(id, 0, info->n_vocab - 1)) {
                id = (id + step) % info->n_vocab;
            }
            if (first_bad < 0 && !in_range(id, 0, info->n_vocab - 1)) {
                first_bad = i;
            }
            all[n++] = id;
        }
        offsets[i + 1] = n;
    }
    ids = fuzz_guarded_copy(all, (size_t)n * sizeof(*ids));
    status = gge_tokens_from_ids(model, ids, offsets, n_texts, &tokens, &err);
    fuzz_check_error(status, &err);
    if (first_bad >= 0) {
        FUZZ_CHECK(status == GGE_E_INVALID && err.input_index == first_bad && tokens == NULL, &err);
        for (i = 0; i < n; ++i) {
            ids[i] = in_range(ids[i], 0, info->n_vocab - 1) ? ids[i] : 0;
        }
        status = gge_tokens_from_ids(model, ids, offsets, n_texts, &tokens, &err);
    }
    FUZZ_CHECK(status == GGE_OK && gge_tokens_n_texts(tokens) == n_texts, &err);
    FUZZ_CHECK(memcmp(gge_tokens_offsets(tokens), offsets, (size_t)(n_texts + 1) * sizeof(*offsets)) == 0, NULL);
    fuzz_guarded_free(ids, (size_t)n * sizeof(*ids));
    free(all);
    return tokens;
}

/* Texts of few bytes, some of which are not UTF-8; statuses is where the tokenizer says which. */
static gge_tokens *make_tokens_from_bytes(fuzz_input *in, const gge_model *model, int64_t n_texts, int32_t *statuses) {
    uint8_t bytes[MAX_TEXTS * 16];
    int64_t offsets[MAX_TEXTS + 1] = {0};
    int64_t n = 0;
    int64_t i;
    gge_tokenize_options opts = {0};
    gge_tokens *tokens = NULL;
    gge_error err;
    gge_status status;
    for (i = 0; i < n_texts; ++i) {
        int k = fuzz_u8(in) % 17;
        while (k-- > 0) {
            bytes[n++] = fuzz_u8(in);
        }
        offsets[i + 1] = n;
    }
    opts.struct_size = sizeof(opts);
    opts.add_special = n % 2 == 0 ? GGE_ON : GGE_OFF;
    opts.input_status = statuses;
    status = gge_tokenize(model, bytes, offsets, n_texts, &opts, &tokens, &err);
    FUZZ_CHECK(status == GGE_OK, &err);
    return tokens;
}

static void check_row(const float *row, int32_t n, gge_status status, int normalized) {
    double sum = 0;
    int32_t i;
    for (i = 0; i < n; ++i) {
        FUZZ_CHECK(status == GGE_OK ? isfinite(row[i]) : isnan(row[i]), NULL);
        sum += (double)row[i] * (double)row[i];
    }
    FUZZ_CHECK(status != GGE_OK || !normalized || sum == 0.0 || fabs(sum - 1.0) < 1e-4, NULL);
}

/* The header's promise: the same row alone and in any company. Both rows are of unit length. */
static void check_alone(gge_engine *engine, const gge_model *model, const gge_tokens *tokens, int64_t i,
                        gge_pooling pooling, const float *row, int32_t n_embd) {
    const int64_t begin = gge_tokens_offsets(tokens)[i];
    const int64_t offsets[2] = {0, gge_tokens_offsets(tokens)[i + 1] - begin};
    float *alone = malloc((size_t)n_embd * sizeof(*alone));
    gge_encode_options opts = {0};
    gge_tokens *one = NULL;
    gge_error err;
    double dot = 0;
    int32_t k;
    opts.struct_size = sizeof(opts);
    opts.pooling = pooling;
    FUZZ_CHECK(gge_tokens_from_ids(model, gge_tokens_ids(tokens) + begin, offsets, 1, &one, &err) == GGE_OK, &err);
    FUZZ_CHECK(gge_encode(engine, one, &opts, alone, 1, n_embd, &err) == GGE_OK, &err);
    for (k = 0; k < n_embd; ++k) {
        dot += (double)row[k] * (double)alone[k];
    }
    FUZZ_CHECK(dot > 1.0 - 1e-5, NULL);
    gge_tokens_free(one);
    free(alone);
}

static void encode_once(fuzz_input *in, gge_engine *engine, gge_model *model, const gge_model_info *info, int *closed) {
    const uint8_t flags = fuzz_u8(in);
    gge_encode_options opts = {0};
    int64_t n_texts;
    int64_t n_rows;
    int64_t n_asked;
    int64_t stride;
    int64_t first_bad = -1;
    int64_t i;
    int64_t r;
    int n_until_abort;
    int valid;
    int32_t refused[MAX_TEXTS] = {0};
    gge_status expected[MAX_TEXTS];
    int32_t *status;
    gge_tokens *tokens;
    gge_pooling pooling;
    gge_engine_info engine_info = {0};
    int32_t n_out;
    size_t out_bytes;
    float *out;
    gge_error err;
    gge_status result;

    opts.struct_size = sizeof(opts);
    opts.pooling = fuzz_option(in, 6);
    opts.truncate_dim = fuzz_option(in, info->n_embd < 200 ? info->n_embd + 2 : 200);
    opts.normalize = fuzz_option(in, 3);
    n_texts = fuzz_u8(in) % (MAX_TEXTS + 1);
    if (flags & F_ABORT) {
        n_until_abort = fuzz_u8(in) % 4;
        opts.abort = abort_later;
        opts.progress = check_progress;
        opts.user_data = &n_until_abort;
    }
    tokens = flags & F_FROM_BYTES ? make_tokens_from_bytes(in, model, n_texts, refused)
                                  : make_tokens(in, model, info, n_texts);
    status = fuzz_guarded_new((size_t)n_texts * sizeof(*status));
    opts.input_status = flags & F_STATUS ? status : NULL;
    engine_info.struct_size = sizeof(engine_info);
    FUZZ_CHECK(gge_engine_get_info(engine, &engine_info, &err) == GGE_OK, &err);
    for (i = 0; i < n_texts; ++i) {
        const int64_t n = gge_tokens_offsets(tokens)[i + 1] - gge_tokens_offsets(tokens)[i];
        expected[i] = refused[i] != GGE_OK    ? refused[i]
                      : n == 0                ? GGE_E_EMPTY
                      : n > engine_info.n_ctx ? GGE_E_TOO_LONG
                                              : GGE_OK;
        first_bad = first_bad < 0 && expected[i] != GGE_OK ? i : first_bad;
        status[i] = -1;
    }

    pooling = opts.pooling == GGE_POOLING_DEFAULT ? info->pooling : opts.pooling;
    n_rows = pooling == GGE_POOLING_NONE ? gge_tokens_offsets(tokens)[n_texts] : n_texts;
    n_out = in_range(opts.truncate_dim, 1, info->n_embd) ? opts.truncate_dim : info->n_embd;
    stride = flags & F_WIDE ? n_out + 3 : n_out;
    out_bytes = n_rows == 0 ? 0 : (size_t)((n_rows - 1) * stride + n_out) * sizeof(*out);
    out = fuzz_guarded_new(out_bytes);
    for (i = 0; i < (int64_t)(out_bytes / sizeof(*out)); ++i) {
        out[i] = untouched;
    }
    n_asked = n_rows;
    if (flags & F_WRONG_ROWS) {
        const uint8_t how = fuzz_u8(in);
        n_asked = how % 4 == 0 ? n_rows + 1 : how % 4 == 1 ? n_rows - 1 : how % 4 == 2 ? fuzz_i64(in) : n_rows;
        stride = how % 4 == 3 ? n_out - 1 - fuzz_u8(in) : stride;
    }
    valid = in_range(opts.pooling, 0, 5) && pooling != GGE_POOLING_RANK &&
            in_range(opts.truncate_dim, 0, info->n_embd) && in_range(opts.normalize, 0, 2) && n_asked == n_rows &&
            stride >= n_out && !((flags & F_NO_OUT) && n_rows > 0);
    if ((flags & F_CLOSE) && fuzz_u8(in) % 4 == 0) {
        gge_engine_close(engine);
        *closed = 1;
    }

    result = gge_encode(engine, tokens, &opts, flags & F_NO_OUT ? NULL : out, n_asked, stride, &err);
    fuzz_check_error(result, &err);
    if (!valid) {
        FUZZ_CHECK(result == GGE_E_INVALID || result == GGE_E_UNSUPPORTED, &err);
    } else if (opts.input_status == NULL && first_bad >= 0) {
        FUZZ_CHECK(result == expected[first_bad] && err.input_index == first_bad, &err);
    } else if (*closed) {
        FUZZ_CHECK(result == GGE_E_CLOSED, &err);
    } else if (result != GGE_OK) {
        FUZZ_CHECK(result == GGE_E_ABORTED && opts.abort != NULL, &err);
    } else {
        for (i = 0; i < n_texts; ++i) {
            const int64_t begin = pooling == GGE_POOLING_NONE ? gge_tokens_offsets(tokens)[i] : i;
            const int64_t end = pooling == GGE_POOLING_NONE ? gge_tokens_offsets(tokens)[i + 1] : i + 1;
            FUZZ_CHECK(opts.input_status == NULL || status[i] == expected[i], NULL);
            for (r = begin; r < end; ++r) {
                check_row(out + r * stride, n_out, expected[i], opts.normalize != GGE_OFF);
            }
        }
        for (r = 0; r + 1 < n_rows; ++r) {
            for (i = n_out; i < stride; ++i) {
                FUZZ_CHECK(out[r * stride + i] == untouched, NULL);
            }
        }
        i = n_texts - 1;
        if ((flags & F_ALONE) && n_texts > 1 && expected[i] == GGE_OK && pooling != GGE_POOLING_NONE &&
            n_out == info->n_embd && opts.normalize != GGE_OFF) {
            check_alone(engine, model, tokens, i, opts.pooling, out + i * stride, n_out);
        }
    }
    fuzz_guarded_free(out, out_bytes);
    fuzz_guarded_free(status, (size_t)n_texts * sizeof(*status));
    gge_tokens_free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    gge_model_info info;
    gge_model *model = fuzz_model(fuzz_u8(&in), &info);
    gge_engine *engine = make_engine(&in, model, &info);
    int closed = 0;
    int i;
    for (i = 0; i < MAX_CALLS && engine != NULL && in.size > 0; ++i) {
        encode_once(&in, engine, model, &info, &closed);
    }
    gge_engine_free(engine);
    return 0;
}
