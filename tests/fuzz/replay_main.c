/* Runs a fuzz target over files and folders of inputs, so that the corpus is an ordinary test with every compiler. */
#define _DEFAULT_SOURCE

#include "fuzz_util.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int n_run = 0;

static int replay_file(const char *path) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    size_t size = 0;
    size_t room = 0;
    if (file == NULL) {
        perror(path);
        return 1;
    }
    do {
        room += 1 << 16;
        data = realloc(data, room);
        if (data == NULL) {
            perror(path);
            exit(1);
        }
        size += fread(data + size, 1, room - size, file);
    } while (size == room);
    fclose(file);
    fprintf(stderr, "%s: %zu bytes\n", path, size);
    data = realloc(data, size + (size == 0)); /* so that a sanitizer sees the end */
    LLVMFuzzerTestOneInput(data, size);
    ++n_run;
    free(data);
    return 0;
}

static int replay(const char *path) {
    struct stat info;
    int n_failed = 0;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        struct dirent **entries = NULL;
        const int n = scandir(path, &entries, NULL, alphasort);
        int i;
        for (i = 0; i < n; ++i) {
            if (entries[i]->d_name[0] != '.') {
                char inner[4096];
                snprintf(inner, sizeof(inner), "%s/%s", path, entries[i]->d_name);
                n_failed += replay(inner);
            }
            free(entries[i]);
        }
        free(entries);
        return n < 0 ? 1 : n_failed;
    }
    return replay_file(path);
}

int main(int argc, char **argv) {
    int n_failed = 0;
    int i;
    LLVMFuzzerInitialize(&argc, &argv);
    for (i = 1; i < argc; ++i) {
        n_failed += replay(argv[i]);
    }
    fprintf(stderr, "%d inputs\n", n_run);
    if (n_run == 0) {
        fprintf(stderr, "there is nothing to replay\n");
        return 1;
    }
    return n_failed != 0;
}
