/* What the fuzz targets share: reading an input bit by bit, buffers that end at an unmapped page, tiny models. */
#ifndef GGEMBED_FUZZ_UTIL_H
#define GGEMBED_FUZZ_UTIL_H

#include "ggembed.h"

/* Called by libFuzzer, or by replay_main.c. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Prints what is not true and aborts. Works with NDEBUG too. */
void fuzz_fail(const char *file, int line, const char *text, const gge_error *err);
#define FUZZ_CHECK(expr, err) ((expr) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #expr, err))

/* The error struct after a call: the status that was returned, and one line of text unless it is GGE_OK. */
void fuzz_check_error(gge_status status, const gge_error *err);

/* ------------------------------------------------------------------ input */

/* The bytes that are left. Past the end everything reads as zero. */
typedef struct fuzz_input {
    const uint8_t *data;
    size_t size;
} fuzz_input;

uint8_t fuzz_u8(fuzz_input *in);
uint16_t fuzz_u16(fuzz_input *in);
int32_t fuzz_i32(fuzz_input *in);
int64_t fuzz_i64(fuzz_input *in);

/* Mostly a value from 0 to n_valid - 1, one byte long; sometimes any 32 bits, five bytes long. */
int32_t fuzz_option(fuzz_input *in, int32_t n_valid);

/* ------------------------------------------------------------------ memory */

/* Memory of that many bytes that ends where an unmapped page begins; a second such page lies in front. Aligned as
 * its end is: sizes of arrays of T are multiples of alignof(T). Zero bytes give a pointer that must not be read. */
void *fuzz_guarded_new(size_t bytes);
void fuzz_guarded_free(void *end_guarded, size_t bytes);
void *fuzz_guarded_copy(const void *from, size_t bytes);

/* ------------------------------------------------------------------ models */

/* Loads the files that GGEMBED_TEST_MODEL lists, separated by colons. Without any the process says so and exits with
 * 77, ctest's number for a skipped test. */
void fuzz_load_models(void);

/* One of them, whatever i is. */
gge_model *fuzz_model(unsigned i, gge_model_info *info);

#endif
