#include "media_rows.h"

#include "rows.h"

#include <algorithm>
#include <iterator>

namespace gge {

TowerSession &Towers::session(gge_modality modality) {
    std::unique_ptr<TowerSession> &session = sessions_[modality];
    if (session == nullptr) {
        session = tower_for(model_, modality, copy_).open(n_threads_, cuda_graphs_);
    }
    return *session;
}

MediaRows::MediaRows(const Model &model, const Tokens &tokens, int64_t n_tower_batch)
    : model_(model), tokens_(tokens), room_(n_tower_batch) {}

void MediaRows::prepare(Towers &towers, const Plan &plan, size_t at, const std::atomic<bool> &abort) {
    Window own = gather(plan, at, at + 1);
    if (own.spans.empty()) {
        return;
    }
    if (at >= alone_until_) {
        const Window window = gather(plan, at, plan.size());
        try {
            encode(towers, window, abort);
            return;
        } catch (const Error &e) { // whose media are at fault is not known
            if (abort || e.status() == GGE_E_DEVICE || window.spans.size() == own.spans.size()) {
                throw;
            }
            alone_until_ = at + window.n_batches;
        }
        own = gather(plan, at, at + 1); // a part of them may be there
    }
    encode(towers, own, abort);
}

void MediaRows::prepare_alone(Towers &towers, const Microbatch &batch, const std::atomic<bool> &abort) {
    Window window;
    add(batch, -1, window);
    encode(towers, window, abort);
}

// The media that a micro-batch holds rows of.
std::vector<const MediaSpan *> MediaRows::spans_of(const Microbatch &batch) const {
    std::vector<const MediaSpan *> spans;
    const std::vector<MediaSpan> &media = tokens_.media;
    for (const Piece &piece : batch) {
        const int64_t offset = tokens_.offsets[static_cast<size_t>(piece.i_input)];
        auto span = std::partition_point(
            media.begin(), media.end(), [&](const MediaSpan &s) { return s.begin + s.n_rows <= offset + piece.begin; });
        for (; span != media.end() && span->begin < offset + piece.end; ++span) {
            spans.push_back(&*span);
        }
    }
    return spans;
}

// Units that micro-batches need and that are not there: all of the first one's, of the others as many as there is room
// for.
MediaRows::Window MediaRows::gather(const Plan &plan, size_t begin, size_t end) {
    Window window;
    size_t b = begin;
    while (b < end && add(plan[b], static_cast<int64_t>(b), window)) {
        ++b;
    }
    return window;
}

// Adds what one micro-batch needs. Returns whether there is room for all of it.
bool MediaRows::add(const Microbatch &batch, int64_t number, Window &window) {
    for (const MediaSpan *span : spans_of(batch)) {
        const Key key = {span->media.get(), span->i_unit};
        if (const auto held = held_.find(key); held != held_.end()) {
            held->second.last_use = std::max(held->second.last_use, number);
        } else if (const auto known = window.last_uses.find(key); known != window.last_uses.end()) {
            known->second = number;
        } else if (window.n_batches > 0 && window.n_rows + span->n_rows > room_) {
            return false;
        } else {
            window.last_uses[key] = number;
            window.spans.push_back(span);
            window.n_rows += span->n_rows;
        }
    }
    ++window.n_batches;
    return true;
}

void MediaRows::encode(Towers &towers, const Window &window, const std::atomic<bool> &abort) {
    for (const gge_modality modality : {GGE_MODALITY_VISION, GGE_MODALITY_AUDIO}) {
        std::vector<const MediaSpan *> spans;
        std::copy_if(window.spans.begin(), window.spans.end(), std::back_inserter(spans),
                     [&](const MediaSpan *span) { return span->media->modality() == modality; });
        for (auto begin = spans.begin(); begin != spans.end();) {
            auto end = begin;
            int64_t n_rows = 0;
            while (end != spans.end() && (end == begin || n_rows + (*end)->n_rows <= room_)) {
                n_rows += (*end)->n_rows;
                ++end;
            }
            try {
                run_pass(towers, window, {begin, end}, abort);
                begin = end;
            } catch (const Error &e) { // fewer may find memory
                if (abort || e.status() != GGE_E_MEMORY || end - begin == 1) {
                    throw;
                }
                room_ = n_rows / 2;
            }
        }
    }
}

// spans: of one modality
void MediaRows::run_pass(Towers &towers, const Window &window, const std::vector<const MediaSpan *> &spans,
                         const std::atomic<bool> &abort) {
    const gge_modality modality = spans[0]->media->modality();
    const TowerFacts &facts = tower_for(model_, modality).facts();
    const auto unit_of = [](const MediaSpan &span) -> const MediaUnit & { return span.media->units()[span.i_unit]; };
    try {
        size_t n_values = 0;
        for (const MediaSpan *span : spans) {
            n_values += n_tower_values(facts, unit_of(*span));
        }
        const std::unique_ptr<float[]> values(new float[n_values]); // not zeroed: it is large, and filled in
        std::vector<TowerInput> inputs;
        float *at = values.get();
        for (const MediaSpan *span : spans) {
            inputs.push_back(tower_input(facts, unit_of(*span), at));
            at += n_tower_values(facts, unit_of(*span));
        }
        const float *rows = towers.session(modality).compute(inputs, abort);
        for (const MediaSpan *span : spans) {
            const Key key = {span->media.get(), span->i_unit};
            const size_t n = static_cast<size_t>(span->n_rows) * static_cast<size_t>(facts.n_embd);
            held_[key] = {{rows, rows + n}, window.last_uses.at(key), all_finite(rows, n)};
            rows += n;
        }
    } catch (const std::bad_alloc &) {
        towers.drop(modality); // its state is unknown
        throw Error(GGE_E_MEMORY, "out of memory");
    } catch (...) {
        towers.drop(modality);
        throw;
    }
}

void MediaRows::fill(const Microbatch &batch, TokenBatch &out) const {
    out.rows.clear();
    out.heights.clear();
    out.widths.clear();
    if (spans_of(batch).empty()) {
        return;
    }
    const auto n_embd = static_cast<size_t>(model_.facts().n_embd);
    out.rows.resize(out.ids.size() * n_embd);
    float *rows = out.rows.data();
    for (const Piece &piece : batch) {
        fill_piece(piece, out, rows);
        rows += static_cast<size_t>(piece.end - piece.begin) * n_embd;
    }
}

void MediaRows::fill_piece(const Piece &piece, TokenBatch &out, float *rows) const {
    const auto n_embd = static_cast<size_t>(model_.facts().n_embd);
    const int64_t offset = tokens_.offsets[static_cast<size_t>(piece.i_input)];
    const int64_t end = offset + piece.end;
    const std::vector<const MediaSpan *> spans = spans_of({&piece, &piece + 1});
    auto span = spans.begin();
    for (int64_t t = offset + piece.begin; t < end;) {
        int64_t n = 0;
        if (span == spans.end() || t < (*span)->begin) {
            n = (span == spans.end() ? end : (*span)->begin) - t;
            model_.backend().token_rows(tokens_.ids.data() + t, static_cast<size_t>(n), rows);
        } else {
            const Held &held = held_.at({(*span)->media.get(), (*span)->i_unit});
            if (!held.finite) {
                throw Error(GGE_E_NOT_FINITE,
                            "the rows of a medium of input " + std::to_string(piece.i_input) + " are not finite");
            }
            n = std::min(end, (*span)->begin + (*span)->n_rows) - t;
            std::copy_n(held.rows.data() + static_cast<size_t>(t - (*span)->begin) * n_embd,
                        static_cast<size_t>(n) * n_embd, rows);
            ++span;
        }
        rows += static_cast<size_t>(n) * n_embd;
        t += n;
    }
    if (model_.facts().has_mrope) {
        for (int64_t t = offset + piece.begin; t < end; ++t) {
            out.heights.push_back(tokens_.positions[static_cast<size_t>(t)].height);
            out.widths.push_back(tokens_.positions[static_cast<size_t>(t)].width);
        }
    }
}

void MediaRows::release(size_t at) {
    drop_until(static_cast<int64_t>(at));
}

void MediaRows::release_alone() {
    drop_until(-1);
}

void MediaRows::drop_until(int64_t batch) {
    for (auto held = held_.begin(); held != held_.end();) {
        held = held->second.last_use <= batch ? held_.erase(held) : std::next(held);
    }
}

} // namespace gge
