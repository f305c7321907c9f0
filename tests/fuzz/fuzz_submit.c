/* Reaches gge_submit, gge_request_abort and gge_request_finish in any order, between other calls on the engine and in
 * on_done: statuses that nothing explains, rows of calls that are over, requests that are never done, and what an engine
 * leaves when it is closed or freed before its requests are finished. Statuses and rows end at an unmapped page.
 *
 * Input: model, engine options, then for each step what it does and the slot of its request; for gge_submit also flags,
 * what on_done does, number of texts, and per text a length, its first id and the step to the next. Needs
 * GGEMBED_TEST_MODEL. */
#define _DEFAULT_SOURCE /* recursive mutexes */

#include "fuzz_util.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { N_SLOTS = 6, MAX_STEPS = 32, MAX_TEXTS = 8, MAX_LENGTH = 96 };
enum { DO_SUBMIT, DO_FINISH, DO_ABORT, DO_ABORT_ALL, DO_ENCODE, DO_CLOSE, DO_DRAIN, DO_FREE, N_STEPS };
enum { F_STATUS = 1, F_NO_ON_DONE = 2, F_KEEP_TOKENS = 4 };
enum {
    ON_DONE_TELLS,
    ON_DONE_FINISHES,
    ON_DONE_FINISHES_OTHERS,
    ON_DONE_ABORTS_OTHERS,
    ON_DONE_ABORTS_ALL,
    ON_DONE_SUBMITS,
    ON_DONE_ENCODES,
    ON_DONE_CLOSES,
    N_ON_DONE
};

/* A request and what it writes to. */
typedef struct slot {
    int live;   /* submitted and not finished */
    int untold; /* its on_done has yet to return */
    int asked;  /* to end */
    int keeps_tokens;
    int on_done;
    gge_request *request;
    gge_tokens *tokens;
    int64_t n_texts;
    int64_t n_tokens;
    gge_encode_options opts;
    gge_status expected[MAX_TEXTS];
    gge_status *status; /* guarded, or NULL */
    float *out;         /* guarded */
    size_t out_bytes;
} slot;

/* Held by who looks at slots, but not while waiting for the engine's thread. Recursive: gge_engine_abort and the like
 * are called with it. */
static pthread_mutex_t mutex;
static slot slots[N_SLOTS];
static gge_engine *engine; /* NULL: freed */
static gge_model_info info;
static gge_model *model;
static int32_t n_ctx;
static int all_aborted; /* at some time */
static int closed;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    pthread_mutexattr_t attributes;
    (void)argc;
    (void)argv;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    fuzz_load_models();
    return 0;
}

static void make_engine(fuzz_input *in) {
    gge_engine_options opts = {0};
    gge_engine_info engine_info = {0};
    gge_error err;
    opts.struct_size = sizeof(opts);
    opts.n_ubatch = fuzz_u8(in) % 80;
    opts.n_seq_max = fuzz_u8(in) % 10;
    opts.max_queued_tokens = fuzz_u8(in);
    opts.n_ctx = 64;
    opts.n_threads = 1;
    FUZZ_CHECK(gge_engine_create(model, &opts, &engine, &err) == GGE_OK, &err);
    engine_info.struct_size = sizeof(engine_info);
    FUZZ_CHECK(gge_engine_get_info(engine, &engine_info, &err) == GGE_OK, &err);
    n_ctx = engine_info.n_ctx;
}

/* ------------------------------------------------------------------ calls */

static void make_call(fuzz_input *in, slot *s) {
    const uint8_t flags = fuzz_u8(in);
    int32_t ids[MAX_TEXTS * MAX_LENGTH];
    int64_t offsets[MAX_TEXTS + 1] = {0};
    int64_t i;
    gge_error err;
    s->on_done = flags & F_NO_ON_DONE ? -1 : fuzz_u8(in) % N_ON_DONE;
    s->keeps_tokens = flags & F_KEEP_TOKENS;
    s->n_texts = fuzz_u8(in) % (MAX_TEXTS + 1);
    s->n_tokens = 0;
    for (i = 0; i < s->n_texts; ++i) {
        const int n = fuzz_u8(in) % MAX_LENGTH;
        const int32_t first = fuzz_u16(in) % info.n_vocab;
        const int32_t step = fuzz_u8(in);
        int k;
        for (k = 0; k < n; ++k) {
            ids[s->n_tokens++] = (first + k * step) % info.n_vocab;
        }
        offsets[i + 1] = s->n_tokens;
        s->expected[i] = n == 0 ? GGE_E_EMPTY : n > n_ctx ? GGE_E_TOO_LONG : GGE_OK;
    }
    FUZZ_CHECK(gge_tokens_from_ids(model, ids, offsets, s->n_texts, &s->tokens, &err) == GGE_OK, &err);
    memset(&s->opts, 0, sizeof(s->opts));
    s->opts.struct_size = sizeof(s->opts);
    s->status = flags & F_STATUS ? fuzz_guarded_new((size_t)s->n_texts * sizeof(*s->status)) : NULL;
    s->opts.input_status = s->status;
    s->out_bytes = (size_t)(s->n_texts * info.n_embd) * sizeof(*s->out);
    s->out = fuzz_guarded_new(s->out_bytes);
    memset(s->out, 0, s->out_bytes);
    s->asked = 0;
}

static void drop_call(slot *s) {
    gge_tokens_free(s->tokens);
    fuzz_guarded_free(s->status, (size_t)s->n_texts * sizeof(*s->status));
    fuzz_guarded_free(s->out, s->out_bytes);
    s->tokens = NULL;
    s->status = NULL;
    s->out = NULL;
}

static int64_t first_refused(const slot *s) {
    int64_t i = 0;
    while (i < s->n_texts && s->expected[i] == GGE_OK) {
        ++i;
    }
    return i;
}

/* What a call came to that was accepted, or that waited. */
static void check_end(const slot *s, gge_status result, const gge_error *err) {
    int64_t i;
    fuzz_check_error(result, err);
    FUZZ_CHECK(result == GGE_OK || (result == GGE_E_ABORTED && (s->asked || all_aborted)) ||
                   (result == GGE_E_CLOSED && closed),
               err);
    for (i = 0; i < s->n_texts; ++i) {
        const gge_status status = s->status == NULL ? result : s->status[i];
        const float *row = s->out + i * info.n_embd;
        double square = 0;
        int32_t k;
        FUZZ_CHECK(s->status == NULL || status == s->expected[i] || status == result, err);
        if (status != GGE_OK) {
            FUZZ_CHECK(s->status == NULL || isnan(row[0]), err);
            continue;
        }
        for (k = 0; k < info.n_embd; ++k) {
            square += (double)row[k] * (double)row[k];
        }
        FUZZ_CHECK(fabs(square - 1.0) < 1e-4, err);
    }
}

static void encode(const slot *s, int on_engine_thread) {
    gge_error err;
    const gge_status result = gge_encode(engine, s->tokens, &s->opts, s->out, s->n_texts, info.n_embd, &err);
    pthread_mutex_lock(&mutex);
    if (on_engine_thread) {
        FUZZ_CHECK(result == GGE_E_BUSY, &err);
    } else if (s->status == NULL && first_refused(s) < s->n_texts) {
        FUZZ_CHECK(result == s->expected[first_refused(s)] && err.input_index == first_refused(s), &err);
    } else {
        check_end(s, result, &err);
    }
    pthread_mutex_unlock(&mutex);
}

/* ------------------------------------------------------------------ requests */

static void on_done(void *const *done_data, int64_t n);

static int any_other(const slot *s) {
    int i;
    int n = 0;
    for (i = 0; i < N_SLOTS; ++i) {
        n += &slots[i] != s && slots[i].out != NULL;
    }
    return n > 0;
}

/* With the mutex, so that on_done finds the slot as it should be. */
static void submit(slot *s) {
    gge_error err;
    const int may_be_busy = any_other(s);
    const gge_status result = gge_submit(engine, s->tokens, &s->opts, s->out, s->n_texts, info.n_embd,
                                         s->on_done < 0 ? NULL : on_done, s, &s->request, &err);
    fuzz_check_error(result, &err);
    FUZZ_CHECK((result == GGE_OK) == (s->request != NULL), &err);
    if (s->status == NULL && first_refused(s) < s->n_texts) {
        FUZZ_CHECK(result == s->expected[first_refused(s)] && err.input_index == first_refused(s), &err);
    } else {
        FUZZ_CHECK(result == GGE_OK || (result == GGE_E_BUSY && may_be_busy) || (result == GGE_E_CLOSED && closed),
                   &err);
    }
    s->live = result == GGE_OK;
    s->untold = result == GGE_OK && s->on_done >= 0;
    if (!s->live) {
        drop_call(s);
    }
}

/* Takes a live request out of its slot, so that nobody else finishes or aborts it. */
static gge_request *take(slot *s) {
    gge_request *request = s->request;
    s->live = 0;
    s->request = NULL;
    return request;
}

static void finish(slot *s) {
    gge_error err;
    gge_request *request;
    pthread_mutex_lock(&mutex);
    request = s->live ? take(s) : NULL;
    pthread_mutex_unlock(&mutex);
    if (request != NULL) {
        const gge_status result = gge_request_finish(request, &err);
        pthread_mutex_lock(&mutex);
        check_end(s, result, &err);
        FUZZ_CHECK(!s->untold, &err);
        drop_call(s);
        pthread_mutex_unlock(&mutex);
    }
}

/* On the engine's thread, where it does not wait. With the mutex. */
static void finish_if_done(slot *s, int is_done) {
    if (s->live) {
        gge_error err;
        gge_request *request = take(s);
        const gge_status result = gge_request_finish(request, &err);
        if (result == GGE_E_BUSY) {
            FUZZ_CHECK(!is_done, &err);
            s->live = 1;
            s->request = request;
        } else {
            check_end(s, result, &err);
            drop_call(s);
        }
    }
}

static void abort_request(slot *s) {
    if (s->live) {
        s->asked = 1;
        gge_request_abort(s->request);
    }
}

static int is_free(const slot *s) {
    return !s->live && !s->untold && s->out == NULL;
}

/* A request like another one, in a slot that is free. With the mutex. */
static void submit_copy(const slot *from) {
    int i;
    for (i = 0; i < N_SLOTS && !is_free(&slots[i]); ++i) {
    }
    if (i < N_SLOTS && from->tokens != NULL) {
        uint8_t bytes[] = {F_STATUS, ON_DONE_FINISHES, 2, 9, 1, 0, 3, 70, 2, 0, 1};
        fuzz_input in = {bytes, sizeof(bytes)};
        make_call(&in, &slots[i]);
        submit(&slots[i]);
    }
}

/* With the mutex. */
static void act_when_done(slot *s) {
    int i;
    FUZZ_CHECK(s->untold, NULL);
    switch (s->on_done) {
    case ON_DONE_FINISHES: finish_if_done(s, 1); break;
    case ON_DONE_ABORTS_ALL:
        all_aborted = 1;
        gge_engine_abort(engine);
        break;
    case ON_DONE_SUBMITS: submit_copy(s); break;
    case ON_DONE_ENCODES:
        if (s->live && s->status != NULL && s->tokens != NULL) {
            encode(s, 1);
        }
        break;
    case ON_DONE_CLOSES:
        closed = 1;
        gge_engine_close(engine);
        break;
    default:
        for (i = 0; i < N_SLOTS; ++i) {
            if (&slots[i] != s && s->on_done == ON_DONE_FINISHES_OTHERS) {
                finish_if_done(&slots[i], 0);
            } else if (&slots[i] != s && s->on_done == ON_DONE_ABORTS_OTHERS) {
                abort_request(&slots[i]);
            }
        }
    }
    s->untold = 0;
}

static void on_done(void *const *done_data, int64_t n) {
    int64_t i;
    pthread_mutex_lock(&mutex);
    for (i = 0; i < n; ++i) {
        act_when_done(done_data[i]);
    }
    pthread_mutex_unlock(&mutex);
}

/* ------------------------------------------------------------------ steps */

static void start(fuzz_input *in, slot *s) {
    pthread_mutex_lock(&mutex);
    if (is_free(s)) {
        make_call(in, s);
        submit(s);
        if (s->live && !s->keeps_tokens) {
            gge_tokens_free(s->tokens);
            s->tokens = NULL;
        }
    }
    pthread_mutex_unlock(&mutex);
}

static void say_closed(void) {
    pthread_mutex_lock(&mutex);
    closed = 1;
    pthread_mutex_unlock(&mutex);
}

static void free_engine(void) {
    say_closed();
    gge_engine_free(engine);
    engine = NULL;
}

static void step_on_engine(fuzz_input *in, int what, slot *s) {
    slot alone;
    switch (what) {
    case DO_SUBMIT: start(in, s); break;
    case DO_ABORT_ALL:
        pthread_mutex_lock(&mutex);
        all_aborted = 1;
        gge_engine_abort(engine);
        pthread_mutex_unlock(&mutex);
        break;
    case DO_ENCODE:
        make_call(in, &alone);
        encode(&alone, 0);
        drop_call(&alone);
        break;
    case DO_CLOSE:
        say_closed();
        gge_engine_close(engine);
        break;
    case DO_DRAIN:
        say_closed();
        gge_engine_drain(engine);
        break;
    default: free_engine();
    }
}

static void step(fuzz_input *in) {
    const uint8_t code = fuzz_u8(in);
    const int what = code < 0xe0 ? code % DO_CLOSE : code % N_STEPS; /* most of what there is leaves an engine */
    slot *s = &slots[fuzz_u8(in) % N_SLOTS];
    if (what == DO_FINISH) {
        finish(s);
    } else if (what == DO_ABORT) {
        pthread_mutex_lock(&mutex);
        abort_request(s);
        pthread_mutex_unlock(&mutex);
    } else if (engine != NULL) {
        step_on_engine(in, what, s);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    int i;
    model = fuzz_model(fuzz_u8(&in), &info);
    all_aborted = 0;
    closed = 0;
    make_engine(&in);
    for (i = 0; i < MAX_STEPS && in.size > 0; ++i) {
        step(&in);
    }
    for (i = 0; i < N_SLOTS; ++i) {
        finish(&slots[i]);
    }
    if (engine != NULL) {
        gge_engine_stats stats = {0};
        gge_error err;
        say_closed(); /* an on_done may just have submitted another */
        gge_engine_drain(engine);
        stats.struct_size = sizeof(stats);
        FUZZ_CHECK(gge_engine_stats_get(engine, &stats, &err) == GGE_OK, &err);
        FUZZ_CHECK(stats.n_calls_queued == 0 && stats.n_calls_running == 0 && stats.n_tokens_queued == 0, NULL);
        free_engine();
    }
    for (i = 0; i < N_SLOTS; ++i) {
        finish(&slots[i]);
        FUZZ_CHECK(is_free(&slots[i]), NULL);
    }
    return 0;
}
