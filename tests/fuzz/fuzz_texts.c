/* Reaches gge_tokenize: the checks of bytes, offsets, prompt and options, the UTF-8 check, and upstream's four kinds of
 * tokenizers with their normalisers and pre-tokenizer regexes. Everything that the library borrows ends at an unmapped
 * page, so that reading one byte too many traps.
 *
 * Input: flags, model, number of texts, [prompt length], [place and value of a wrong offset], the length of each text
 * but the last in 16 bits, then the prompt and the texts. Needs GGEMBED_TEST_MODEL. */
#include "fuzz_util.h"

#include <string.h>

enum {
    MAX_TEXTS = 16,
    F_NO_SPECIAL = 1,
    F_PARSE_SPECIAL = 2,
    F_STATUS = 4,
    F_PROMPT = 8,
    F_WRONG_OFFSET = 16,
    F_ANY_SWITCH = 32,
    F_DEFAULTS = 64,
    F_ALONE = 128
};

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    fuzz_load_models();
    return 0;
}

/* Decodes and re-encodes, which is another way than the library's. */
static int is_utf8(const uint8_t *s, int64_t n) {
    while (n > 0) {
        const int len = *s < 0x80 ? 1 : *s < 0xc0 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : *s < 0xf8 ? 4 : 0;
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        uint32_t c = len < 2 ? *s : *s & (0x7fu >> len);
        int i;
        if (len == 0 || n < len) {
            return 0;
        }
        for (i = 1; i < len; ++i) {
            if (s[i] >> 6 != 2) {
                return 0;
            }
            c = c << 6 | (s[i] & 0x3fu);
        }
        if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
            return 0;
        }
        s += len;
        n -= len;
    }
    return 1;
}

static void check_tokens(const gge_tokens *tokens, int64_t n_texts, const gge_model_info *info) {
    const int64_t *begin = gge_tokens_offsets(tokens);
    const int32_t *ids = gge_tokens_ids(tokens);
    int64_t i;
    FUZZ_CHECK(gge_tokens_n_texts(tokens) == n_texts && begin[0] == 0, NULL);
    for (i = 0; i < n_texts; ++i) {
        FUZZ_CHECK(begin[i + 1] >= begin[i], NULL);
    }
    for (i = 0; i < begin[n_texts]; ++i) {
        FUZZ_CHECK(ids[i] >= 0 && ids[i] < info->n_vocab, NULL);
    }
}

static int has_marker(const gge_model_info *info, const int32_t *ids, int64_t n) {
    int64_t i;
    for (i = 0; i < n; ++i) {
        if (ids[i] == info->token_bos || ids[i] == info->token_eos || ids[i] == info->token_sep) {
            return 1;
        }
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const uint8_t flags = fuzz_u8(&in);
    gge_model_info info;
    gge_model *model = fuzz_model(fuzz_u8(&in), &info);
    const int64_t n_texts = fuzz_u8(&in) % (MAX_TEXTS + 1);
    gge_tokenize_options opts = {0};
    gge_tokenize_options *given = flags & F_DEFAULTS ? NULL : &opts;
    int64_t lengths[MAX_TEXTS + 1];
    int64_t first_bad = -1;
    int64_t n_bytes;
    int64_t i;
    int valid[MAX_TEXTS];
    int arguments_are_valid = 1;
    uint8_t *prompt = NULL;
    uint8_t *bytes;
    int64_t *offsets;
    int32_t *status;
    gge_tokens *tokens = NULL;
    gge_error err;
    gge_status result;
    int64_t wrong_index = -1;
    int64_t wrong_value = 0;

    opts.struct_size = sizeof(opts);
    opts.add_special = flags & F_NO_SPECIAL ? GGE_OFF : GGE_SWITCH_DEFAULT;
    opts.parse_special = flags & F_PARSE_SPECIAL ? GGE_ON : GGE_OFF;
    if (flags & F_ANY_SWITCH) {
        opts.add_special = fuzz_option(&in, 3);
        opts.parse_special = fuzz_option(&in, 3);
    }
    if (flags & F_PROMPT) {
        opts.prompt_bytes = fuzz_u8(&in);
    }
    if (flags & F_WRONG_OFFSET) {
        wrong_index = fuzz_u8(&in) % (n_texts + 1);
        wrong_value = fuzz_i64(&in);
    }
    for (i = 0; i + 1 < n_texts; ++i) {
        lengths[i] = fuzz_u16(&in);
    }
    if (opts.prompt_bytes > (int64_t)in.size) {
        opts.prompt_bytes = (int64_t)in.size;
    }
    if (opts.prompt_bytes > 0) {
        prompt = fuzz_guarded_copy(in.data, (size_t)opts.prompt_bytes);
        opts.prompt = prompt;
    }
    in.data += opts.prompt_bytes;
    in.size -= (size_t)opts.prompt_bytes;

    n_bytes = n_texts == 0 ? 0 : (int64_t)in.size;
    bytes = fuzz_guarded_copy(in.data, (size_t)n_bytes);
    offsets = fuzz_guarded_new((size_t)(n_texts + 1) * sizeof(*offsets));
    status = fuzz_guarded_new((size_t)n_texts * sizeof(*status));
    opts.input_status = flags & F_STATUS ? status : NULL;
    offsets[0] = 0;
    for (i = 0; i < n_texts; ++i) {
        const int64_t left = n_bytes - offsets[i];
        offsets[i + 1] = offsets[i] + (i + 1 == n_texts || lengths[i] > left ? left : lengths[i]);
        status[i] = -1;
    }
    if (wrong_index >= 0) {
        offsets[wrong_index] = wrong_value;
        if (wrong_index == n_texts && wrong_value > n_bytes) {
            offsets[wrong_index] = -1; /* beyond the bytes is the one mistake that the library cannot see */
        }
    }
    for (i = 0; i <= n_texts; ++i) {
        arguments_are_valid = arguments_are_valid && offsets[i] >= (i == 0 ? 0 : offsets[i - 1]);
    }
    for (i = 0; i < n_texts && arguments_are_valid; ++i) {
        valid[i] = is_utf8(bytes + offsets[i], offsets[i + 1] - offsets[i]);
        first_bad = first_bad < 0 && !valid[i] ? i : first_bad;
    }
    if (given != NULL) {
        arguments_are_valid = arguments_are_valid && opts.add_special >= 0 && opts.add_special <= 2 &&
                              opts.parse_special >= 0 && opts.parse_special <= 2 && is_utf8(prompt, opts.prompt_bytes);
    }

    result =
        gge_tokenize(model, n_bytes == 0 && (flags & F_ALONE) ? NULL : bytes, offsets, n_texts, given, &tokens, &err);
    fuzz_check_error(result, &err);
    FUZZ_CHECK((result == GGE_OK) == (tokens != NULL), &err);
    if (!arguments_are_valid) {
        FUZZ_CHECK(result == GGE_E_INVALID, &err);
    } else if (first_bad >= 0 && (given == NULL || opts.input_status == NULL)) {
        FUZZ_CHECK(result == GGE_E_INVALID && err.input_index == first_bad, &err);
    } else {
        const int special = given == NULL || opts.add_special != GGE_OFF;
        const int parsed = given != NULL && opts.parse_special == GGE_ON;
        FUZZ_CHECK(result == GGE_OK, &err);
        check_tokens(tokens, n_texts, &info);
        for (i = 0; i < n_texts; ++i) {
            const int64_t begin = gge_tokens_offsets(tokens)[i];
            const int64_t n = gge_tokens_offsets(tokens)[i + 1] - begin;
            const int32_t *ids = n == 0 ? NULL : gge_tokens_ids(tokens) + begin;
            gge_tokens *alone = NULL;
            if (given != NULL && opts.input_status != NULL) {
                FUZZ_CHECK(status[i] == (valid[i] ? GGE_OK : GGE_E_INVALID), NULL);
            }
            if (!valid[i]) {
                FUZZ_CHECK(n == 0, NULL);
                continue;
            }
            FUZZ_CHECK(!special || n >= info.add_bos + info.add_eos, NULL);
            /* text from users cannot forge markers */
            FUZZ_CHECK(special || parsed || !has_marker(&info, ids, n), NULL);
            if (flags & F_ALONE) {
                FUZZ_CHECK(gge_tokenize(model, bytes, offsets + i, 1, given, &alone, &err) == GGE_OK, &err);
                FUZZ_CHECK(gge_tokens_offsets(alone)[1] == n, NULL);
                FUZZ_CHECK(n == 0 || memcmp(gge_tokens_ids(alone), ids, (size_t)n * sizeof(*ids)) == 0, NULL);
                gge_tokens_free(alone);
            }
        }
    }
    gge_tokens_free(tokens);
    fuzz_guarded_free(bytes, (size_t)n_bytes);
    fuzz_guarded_free(offsets, (size_t)(n_texts + 1) * sizeof(*offsets));
    fuzz_guarded_free(status, (size_t)n_texts * sizeof(*status));
    fuzz_guarded_free(prompt, (size_t)opts.prompt_bytes);
    return 0;
}
