// Lets the n-th C++ allocation of the calling thread fail, for n = 1, 2, ..., until the call makes no more of them: every
// call must come back, and the library must work afterwards. Needs GGEMBED_TEST_MODEL; GGEMBED_TEST_OMNI, a text model and
// its projectors for vision and audio, separated by colons, adds the calls with media.
#include "ggembed.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <sstream>
#include <string>
#include <vector>

namespace {

thread_local long t_until_failure = -1; // -1: never

bool fails_now() {
    if (t_until_failure < 0) {
        return false;
    }
    return --t_until_failure < 0;
}

void *allocate(std::size_t size) {
    if (fails_now()) {
        throw std::bad_alloc();
    }
    void *p = std::malloc(size == 0 ? 1 : size);
    if (p == nullptr) {
        throw std::bad_alloc();
    }
    return p;
}

// Returns how often the call failed before no allocation of it failed any more, or -1 if it did not come so far. A call
// may also do without: a log line is dropped, a sort works without its buffer.
long count_failures(const char *name, long step, const std::function<gge_status()> &call) {
    long n_failed = 0;
    for (long n = 0; n < 1000000; n += step) {
        t_until_failure = n;
        const gge_status status = call();
        const bool reached = t_until_failure < 0;
        t_until_failure = -1;
        n_failed += status != GGE_OK;
        if (!reached) {
            std::printf("%s: failed %ld times, in the end %s\n", name, n_failed, gge_status_name(status));
            return status == GGE_OK ? n_failed : -1;
        }
    }
    std::printf("%s: never got through\n", name);
    return -1;
}

} // namespace

void *operator new(std::size_t size) {
    return allocate(size);
}
void *operator new(std::size_t size, const std::nothrow_t &) noexcept {
    return fails_now() ? nullptr : std::malloc(size == 0 ? 1 : size);
}
void operator delete(void *p) noexcept {
    std::free(p);
}
void operator delete(void *p, std::size_t) noexcept {
    std::free(p);
}

// llama.cpp leaks what it holds when an allocation fails half-way; our own code must not.
extern "C" const char *__lsan_default_suppressions();
extern "C" const char *__lsan_default_suppressions() {
    return "leak:gguf_init_from_file\n"
           "leak:llama_model_load_from_file\n"
           "leak:llama_init_from_model\n"
           "leak:llama_model_quantize\n"
           "leak:llama_decode\n"
           "leak:llama_encode\n";
}

namespace {

bool media_survive(const char *paths) {
    std::vector<std::string> files;
    std::istringstream list(paths);
    for (std::string file; std::getline(list, file, ':');) {
        files.push_back(file);
    }
    if (files.size() != 3) {
        std::printf("GGEMBED_TEST_OMNI names %zu files, not 3\n", files.size());
        return false;
    }
    const std::array<const char *, 2> mmproj = {files[1].c_str(), files[2].c_str()};
    gge_model_options options{};
    options.struct_size = sizeof(options);
    options.device = "cpu";
    options.n_mmproj = 2;
    options.mmproj = mmproj.data();
    gge_error err{};
    gge_model *model = nullptr;
    gge_engine *engine = nullptr;
    if (gge_model_load(files[0].c_str(), &options, &model, &err) != GGE_OK ||
        gge_engine_create(model, nullptr, &engine, &err) != GGE_OK) {
        std::printf("%s\n", err.message);
        return false;
    }
    gge_model_info info{};
    info.struct_size = sizeof(info);
    gge_model_get_info(model, &info, &err);

    const std::vector<uint8_t> pixels(3 * 64 * 64, 7);
    const std::vector<float> samples(4800, 0.5F);
    gge_media *image = nullptr;
    gge_media *video = nullptr;
    gge_media *sound = nullptr;
    const auto renewed = [](gge_media *&media) {
        gge_media_free(media);
        return &media;
    };
    bool ok = count_failures("gge_media_image", 1, [&] {
                  return gge_media_image(model, pixels.data(), 64, 64, 192, nullptr, renewed(image), &err);
              }) > 0;
    ok = count_failures("gge_media_video", 1,
                        [&] {
                            const gge_status status =
                                gge_media_video(model, 1, 64, 64, nullptr, nullptr, renewed(video), &err);
                            return status == GGE_OK ? gge_media_add_frame(video, pixels.data(), 192, &err) : status;
                        }) > 0 &&
         ok;
    ok = count_failures("gge_media_audio", 1,
                        [&] {
                            return gge_media_audio(model, samples.data(), static_cast<int64_t>(samples.size()), nullptr,
                                                   renewed(sound), &err);
                        }) > 0 &&
         ok;

    std::array<gge_part, 4> parts{};
    parts[0].kind = GGE_PART_TEMPLATE;
    parts[0].text = reinterpret_cast<const uint8_t *>("a text");
    parts[0].n_bytes = 6;
    parts[1].kind = parts[2].kind = parts[3].kind = GGE_PART_MEDIA;
    parts[1].media = image;
    parts[2].media = video;
    parts[3].media = sound;
    const std::array<int64_t, 3> offsets = {0, 2, 4};
    gge_tokens *tokens = nullptr;
    ok = count_failures("gge_tokenize_parts", 1,
                        [&] {
                            gge_tokens_free(tokens);
                            return gge_tokenize_parts(model, parts.data(), offsets.data(), 2, nullptr, &tokens, &err);
                        }) > 0 &&
         ok;
    for (gge_media *media : {image, video, sound}) {
        gge_media_free(media);
    }
    std::vector<float> rows(2 * static_cast<std::size_t>(info.n_embd));
    // what fails is the work of this thread, not that of the engine's
    ok = count_failures("gge_encode with media", 1,
                        [&] { return gge_encode(engine, tokens, nullptr, rows.data(), 2, info.n_embd, &err); }) > 0 &&
         ok;
    ok = count_failures("gge_model_load with projectors", 197,
                        [&] {
                            gge_model *other = nullptr;
                            const gge_status status = gge_model_load(files[0].c_str(), &options, &other, &err);
                            gge_model_free(other);
                            return status;
                        }) > 0 &&
         ok;
    gge_tokens_free(tokens);
    gge_engine_free(engine);
    gge_model_free(model);
    return ok;
}

} // namespace

int main() {
    const char *path = std::getenv("GGEMBED_TEST_MODEL");
    if (path == nullptr) {
        std::printf("skipped: GGEMBED_TEST_MODEL is not set\n");
        return 77;
    }
    gge_error err{};
    gge_model *model = nullptr;
    gge_engine *engine = nullptr;
    gge_tokens *tokens = nullptr;
    if (gge_model_load(path, nullptr, &model, &err) != GGE_OK ||
        gge_engine_create(model, nullptr, &engine, &err) != GGE_OK) {
        std::printf("%s\n", err.message);
        return 1;
    }
    gge_model_info info{};
    info.struct_size = sizeof(info);
    gge_model_get_info(model, &info, &err);

    const uint8_t bytes[] = {'a', ' ', 't', 'e', 'x', 't'};
    const int64_t offsets[] = {0, 6};
    std::vector<float> row(static_cast<std::size_t>(info.n_embd));
    bool ok = true;
    ok = count_failures("gge_tokenize", 1,
                        [&] { return gge_tokenize(model, bytes, offsets, 1, nullptr, &tokens, &err); }) > 0 &&
         ok;
    ok = tokens != nullptr && ok;
    ok = count_failures("gge_encode", 1,
                        [&] { return gge_encode(engine, tokens, nullptr, row.data(), 1, info.n_embd, &err); }) > 0 &&
         ok;
    ok = count_failures("gge_submit", 1,
                        [&] {
                            gge_request *request = nullptr;
                            const gge_status status = gge_submit(engine, tokens, nullptr, row.data(), 1, info.n_embd,
                                                                 nullptr, nullptr, &request, &err);
                            return status == GGE_OK ? gge_request_finish(request, &err) : status;
                        }) > 0 &&
         ok;
    ok = count_failures("gge_encode_texts", 1,
                        [&] {
                            return gge_encode_texts(engine, bytes, offsets, 1, nullptr, nullptr, row.data(), 1,
                                                    info.n_embd, &err);
                        }) > 0 &&
         ok;
    ok = count_failures("gge_submit_texts", 1,
                        [&] {
                            gge_request *request = nullptr;
                            const gge_status status =
                                gge_submit_texts(engine, bytes, offsets, 1, nullptr, nullptr, row.data(), 1,
                                                 info.n_embd, nullptr, nullptr, &request, &err);
                            return status == GGE_OK ? gge_request_finish(request, &err) : status;
                        }) > 0 &&
         ok;
    ok = count_failures("gge_engine_create", 7,
                        [&] {
                            gge_engine *other = nullptr;
                            const gge_status status = gge_engine_create(model, nullptr, &other, &err);
                            gge_engine_free(other);
                            return status;
                        }) > 0 &&
         ok;
    ok = count_failures("gge_model_load", 97,
                        [&] {
                            gge_model *other = nullptr;
                            const gge_status status = gge_model_load(path, nullptr, &other, &err);
                            gge_model_free(other);
                            return status;
                        }) > 0 &&
         ok;
    gge_memory memory{};
    memory.struct_size = sizeof(memory);
    ok = count_failures("gge_estimate", 97, [&] { return gge_estimate(path, nullptr, nullptr, &memory, &err); }) > 0 &&
         ok;
    gge_quantize_options quantize{};
    quantize.struct_size = sizeof(quantize);
    quantize.level = "Q8_0";
    quantize.n_threads = 4;
    const char *target = "alloc_fail.gguf";
    ok = count_failures("gge_quantize", 5, [&] { return gge_quantize(path, target, &quantize, &err); }) > 0 && ok;
    ok = std::remove(target) == 0 && ok;
    gge_tokens_free(tokens);
    gge_engine_free(engine);
    gge_model_free(model);
    if (const char *omni = std::getenv("GGEMBED_TEST_OMNI")) {
        ok = media_survive(omni) && ok;
    }
    return ok ? 0 : 1;
}
