/* Reaches gge_model_load with damaged files: our own look at the file, upstream's GGUF reader, hyperparameters,
 * vocabularies and graphs, and the first forward pass. What loads has to tokenise and encode, or say why not.
 *
 * Input: a GGUF file as it stands. Its checksum decides about the load options. */
#define _GNU_SOURCE /* memfd_create, mkstemp */

#include "fuzz_util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* Counts and sizes of a damaged file may ask for more memory than there is, which has to end as GGE_E_MEMORY or
 * GGE_E_FORMAT; see throwing_new.cpp too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1:max_allocation_size_mb=1024";
}

enum { MAX_EMBD = 1 << 16 };

static const uint8_t texts[] = "a"
                               "the quick brown fox jumps over the lazy dog, 3.14"
                               "\xe5\x90\x91\xe9\x87\x8f na\xc3\xafve <|im_end|>";
static const int64_t offsets[] = {0, 1, 50, sizeof(texts) - 1};
enum { N_TEXTS = 3 };

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    return 0;
}

/* A file without a name where there is such a thing. */
static int make_file(const uint8_t *data, size_t size, char *path, size_t path_bytes) {
#ifdef __linux__
    const int fd = memfd_create("model", 0);
    snprintf(path, path_bytes, "/proc/self/fd/%d", fd);
#else
    const char *folder = getenv("TMPDIR");
    int fd;
    snprintf(path, path_bytes, "%s/ggembed-fuzz-XXXXXX", folder != NULL ? folder : P_tmpdir);
    fd = mkstemp(path);
#endif
    if (fd < 0) {
        perror("cannot make a file");
        abort();
    }
    while (size > 0) {
        const ssize_t n = write(fd, data, size);
        if (n <= 0) {
            perror("cannot write a file");
            abort();
        }
        data += n;
        size -= (size_t)n;
    }
    return fd;
}

static void use(gge_model *model) {
    gge_model_info info = {0};
    gge_engine_options engine_opts = {0};
    gge_encode_options opts = {0};
    gge_engine *engine = NULL;
    gge_tokens *tokens = NULL;
    gge_error err;
    gge_status status;
    int32_t statuses[N_TEXTS];
    int32_t i;
    info.struct_size = sizeof(info);
    engine_opts.struct_size = sizeof(engine_opts);
    opts.struct_size = sizeof(opts);
    FUZZ_CHECK(gge_model_get_info(model, &info, &err) == GGE_OK, &err);
    FUZZ_CHECK(info.n_vocab > 0 && info.n_embd > 0 && info.n_ctx_train > 0, NULL);
    FUZZ_CHECK(info.pooling != GGE_POOLING_DEFAULT && info.attention != GGE_ATTENTION_DEFAULT, NULL);
    for (i = 0; i < gge_model_meta_count(model); ++i) {
        FUZZ_CHECK(gge_model_meta_key(model, i) != NULL && gge_model_meta_value(model, i) != NULL, NULL);
    }
    status = gge_tokenize(model, texts, offsets, N_TEXTS, NULL, &tokens, &err);
    fuzz_check_error(status, &err);
    if (status != GGE_OK) { /* no tokenizer, or a vocabulary with holes */
        static const int64_t one_each[] = {0, 1, 2, 3};
        const int32_t ids[N_TEXTS] = {0, info.n_vocab / 2, info.n_vocab - 1};
        status = gge_tokens_from_ids(model, ids, one_each, N_TEXTS, &tokens, &err);
        FUZZ_CHECK(status == GGE_OK, &err);
    }
    for (i = 0; i < gge_tokens_offsets(tokens)[N_TEXTS]; ++i) {
        FUZZ_CHECK(gge_tokens_ids(tokens)[i] >= 0 && gge_tokens_ids(tokens)[i] < info.n_vocab, NULL);
    }
    engine_opts.n_threads = 1;
    engine_opts.n_ubatch = 64;
    status = gge_engine_create(model, &engine_opts, &engine, &err);
    fuzz_check_error(status, &err);
    if (status == GGE_OK && info.n_embd <= MAX_EMBD) {
        const size_t bytes = N_TEXTS * (size_t)info.n_embd * sizeof(float);
        float *rows = fuzz_guarded_new(bytes);
        opts.pooling = info.pooling == GGE_POOLING_NONE || info.pooling == GGE_POOLING_RANK ? GGE_POOLING_MEAN
                                                                                            : GGE_POOLING_DEFAULT;
        opts.input_status = statuses;
        status = gge_encode(engine, tokens, &opts, rows, N_TEXTS, info.n_embd, &err);
        fuzz_check_error(status, &err);
        for (i = 0; i < N_TEXTS && status == GGE_OK; ++i) {
            const float *row = rows + i * info.n_embd;
            int32_t k;
            for (k = 0; k < info.n_embd; ++k) {
                FUZZ_CHECK(statuses[i] == GGE_OK ? isfinite(row[k]) : isnan(row[k]), NULL);
            }
        }
        fuzz_guarded_free(rows, bytes);
    }
    gge_tokens_free(tokens);
    gge_engine_free(engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[4096];
    gge_model_options opts = {0};
    gge_model *model = NULL;
    gge_error err;
    gge_status status;
    uint32_t sum = 2166136261u; /* FNV-1a */
    size_t i;
    const int fd = make_file(data, size, path, sizeof(path));
    for (i = 0; i < size; ++i) {
        sum = (sum ^ data[i]) * 16777619u;
    }
    opts.struct_size = sizeof(opts);
    opts.device = "cpu";
    opts.mmap = sum & 1 ? GGE_ON : GGE_OFF;
    status = gge_model_load(path, &opts, &model, &err);
    fuzz_check_error(status, &err);
    FUZZ_CHECK((status == GGE_OK) == (model != NULL), &err);
    FUZZ_CHECK(status != GGE_E_INVALID && status != GGE_E_IO && status != GGE_E_DEVICE, &err);
    if (status == GGE_OK) {
        use(model);
        gge_model_free(model);
    }
    close(fd);
#ifndef __linux__
    unlink(path);
#endif
    return 0;
}
