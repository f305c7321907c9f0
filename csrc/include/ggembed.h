/*
 * ggembed.h - the C ABI of ggembed: text embeddings from GGUF models, in process.
 *
 * This header is the manual of the library. Python's binding parses the text between the two cffi marker comments
 * as it stands, so that part holds plain C99 declarations and no macros.
 *
 * The path of one call
 *
 *     gge_model_load -> gge_tokenize -> gge_encode        (an engine is made once: gge_engine_create)
 *
 * Texts become tokens first, because only then is it known how many rows the caller must have room for. Everything is
 * computed on the engine's own worker thread; the caller of gge_encode waits.
 *
 * Rules that hold for every function
 *
 * - Strings are UTF-8. Texts are given as one byte array with n_texts + 1 increasing offsets (Apache Arrow's
 *   large_string layout), so they may hold NUL bytes. Other strings are NUL-terminated.
 * - Options structs start with struct_size, which the caller sets to sizeof the struct. The other fields are zero for
 *   the default; a NULL options pointer means "all defaults". Fields are only ever appended.
 * - A call that can fail returns a gge_status and, when the gge_error pointer is not NULL, fills it in. There is no
 *   other error state: no thread-local, no "last error". On GGE_OK the error struct is cleared.
 * - An output pointer for a handle is set to NULL on failure.
 * - No C++ exception leaves the library, and bad input never ends the process.
 * - Handles may be freed in any order: a tokens handle and an engine keep what they need of their model alive.
 * - The library is silent. What it and llama.cpp have to say goes to the callback of gge_set_log, if there is one.
 * - After fork() the handles of the parent must not be used in the child.
 */
#ifndef GGEMBED_H
#define GGEMBED_H

#include <stddef.h>
#include <stdint.h>

#define GGE_VERSION_MAJOR 0
#define GGE_VERSION_MINOR 1
#define GGE_VERSION_PATCH 0

/* The ABI this header describes, and the oldest caller that a library built from it accepts. */
#define GGE_ABI_VERSION 1
#define GGE_ABI_OLDEST 1

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* cffi: begin */

/* ------------------------------------------------------------------ status and error */

/* What a call, or one input of a call, came to. The numbers are never reused. */
typedef int32_t gge_status;
enum {
    GGE_OK = 0,
    GGE_E_INVALID = 1,     /* an argument, an option or a text is not valid */
    GGE_E_UNSUPPORTED = 2, /* valid, but not something this model or this build can do */
    GGE_E_IO = 3,          /* a file cannot be opened or read */
    GGE_E_FORMAT = 4,      /* a file is not a usable GGUF model */
    GGE_E_MEMORY = 5,      /* out of memory, on the host or on the device */
    GGE_E_DEVICE = 6,      /* the device is missing or failed */
    GGE_E_TOO_LONG = 7,    /* an input has more tokens than the engine's context holds */
    GGE_E_EMPTY = 8,       /* an input has no tokens at all, so there is nothing to pool */
    GGE_E_NOT_FINITE = 9,  /* an input's row holds NaN or infinity, also when computed alone on a wiped cache */
    GGE_E_ABORTED = 10,    /* a callback asked to stop */
    GGE_E_CLOSED = 11,     /* the engine was closed */
    GGE_E_INTERNAL = 12    /* a fault in ggembed or llama.cpp; the message says where */
};

typedef struct gge_error {
    gge_status status;
    int32_t reserved;
    int64_t input_index; /* the input at fault, or -1 */
    char message[496];   /* one line of UTF-8, always terminated; empty on GGE_OK */
} gge_error;

/* The name of a status, such as "GGE_E_TOO_LONG"; "unknown" for other numbers. Static storage. */
const char *gge_status_name(gge_status status);

/* ------------------------------------------------------------------ version and build */

/* ABI version of the library, and the oldest GGE_ABI_VERSION of a caller that it accepts. */
int32_t gge_abi_version(void);
int32_t gge_abi_oldest(void);

/* Version of the library, "major.minor.patch". Static storage. */
const char *gge_version(void);

/* How the library was built, as one JSON object: llama.cpp commit, compiler, back ends, CPU level. Static storage. */
const char *gge_build_info(void);

/* ------------------------------------------------------------------ log */

typedef int32_t gge_log_level;
enum { GGE_LOG_DEBUG = 1, GGE_LOG_INFO = 2, GGE_LOG_WARN = 3, GGE_LOG_ERROR = 4 };

/* message: one line, UTF-8, no newline, valid during the call. May be called on any thread, also at the same time. */
typedef void (*gge_log_fn)(void *user_data, gge_log_level level, const char *message);

/*
 * Sets the process-wide log callback; NULL (the default) is silence. Lines below min_level are dropped before the
 * callback. When the call returns, the callback that was set before is not running and will not be called again.
 * Must not be called from inside a log callback. Any thread.
 */
void gge_set_log(gge_log_fn log, void *user_data, gge_log_level min_level);

/* ------------------------------------------------------------------ callbacks of long calls */

/* Reports progress: done of total, in the unit that the function names. Runs on the thread that made the call. */
typedef void (*gge_progress_fn)(void *user_data, int64_t done, int64_t total);

/* Returns nonzero to stop the call, which then returns GGE_E_ABORTED. Runs on the thread that made the call. */
typedef int32_t (*gge_abort_fn)(void *user_data);

/* ------------------------------------------------------------------ devices */

typedef int32_t gge_device_kind;
enum { GGE_DEVICE_CPU = 1, GGE_DEVICE_CUDA = 2, GGE_DEVICE_METAL = 3, GGE_DEVICE_OTHER = 4 };

typedef struct gge_device_info {
    size_t struct_size;
    gge_device_kind kind;
    int32_t index;         /* among the devices of its kind, from 0 */
    int64_t memory_total;  /* bytes */
    int64_t memory_free;   /* bytes */
    char name[64];         /* what gge_model_options.device takes: "cpu", "cuda:0", "metal:0" */
    char description[192]; /* as the driver calls it */
} gge_device_info;

/* Number of devices that this build can use here, the CPU included (it is the last one). Touches the drivers. */
int32_t gge_device_count(void);

/* Describes device i of gge_device_count(). Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_device_get(int32_t i, gge_device_info *out, gge_error *err);

/* ------------------------------------------------------------------ model */

/* Weights, vocabulary and metadata of one GGUF file. Immutable; share it freely between threads. */
typedef struct gge_model gge_model;

typedef int32_t gge_switch;
enum { GGE_SWITCH_DEFAULT = 0, GGE_ON = 1, GGE_OFF = 2 };

typedef struct gge_model_options {
    size_t struct_size;
    const char *device;       /* "auto" (NULL too): the first GPU, else the CPU. "cpu": no GPU is used at all. "cuda",
                             "cuda:1", "metal", or another name of gge_device_get */
    int32_t n_gpu_layers;     /* layers kept on the GPU: 0 = all, n > 0 = the last n, -1 = none */
    gge_switch mmap;          /* map the file instead of reading it; default on */
    gge_progress_fn progress; /* bytes of the file */
    gge_abort_fn abort;
    void *user_data; /* for both callbacks */
} gge_model_options;

/*
 * Loads a GGUF file. A split model is named by its first file, "...-00001-of-0000n.gguf".
 * Statuses: GGE_E_INVALID, _UNSUPPORTED (not an embedding model), _IO, _FORMAT, _MEMORY, _DEVICE, _ABORTED. Any thread.
 */
gge_status gge_model_load(const char *path, const gge_model_options *opts, gge_model **out, gge_error *err);

/* Drops the caller's reference. NULL is allowed. */
void gge_model_free(gge_model *model);

/* How the token rows of one input become one row. RANK (rerankers) is known by name only and not supported. */
typedef int32_t gge_pooling;
enum {
    GGE_POOLING_DEFAULT = 0, /* the model's own, see gge_model_info.pooling */
    GGE_POOLING_NONE = 1,    /* no pooling: one row per token */
    GGE_POOLING_MEAN = 2,
    GGE_POOLING_CLS = 3,
    GGE_POOLING_LAST = 4,
    GGE_POOLING_RANK = 5
};

typedef int32_t gge_attention;
enum { GGE_ATTENTION_DEFAULT = 0, GGE_ATTENTION_CAUSAL = 1, GGE_ATTENTION_BIDIRECTIONAL = 2 };

typedef struct gge_model_info {
    size_t struct_size;
    gge_pooling pooling;     /* what GGE_POOLING_DEFAULT means for this model; never DEFAULT */
    int32_t pooling_in_file; /* 1 if the file names it, 0 if it follows from the attention type:
                                    causal -> LAST, bidirectional -> MEAN */
    gge_attention attention; /* of the file; never DEFAULT */
    int32_t has_cache;       /* 1: runs through a key/value cache, so a causal input may span micro-batches */
    int32_t n_embd;          /* width of a row */
    int32_t n_layer;
    int32_t n_ctx_train; /* context length of the file, in tokens */
    int32_t n_vocab;
    int32_t add_bos;         /* 1 if tokenising puts token_bos in front */
    int32_t add_eos;         /* 1 if tokenising appends token_eos or token_sep */
    int32_t add_eos_in_file; /* 0 if the file lacks the rule and ggembed supplies it (EuroBERT, last pooling) */
    int32_t token_bos;       /* token ids, or -1 */
    int32_t token_eos;
    int32_t token_sep;
    int32_t token_pad;
    int32_t n_gpu_layers; /* layers on the device */
    int32_t reserved;
    int64_t n_params;
    int64_t tensor_bytes;    /* size of all weights */
    int64_t file_bytes;      /* size of the file or files */
    char architecture[64];   /* general.architecture: "bert", "qwen3", ... */
    char name[128];          /* general.name, may be empty */
    char quantization[64];   /* llama.cpp's name of the file type: "F16", "Q8_0", "Q4_K - Medium" */
    char tokenizer[32];      /* tokenizer.ggml.model: "bert", "gpt2", "llama", "t5", "none" */
    char device[64];         /* gge_device_info.name of where the weights are */
    char device_reason[128]; /* why that device was chosen */
} gge_model_info;

/* Fills *out. Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_model_get_info(const gge_model *model, gge_model_info *out, gge_error *err);

/*
 * The file's scalar metadata as strings, i from 0 to gge_model_meta_count() - 1. Arrays appear shortened, as
 * llama.cpp prints them. Pointers live as long as the model; NULL when i is out of range. Any thread.
 */
int32_t gge_model_meta_count(const gge_model *model);
const char *gge_model_meta_key(const gge_model *model, int32_t i);
const char *gge_model_meta_value(const gge_model *model, int32_t i);

/* ------------------------------------------------------------------ tokens */

/* Token ids of a list of texts. Immutable; share it freely between threads. */
typedef struct gge_tokens gge_tokens;

typedef struct gge_tokenize_options {
    size_t struct_size;
    const uint8_t *prompt; /* put in front of every text before it is tokenised; borrowed during the call */
    int64_t prompt_bytes;
    gge_switch add_special;   /* BOS, EOS, CLS, SEP as the model's rules say; default on */
    gge_switch parse_special; /* read "<|...|>" in texts and prompt as special tokens; default off, because with
                                  text from users it lets them forge markers */
    int32_t *input_status;    /* [n_texts] or NULL, see gge_tokenize */
    gge_abort_fn abort;       /* asked between texts, about every 50 ms */
    void *user_data;
} gge_tokenize_options;

/*
 * Tokenises n_texts texts: text i is bytes[offsets[i] .. offsets[i + 1]).
 *   bytes:   [offsets[n_texts]] bytes of UTF-8, borrowed during the call; may be NULL if there are none
 *   offsets: [n_texts + 1], not decreasing, offsets[0] >= 0
 * A text that is not valid UTF-8 or has more than 2^31 - 1 bytes is GGE_E_INVALID. With input_status NULL it fails the
 * call, which names it in err->input_index; otherwise input_status[i] says what became of text i, the bad ones have no
 * tokens, and gge_encode passes their status on. No length limit is applied here, gge_encode does that.
 * Statuses: GGE_E_INVALID, _UNSUPPORTED (the model has no tokenizer), _FORMAT (its vocabulary is incomplete), _MEMORY,
 * _ABORTED. Any thread.
 */
gge_status gge_tokenize(const gge_model *model, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                        const gge_tokenize_options *opts, gge_tokens **out, gge_error *err);

/*
 * Takes token ids as they are: text i is ids[offsets[i] .. offsets[i + 1]), special tokens included. Copies both arrays.
 * Statuses: GGE_E_INVALID (an id outside [0, n_vocab), bad offsets), _MEMORY. Any thread.
 */
gge_status gge_tokens_from_ids(const gge_model *model, const int32_t *ids, const int64_t *offsets, int64_t n_texts,
                               gge_tokens **out, gge_error *err);

/* Drops the handle. NULL is allowed. */
void gge_tokens_free(gge_tokens *tokens);

/* Number of texts, their token ids one after the other (may be NULL if there are none), and where each text begins:
 * [n_texts + 1]. The pointers live as long as the handle. */
int64_t gge_tokens_n_texts(const gge_tokens *tokens);
const int32_t *gge_tokens_ids(const gge_tokens *tokens);
const int64_t *gge_tokens_offsets(const gge_tokens *tokens);

/* ------------------------------------------------------------------ engine */

/* Compute state and the worker thread of one model. Any number of threads may use one engine at the same time. */
typedef struct gge_engine gge_engine;

typedef struct gge_engine_options {
    size_t struct_size;
    int32_t n_ctx;              /* longest input in tokens; 0 = n_ctx_train of the model, which is also the limit */
    int32_t n_ubatch;           /* tokens that go through the model together; 0 = chosen. Grows by itself for a longer
                                input that has to fit as a whole */
    int32_t n_seq_max;          /* most sequences packed into one micro-batch, at most 256; 0 = chosen */
    int32_t n_threads;          /* CPU threads; 0 = the physical cores that the process may use */
    gge_attention attention;    /* override of the file's attention type */
    gge_switch flash_attention; /* default: llama.cpp decides */
} gge_engine_options;

/* Makes an engine. Statuses: GGE_E_INVALID, _UNSUPPORTED, _MEMORY, _DEVICE, _FORMAT. Any thread. */
gge_status gge_engine_create(gge_model *model, const gge_engine_options *opts, gge_engine **out, gge_error *err);

/*
 * Ends what is queued or running (those calls return GGE_E_CLOSED), stops the worker and frees device and host buffers.
 * Later calls on the engine return GGE_E_CLOSED. May be called twice, from any thread, but not from a callback.
 */
void gge_engine_close(gge_engine *engine);

/* Closes and drops the handle. NULL is allowed. No other call may be using the engine. */
void gge_engine_free(gge_engine *engine);

typedef struct gge_engine_info {
    size_t struct_size;
    int32_t n_ctx;    /* longest input that is accepted */
    int32_t n_ubatch; /* current token budget of a micro-batch */
    int32_t n_seq_max;
    int32_t n_threads;
    gge_attention attention; /* in use; never DEFAULT */
    int32_t reserved;
} gge_engine_info;

/* Fills *out. Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_engine_get_info(const gge_engine *engine, gge_engine_info *out, gge_error *err);

typedef struct gge_encode_options {
    size_t struct_size;
    gge_pooling pooling;  /* GGE_POOLING_NONE gives one row per token */
    int32_t truncate_dim; /* keep the first truncate_dim values of a row; 0 = all. Cut first, then normalised */
    gge_switch normalize; /* scale rows to unit length; default on. An all-zero row stays zero */
    int32_t reserved;
    int32_t *input_status;    /* [n_texts] or NULL, see gge_encode */
    gge_progress_fn progress; /* tokens; called between micro-batches */
    gge_abort_fn abort;       /* asked at least every 50 ms while the call waits */
    void *user_data;          /* for both callbacks */
} gge_encode_options;

/*
 * Computes the rows of tokens, which must come from the engine's model.
 *   out: [n_rows, row_stride] floats, caller-owned; row i starts at out + i * row_stride and its first
 *        min(n_embd, truncate_dim) floats are written. The rest of a row is left alone.
 *   n_rows: n_texts, or with GGE_POOLING_NONE the total number of tokens (rows of text i start at offsets[i])
 * With input_status NULL the first input that cannot be computed fails the call, before anything is computed if its
 * length is the reason; the content of out is then unspecified. Otherwise the call runs on to the end, input_status[i]
 * says what became of input i, and the rows of those that failed are NaN.
 * The same input gives the same row alone and in any company within 1e-5 in cosine distance for F32, F16 and BF16
 * weights. With quantised weights llama.cpp rounds activations to 8 bits too, which amplifies the order of additions: up
 * to 3e-3 has been seen on a model of 6 layers. Bit-identity is not promised across different batches.
 * Statuses: GGE_E_INVALID, _UNSUPPORTED, _MEMORY, _DEVICE, _ABORTED, _CLOSED, _INTERNAL; per input also _TOO_LONG,
 * _EMPTY, _NOT_FINITE and what gge_tokenize said. Any thread.
 */
gge_status gge_encode(gge_engine *engine, const gge_tokens *tokens, const gge_encode_options *opts, float *out,
                      int64_t n_rows, int64_t row_stride, gge_error *err);

/* cffi: end */

#ifdef __cplusplus
}
#endif
#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif

#endif /* GGEMBED_H */
