// The exported functions: check arguments, guard exceptions, convert, delegate.
#include "build_info.h" // written by CMake
#include "engine.h"
#include "log.h"
#include "pairs.h"
#include "parts.h"
#include "process.h"
#include "version.h"

struct gge_model {
    std::shared_ptr<const gge::Model> model;
    gge::Owner owner = gge::this_process();
};

struct gge_media {
    std::shared_ptr<gge::Media> media;
    gge::Owner owner = gge::this_process();
};

struct gge_tokens {
    explicit gge_tokens(gge::Tokens &&made) : tokens(std::make_shared<const gge::Tokens>(std::move(made))) {}
    std::shared_ptr<const gge::Tokens> tokens;
    gge::Owner owner = gge::this_process();
};

struct gge_engine {
    std::shared_ptr<gge::Engine> engine;
    gge::Owner owner = gge::this_process();
};

struct gge_request {
    std::shared_ptr<gge::Engine> engine;
    std::shared_ptr<gge::Job> job;
    gge::Owner owner = gge::this_process();
};

namespace {

template <typename T> T &need(T *pointer, const char *name) {
    if (pointer == nullptr) {
        throw gge::Error(GGE_E_INVALID, std::string(name) + " is NULL");
    }
    return *pointer;
}

template <typename T> T &usable(T *handle, const char *name) {
    T &found = need(handle, name);
    found.owner.check(name);
    return found;
}

// A forked child keeps what it cannot end: threads that it lacks, locks that they may have held, memory of a device.
template <typename T> void drop(T *handle) {
    if (handle != nullptr && handle->owner.is_here()) {
        delete handle;
    }
}

const std::pair<std::string, std::string> *meta_entry(const gge_model *model, int32_t i) {
    if (model == nullptr || i < 0 || i >= gge_model_meta_count(model)) {
        return nullptr;
    }
    return &model->model->facts().metadata[static_cast<size_t>(i)];
}

gge::InputPart read_part(const gge_part &part, int64_t i) {
    const std::string name = "part " + std::to_string(i);
    if (part.kind == GGE_PART_MEDIA) {
        const auto &media = usable(part.media, (name + "'s media").c_str()).media;
        if (!media->complete()) {
            throw gge::Error(GGE_E_INVALID, name + " is a video that lacks frames");
        }
        return {part.kind, {}, media};
    }
    if (part.kind != GGE_PART_TEXT && part.kind != GGE_PART_TEMPLATE) {
        throw gge::Error(GGE_E_INVALID, name + " is of kind " + std::to_string(part.kind) + ", known are 1 to 3");
    }
    if (part.n_bytes < 0 || (part.text == nullptr && part.n_bytes > 0)) {
        throw gge::Error(GGE_E_INVALID, name + " has " + std::to_string(part.n_bytes) + " bytes of text" +
                                            (part.text == nullptr ? ", but text is NULL" : ""));
    }
    return {part.kind, {reinterpret_cast<const char *>(part.text), static_cast<size_t>(part.n_bytes)}, nullptr};
}

void submit(const std::shared_ptr<gge::Engine> &engine, std::shared_ptr<const gge::Tokens> tokens,
            const gge::EncodeOptions &options, const gge::RowsOut &out, gge_done_fn on_done, void *done_data,
            gge_request *&request) {
    auto made = std::make_unique<gge_request>();
    made->engine = engine;
    made->job = engine->prepare(std::move(tokens), options, out, on_done, done_data);
    request = made.get(); // from here on an on_done may finish it
    try {
        engine->submit(std::shared_ptr<gge::Job>(made->job));
    } catch (...) {
        request = nullptr;
        throw;
    }
    static_cast<void>(made.release());
}

} // namespace

extern "C" {

const char *gge_status_name(gge_status status) {
    return gge::status_name(status);
}

int32_t gge_abi_version(void) {
    return GGE_ABI_VERSION;
}

int32_t gge_abi_oldest(void) {
    return GGE_ABI_OLDEST;
}

const char *gge_version(void) {
    return gge::version;
}

const char *gge_build_info(void) {
    return GGE_BUILD_INFO;
}

void gge_set_log(gge_log_fn log, void *user_data, gge_log_level min_level) {
    gge::set_log(log, user_data, min_level);
}

int32_t gge_device_count(void) {
    int32_t count = 0;
    gge::guard(nullptr, [&] { count = static_cast<int32_t>(gge::llama_devices().size()); });
    return count;
}

gge_status gge_device_get(int32_t i, gge_device_info *out, gge_error *err) {
    return gge::guard(err, [&] {
        const std::vector<gge::Device> devices = gge::llama_devices();
        if (i < 0 || static_cast<size_t>(i) >= devices.size()) {
            throw gge::Error(GGE_E_INVALID, "device " + std::to_string(i) + " does not exist, there are " +
                                                std::to_string(devices.size()));
        }
        gge::Device device = devices[static_cast<size_t>(i)];
        gge::ask_driver(device);
        gge_device_info info{};
        info.kind = device.kind;
        info.index = device.index;
        info.memory_total = device.memory_total;
        info.memory_free = device.memory_free;
        info.compute_major = device.capability.major;
        info.compute_minor = device.capability.minor;
        gge::copy_string(info.name, device.name);
        gge::copy_string(info.description, device.description);
        gge::write_struct(out, info);
    });
}

gge_status gge_model_load(const char *path, const gge_model_options *opts, gge_model **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        need(path, "path");
        *out = new gge_model{gge::Model::load(path, gge::read_options(opts))};
    });
}

void gge_model_free(gge_model *model) {
    drop(model);
}

gge_status gge_model_get_info(const gge_model *model, gge_model_info *out, gge_error *err) {
    return gge::guard(err, [&] { gge::write_struct(out, usable(model, "model").model->info()); });
}

int32_t gge_model_n_towers(const gge_model *model) {
    return model == nullptr ? 0 : static_cast<int32_t>(model->model->backend().towers().size());
}

gge_status gge_model_get_tower(const gge_model *model, int32_t i, gge_tower_info *out, gge_error *err) {
    return gge::guard(err, [&] { gge::write_struct(out, usable(model, "model").model->tower_info(i)); });
}

int32_t gge_model_meta_count(const gge_model *model) {
    return model == nullptr ? 0 : static_cast<int32_t>(model->model->facts().metadata.size());
}

const char *gge_model_meta_key(const gge_model *model, int32_t i) {
    const auto *entry = meta_entry(model, i);
    return entry == nullptr ? nullptr : entry->first.c_str();
}

const char *gge_model_meta_value(const gge_model *model, int32_t i) {
    const auto *entry = meta_entry(model, i);
    return entry == nullptr ? nullptr : entry->second.c_str();
}

gge_status gge_tokenize(const gge_model *model, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                        const gge_tokenize_options *opts, gge_tokens **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        const gge::Texts texts(bytes, offsets, n_texts);
        *out = new gge_tokens{gge::tokenize(usable(model, "model").model, texts, gge::read_options(opts))};
    });
}

gge_status gge_tokenize_pairs(const gge_model *model, const uint8_t *bytes, const int64_t *offsets, int64_t n_pairs,
                              const gge_tokenize_options *opts, gge_tokens **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        if (n_pairs < 0 || n_pairs > INT64_MAX / 2) {
            throw gge::Error(GGE_E_INVALID, "n_pairs is " + std::to_string(n_pairs) + ", it must be 0 or more");
        }
        const gge::Texts texts(bytes, offsets, 2 * n_pairs);
        *out = new gge_tokens{gge::tokenize_pairs(usable(model, "model").model, texts, gge::read_options(opts))};
    });
}

gge_status gge_media_image(const gge_model *model, const uint8_t *pixels, int32_t width, int32_t height,
                           int64_t row_bytes, const gge_media_options *opts, gge_media **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        const gge::Pixels image{pixels, width, height, row_bytes};
        *out = new gge_media{gge::Media::image(*usable(model, "model").model, image, gge::read_options(opts))};
    });
}

gge_status gge_media_video(const gge_model *model, int32_t n_frames, int32_t width, int32_t height,
                           const double *seconds, const gge_media_options *opts, gge_media **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        *out = new gge_media{gge::Media::video(*usable(model, "model").model, n_frames, width, height, seconds,
                                               gge::read_options(opts))};
    });
}

gge_status gge_media_add_frame(gge_media *media, const uint8_t *pixels, int64_t row_bytes, gge_error *err) {
    return gge::guard(err, [&] { usable(media, "media").media->add_frame({pixels, 0, 0, row_bytes}); });
}

gge_status gge_media_audio(const gge_model *model, const float *samples, int64_t n_samples,
                           const gge_media_options *opts, gge_media **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        *out = new gge_media{
            gge::Media::audio(*usable(model, "model").model, samples, n_samples, gge::read_options(opts))};
    });
}

int64_t gge_media_n_rows(const gge_media *media) {
    return media == nullptr ? 0 : media->media->n_rows();
}

void gge_media_shape(const gge_media *media, int32_t *width, int32_t *height, int64_t *n_frames) {
    const auto put = [](auto *to, auto value) {
        if (to != nullptr) {
            *to = value;
        }
    };
    put(width, media == nullptr ? 0 : media->media->width());
    put(height, media == nullptr ? 0 : media->media->height());
    put(n_frames, media == nullptr ? 0 : media->media->n_frames());
}

void gge_media_free(gge_media *media) {
    drop(media);
}

gge_status gge_tokenize_parts(const gge_model *model, const gge_part *parts, const int64_t *offsets, int64_t n_inputs,
                              const gge_tokenize_options *opts, gge_tokens **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        gge::check_offsets(offsets, n_inputs, "n_inputs");
        std::vector<gge::InputPart> read;
        if (offsets[n_inputs] > offsets[0]) {
            need(parts, "parts");
        }
        for (int64_t i = offsets[0]; i < offsets[n_inputs]; ++i) {
            read.push_back(read_part(parts[i], i));
        }
        std::vector<int64_t> bounds(offsets, offsets + n_inputs + 1);
        for (int64_t &bound : bounds) {
            bound -= offsets[0];
        }
        *out = new gge_tokens{gge::tokenize_parts(usable(model, "model").model, read, bounds, gge::read_options(opts))};
    });
}

gge_status gge_tokens_from_ids(const gge_model *model, const int32_t *ids, const int64_t *offsets, int64_t n_texts,
                               gge_tokens **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        *out = new gge_tokens{gge::take_ids(usable(model, "model").model, ids, offsets, n_texts)};
    });
}

void gge_tokens_free(gge_tokens *tokens) {
    drop(tokens);
}

int64_t gge_tokens_n_texts(const gge_tokens *tokens) {
    return tokens == nullptr ? 0 : tokens->tokens->n_texts();
}

const int32_t *gge_tokens_ids(const gge_tokens *tokens) {
    return tokens == nullptr ? nullptr : tokens->tokens->ids.data();
}

const int64_t *gge_tokens_offsets(const gge_tokens *tokens) {
    return tokens == nullptr ? nullptr : tokens->tokens->offsets.data();
}

gge_status gge_engine_create(gge_model *model, const gge_engine_options *opts, gge_engine **out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out") = nullptr;
        *out = new gge_engine{std::make_shared<gge::Engine>(usable(model, "model").model, gge::read_options(opts))};
    });
}

void gge_engine_close(gge_engine *engine) {
    if (engine != nullptr && engine->owner.is_here()) {
        engine->engine->close();
    }
}

void gge_engine_drain(gge_engine *engine) {
    if (engine != nullptr && engine->owner.is_here()) {
        engine->engine->drain();
    }
}

void gge_engine_free(gge_engine *engine) {
    gge_engine_close(engine); // requests that are not finished keep it
    drop(engine);
}

void gge_engine_abort(gge_engine *engine) {
    if (engine != nullptr && engine->owner.is_here()) {
        engine->engine->abort();
    }
}

gge_status gge_engine_get_info(const gge_engine *engine, gge_engine_info *out, gge_error *err) {
    return gge::guard(err, [&] { gge::write_struct(out, usable(engine, "engine").engine->info()); });
}

gge_status gge_engine_stats_get(const gge_engine *engine, gge_engine_stats *out, gge_error *err) {
    return gge::guard(err, [&] { gge::write_struct(out, usable(engine, "engine").engine->stats()); });
}

gge_status gge_encode(gge_engine *engine, const gge_tokens *tokens, const gge_encode_options *opts, void *out,
                      int64_t n_rows, int64_t row_stride, gge_error *err) {
    return gge::guard(err, [&] {
        usable(engine, "engine")
            .engine->encode(*usable(tokens, "tokens").tokens, gge::read_options(opts), {out, n_rows, row_stride});
    });
}

gge_status gge_encode_texts(gge_engine *engine, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                            const gge_tokenize_options *how, const gge_encode_options *opts, void *out, int64_t n_rows,
                            int64_t row_stride, gge_error *err) {
    return gge::guard(err, [&] {
        gge::Engine &found = *usable(engine, "engine").engine;
        found.encode(gge::tokenize(found.model(), {bytes, offsets, n_texts}, gge::read_options(how)),
                     gge::read_options(opts), {out, n_rows, row_stride});
    });
}

gge_status gge_submit(gge_engine *engine, const gge_tokens *tokens, const gge_encode_options *opts, void *out,
                      int64_t n_rows, int64_t row_stride, gge_done_fn on_done, void *done_data, gge_request **request,
                      gge_error *err) {
    return gge::guard(err, [&] {
        need(request, "request") = nullptr;
        submit(usable(engine, "engine").engine, usable(tokens, "tokens").tokens, gge::read_options(opts),
               {out, n_rows, row_stride}, on_done, done_data, *request);
    });
}

gge_status gge_submit_texts(gge_engine *engine, const uint8_t *bytes, const int64_t *offsets, int64_t n_texts,
                            const gge_tokenize_options *how, const gge_encode_options *opts, void *out, int64_t n_rows,
                            int64_t row_stride, gge_done_fn on_done, void *done_data, gge_request **request,
                            gge_error *err) {
    return gge::guard(err, [&] {
        need(request, "request") = nullptr;
        const std::shared_ptr<gge::Engine> &found = usable(engine, "engine").engine;
        submit(found,
               std::make_shared<const gge::Tokens>(
                   gge::tokenize(found->model(), {bytes, offsets, n_texts}, gge::read_options(how))),
               gge::read_options(opts), {out, n_rows, row_stride}, on_done, done_data, *request);
    });
}

gge_status gge_request_finish(gge_request *request, gge_error *err) {
    bool is_done = false;
    const gge_status status = gge::guard(err, [&] {
        gge_request &found = usable(request, "request");
        found.engine->await(*found.job);
        is_done = true;
        found.job->report();
    });
    if (is_done) {
        delete request;
    }
    return status;
}

void gge_request_abort(gge_request *request) {
    if (request != nullptr && request->owner.is_here()) {
        request->engine->abort(*request->job);
    }
}

int64_t gge_request_n_done(const gge_request *request) {
    return request != nullptr && request->owner.is_here() ? request->job->n_done.load() : 0;
}

gge_status gge_convert_rows(const float *rows, int64_t n_rows, int64_t row_stride, int64_t width, gge_output_type type,
                            const float *ranges, void *out, int64_t out_stride, gge_error *err) {
    return gge::guard(err, [&] {
        gge::convert_rows({rows, n_rows, row_stride}, width, gge::read_output_type(type), ranges,
                          {out, n_rows, out_stride});
    });
}

const char *gge_quantize_level(int32_t i) {
    return gge::llama_quantize_level(i);
}

gge_status gge_quantize(const char *source, const char *target, const gge_quantize_options *opts, gge_error *err) {
    return gge::guard(err, [&] {
        need(source, "source");
        need(target, "target");
        gge::quantize_llama_file(source, target, gge::read_options(opts));
    });
}

gge_status gge_estimate(const char *path, const gge_model_options *model, const gge_engine_options *engine,
                        gge_memory *out, gge_error *err) {
    return gge::guard(err, [&] {
        need(out, "out");
        need(path, "path");
        gge::write_struct(out, gge::estimate(path, gge::read_options(model), gge::read_options(engine)));
    });
}

} // extern "C"
