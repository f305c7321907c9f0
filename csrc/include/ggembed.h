/*
 * ggembed.h - the C ABI of ggembed: embeddings of text, images, audio and video from GGUF models, in process.
 *
 * This header is the manual of the library. Python's binding parses the text between the two cffi marker comments
 * as it stands, so that part holds plain C99 declarations and no macros.
 *
 * The path of one call
 *
 *     gge_model_load -> gge_tokenize -> gge_encode        (an engine is made once: gge_engine_create)
 *
 *     gge_media_* -> gge_tokenize_parts -> gge_encode     (inputs with images, audio or video in them)
 *
 * Texts become tokens first, because only then is it known how many rows the caller must have room for. Everything is
 * computed on the engine's own worker threads; the caller of gge_encode waits, that of gge_submit does not. Media come in
 * decoded, as pixels and samples: this library reads no media files.
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
 * - A handle belongs to the process that made it. In a forked child every call that can fail refuses it with
 *   GGE_E_CLOSED, and freeing, closing and aborting do nothing; the child may make handles of its own, on a GPU only if
 *   the parent had not looked for devices, since drivers do not survive a fork.
 */
#ifndef GGEMBED_H
#define GGEMBED_H

#include <stddef.h>
#include <stdint.h>

#define GGE_VERSION_MAJOR 0
#define GGE_VERSION_MINOR 1
#define GGE_VERSION_PATCH 0

/* The ABI this header describes, and the oldest caller that a library built from it accepts. */
#define GGE_ABI_VERSION 5
#define GGE_ABI_OLDEST 3

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
    GGE_E_TOO_LONG = 7,    /* an input has more tokens than max_tokens or the engine's context allow */
    GGE_E_EMPTY = 8,       /* an input has no tokens at all, so there is nothing to pool */
    GGE_E_NOT_FINITE = 9,  /* an input's row holds NaN or infinity, also when computed alone on a wiped cache */
    GGE_E_ABORTED = 10,    /* a callback, gge_request_abort or gge_engine_abort asked to stop */
    GGE_E_CLOSED = 11,     /* the engine was closed, or the handle belongs to the parent of this forked process */
    GGE_E_INTERNAL = 12,   /* a fault in ggembed or llama.cpp; the message says where */
    GGE_E_BUSY = 13        /* the queue is full, or the call would wait for the thread that it is made on */
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

/*
 * Tells why one input of a call has no row. message: one line of UTF-8, valid during the call. Runs on the thread that
 * made the call, before it returns, once for each such input in the order of the inputs.
 */
typedef void (*gge_input_error_fn)(void *user_data, int64_t input_index, gge_status status, const char *message);

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
    int32_t compute_major; /* CUDA's compute capability, such as 9 and 0; 0 and 0 = none, or unknown */
    int32_t compute_minor;
} gge_device_info;

/* Number of devices that this build can use here, the CPU included (it is the last one). Starts the drivers. */
int32_t gge_device_count(void);

/*
 * Describes device i of gge_device_count(). Asking a GPU for its memory takes some of it; in a process that was forked
 * after the drivers had been started nobody asks, and its memory is 0. Statuses: GGE_E_INVALID. Any thread.
 */
gge_status gge_device_get(int32_t i, gge_device_info *out, gge_error *err);

/* ------------------------------------------------------------------ model */

/* Weights, vocabulary and metadata of one GGUF file. Immutable; share it freely between threads. */
typedef struct gge_model gge_model;

typedef int32_t gge_switch;
enum { GGE_SWITCH_DEFAULT = 0, GGE_ON = 1, GGE_OFF = 2 };

/* What several devices are for. */
typedef int32_t gge_split;
enum {
    GGE_SPLIT_DEFAULT = 0, /* LAYER where several are named */
    GGE_SPLIT_NONE = 1,    /* the model is on one device; several are GGE_E_UNSUPPORTED */
    GGE_SPLIT_LAYER = 2,   /* each has some of the layers, as many as its free memory says; one works at a time */
    GGE_SPLIT_COPIES = 3   /* each has a copy of the model and an engine computes on all at once; "auto" and "cuda" then
                              mean all GPUs of the kind */
};

typedef struct gge_model_options {
    size_t struct_size;
    const char *device;       /* "auto" (NULL too): the first GPU, else the CPU. "cpu": no GPU is used at all. "cuda",
                             "cuda:1", "metal", or another name of gge_device_get; or up to 8 GPUs, "cuda:0,cuda:1" */
    int32_t n_gpu_layers;     /* layers kept on the GPU: 0 = all, n > 0 = the last n, -1 = none */
    gge_switch mmap;          /* map the file instead of reading it; default on */
    gge_progress_fn progress; /* bytes of the file */
    gge_abort_fn abort;
    void *user_data;             /* for both callbacks */
    const char *const *adapters; /* [n_adapters] GGUF files of LoRA adapters, loaded with the model; chosen per call by
                                    gge_encode_options.adapter. Borrowed during the call */
    int32_t n_adapters;
    int32_t n_mmproj;
    const char *const *mmproj; /* [n_mmproj] GGUF files of projectors, which turn images or audio into rows of the
                                  model: at most one for each modality; one file may hold both. Borrowed during the call */
    gge_switch cpu_kernels;    /* on the CPU, multiply by ggembed's own kernels where there are some for the weights and
                                  the CPU, which hold the weights in an order of their own; off: llama.cpp's; default on */
    gge_split split;
} gge_model_options;

/*
 * Loads a GGUF file. A split model is named by its first file, "...-00001-of-0000n.gguf".
 * Adapters share the weights of the model; one that is made for another architecture or other shapes is GGE_E_FORMAT,
 * and so is a projector whose rows have another width than the model's, or a second one for the same modality.
 * Statuses: GGE_E_INVALID, _UNSUPPORTED (not an embedding model, or no known projector), _IO, _FORMAT, _MEMORY, _DEVICE,
 * _ABORTED. Any thread.
 */
gge_status gge_model_load(const char *path, const gge_model_options *opts, gge_model **out, gge_error *err);

/* Drops the caller's reference. NULL is allowed. */
void gge_model_free(gge_model *model);

/* How the token rows of one input become one row. RANK is what the classification head of a reranker computes: a row
 * has gge_model_info.n_cls_out scores. */
typedef int32_t gge_pooling;
enum {
    GGE_POOLING_DEFAULT = 0, /* the model's own, see gge_model_info.pooling */
    GGE_POOLING_NONE = 1,    /* no pooling: one row per token */
    GGE_POOLING_MEAN = 2,    /* of an input with images and architecture "qwen2vl": from the first token around one
                             through the last */
    GGE_POOLING_CLS = 3,
    GGE_POOLING_LAST = 4,
    GGE_POOLING_RANK = 5
};

typedef int32_t gge_attention;
enum { GGE_ATTENTION_DEFAULT = 0, GGE_ATTENTION_CAUSAL = 1, GGE_ATTENTION_BIDIRECTIONAL = 2 };

/* The weights of a model that have one type and are computed with by one kernel; without adapters and encoders. */
typedef struct gge_weights {
    char type[16];        /* of the file, by GGUF's name: "q4_K", "f16" */
    char kernel[32];      /* ggembed's own that they are packed for, a name of gge_model_info.cpu_kernels; else empty */
    int64_t file_bytes;   /* in the file */
    int64_t memory_bytes; /* where they are held: as many, unless they are packed */
} gge_weights;

typedef struct gge_model_info {
    size_t struct_size;
    gge_pooling pooling;     /* what GGE_POOLING_DEFAULT means for this model; never DEFAULT */
    int32_t pooling_in_file; /* 1 if the file names it, 0 if it follows from the attention type:
                                    causal -> LAST, bidirectional -> MEAN */
    gge_attention attention; /* of the file; never DEFAULT */
    int32_t has_cache;       /* 1: a decoder, whose attention may be causal; 0: bidirectional only */
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
    char device[64];         /* gge_device_info.name of where the weights are; of several, with commas between them */
    char device_reason[128]; /* why that device was chosen */
    int32_t n_cls_out;     /* outputs of the classification head; 0 = the file has none, or one that llama.cpp does not
                                compute as its authors do: the model cannot rank */
    int32_t n_adapters;    /* adapters loaded with the model */
    char cpu_kernels[128]; /* ggembed's own kernels that weights on the CPU are held for, separated by ", ":
                                 "avx512-bf16"; empty if llama.cpp's do all */
    int32_t n_weights;
    int32_t reserved_1;
    gge_weights weights[64]; /* [n_weights], those with the most bytes in the file first */
} gge_model_info;

/* Fills *out. Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_model_get_info(const gge_model *model, gge_model_info *out, gge_error *err);

/* What a part of an input is made of. */
typedef int32_t gge_modality;
enum { GGE_MODALITY_TEXT = 1, GGE_MODALITY_VISION = 2, GGE_MODALITY_AUDIO = 3 };

typedef struct gge_tower_info {
    size_t struct_size;
    gge_modality modality; /* VISION (images and video) or AUDIO */
    int32_t n_layer;
    int32_t patch_size; /* vision: pixels of a patch's side */
    int32_t merge_size; /* vision: patches of a row's side; sides of images are multiples of patch_size x merge_size */
    int32_t n_mel_bins; /* audio */
    int32_t n_window;   /* audio: half the mel frames of a piece that is attended to by itself */
    int64_t min_pixels; /* vision: limits of an image that gge_media_options leaves at 0 */
    int64_t max_pixels;
    int64_t video_min_pixels; /* and of a video, width x height x frames */
    int64_t video_max_pixels;
    int64_t n_params;
    int64_t tensor_bytes;
    int64_t file_bytes;
    char projector[64]; /* the file's clip.projector_type: "qwen3vl_merger", ... */
    char name[128];     /* general.name, may be empty */
} gge_tower_info;

/* Number of encoders for media that were loaded with the model, 0 to 2; vision comes first. */
int32_t gge_model_n_towers(const gge_model *model);

/* Fills *out for tower i of gge_model_n_towers(). Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_model_get_tower(const gge_model *model, int32_t i, gge_tower_info *out, gge_error *err);

/*
 * The file's scalar metadata as strings, i from 0 to gge_model_meta_count() - 1. Arrays appear shortened, as
 * llama.cpp prints them. Pointers live as long as the model; NULL when i is out of range. Any thread.
 */
int32_t gge_model_meta_count(const gge_model *model);
const char *gge_model_meta_key(const gge_model *model, int32_t i);
const char *gge_model_meta_value(const gge_model *model, int32_t i);

/* ------------------------------------------------------------------ media */

/* An image, a video or a sound, brought to the size that the model's encoder wants. Made by one thread; immutable and
 * free to share between threads once it is complete. */
typedef struct gge_media gge_media;

typedef struct gge_media_options {
    size_t struct_size;
    int64_t min_pixels; /* an image is scaled up to at least that many pixels, a video (width x height x frames, the
                           number of frames made even) too; 0 = gge_tower_info's */
    int64_t max_pixels; /* and down to at most that many. Where only one of the two is given, the other follows it */
} gge_media_options;

/*
 * Makes an image of 8-bit RGB pixels.
 *   pixels: [height, row_bytes] bytes, of which the first 3 x width of each row are read; borrowed during the call
 * Both sides are rounded to multiples of patch_size x merge_size within the limits, in double precision with ties to
 * even, and the pixels resized to exactly that with Pillow's bicubic filter, bit for bit; nothing is padded.
 * Statuses: GGE_E_INVALID (no pixels, a side of more than 65 536 or more than 200 times the other, or more than 2^31
 * bytes once it is resized), _UNSUPPORTED (no vision tower), _MEMORY. Any thread.
 */
gge_status gge_media_image(const gge_model *model, const uint8_t *pixels, int32_t width, int32_t height,
                           int64_t row_bytes, const gge_media_options *opts, gge_media **out, gge_error *err);

/*
 * Begins a video of n_frames frames of one size, which gge_media_add_frame fills. Two frames in succession make one
 * pair, which the encoder sees by itself; an odd last one is paired with itself.
 *   seconds: [n_frames] when each frame is shown, for models whose input names the times; NULL = 24 frames per second
 * Sizes are chosen as for images, for the video as a whole.
 * Statuses: as gge_media_image; GGE_E_INVALID also for no frames, more than 2^20 of them, or times that decrease, and
 * GGE_E_UNSUPPORTED for a tower that takes no video ("qwen2.5vl_merger"). Any thread.
 */
gge_status gge_media_video(const gge_model *model, int32_t n_frames, int32_t width, int32_t height,
                           const double *seconds, const gge_media_options *opts, gge_media **out, gge_error *err);

/* Appends a frame, whose pixels are as in gge_media_image. A frame that is refused changes nothing. Statuses:
 * GGE_E_INVALID (no pixels, more frames than were announced, or no video), _MEMORY. */
gge_status gge_media_add_frame(gge_media *media, const uint8_t *pixels, int64_t row_bytes, gge_error *err);

/*
 * Makes a sound.
 *   samples: [n_samples] of one channel, 16 000 per second; borrowed during the call
 * Samples that are not finite count as 0; if one is beyond -1 to 1, all are divided by the largest magnitude. 25 rows
 * per second. No field of opts is used yet.
 * Statuses: GGE_E_INVALID (less than 30 ms or more than a day), _UNSUPPORTED (no audio tower), _MEMORY. Any thread.
 */
gge_status gge_media_audio(const gge_model *model, const float *samples, int64_t n_samples,
                           const gge_media_options *opts, gge_media **out, gge_error *err);

/* Rows that a medium takes in an input, without the tokens that stand around it. 0 for NULL. */
int64_t gge_media_n_rows(const gge_media *media);

/* What the encoder sees: width and height in pixels and the number of frames, or of mel frames (width and height 0).
 * Any of the pointers may be NULL. */
void gge_media_shape(const gge_media *media, int32_t *width, int32_t *height, int64_t *n_frames);

/* Drops the handle. NULL is allowed; tokens that were made with it keep what they need. */
void gge_media_free(gge_media *media);

/* ------------------------------------------------------------------ tokens */

/* Token ids of a list of texts. Immutable; share it freely between threads. */
typedef struct gge_tokens gge_tokens;

/* What to do with a text that has more than max_tokens tokens. */
typedef int32_t gge_overflow;
enum {
    GGE_OVERFLOW_DEFAULT = 0,       /* ERROR */
    GGE_OVERFLOW_ERROR = 1,         /* the text is GGE_E_TOO_LONG */
    GGE_OVERFLOW_TRUNCATE = 2,      /* cut the end of the text */
    GGE_OVERFLOW_TRUNCATE_START = 3 /* cut the start of the text */
};

typedef struct gge_tokenize_options {
    size_t struct_size;
    const uint8_t *prompt; /* put in front of every text before it is tokenised, but for texts that begin with it;
                              borrowed during the call */
    int64_t prompt_bytes;
    gge_switch add_special;     /* BOS, EOS, CLS, SEP as the model's rules say; default on */
    gge_switch parse_special;   /* read "<|...|>" in texts and prompt as special tokens; default off, because with
                                  text from users it lets them forge markers */
    int32_t *input_status;      /* [n_texts] or NULL, see gge_tokenize */
    gge_abort_fn abort;         /* asked about every 50 ms; takes effect between texts */
    void *user_data;            /* for both callbacks */
    int64_t max_tokens;         /* most tokens of a text, prompt and special tokens included; 0 = no limit */
    gge_overflow overflow;      /* what becomes of longer ones */
    int32_t end_token;          /* i + 1: token i closes every text, in place of what the model appends; 0 = that */
    int32_t *truncated;         /* [n_texts] or NULL: 1 for a text that was cut, else 0 */
    int64_t *n_tokens_original; /* [n_texts] or NULL: tokens before cutting. Asking for them makes cutting a huge text
                                   as slow as tokenising it */
    gge_input_error_fn on_input_error; /* see gge_tokenize */
    int32_t n_threads; /* most CPU threads; 0 = the physical cores that the process may use. Texts are shared out from
                          64 KiB on; below that, and with 1, all is done on the calling thread */
    int32_t reserved;
} gge_tokenize_options;

/*
 * Tokenises n_texts texts: text i is bytes[offsets[i] .. offsets[i + 1]).
 *   bytes:   [offsets[n_texts]] bytes of UTF-8, borrowed during the call; may be NULL if there are none
 *   offsets: [n_texts + 1], not decreasing, offsets[0] >= 0
 * A text that is not valid UTF-8 or has more than 2^31 - 1 bytes is GGE_E_INVALID. With neither input_status nor
 * on_input_error it fails the call, which names it in err->input_index; otherwise these say what became of text i, the
 * bad ones have no tokens, and gge_encode passes their status on.
 * Cutting keeps the special tokens and the tokens of the prompt; TRUNCATE keeps the first tokens of the text,
 * TRUNCATE_START the last ones. The result is that of tokenising the whole text and cutting then, but only as much of
 * the text is tokenised as the limit needs. A prompt that leaves no room for a single token of text is GGE_E_INVALID.
 * Without max_tokens there is no limit here: gge_encode refuses what its context does not hold.
 * The number of threads changes nothing but the time. When a call fails, the content of the arrays of opts is
 * unspecified.
 * Statuses: GGE_E_INVALID, _UNSUPPORTED (the model has no tokenizer), _FORMAT (its vocabulary is incomplete), _MEMORY,
 * _ABORTED; per input also _TOO_LONG. Any thread.
 */
gge_status gge_tokenize(const gge_model *model, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                        const gge_tokenize_options *opts, gge_tokens **out, gge_error *err);

/*
 * Tokenises n_pairs pairs of a query and a document for GGE_POOLING_RANK: pair i is the texts 2 i and 2 i + 1 of bytes
 * and offsets, [2 n_pairs + 1]. They are joined as the file's own template says (tokenizer.chat_template.rerank, with
 * {query} and {document} in it), else as BOS query EOS SEP document EOS with what the vocabulary has of these. Only the
 * template's own text is read for special tokens; what stands between two of them is tokenised as one text. max_tokens
 * and overflow cut the document; prompt, end_token, add_special and parse_special are not used. The result has n_pairs
 * texts, index i is pair i.
 * Statuses: as gge_tokenize; GGE_E_UNSUPPORTED if the model cannot rank or a pair has nothing to join it. Any thread.
 */
gge_status gge_tokenize_pairs(const gge_model *model, const uint8_t *bytes, const int64_t *offsets, int64_t n_pairs,
                              const gge_tokenize_options *opts, gge_tokens **out, gge_error *err);

typedef int32_t gge_part_kind;
enum {
    GGE_PART_TEXT = 1,     /* text of the user, never read for special tokens */
    GGE_PART_TEMPLATE = 2, /* text of the caller's own, read for special tokens */
    GGE_PART_MEDIA = 3
};

/* A piece of an input. */
typedef struct gge_part {
    gge_part_kind kind;
    int32_t reserved;
    const uint8_t *text; /* UTF-8, borrowed during the call */
    int64_t n_bytes;
    const gge_media *media; /* must be complete */
} gge_part;

/*
 * Tokenises inputs that may hold media: input i is the parts offsets[i] to offsets[i + 1], in the order in which the
 * model sees them. parts: [offsets[n_inputs]], offsets: [n_inputs + 1]; arrays of opts have n_inputs elements.
 * Texts that stand next to each other, the prompt included, are tokenised as one string. Around media come the tokens
 * that the model's vocabulary has for them (<|vision_start|> and the like), before each pair of frames of a video the
 * time, "<0.1 seconds>", if the vocabulary has such tokens. Ids of rows that media fill are -1 in gge_tokens_ids. An
 * input of text alone becomes what gge_tokenize makes of it.
 * overflow cuts inputs of text alone; one with media, or with special tokens of a template, that has more than
 * max_tokens is _TOO_LONG. The prompt stands in front of every input, but for those whose text up to the first medium
 * or special token begins with it. parse_special is not used.
 * Statuses: as gge_tokenize; per input also GGE_E_INVALID for a medium that was made for another encoder than the
 * model's, and GGE_E_UNSUPPORTED if the model takes none of that kind. Any thread.
 */
gge_status gge_tokenize_parts(const gge_model *model, const gge_part *parts, const int64_t *offsets, int64_t n_inputs,
                              const gge_tokenize_options *opts, gge_tokens **out, gge_error *err);

/*
 * Takes token ids as they are: text i is ids[offsets[i] .. offsets[i + 1]), special tokens included. Copies both
 * arrays.
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

/*
 * Compute state, queue and worker threads of one model, a thread for each copy of it. Any number of threads may use one engine at the same time: their
 * inputs meet in the queue and share micro-batches, where adapter and adapter_scale are the same and all or none are
 * GGE_POOLING_RANK. Calls with media take turns with the others, but share with none.
 *
 * Who goes first, looked at anew for each micro-batch: the smallest call, in tokens, where less than n_ubatch counts as
 * n_ubatch, and among equal ones the oldest. But of four tokens one is the oldest call's. So a small call overtakes large
 * ones that came before it and waits for two of their micro-batches at most, and a large one has a quarter of the device
 * at least once it is the oldest. An input that is longer than n_ubatch is not interrupted.
 *
 * With GGE_SPLIT_COPIES a call is computed on all devices at once, one with media on one of them at a time. An input
 * whose device fails has GGE_E_DEVICE; a copy whose device fails again and again takes no more, unless it is the last.
 */
typedef struct gge_engine gge_engine;

typedef struct gge_engine_options {
    size_t struct_size;
    int32_t n_ctx;              /* longest input in tokens; 0 = n_ctx_train of the model, which is also the limit. If it
                                is given, the engine has room for such an input from the start, and its buffers never
                                grow */
    int32_t n_ubatch;           /* tokens that go through the model together, the budget that inputs are packed up to;
                                0 = chosen: 512, on GPUs 2048, halved while buffers take more than a quarter of the free
                                memory. A longer input goes through alone: whole if the model allows nothing else or
                                needs no cache for it, which takes memory until calls without long inputs come */
    int32_t n_seq_max;          /* most sequences packed into one micro-batch, at most 256, of which 255 are used;
                                   0 = chosen */
    int32_t n_threads;          /* CPU threads; 0 = the physical cores that the process may use, performance cores alone
                                   where there are two kinds, within its CPU quota rounded up. Of each copy; with 0
                                   they share those out */
    gge_attention attention;    /* override of the file's attention type */
    gge_switch flash_attention; /* default: llama.cpp decides */
    int32_t n_tower_batch;      /* rows that a media encoder makes together; 0 = chosen. One medium with more rows is
                                   encoded by itself */
    gge_switch cuda_graphs;     /* capture graphs on CUDA devices; default: but for those of compute capability 9.x, or
                                   an unknown one. Off where the environment has GGML_CUDA_DISABLE_GRAPHS */
    int64_t max_queued_tokens;  /* tokens that requests of gge_submit may have in the queue, see there; 0 = 1 048 576 */
    int64_t memory_limit; /* most bytes that model and engine may hold on the device (all of several, of copies each;
                                on the CPU, the host), as gge_estimate counts them; 0 = no limit. Micro-batches whose
                                size is not given shrink to it, and where n_ctx is not given, room for the longest input
                                that it allows is taken at the start; longer ones are GGE_E_MEMORY */
} gge_engine_options;

/* Makes an engine. With a memory_limit the header of the model's file is read again. Statuses: GGE_E_INVALID,
 * _UNSUPPORTED, _MEMORY (also: what was asked for does not fit memory_limit; the message has the numbers), _DEVICE,
 * _FORMAT, _IO. Any thread. */
gge_status gge_engine_create(gge_model *model, const gge_engine_options *opts, gge_engine **out, gge_error *err);

/*
 * Ends what is queued or running (those calls return GGE_E_CLOSED), waits until every on_done has returned, stops the
 * worker and frees device and host buffers. Later calls on the engine return GGE_E_CLOSED. May be called twice, from any
 * thread; in an on_done it only begins to close, and another call must do the rest.
 */
void gge_engine_close(gge_engine *engine);

/* Closes gently: takes no more calls (GGE_E_CLOSED), waits for those that are queued or running, then does what
 * gge_engine_close does, which another thread may call to cut the wait short. The same threads. */
void gge_engine_drain(gge_engine *engine);

/* Ends the calls that are queued or running, which return GGE_E_ABORTED, and leaves the engine usable. Any thread, also
 * a callback. */
void gge_engine_abort(gge_engine *engine);

/* Closes and drops the handle. NULL is allowed. No other call may be using the engine; requests that are not finished
 * may be left, and are GGE_E_CLOSED. Not from an on_done. */
void gge_engine_free(gge_engine *engine);

typedef struct gge_engine_info {
    size_t struct_size;
    int32_t n_ctx;    /* longest input that is accepted */
    int32_t n_ubatch; /* token budget of a micro-batch; less than was asked for where there is no memory for that */
    int32_t n_seq_max;
    int32_t n_threads;
    gge_attention attention; /* in use; never DEFAULT */
    gge_switch cuda_graphs;  /* ON or OFF; DEFAULT where no CUDA device is used */
    char cuda_graphs_reason[128];
    int32_t n_room; /* longest input that memory_limit leaves room for; n_ctx without one */
    int32_t reserved;
    int64_t memory_limit; /* 0 = none */
} gge_engine_info;

/* Fills *out. Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_engine_get_info(const gge_engine *engine, gge_engine_info *out, gge_error *err);

typedef struct gge_engine_stats {
    size_t struct_size;
    /* since the engine was made */
    int64_t n_texts;          /* inputs whose rows are there */
    int64_t n_texts_failed;   /* inputs of calls that have ended which have none, but for those aborted and closed */
    int64_t n_tokens;         /* that went through the model; those of an input that is computed again count again */
    int64_t n_tokens_offered; /* that the micro-batches had room for: n_tokens / n_tokens_offered is the fill rate. One
                                 of an input that is longer than n_ubatch counts with its own tokens */
    int64_t n_microbatches;
    int64_t n_graphs_reused; /* micro-batches that ran on the graph of the one before */
    int64_t n_calls;         /* of gge_encode and gge_submit that have ended */
    int64_t n_calls_aborted; /* of these, before all their inputs were computed */
    double seconds_waiting;  /* the worker had nothing to do; of copies the sum, as below */
    double seconds_computing;
    /* now */
    int64_t n_calls_queued;  /* of which no input has been in a micro-batch yet */
    int64_t n_calls_running; /* that have begun and not ended */
    int64_t n_texts_queued;  /* inputs that have not been in a micro-batch yet */
    int64_t n_tokens_queued;
} gge_engine_stats;

/* Fills *out; cheap. Figures are brought up to date after each micro-batch. Statuses: GGE_E_INVALID. Any thread. */
gge_status gge_engine_stats_get(const gge_engine *engine, gge_engine_stats *out, gge_error *err);

/*
 * Type of the values of a row. The 8-bit types and the bits are those of Sentence Transformers' quantize_embeddings:
 *   UINT8:   (x - min) / ((max - min) / 255), rounded down and clamped to 0..255; INT8: that minus 128. min and max
 *            come from ranges.
 *   UBINARY: one bit per value, 1 where x > 0, the first value in the highest bit of the first byte, (n + 7) / 8 bytes,
 *            bits after the last value 0; BINARY: these bytes minus 128, as int8_t.
 */
typedef int32_t gge_output_type;
enum {
    GGE_OUTPUT_DEFAULT = 0, /* FLOAT32 */
    GGE_OUTPUT_FLOAT32 = 1,
    GGE_OUTPUT_FLOAT16 = 2, /* rounded to nearest, ties to even */
    GGE_OUTPUT_INT8 = 3,
    GGE_OUTPUT_UINT8 = 4,
    GGE_OUTPUT_BINARY = 5,
    GGE_OUTPUT_UBINARY = 6
};

typedef struct gge_encode_options {
    size_t struct_size;
    gge_pooling pooling; /* GGE_POOLING_NONE gives one row per token */
    int32_t
        truncate_dim; /* keep the first truncate_dim values of a row; 0 = all. Cut first, then normalised. Neither this
                             nor a projection goes with RANK */
    gge_switch normalize; /* scale rows to unit length; default on, but off for RANK. An all-zero row stays zero */
    gge_output_type output_type;
    int32_t *input_status;             /* [n_texts] or NULL, see gge_encode */
    gge_progress_fn progress;          /* tokens; called between micro-batches */
    gge_abort_fn abort;                /* asked at least every 50 ms while the call waits */
    void *user_data;                   /* for all callbacks */
    gge_input_error_fn on_input_error; /* see gge_encode */
    const float *ranges;     /* [2, width]: minima and maxima of the values for INT8 and UINT8, where they are needed */
    const float *projection; /* [n_projection, n_embd] or NULL: every pooled row, or token row with NONE, becomes
                                     projection x row + projection_bias, before it is cut */
    const float *projection_bias; /* [n_projection] or NULL */
    int32_t n_projection;         /* width of projected rows */
    int32_t adapter;              /* 0 = none, i = the i-th of gge_model_options.adapters, from 1. One that changes
                                     token_embd.weight is GGE_E_UNSUPPORTED with media */
    float adapter_scale;          /* factor on top of the adapter's own; 0 = 1 */
    int32_t reserved;
} gge_encode_options;

/*
 * Computes the rows of tokens, which must come from the engine's model.
 *   width: values of a row: n_embd, n_projection with a projection, n_cls_out with RANK; at most truncate_dim
 *   out: [n_rows, row_stride] elements of output_type (bytes for the bits), caller-owned; row i starts at element
 *        i * row_stride. Elements of a row after its width are left alone.
 *   n_rows: n_texts, or with GGE_POOLING_NONE the total number of tokens (rows of text i start at offsets[i])
 * With neither input_status nor on_input_error the first input that cannot be computed fails the call, before anything
 * is computed if its length is the reason; the content of out is then unspecified. Otherwise the call collects: it runs
 * on to the end, these say what became of each input, and the rows of those that failed are NaN, or zero in the 8-bit
 * types and bits. A collecting call that is aborted, whose engine is closed, or that meets a failure which is no input's
 * own, keeps the rows that are finished, gives the other inputs that status, and returns it.
 * On the CPU the same text gives the same row, bit for bit, alone and in any company, with any number of threads and any
 * n_ubatch. Models with a recurrent state, latent attention, keys that layers share, or a bias for each pair of tokens
 * (T5) are the exception, scores too, and other devices: there rows agree within 1e-5 in cosine distance for F32, F16 and
 * BF16 weights. With quantised weights llama.cpp rounds activations to 8 bits too, which amplifies the order of
 * additions: up to 3e-3 has been seen on a model of 6 layers.
 * Statuses: GGE_E_INVALID, _UNSUPPORTED, _MEMORY, _DEVICE, _ABORTED, _CLOSED, _INTERNAL; per input also _TOO_LONG,
 * _EMPTY, _NOT_FINITE and what gge_tokenize said. Any thread; in an on_done of the engine it is GGE_E_BUSY.
 */
gge_status gge_encode(gge_engine *engine, const gge_tokens *tokens, const gge_encode_options *opts, void *out,
                      int64_t n_rows, int64_t row_stride, gge_error *err);

/*
 * gge_tokenize and gge_encode in one, for calls so short that it matters how often their program enters the library.
 * how: as opts of gge_tokenize. Statuses: those of both. Any thread; in an on_done of the engine it is GGE_E_BUSY.
 */
gge_status gge_encode_texts(gge_engine *engine, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                            const gge_tokenize_options *how, const gge_encode_options *opts, void *out, int64_t n_rows,
                            int64_t row_stride, gge_error *err);

/* A call of gge_submit that is not finished. */
typedef struct gge_request gge_request;

/* Tells that n requests are done: gge_request_finish will not wait. done_data: [n], those of gge_submit. Each request is
 * told of once; those with the same function that are done by the time of a call are told of together. Runs on a thread
 * of the engine that computes nothing, one call at a time. It may call gge_submit, gge_request_finish for requests that
 * are done, gge_request_abort and gge_engine_abort. */
typedef void (*gge_done_fn)(void *const *done_data, int64_t n);

/*
 * Starts what gge_encode does, and returns without waiting for the rows.
 *   opts: the struct is copied. What it points to (input_status, ranges, projection, projection_bias, and user_data of
 *         on_input_error) and out are borrowed until gge_request_finish returns. progress and abort must be NULL.
 *   tokens: kept alive by the request; the handle may be freed.
 *   on_done: may be NULL; done_data is what it is given, borrowed until it has returned
 *   *request: the caller's, who must finish it, also after the engine was freed; set before on_done is called
 * Statuses: those of gge_encode, before anything is computed: of a call that does not collect, also the first input that
 * cannot be. Then *request is NULL, on_done is not called, and out and input_status are left alone or unspecified as
 * with gge_encode. GGE_E_CLOSED: the engine was closed. GGE_E_BUSY: the requests in the queue have too many tokens for
 * another one to join them, see gge_engine_options.max_queued_tokens; once an on_done is called there may be room. A
 * request counts with its tokens that were in no micro-batch yet, but with three quarters of the limit at most, so that
 * small ones find room behind a huge one; a queue without requests has room for any. Calls of gge_encode neither count
 * nor are refused: they wait in the queue itself. Any thread, also an on_done.
 */
gge_status gge_submit(gge_engine *engine, const gge_tokens *tokens, const gge_encode_options *opts, void *out,
                      int64_t n_rows, int64_t row_stride, gge_done_fn on_done, void *done_data, gge_request **request,
                      gge_error *err);

/* gge_tokenize, on this thread, and gge_submit in one. how: as opts of gge_tokenize, not borrowed. */
gge_status gge_submit_texts(gge_engine *engine, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                            const gge_tokenize_options *how, const gge_encode_options *opts, void *out, int64_t n_rows,
                            int64_t row_stride, gge_done_fn on_done, void *done_data, gge_request **request,
                            gge_error *err);

/*
 * Waits until a request is done and its on_done has returned, reports as gge_encode does (input_status, on_input_error,
 * which runs on this thread, the status and err), and frees the request. Exactly once for each request, from any thread.
 * In an on_done it does not wait: for a request that is not done it returns GGE_E_BUSY and frees nothing.
 */
gge_status gge_request_finish(gge_request *request, gge_error *err);

/*
 * Asks for a request to end: its inputs leave the queue at once, those in a micro-batch that is being computed when that
 * ends, which it does early if nobody else is in it. The request is then done, with GGE_E_ABORTED unless it was complete,
 * and still must be finished. NULL is allowed. Any thread, also an on_done, but not after gge_request_finish was called.
 */
void gge_request_abort(gge_request *request);

/* How many of the tokens of a request have been computed so far; of NULL and of a parent's in a forked child none. Any
 * thread, also an on_done, but not after gge_request_finish was called. */
int64_t gge_request_n_done(const gge_request *request);

/*
 * Converts finished rows to another type, as gge_encode does with output_type.
 *   rows: [n_rows, row_stride] floats, of which the first width of each row are read
 *   ranges: [2, width] for INT8 and UINT8, else unused
 *   out: [n_rows, out_stride] elements of type (bytes for the bits); must not overlap rows
 * Rows that are not finite become zero in the 8-bit types and bits. Statuses: GGE_E_INVALID. Any thread.
 */
gge_status gge_convert_rows(const float *rows, int64_t n_rows, int64_t row_stride, int64_t width, gge_output_type type,
                            const float *ranges, void *out, int64_t out_stride, gge_error *err);

/* ------------------------------------------------------------------ files */

typedef struct gge_quantize_options {
    size_t struct_size;
    const char *level;                /* one of gge_quantize_level: "Q4_K_M", ...; must be given */
    const char *imatrix;              /* importance matrix in either format; most levels of 3 bits and less need one */
    const char *token_embedding_type; /* type of the token embeddings, "q8_0", "f16", ...; NULL = what the level says */
    int32_t n_threads;                /* 0 = the physical cores that the process may use */
    gge_switch requantize;            /* allow a source that is quantised already; default off */
    gge_switch pure;                  /* the same type for all tensors; default off */
    int32_t reserved;
    gge_progress_fn progress; /* bytes of the source's tensors */
    gge_abort_fn abort;
    void *user_data; /* for both callbacks */
} gge_quantize_options;

/* Names of the levels, i from 0; NULL when i is out of range. Static storage. */
const char *gge_quantize_level(int32_t i);

/*
 * Writes a quantised copy of a GGUF model. The target appears when it is complete and must not be the source; an
 * existing file is replaced. Statuses: GGE_E_INVALID, _UNSUPPORTED, _IO, _FORMAT, _MEMORY, _ABORTED. Any thread.
 */
gge_status gge_quantize(const char *source, const char *target, const gge_quantize_options *opts, gge_error *err);

/* Memory of a model and an engine in bytes, on the device and on the host. On the CPU all of it is host memory. */
typedef struct gge_memory {
    size_t struct_size;
    int64_t weights_device;
    int64_t weights_host; /* mapped from the file where mmap is on: shared between processes */
    int64_t cache_device; /* key/value cache, for inputs of n_ctx tokens; 0 for models that need none */
    int64_t cache_host;
    int64_t compute_device; /* buffers of the graphs, for micro-batches of n_ubatch tokens, or n_ctx where long inputs
                               run whole, and passes of media encoders over n_tower_batch rows */
    int64_t compute_host;
    int64_t output_host; /* rows and logits that llama.cpp and the encoders keep */
    int32_t n_weights;
    int32_t reserved;
    gge_weights weights[64]; /* gge_model_info.weights of the model once loaded; of one copy */
} gge_memory;

/*
 * What gge_model_load and gge_engine_create with these options would need, once an input of n_ctx tokens has been
 * encoded, without loading the weights; of all copies together. With a memory_limit it is what they would take of it, or
 * GGE_E_MEMORY where it does not suffice: so a model that does not fit is known before it is loaded. Callbacks are not
 * called. Statuses: those of the two functions. Any thread.
 */
gge_status gge_estimate(const char *path, const gge_model_options *model, const gge_engine_options *engine,
                        gge_memory *out, gge_error *err);

/* cffi: end */

#ifdef __cplusplus
}
#endif
#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif

#endif /* GGEMBED_H */
