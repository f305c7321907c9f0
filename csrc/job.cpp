#include "job.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace gge {
namespace {

std::string too_long(const Tokens &tokens, int64_t i, int64_t n_ctx) {
    return tokens.name(i) + " has " + std::to_string(tokens.n_tokens(i)) + " tokens, the context holds " +
           std::to_string(n_ctx);
}

void check_adapter_choice(const ModelFacts &f, const Tokens &tokens, int32_t adapter) {
    if (adapter > f.n_adapters) {
        throw Error(GGE_E_INVALID, "adapter is " + std::to_string(adapter) + ", the model was loaded with " +
                                       std::to_string(f.n_adapters) + " adapters");
    }
    if (!tokens.media.empty() && f.token_adapters.count(adapter) > 0) {
        throw Error(GGE_E_UNSUPPORTED,
                    "adapter " + std::to_string(adapter) + " changes token_embd.weight, so it does not go with media");
    }
}

// Scores are what the head says: nothing is made of them but another type.
RowFormat rank_format(const ModelFacts &f, const EncodeOptions &options) {
    if (f.n_cls_out == 0) {
        throw Error(GGE_E_UNSUPPORTED, f.cannot_rank);
    }
    if (options.truncate_dim > 0 || options.projection != nullptr) {
        throw Error(GGE_E_INVALID, std::string(options.truncate_dim > 0 ? "truncate_dim" : "projection") +
                                       " does not apply to the scores of pooling rank");
    }
    RowFormat format;
    format.n_embd = static_cast<size_t>(f.n_cls_out);
    format.n_out = format.n_embd;
    format.normalize = options.normalize == GGE_ON;
    format.type = options.output_type;
    format.ranges = options.ranges;
    return format;
}

RowFormat read_format(const ModelFacts &f, const EncodeOptions &options) {
    RowFormat format;
    format.n_embd = static_cast<size_t>(f.n_embd);
    format.projection = options.projection;
    format.projection_bias = options.projection_bias;
    format.n_projection = static_cast<size_t>(options.n_projection);
    const int32_t width = options.projection == nullptr ? f.n_embd : options.n_projection;
    if (options.truncate_dim > width) {
        throw Error(GGE_E_INVALID, "truncate_dim is " + std::to_string(options.truncate_dim) + ", rows have " +
                                       std::to_string(width) + " values");
    }
    format.n_out = static_cast<size_t>(options.truncate_dim > 0 ? options.truncate_dim : width);
    format.normalize = options.normalize != GGE_OFF;
    format.type = options.output_type;
    format.ranges = options.ranges;
    return format;
}

// What a call wants its rows to be, checked against the model.
RowFormat checked_format(const Model &model, const Tokens &tokens, const EncodeOptions &options, gge_pooling pooling) {
    const ModelFacts &f = model.facts();
    if (tokens.model.get() != &model) {
        throw Error(GGE_E_INVALID, "the tokens come from another model than the engine's");
    }
    check_adapter_choice(f, tokens, options.adapter);
    return pooling == GGE_POOLING_RANK ? rank_format(f, options) : read_format(f, options);
}

// What ended a job.
std::pair<gge_status, std::string> describe(const std::exception_ptr &error) {
    try {
        std::rethrow_exception(error);
    } catch (const Error &e) {
        return {e.status(), e.what()};
    } catch (const std::bad_alloc &) {
        return {GGE_E_MEMORY, "out of memory"};
    } catch (const std::exception &e) {
        return {GGE_E_INTERNAL, e.what()};
    }
}

} // namespace

Job::Job(const Model &model, std::shared_ptr<const Tokens> tokens_, const EncodeOptions &options_, const RowsOut &out_,
         int64_t n_ctx, size_t n_workers)
    : tokens(std::move(tokens_)), options(options_), out(out_),
      pooling(options.pooling == GGE_POOLING_DEFAULT ? model.pooling() : options.pooling),
      format(checked_format(model, *tokens, options, pooling)), status(tokens->status), finished(status.size(), 0),
      n_tokens(status.size()), n_left(tokens->n_texts()),
      desks(n_workers, {Pooler(pooling, format.n_embd), RowWriter(format), {}}) {
    check_out(out, pooling == GGE_POOLING_NONE ? static_cast<int64_t>(tokens->ids.size()) : tokens->n_texts(),
              format.type, format.n_out);
    for (int64_t i = 0; i < tokens->n_texts(); ++i) {
        const int64_t n = tokens->n_tokens(i);
        if (tokens->status[static_cast<size_t>(i)] != GGE_OK) {
            fail(i, tokens->status[static_cast<size_t>(i)], tokens->messages.at(i));
        } else if (n == 0) {
            fail(i, GGE_E_EMPTY, tokens->name(i) + " has no tokens");
        } else if (n > n_ctx) {
            fail(i, GGE_E_TOO_LONG, too_long(*tokens, i, n_ctx));
        } else {
            n_tokens[static_cast<size_t>(i)] = n;
            n_total += n;
            longest = std::max(longest, n);
        }
        if (error) {
            std::rethrow_exception(error);
        }
    }
}

void *Job::row(int64_t i) const {
    const auto stride = out.row_stride * static_cast<int64_t>(element_bytes(format.type));
    return static_cast<char *>(out.data) + i * stride;
}

int64_t Job::longest_up_to(int64_t limit) {
    int64_t found = 0;
    const std::lock_guard<std::mutex> lock(failing);
    for (const int64_t n : n_tokens) {
        found = n <= limit ? std::max(found, n) : found;
    }
    return found;
}

void Job::succeed(int64_t i) {
    finished[static_cast<size_t>(i)] = 1;
    --n_left;
}

void Job::fail(const std::exception_ptr &why) {
    const std::lock_guard<std::mutex> lock(failing);
    if (!over()) { // otherwise it is known why it ended
        error = why;
        failed = true;
    }
}

void Job::fail(int64_t i, gge_status why, const std::string &message) {
    const std::lock_guard<std::mutex> lock(failing);
    if (!options.report.collects()) {
        if (!failed) { // the first one ends the call
            ++n_failed;
            error = std::make_exception_ptr(Error(why, message, i));
            failed = true;
        }
        return;
    }
    ++n_failed;
    status[static_cast<size_t>(i)] = why;
    n_tokens[static_cast<size_t>(i)] = 0;
    messages[i] = message;
    int64_t begin = i;
    int64_t end = i + 1;
    if (pooling == GGE_POOLING_NONE) {
        begin = tokens->offsets[static_cast<size_t>(i)];
        end = tokens->offsets[static_cast<size_t>(i) + 1];
    }
    for (int64_t r = begin; r < end; ++r) {
        desks.front().writer.fill_failed(row(r));
    }
    finished[static_cast<size_t>(i)] = 1;
    --n_left;
}

void Job::report() {
    gge_status ended = GGE_OK;
    std::string why;
    if (error) {
        std::tie(ended, why) = describe(error);
    } else if (closed && n_left > 0) {
        ended = GGE_E_CLOSED;
        why = "the engine is closed";
    } else if (abort && n_left > 0) {
        ended = GGE_E_ABORTED;
        why = "the call was aborted";
    }
    const InputReport &to = options.report;
    if (to.collects()) {
        for (int64_t i = 0; ended != GGE_OK && i < tokens->n_texts(); ++i) {
            if (finished[static_cast<size_t>(i)] == 0) {
                fail(i, ended, why);
            }
        }
        if (to.status != nullptr) {
            std::copy(status.begin(), status.end(), to.status);
        }
        for (const auto &[i, message] : messages) {
            if (to.on_error != nullptr) {
                to.on_error(options.callbacks.user_data, i, status[static_cast<size_t>(i)], message.c_str());
            }
        }
    }
    if (error) { // which goes with this thread, not with the one that lets go of the job
        std::rethrow_exception(std::exchange(error, nullptr));
    }
    if (ended != GGE_OK) {
        throw Error(ended, why);
    }
}

} // namespace gge
