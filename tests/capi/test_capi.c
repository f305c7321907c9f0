/* The C ABI against the public header alone. The part that needs a model takes a tiny one from GGEMBED_TEST_MODEL:
 * any text model with a tokenizer, at least 4 wide; with towers from GGEMBED_TEST_OMNI, as alloc_fail.cpp has it. */
#include "ggembed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_failed = 0;
static int n_checks = 0;

static void check(int ok, int line, const char *text) {
    ++n_checks;
    if (!ok) {
        printf("%s:%d: not true: %s\n", __FILE__, line, text);
        ++n_failed;
    }
}

#define CHECK(expr) check((expr) != 0, __LINE__, #expr)

static gge_error err;

static void versions_agree(void) {
    char version[32];
    snprintf(version, sizeof(version), "%d.%d.%d", GGE_VERSION_MAJOR, GGE_VERSION_MINOR, GGE_VERSION_PATCH);
    CHECK(strcmp(gge_version(), version) == 0);
    CHECK(gge_abi_version() == GGE_ABI_VERSION);
    CHECK(gge_abi_oldest() <= gge_abi_version());
    CHECK(gge_build_info()[0] == '{' && strstr(gge_build_info(), version) != NULL);
    CHECK(strcmp(gge_status_name(GGE_E_TOO_LONG), "GGE_E_TOO_LONG") == 0);
    CHECK(strcmp(gge_status_name(99), "unknown") == 0);
}

static void cpu_is_the_last_device(void) {
    gge_device_info device = {0};
    const int32_t n = gge_device_count();
    CHECK(n >= 1);
    device.struct_size = sizeof(device);
    CHECK(gge_device_get(n - 1, &device, &err) == GGE_OK);
    CHECK(device.kind == GGE_DEVICE_CPU && strcmp(device.name, "cpu") == 0);
    CHECK(device.memory_total > 0);
    CHECK(gge_device_get(n, &device, &err) == GGE_E_INVALID && err.status == GGE_E_INVALID);
    CHECK(gge_device_get(-1, &device, NULL) == GGE_E_INVALID);
    CHECK(gge_device_get(0, NULL, &err) == GGE_E_INVALID);
    device.struct_size = 0;
    CHECK(gge_device_get(0, &device, &err) == GGE_E_INVALID);
}

static void null_is_refused_or_harmless(void) {
    gge_model *model = (gge_model *)&err;
    gge_tokens *tokens = (gge_tokens *)&err;
    gge_engine *engine = (gge_engine *)&err;
    gge_media *media = (gge_media *)&err;
    gge_request *request = (gge_request *)&err;
    gge_engine_stats stats = {0};
    gge_model_info info = {0};
    gge_tower_info tower = {0};
    gge_engine_info engine_info = {0};
    int64_t offsets[1] = {0};
    int64_t n_frames = -1;
    int32_t width = -1;
    tower.struct_size = sizeof(tower);
    info.struct_size = sizeof(info);
    engine_info.struct_size = sizeof(engine_info);
    CHECK(gge_model_load(NULL, NULL, &model, &err) == GGE_E_INVALID && model == NULL);
    CHECK(gge_model_load("x", NULL, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_model_get_info(NULL, &info, &err) == GGE_E_INVALID);
    CHECK(gge_tokenize(NULL, NULL, offsets, 0, NULL, &tokens, &err) == GGE_E_INVALID && tokens == NULL);
    CHECK(gge_tokens_from_ids(NULL, NULL, offsets, 0, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_tokenize_pairs(NULL, NULL, offsets, 0, NULL, &tokens, &err) == GGE_E_INVALID && tokens == NULL);
    CHECK(gge_tokenize_pairs(NULL, NULL, offsets, 0, NULL, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_tokenize_pairs(NULL, NULL, offsets, -1, NULL, &tokens, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "n_pairs is -1") != NULL);
    CHECK(gge_media_image(NULL, NULL, 1, 1, 3, NULL, &media, &err) == GGE_E_INVALID && media == NULL);
    CHECK(gge_media_image(NULL, NULL, 1, 1, 3, NULL, NULL, &err) == GGE_E_INVALID);
    media = (gge_media *)&err;
    CHECK(gge_media_video(NULL, 1, 1, 1, NULL, NULL, &media, &err) == GGE_E_INVALID && media == NULL);
    CHECK(gge_media_video(NULL, 1, 1, 1, NULL, NULL, NULL, &err) == GGE_E_INVALID);
    media = (gge_media *)&err;
    CHECK(gge_media_audio(NULL, NULL, 0, NULL, &media, &err) == GGE_E_INVALID && media == NULL);
    CHECK(gge_media_audio(NULL, NULL, 0, NULL, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_media_add_frame(NULL, NULL, 0, &err) == GGE_E_INVALID);
    tokens = (gge_tokens *)&err;
    CHECK(gge_tokenize_parts(NULL, NULL, offsets, 0, NULL, &tokens, &err) == GGE_E_INVALID && tokens == NULL);
    CHECK(gge_tokenize_parts(NULL, NULL, offsets, 0, NULL, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_tokenize_parts(NULL, NULL, NULL, 0, NULL, &tokens, &err) == GGE_E_INVALID);
    CHECK(gge_tokenize_parts(NULL, NULL, offsets, -1, NULL, &tokens, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "n_inputs is -1") != NULL);
    CHECK(gge_model_n_towers(NULL) == 0 && gge_model_get_tower(NULL, 0, &tower, &err) == GGE_E_INVALID);
    CHECK(gge_media_n_rows(NULL) == 0);
    gge_media_shape(NULL, NULL, NULL, NULL);
    gge_media_shape(NULL, &width, NULL, &n_frames);
    CHECK(width == 0 && n_frames == 0);
    CHECK(gge_engine_create(NULL, NULL, &engine, &err) == GGE_E_INVALID && engine == NULL);
    CHECK(gge_engine_get_info(NULL, &engine_info, &err) == GGE_E_INVALID);
    CHECK(gge_encode(NULL, NULL, NULL, NULL, 0, 0, &err) == GGE_E_INVALID);
    CHECK(gge_submit(NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, &request, &err) == GGE_E_INVALID && request == NULL);
    CHECK(gge_submit(NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_encode_texts(NULL, NULL, NULL, 2, NULL, NULL, NULL, 0, 0, &err) == GGE_E_INVALID);
    CHECK(gge_submit_texts(NULL, NULL, NULL, 2, NULL, NULL, NULL, 0, 0, NULL, NULL, &request, &err) == GGE_E_INVALID &&
          request == NULL);
    CHECK(gge_request_finish(NULL, &err) == GGE_E_INVALID);
    CHECK(gge_engine_stats_get(NULL, &stats, &err) == GGE_E_INVALID);
    CHECK(gge_model_meta_count(NULL) == 0 && gge_model_meta_key(NULL, 0) == NULL &&
          gge_model_meta_value(NULL, 0) == NULL);
    CHECK(gge_tokens_n_texts(NULL) == 0 && gge_tokens_ids(NULL) == NULL && gge_tokens_offsets(NULL) == NULL);
    gge_model_free(NULL);
    gge_media_free(NULL);
    gge_tokens_free(NULL);
    gge_request_abort(NULL);
    CHECK(gge_request_n_done(NULL) == 0);
    gge_engine_close(NULL);
    gge_engine_drain(NULL);
    gge_engine_free(NULL);
}

static void bad_files_are_named(const char *not_gguf) {
    gge_model *model = NULL;
    CHECK(gge_model_load("no/such/file.gguf", NULL, &model, &err) == GGE_E_IO);
    CHECK(strstr(err.message, "no/such/file.gguf") != NULL && err.input_index == -1);
    CHECK(gge_model_load(".", NULL, &model, &err) == GGE_E_IO);
    CHECK(gge_model_load(not_gguf, NULL, &model, &err) == GGE_E_FORMAT);
    CHECK(strstr(err.message, "is not a GGUF file") != NULL);
    CHECK(gge_model_load(not_gguf, NULL, &model, NULL) == GGE_E_FORMAT && model == NULL);
}

static int32_t stop_now(void *user_data) {
    ++*(int *)user_data;
    return 1;
}

static void count_calls(void *user_data, int64_t done, int64_t total) {
    CHECK(done >= 0 && done <= total);
    ++*(int *)user_data;
}

static void load_options_work(const char *path) {
    gge_model_options opts = {0};
    gge_model *model = NULL;
    int n_calls = 0;
    opts.struct_size = sizeof(opts);
    opts.device = "no-such-device";
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_DEVICE);
    CHECK(strstr(err.message, "no-such-device") != NULL && strstr(err.message, "cpu") != NULL);
    opts.device = "cpu";
    opts.user_data = &n_calls;
    opts.abort = stop_now;
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_ABORTED && n_calls == 1 && model == NULL);
    opts.abort = NULL;
    opts.progress = count_calls;
    opts.mmap = GGE_OFF;
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_OK && n_calls > 1);
    gge_model_free(model);
}

static void model_tells_about_itself(gge_model *model) {
    gge_model_info info = {0};
    int32_t i;
    int found = 0;
    info.struct_size = sizeof(info);
    CHECK(gge_model_get_info(model, &info, &err) == GGE_OK);
    CHECK(info.n_embd >= 4 && info.n_layer >= 1 && info.n_ctx_train >= 1 && info.n_vocab >= 1);
    CHECK(info.n_params > 0 && info.tensor_bytes > 0 && info.file_bytes >= info.tensor_bytes);
    CHECK(info.architecture[0] != '\0' && info.quantization[0] != '\0' && strcmp(info.device, "cpu") == 0);
    CHECK(info.device_reason[0] != '\0');
    CHECK(info.pooling != GGE_POOLING_DEFAULT && info.attention != GGE_ATTENTION_DEFAULT);
    for (i = 0; i < gge_model_meta_count(model); ++i) {
        if (strcmp(gge_model_meta_key(model, i), "general.architecture") == 0) {
            found += strcmp(gge_model_meta_value(model, i), info.architecture) == 0;
        }
    }
    CHECK(found == 1);
    CHECK(gge_model_meta_key(model, -1) == NULL && gge_model_meta_value(model, i) == NULL);
}

static const uint8_t bytes[] = "one text"
                               "and another, longer text";
static const int64_t offsets[] = {0, 8, 33};

static void texts_become_rows(gge_model *model) {
    gge_tokens *tokens = NULL;
    gge_tokens *copy = NULL;
    gge_engine *engine = NULL;
    gge_engine_options engine_opts = {0};
    gge_encode_options opts = {0};
    gge_engine_info engine_info = {0};
    gge_model_info info = {0};
    float *rows;
    float *again;
    double norm = 0;
    int32_t i;
    int32_t status[2] = {-1, -1};
    info.struct_size = sizeof(info);
    engine_info.struct_size = sizeof(engine_info);
    engine_opts.struct_size = sizeof(engine_opts);
    opts.struct_size = sizeof(opts);
    CHECK(gge_model_get_info(model, &info, &err) == GGE_OK);
    CHECK(gge_tokenize(model, bytes, offsets, 2, NULL, &tokens, &err) == GGE_OK);
    CHECK(gge_tokens_n_texts(tokens) == 2 && gge_tokens_offsets(tokens)[0] == 0);
    CHECK(gge_tokens_offsets(tokens)[2] > gge_tokens_offsets(tokens)[1]);
    CHECK(gge_tokens_from_ids(model, gge_tokens_ids(tokens), gge_tokens_offsets(tokens), 2, &copy, &err) == GGE_OK);

    engine_opts.n_threads = 2;
    engine_opts.n_ctx = info.n_ctx_train + 1;
    CHECK(gge_engine_create(model, &engine_opts, &engine, &err) == GGE_E_INVALID && engine == NULL);
    engine_opts.n_ctx = 0;
    CHECK(gge_engine_create(model, &engine_opts, &engine, &err) == GGE_OK);
    CHECK(gge_engine_get_info(engine, &engine_info, &err) == GGE_OK);
    CHECK(engine_info.n_ctx == info.n_ctx_train && engine_info.n_threads == 2 && engine_info.n_ubatch > 0);

    rows = calloc(2 * (size_t)info.n_embd, sizeof(float));
    again = calloc(2 * (size_t)info.n_embd, sizeof(float));
    opts.pooling = GGE_POOLING_MEAN;
    opts.input_status = status;
    CHECK(gge_encode(engine, tokens, &opts, rows, 2, info.n_embd, &err) == GGE_OK);
    CHECK(status[0] == GGE_OK && status[1] == GGE_OK);
    for (i = 0; i < info.n_embd; ++i) {
        norm += (double)rows[i] * (double)rows[i];
    }
    CHECK(fabs(norm - 1.0) < 1e-5);
    CHECK(gge_encode(engine, copy, &opts, again, 2, info.n_embd, NULL) == GGE_OK);
    CHECK(memcmp(rows, again, 2 * (size_t)info.n_embd * sizeof(float)) == 0);

    CHECK(gge_encode(engine, tokens, &opts, rows, 1, info.n_embd, &err) == GGE_E_INVALID);
    CHECK(gge_encode(engine, tokens, &opts, rows, 2, info.n_embd - 1, &err) == GGE_E_INVALID);
    CHECK(gge_encode(engine, tokens, &opts, NULL, 2, info.n_embd, &err) == GGE_E_INVALID);
    opts.pooling = GGE_POOLING_RANK;
    CHECK(gge_encode(engine, tokens, &opts, rows, 2, info.n_embd, &err) == GGE_E_UNSUPPORTED);

    gge_engine_close(engine);
    gge_engine_close(engine);
    opts.pooling = GGE_POOLING_MEAN;
    CHECK(gge_encode(engine, tokens, &opts, rows, 2, info.n_embd, &err) == GGE_E_CLOSED);
    free(rows);
    free(again);
    gge_engine_free(engine);
    gge_tokens_free(tokens);
    gge_tokens_free(copy);
}

static void count_done(void *const *counts, int64_t n) {
    int64_t i;
    for (i = 0; i < n; ++i) {
        ++*(int *)counts[i];
    }
}

static void texts_give_the_rows_of_their_tokens(gge_engine *engine, const float *expected, float *rows,
                                                int32_t n_embd) {
    static const uint8_t prompt[] = {'a', ' ', 'p', 'r', 'o', 'm', 'p', 't'};
    const size_t n_bytes = 2 * (size_t)n_embd * sizeof(float);
    gge_tokenize_options how = {0};
    gge_request *request = NULL;
    int n_done = 0;
    how.struct_size = sizeof(how);
    memset(rows, 0, n_bytes);
    CHECK(gge_encode_texts(engine, bytes, offsets, 2, NULL, NULL, rows, 2, n_embd, &err) == GGE_OK);
    CHECK(memcmp(rows, expected, n_bytes) == 0);
    memset(rows, 0, n_bytes);
    CHECK(gge_submit_texts(engine, bytes, offsets, 2, NULL, NULL, rows, 2, n_embd, count_done, &n_done, &request,
                           &err) == GGE_OK);
    CHECK(gge_request_finish(request, &err) == GGE_OK && n_done == 1);
    CHECK(memcmp(rows, expected, n_bytes) == 0);
    how.prompt = prompt;
    how.prompt_bytes = sizeof(prompt);
    CHECK(gge_encode_texts(engine, bytes, offsets, 2, &how, NULL, rows, 2, n_embd, &err) == GGE_OK);
    CHECK(memcmp(rows, expected, n_bytes) != 0);
    how.max_tokens = 3;
    CHECK(gge_encode_texts(engine, bytes, offsets, 2, &how, NULL, rows, 2, n_embd, &err) == GGE_E_TOO_LONG ||
          err.status == GGE_E_INVALID);
    CHECK(gge_submit_texts(engine, bytes, offsets, 2, &how, NULL, rows, 2, n_embd, NULL, NULL, &request, &err) ==
              err.status &&
          err.status != GGE_OK && request == NULL);
}

static void requests_give_the_rows_of_calls(gge_model *model) {
    enum { n_requests = 8 };
    gge_tokens *tokens = NULL;
    gge_engine *engine = NULL;
    gge_request *requests[n_requests] = {NULL};
    gge_encode_options opts = {0};
    gge_engine_stats stats = {0};
    gge_model_info info = {0};
    float *rows;
    size_t n_values;
    int n_done = 0;
    int n_more = 0;
    int i;
    info.struct_size = sizeof(info);
    opts.struct_size = sizeof(opts);
    stats.struct_size = sizeof(stats);
    CHECK(gge_model_get_info(model, &info, &err) == GGE_OK);
    CHECK(gge_engine_create(model, NULL, &engine, &err) == GGE_OK);
    CHECK(gge_tokenize(model, bytes, offsets, 2, NULL, &tokens, &err) == GGE_OK);
    n_values = 2 * (size_t)info.n_embd;
    rows = calloc((n_requests + 1) * n_values, sizeof(float));
    CHECK(gge_encode(engine, tokens, NULL, rows, 2, info.n_embd, &err) == GGE_OK);

    opts.abort = stop_now;
    CHECK(gge_submit(engine, tokens, &opts, rows, 2, info.n_embd, NULL, NULL, &requests[0], &err) == GGE_E_INVALID);
    CHECK(requests[0] == NULL);
    CHECK(gge_submit(engine, tokens, NULL, rows, 1, info.n_embd, NULL, NULL, &requests[0], &err) == GGE_E_INVALID);
    for (i = 0; i < n_requests; ++i) {
        CHECK(gge_submit(engine, tokens, NULL, rows + (size_t)(i + 1) * n_values, 2, info.n_embd,
                         i == 0 ? NULL : count_done, &n_done, &requests[i], &err) == GGE_OK);
    }
    CHECK(gge_engine_stats_get(engine, &stats, &err) == GGE_OK && stats.n_texts >= 2);
    for (i = 0; i < n_requests; ++i) {
        CHECK(gge_request_finish(requests[i], &err) == GGE_OK && err.status == GGE_OK);
        CHECK(memcmp(rows, rows + (size_t)(i + 1) * n_values, n_values * sizeof(float)) == 0);
    }
    CHECK(n_done == n_requests - 1);
    CHECK(gge_engine_stats_get(engine, &stats, &err) == GGE_OK);
    CHECK(stats.n_texts == 2 * (n_requests + 1) && stats.n_calls == n_requests + 1 && stats.n_texts_queued == 0);
    CHECK(stats.n_tokens == (n_requests + 1) * gge_tokens_offsets(tokens)[2] &&
          stats.n_tokens_offered > stats.n_tokens);
    CHECK(stats.seconds_computing > 0 && stats.seconds_waiting > 0);

    CHECK(gge_submit(engine, tokens, NULL, rows, 2, info.n_embd, count_done, &n_more, &requests[0], &err) == GGE_OK);
    gge_request_abort(requests[0]);
    i = gge_request_finish(requests[0], &err);
    CHECK((i == GGE_OK || i == GGE_E_ABORTED) && n_more == 1);

    texts_give_the_rows_of_their_tokens(engine, rows, rows + n_values, info.n_embd);
    CHECK(gge_submit(engine, tokens, NULL, rows, 2, info.n_embd, NULL, NULL, &requests[0], &err) == GGE_OK);
    CHECK(gge_request_n_done(requests[0]) <= gge_tokens_offsets(tokens)[2]);
    gge_engine_drain(engine);
    CHECK(gge_request_n_done(requests[0]) == gge_tokens_offsets(tokens)[2]);
    CHECK(gge_request_finish(requests[0], &err) == GGE_OK);
    CHECK(gge_submit(engine, tokens, NULL, rows, 2, info.n_embd, NULL, NULL, &requests[0], &err) == GGE_E_CLOSED);
    CHECK(requests[0] == NULL);
    free(rows);
    gge_engine_free(engine);
    gge_tokens_free(tokens);
}

static void bad_texts_are_named(gge_model *model) {
    static const uint8_t bad[] = {'o', 'k', 0xff};
    static const int64_t bad_offsets[] = {0, 2, 3};
    static const int64_t falling[] = {0, 2, 1};
    gge_tokenize_options opts = {0};
    gge_tokens *tokens = NULL;
    int32_t status[2] = {-1, -1};
    int32_t id = 1 << 30;
    int64_t one[] = {0, 1};
    opts.struct_size = sizeof(opts);
    CHECK(gge_tokenize(model, bad, bad_offsets, 2, &opts, &tokens, &err) == GGE_E_INVALID);
    CHECK(err.input_index == 1 && tokens == NULL);
    CHECK(gge_tokenize(model, bad, falling, 2, &opts, &tokens, &err) == GGE_E_INVALID);
    CHECK(gge_tokenize(model, bad, NULL, 2, &opts, &tokens, &err) == GGE_E_INVALID);
    opts.input_status = status;
    CHECK(gge_tokenize(model, bad, bad_offsets, 2, &opts, &tokens, &err) == GGE_OK);
    CHECK(status[0] == GGE_OK && status[1] == GGE_E_INVALID);
    CHECK(gge_tokens_offsets(tokens)[1] == gge_tokens_offsets(tokens)[2]);
    gge_tokens_free(tokens);
    CHECK(gge_tokens_from_ids(model, &id, one, 1, &tokens, &err) == GGE_E_INVALID && err.input_index == 0);
}

/* GGEMBED_TEST_MODEL has neither adapters nor a classification head. */
static void models_without_towers_take_no_media(gge_model *model) {
    const uint8_t pixels[3] = {1, 2, 3};
    const float samples[480] = {0};
    gge_media *media = NULL;
    gge_tower_info tower = {0};
    gge_engine_options engine_opts = {0};
    gge_engine *engine = NULL;
    tower.struct_size = sizeof(tower);
    CHECK(gge_model_n_towers(model) == 0);
    CHECK(gge_model_get_tower(model, 0, &tower, &err) == GGE_E_INVALID);
    CHECK(gge_media_image(model, pixels, 1, 1, 3, NULL, &media, &err) == GGE_E_UNSUPPORTED && media == NULL);
    CHECK(strstr(err.message, "without a projector for vision") != NULL);
    CHECK(gge_media_video(model, 1, 1, 1, NULL, NULL, &media, &err) == GGE_E_UNSUPPORTED && media == NULL);
    CHECK(gge_media_audio(model, samples, 480, NULL, &media, &err) == GGE_E_UNSUPPORTED && media == NULL);
    CHECK(strstr(err.message, "without a projector for audio") != NULL);
    engine_opts.struct_size = sizeof(engine_opts);
    engine_opts.n_tower_batch = -1;
    CHECK(gge_engine_create(model, &engine_opts, &engine, &err) == GGE_E_INVALID && engine == NULL);
    CHECK(strstr(err.message, "n_tower_batch is -1") != NULL);
}

static void projectors_that_are_none_are_named(const char *path, const char *not_gguf) {
    gge_model_options opts = {0};
    gge_model *model = (gge_model *)&err;
    const char *paths[3] = {path, path, path};
    opts.struct_size = sizeof(opts);
    opts.device = "cpu";
    opts.n_mmproj = 1;
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_INVALID && model == NULL);
    CHECK(strstr(err.message, "mmproj is NULL at 0 of 1") != NULL);
    opts.mmproj = paths;
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_FORMAT &&
          strstr(err.message, "no projector file") != NULL);
    paths[0] = not_gguf;
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_FORMAT);
    paths[0] = "no/such/file.gguf";
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_IO && strstr(err.message, paths[0]) != NULL);
    opts.n_mmproj = 3;
    CHECK(gge_model_load(path, &opts, &model, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "n_mmproj is 3") != NULL);
}

/* How often it was asked since the last report of progress, which the text model follows with one question. */
static int32_t stop_at_the_second_question(void *user_data) {
    return ++*(int *)user_data == 2;
}

static void count_from_here(void *user_data, int64_t done, int64_t total) {
    *(int *)user_data = done == total ? 0 : -1000;
}

/* paths: of a text model and two projectors, with colons between them */
static void loading_of_projectors_can_be_aborted(const char *paths) {
    static char copy[4096];
    gge_model_options opts = {0};
    gge_model *model = NULL;
    const char *mmproj[2] = {NULL, NULL};
    int n_asked = -1000;
    int i;
    snprintf(copy, sizeof(copy), "%s", paths);
    for (i = 0; i < 2 && strrchr(copy, ':') != NULL; ++i) {
        char *colon = strrchr(copy, ':');
        *colon = '\0';
        mmproj[i] = colon + 1;
    }
    opts.struct_size = sizeof(opts);
    opts.device = "cpu";
    opts.n_mmproj = 2;
    opts.mmproj = mmproj;
    opts.abort = stop_at_the_second_question;
    opts.user_data = &n_asked;
    CHECK(gge_model_load(copy, &opts, &model, &err) == GGE_OK && gge_model_n_towers(model) == 2);
    gge_model_free(model);
    opts.progress = count_from_here;
    CHECK(gge_model_load(copy, &opts, &model, &err) == GGE_E_ABORTED && model == NULL && n_asked == 2);
}

static gge_part text_part(gge_part_kind kind, const char *text) {
    gge_part part = {0};
    part.kind = kind;
    part.text = (const uint8_t *)text;
    part.n_bytes = text == NULL ? 0 : (int64_t)strlen(text);
    return part;
}

static int same_tokens(const gge_tokens *a, const gge_tokens *b) {
    const int64_t n_texts = gge_tokens_n_texts(a);
    const int64_t *begin = gge_tokens_offsets(a);
    return gge_tokens_n_texts(b) == n_texts &&
           memcmp(begin, gge_tokens_offsets(b), (size_t)(n_texts + 1) * sizeof(*begin)) == 0 &&
           memcmp(gge_tokens_ids(a), gge_tokens_ids(b), (size_t)begin[n_texts] * sizeof(int32_t)) == 0;
}

/* parts[0] is not looked at: offsets begin at 1 */
static void parts_of_text_become_what_texts_become(gge_model *model) {
    const int64_t part_offsets[] = {1, 2, 5};
    const int64_t beyond[] = {0, 1};
    gge_part parts[5];
    gge_tokens *tokens = NULL;
    gge_tokens *wanted = NULL;
    gge_tokenize_options opts = {0};
    int32_t status[1] = {-1};
    memset(&parts[0], 0xff, sizeof(parts[0]));
    parts[1] = text_part(GGE_PART_TEXT, "one text");
    parts[2] = text_part(GGE_PART_TEXT, "and another,");
    parts[3] = text_part(GGE_PART_TEXT, NULL);
    parts[4] = text_part(GGE_PART_TEMPLATE, " longer text");
    CHECK(gge_tokenize_parts(model, parts, part_offsets, 2, NULL, &tokens, &err) == GGE_OK);
    CHECK(gge_tokenize(model, bytes, (const int64_t[]){0, 8, 32}, 2, NULL, &wanted, &err) == GGE_OK);
    CHECK(same_tokens(tokens, wanted));
    gge_tokens_free(tokens);
    gge_tokens_free(wanted);

    CHECK(gge_tokenize_parts(model, NULL, beyond, 0, NULL, &tokens, &err) == GGE_OK);
    CHECK(gge_tokens_n_texts(tokens) == 0);
    gge_tokens_free(tokens);
    CHECK(gge_tokenize_parts(model, NULL, beyond, 1, NULL, &tokens, &err) == GGE_E_INVALID && tokens == NULL);
    CHECK(strstr(err.message, "parts is NULL") != NULL);
    CHECK(gge_tokenize_parts(model, parts, (const int64_t[]){1, 0}, 1, NULL, &tokens, &err) == GGE_E_INVALID);

    parts[0] = text_part(4, "x");
    CHECK(gge_tokenize_parts(model, parts, beyond, 1, NULL, &tokens, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "part 0 is of kind 4") != NULL);
    parts[0] = text_part(GGE_PART_MEDIA, NULL);
    CHECK(gge_tokenize_parts(model, parts, beyond, 1, NULL, &tokens, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "part 0's media is NULL") != NULL);
    parts[0] = text_part(GGE_PART_TEXT, NULL);
    parts[0].n_bytes = 1;
    CHECK(gge_tokenize_parts(model, parts, beyond, 1, NULL, &tokens, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "text is NULL") != NULL);
    parts[0] = text_part(GGE_PART_TEXT, "x");
    parts[0].n_bytes = -1;
    CHECK(gge_tokenize_parts(model, parts, beyond, 1, NULL, &tokens, &err) == GGE_E_INVALID);
    parts[0] = text_part(GGE_PART_TEMPLATE, "\xff");
    CHECK(gge_tokenize_parts(model, parts, beyond, 1, NULL, &tokens, &err) == GGE_E_INVALID && err.input_index == 0);
    opts.struct_size = sizeof(opts);
    opts.input_status = status;
    CHECK(gge_tokenize_parts(model, parts, beyond, 1, &opts, &tokens, &err) == GGE_OK);
    CHECK(status[0] == GGE_E_INVALID && gge_tokens_offsets(tokens)[1] == 0);
    gge_tokens_free(tokens);
}

static void adapters_and_heads_that_are_not_there_are_refused(gge_model *model, const char *path) {
    static const int64_t pair[] = {0, 1, 2};
    const char *files[] = {"no/such/adapter.gguf", NULL};
    gge_model_options load = {0};
    gge_encode_options opts = {0};
    gge_model_info info = {0};
    gge_model *other = NULL;
    gge_tokens *tokens = NULL;
    gge_engine *engine = NULL;
    float row[1] = {0};
    info.struct_size = sizeof(info);
    CHECK(gge_model_get_info(model, &info, &err) == GGE_OK && info.n_cls_out == 0 && info.n_adapters == 0);
    load.struct_size = sizeof(load);
    load.n_adapters = 1;
    CHECK(gge_model_load(path, &load, &other, &err) == GGE_E_INVALID && other == NULL);
    load.adapters = files;
    CHECK(gge_model_load(path, &load, &other, &err) == GGE_E_IO && strstr(err.message, files[0]) != NULL);
    load.n_adapters = 2;
    CHECK(gge_model_load(path, &load, &other, &err) == GGE_E_INVALID);

    CHECK(gge_tokenize_pairs(model, bytes, pair, 1, NULL, &tokens, &err) == GGE_E_UNSUPPORTED && tokens == NULL);
    CHECK(strstr(err.message, "cannot rank") != NULL);
    CHECK(gge_tokenize(model, bytes, pair, 1, NULL, &tokens, &err) == GGE_OK);
    CHECK(gge_engine_create(model, NULL, &engine, &err) == GGE_OK);
    opts.struct_size = sizeof(opts);
    opts.pooling = GGE_POOLING_RANK;
    CHECK(gge_encode(engine, tokens, &opts, row, 1, 1, &err) == GGE_E_UNSUPPORTED);
    opts.pooling = GGE_POOLING_MEAN;
    opts.adapter = 1;
    CHECK(gge_encode(engine, tokens, &opts, row, 1, 1, &err) == GGE_E_INVALID);
    CHECK(strstr(err.message, "adapter is 1") != NULL);
    gge_engine_free(engine);
    gge_tokens_free(tokens);
}

/* The engine and the tokens keep the model alive, and a request what it needs. */
static void handles_are_freed_in_any_order(const char *path) {
    gge_model *model = NULL;
    gge_tokens *tokens = NULL;
    gge_engine *engine = NULL;
    gge_model_info info = {0};
    gge_request *request = NULL;
    gge_status status;
    int n_done = 0;
    float *rows;
    info.struct_size = sizeof(info);
    CHECK(gge_model_load(path, NULL, &model, &err) == GGE_OK);
    CHECK(gge_model_get_info(model, &info, &err) == GGE_OK);
    CHECK(gge_engine_create(model, NULL, &engine, &err) == GGE_OK);
    CHECK(gge_tokenize(model, bytes, offsets, 2, NULL, &tokens, &err) == GGE_OK);
    gge_model_free(model);
    rows = calloc(2 * (size_t)info.n_embd, sizeof(float));
    CHECK(gge_encode(engine, tokens, NULL, rows, 2, info.n_embd, &err) == GGE_OK);
    CHECK(gge_submit(engine, tokens, NULL, rows, 2, info.n_embd, count_done, &n_done, &request, &err) == GGE_OK);
    CHECK(gge_tokens_n_texts(tokens) == 2);
    gge_tokens_free(tokens);
    gge_engine_free(engine);
    CHECK(n_done == 1);
    status = gge_request_finish(request, &err);
    CHECK(status == GGE_OK || status == GGE_E_CLOSED);
    free(rows);
}

static int64_t total_of(const gge_memory *m) {
    return m->weights_device + m->weights_host + m->cache_device + m->cache_host + m->compute_device + m->compute_host +
           m->output_host;
}

static void files_are_measured_and_quantised(const char *path) {
    const char *target = "test_capi.quantised.gguf";
    gge_memory memory = {0};
    gge_memory small = {0};
    gge_engine_options engine = {0};
    gge_quantize_options opts = {0};
    gge_model *model = NULL;
    FILE *file;
    int n_calls = 0;
    int32_t n_levels = 0;

    CHECK(gge_estimate(path, NULL, NULL, NULL, &err) == GGE_E_INVALID);
    CHECK(gge_estimate(path, NULL, NULL, &memory, &err) == GGE_E_INVALID);
    memory.struct_size = small.struct_size = sizeof(memory);
    engine.struct_size = sizeof(engine);
    CHECK(gge_estimate(NULL, NULL, NULL, &memory, &err) == GGE_E_INVALID);
    CHECK(gge_estimate("no/such.gguf", NULL, NULL, &memory, &err) == GGE_E_IO);
    CHECK(gge_estimate(path, NULL, NULL, &memory, &err) == GGE_OK && total_of(&memory) > 0);
    CHECK(memory.n_weights > 0 && memory.weights[0].file_bytes >= memory.weights[memory.n_weights - 1].file_bytes);
    CHECK(memory.weights[0].type[0] != '\0' && memory.weights[0].memory_bytes > 0);
    CHECK(memory.n_weights == 64 || memory.weights[memory.n_weights].type[0] == '\0');
    engine.n_ctx = 8;
    CHECK(gge_estimate(path, NULL, &engine, &small, &err) == GGE_OK && total_of(&small) <= total_of(&memory));
    engine.n_ctx = 1 << 30;
    CHECK(gge_estimate(path, NULL, &engine, &small, &err) == GGE_E_INVALID);

    while (gge_quantize_level(n_levels) != NULL) {
        ++n_levels;
    }
    CHECK(n_levels > 20 && strcmp(gge_quantize_level(0), "F32") == 0 && gge_quantize_level(-1) == NULL);

    remove(target);
    CHECK(gge_quantize(path, target, NULL, &err) == GGE_E_INVALID && strstr(err.message, "no level") != NULL);
    CHECK(gge_quantize(path, target, &opts, &err) == GGE_E_INVALID);
    opts.struct_size = sizeof(opts);
    opts.level = "Q8_0";
    CHECK(gge_quantize(NULL, target, &opts, &err) == GGE_E_INVALID);
    CHECK(gge_quantize(path, NULL, &opts, &err) == GGE_E_INVALID);
    CHECK(gge_quantize(path, path, &opts, &err) == GGE_E_INVALID);
    opts.user_data = &n_calls;
    opts.abort = stop_now;
    CHECK(gge_quantize(path, target, &opts, &err) == GGE_E_ABORTED && n_calls == 1);
    opts.abort = NULL;
    opts.progress = count_calls;
    file = fopen(target, "rb");
    CHECK(file == NULL);
    CHECK(gge_quantize(path, target, &opts, &err) == GGE_OK && n_calls > 2);
    CHECK(gge_model_load(target, NULL, &model, &err) == GGE_OK);
    gge_model_free(model);
    opts.level = "Q4_0";
    CHECK(gge_quantize(target, "x.gguf", &opts, &err) == GGE_E_INVALID);
    CHECK(remove(target) == 0);
}

static void count_lines(void *user_data, gge_log_level level, const char *message) {
    CHECK(level >= GGE_LOG_DEBUG && level <= GGE_LOG_ERROR && strchr(message, '\n') == NULL);
    ++*(int *)user_data;
}

static void log_goes_to_the_callback(const char *path) {
    gge_model *model = NULL;
    int n_lines = 0;
    int before;
    gge_set_log(count_lines, &n_lines, GGE_LOG_DEBUG);
    CHECK(gge_model_load(path, NULL, &model, &err) == GGE_OK);
    CHECK(n_lines > 0);
    gge_model_free(model);
    gge_set_log(NULL, NULL, GGE_LOG_DEBUG);
    before = n_lines;
    CHECK(gge_model_load(path, NULL, &model, &err) == GGE_OK);
    CHECK(n_lines == before);
    gge_model_free(model);
}

int main(int argc, char **argv) {
    const char *path = getenv("GGEMBED_TEST_MODEL");
    versions_agree();
    cpu_is_the_last_device();
    null_is_refused_or_harmless();
    CHECK(argc > 0);
    bad_files_are_named(argv[0]);
    if (path != NULL) {
        gge_model *model = NULL;
        load_options_work(path);
        CHECK(gge_model_load(path, NULL, &model, &err) == GGE_OK);
        if (model != NULL) {
            model_tells_about_itself(model);
            texts_become_rows(model);
            requests_give_the_rows_of_calls(model);
            bad_texts_are_named(model);
            models_without_towers_take_no_media(model);
            parts_of_text_become_what_texts_become(model);
            projectors_that_are_none_are_named(path, argv[0]);
            adapters_and_heads_that_are_not_there_are_refused(model, path);
            gge_model_free(model);
            handles_are_freed_in_any_order(path);
            files_are_measured_and_quantised(path);
            log_goes_to_the_callback(path);
        } else {
            printf("cannot load %s: %s\n", path, err.message);
        }
    }
    if (getenv("GGEMBED_TEST_OMNI") != NULL) {
        loading_of_projectors_can_be_aborted(getenv("GGEMBED_TEST_OMNI"));
    }
    printf("%d checks, %d failed\n", n_checks, n_failed);
    if (n_failed == 0 && path == NULL) {
        printf("skipped the part with a model: GGEMBED_TEST_MODEL is not set\n");
        return 77;
    }
    return n_failed != 0;
}
