// _ggembed_internals: the pure pieces for tests in Python, and a second copy of the whole C ABI whose models can be
// made to fail. Built with GGEMBED_BUILD_TESTS, never installed.
#include "internals.h"
#include "cutting.h"
#include "engine.h"
#include "faulty_backend.h"
#include "model.h"
#include "rows.h"
#include "texts.h"
#include "threads.h"
#include "unicode.h"
#include "wordpiece.h"

#include <optional>
#include <tuple>

namespace py = pybind11;

namespace {

using Rows = py::array_t<float, py::array::c_style | py::array::forcecast>;

// rows: (n, n_embd); pieces: how many rows are added at a time
Rows pool(gge_pooling pooling, const Rows &rows, const std::vector<size_t> &pieces) {
    const auto n_embd = static_cast<size_t>(rows.shape(1));
    gge::Pooler pooler(pooling, n_embd);
    pooler.start();
    size_t done = 0;
    for (const size_t n : pieces) {
        if (done + n > static_cast<size_t>(rows.shape(0))) {
            throw py::value_error("the pieces have more rows than there are");
        }
        pooler.add(rows.data() + done * n_embd, n);
        done += n;
    }
    Rows out(rows.shape(1));
    std::copy_n(pooler.finish(), n_embd, out.mutable_data());
    return out;
}

Rows normalize(const Rows &row) {
    Rows out(row.size());
    gge::normalize(row.data(), static_cast<size_t>(row.size()), out.mutable_data());
    return out;
}

// Position of the first bad byte, or None.
py::object find_invalid_utf8(const py::bytes &bytes) {
    const size_t at = gge::find_invalid_utf8(std::string(bytes));
    return at == std::string_view::npos ? py::none() : py::object(py::int_(at));
}

std::string text_of(const gge::CodePoints &points) {
    std::string s;
    for (const char32_t c : points) {
        gge::append_utf8(s, c);
    }
    return s;
}

// (removed, space, chinese, punctuation, without accents, in lower case)
auto bert_facts(uint32_t code) {
    const auto c = static_cast<char32_t>(code);
    return std::make_tuple(gge::is_bert_removed(c), gge::is_bert_space(c), gge::is_bert_chinese(c),
                           gge::is_bert_punctuation(c), text_of(gge::bert_strip_accents(c)),
                           text_of(gge::bert_lower(c)));
}

// Texts -> ids. tokens: as GGUF stores them.
auto word_piece(const std::vector<std::string> &tokens, int32_t unknown, bool lowercase, bool strip_accents,
                const std::vector<std::string> &texts) {
    const gge::WordPiece pieces({tokens.begin(), tokens.end()}, unknown, {lowercase, strip_accents});
    std::vector<std::vector<int32_t>> ids(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
        pieces.tokenize(texts[i], ids[i]);
    }
    return ids;
}

// faults: {token id: (kind, how often)}, of all models that this module's copy of the C ABI loads
void inject(const std::map<int32_t, std::pair<std::string, int>> &faults) {
    static const std::map<std::string, faulty::Kind> kinds = {
        {"nan", faulty::Kind::nan},       {"infinity", faulty::Kind::infinity}, {"no_memory", faulty::Kind::no_memory},
        {"device", faulty::Kind::device}, {"internal", faulty::Kind::internal}, {"slow", faulty::Kind::slow}};
    std::map<int32_t, faulty::Fault> chosen;
    for (const auto &[id, fault] : faults) {
        chosen[id] = {kinds.at(fault.first), fault.second};
    }
    faulty::Faults::all().set(std::move(chosen));
    gge::Model::wrapper = [](std::unique_ptr<gge::BackendModel> inner) -> std::unique_ptr<gge::BackendModel> {
        return std::make_unique<faulty::Model>(std::move(inner));
    };
}

// The session that an engine on the CPU ends up with.
gge::SessionOptions largest_session(const gge::ModelFacts &facts, const gge::EngineOptions &options) {
    const gge::Budget budget = gge::choose_budget(facts, options, GGE_DEVICE_CPU, false);
    return budget.session_for(budget.n_ctx, budget.first.rank);
}

// Fields of gge_memory of a loaded model and of the session that an engine ends up with, after a full micro-batch.
auto held_memory(const std::string &path, bool mmap, int32_t n_ctx, int32_t n_ubatch, int32_t n_seq_max) {
    gge::LoadOptions load;
    load.device = "cpu";
    load.mmap = mmap;
    gge::EngineOptions engine;
    engine.n_ctx = n_ctx;
    engine.n_ubatch = n_ubatch;
    engine.n_seq_max = n_seq_max;
    engine.n_threads = 1;
    const auto model = gge::Model::load(path, load);
    const gge::SessionOptions options = largest_session(model->facts(), engine);
    const auto session = model->backend().open(options);
    gge::TokenBatch batch;
    for (int32_t i = 0; i < options.n_ubatch; ++i) {
        batch.ids.push_back(i % model->facts().n_vocab);
        batch.positions.push_back(i % n_ctx);
        batch.sequences.push_back(i / n_ctx);
        batch.wanted.push_back(1);
    }
    session->compute(batch, std::atomic<bool>{false});
    const gge_memory m = session->memory();
    return std::map<std::string, int64_t>{
        {"weights_device", m.weights_device}, {"weights_host", m.weights_host},     {"cache_device", m.cache_device},
        {"cache_host", m.cache_host},         {"compute_device", m.compute_device}, {"compute_host", m.compute_host},
        {"output_host", m.output_host},
    };
}

// The tokenizer of a model file, and where its texts can be cut.
class Vocabulary {
public:
    explicit Vocabulary(const std::string &path, bool parse_special) : parse_special_(parse_special) {
        gge::LoadOptions options;
        options.device = "cpu";
        model_ = gge::Model::load(path, options);
        seams_ = model_->backend().seams(parse_special);
    }

    bool has_seams() const { return seams_ != nullptr; }
    std::vector<int32_t> tokenize(const std::string &text) const { return cutter(nullptr).all({"", text}).ids; }
    std::vector<size_t> near_end(const std::string &head) const { return seams_->near_end(head); }
    std::vector<size_t> near_begin(const std::string &tail, size_t n_bytes) const {
        return seams_->near_begin(tail, n_bytes);
    }
    py::bytes lead(const std::string &rest) const { return std::string(seams_->lead(rest)); }

    // (ids, are these all, how many bytes of text were tokenised)
    auto cut(const std::string &prompt, const std::string &text, size_t n, bool from_start) const {
        size_t n_bytes = 0;
        const gge::Cutter some = cutter(&n_bytes);
        const gge::PromptedText prompted(prompt, text);
        gge::TokenRun run = from_start ? some.last(prompted, n) : some.first(prompted, n);
        return std::make_tuple(std::move(run.ids), run.all, n_bytes);
    }

private:
    gge::Cutter cutter(size_t *n_bytes) const {
        const auto tokenize = [this, n_bytes](std::string_view text, std::vector<int32_t> &ids) {
            model_->backend().tokenize(text, false, parse_special_, ids);
            if (n_bytes != nullptr) {
                *n_bytes += text.size();
            }
        };
        return {tokenize, seams_};
    }

    std::shared_ptr<const gge::Model> model_;
    bool parse_special_;
    const gge::Seams *seams_;
};

// A model file and its compute state, without the engine.
class Compute {
public:
    // plain, streams: those of SessionOptions
    Compute(const std::string &path, int32_t n_ubatch, bool plain, bool streams, bool flash_attention) : plain_(plain) {
        gge::LoadOptions load;
        load.device = "cpu";
        model_ = gge::Model::load(path, load);
        gge::EngineOptions engine;
        engine.n_ubatch = n_ubatch;
        engine.n_threads = 1;
        engine.flash_attention = flash_attention ? gge::FlashAttention::automatic : gge::FlashAttention::off;
        gge::SessionOptions session = largest_session(model_->facts(), engine);
        session.plain = plain;
        session.streams = streams;
        session.n_ubatch = streams ? session.n_ctx : session.n_ubatch; // whole inputs
        session_ = model_->backend().open(session);
    }

    bool cacheless() const { return model_->facts().cacheless && !plain_; }

    py::dict memory() const {
        const gge_memory memory = session_->memory();
        py::dict bytes;
        bytes["cache_device"] = memory.cache_device;
        bytes["cache_host"] = memory.cache_host;
        bytes["compute_device"] = memory.compute_device;
        bytes["compute_host"] = memory.compute_host;
        bytes["output_host"] = memory.output_host;
        return bytes;
    }

    int64_t n_graphs_reused() const { return session_->n_graphs_reused(); }
    bool has_mrope() const { return model_->facts().has_mrope; }
    std::string cannot_take_rows() const { return model_->facts().cannot_take_rows; }

    Rows token_rows(const std::vector<int32_t> &ids) const {
        Rows rows({static_cast<py::ssize_t>(ids.size()), static_cast<py::ssize_t>(model_->facts().n_embd)});
        model_->backend().token_rows(ids.data(), ids.size(), rows.mutable_data());
        return rows;
    }

    // The token rows of a micro-batch, or of its wanted tokens (0 or 1 for each); continues: the sequences go on from the one before. rows: (n, n_embd), what the
    // model computes with in place of the ids; with M-RoPE also heights and widths.
    Rows run(std::vector<int32_t> ids, std::vector<int32_t> positions, std::vector<int32_t> sequences,
             const std::optional<Rows> &rows, std::vector<int32_t> heights, std::vector<int32_t> widths, bool continues,
             std::optional<std::vector<uint8_t>> wanted) {
        gge::TokenBatch batch;
        batch.ids = std::move(ids);
        batch.positions = std::move(positions);
        batch.sequences = std::move(sequences);
        batch.wanted = wanted ? *std::move(wanted) : std::vector<uint8_t>(batch.ids.size(), 1);
        batch.heights = std::move(heights);
        batch.widths = std::move(widths);
        const auto n_embd = static_cast<size_t>(model_->facts().n_embd);
        const size_t n = batch.ids.size();
        if (rows) {
            batch.rows.assign(rows->data(), rows->data() + rows->size());
        }
        const bool grid = rows && has_mrope();
        if (batch.positions.size() != n || batch.sequences.size() != n || batch.wanted.size() != n ||
            (rows && batch.rows.size() != n * n_embd) ||
            (grid && (batch.heights.size() != n || batch.widths.size() != n))) {
            throw py::value_error("the parts of a batch must have one size");
        }
        if (!continues) {
            session_->reset(false);
        }
        const float *found = session_->compute(batch, std::atomic<bool>{false});
        const auto n_rows = static_cast<size_t>(std::count(batch.wanted.begin(), batch.wanted.end(), 1));
        Rows out({static_cast<py::ssize_t>(n_rows), static_cast<py::ssize_t>(n_embd)});
        std::copy_n(found, n_rows * n_embd, out.mutable_data());
        return out;
    }

private:
    const bool plain_;
    std::shared_ptr<const gge::Model> model_;
    std::unique_ptr<gge::BackendSession> session_;
};

} // namespace

PYBIND11_MODULE(_ggembed_internals, m) {
    m.doc() = "Pure pieces of ggembed's C++ for white-box tests";
    m.def("pool", &pool, py::arg("pooling"), py::arg("rows"), py::arg("pieces"));
    m.def("normalize", &normalize, py::arg("row"));
    m.def("find_invalid_utf8", &find_invalid_utf8, py::arg("bytes"));
    m.def("default_n_threads", &gge::default_n_threads);
    m.def("nfc", &gge::to_nfc, py::arg("text"));
    m.def("is_nfc", &gge::is_nfc, py::arg("text"));
    m.def("bert_facts", &bert_facts, py::arg("code"));
    m.def("word_piece", &word_piece, py::arg("tokens"), py::arg("unknown"), py::arg("lowercase"),
          py::arg("strip_accents"), py::arg("texts"));
    m.def("inject", &inject, py::arg("faults"));
    m.def("set_idle", [](bool idle) { faulty::Faults::all().idle = idle; }, py::arg("idle"));
    m.def("n_slow", [] { return faulty::Faults::all().n_slow(); });
    m.def("held_memory", &held_memory, py::arg("path"), py::arg("mmap"), py::arg("n_ctx"), py::arg("n_ubatch"),
          py::arg("n_seq_max"));
    py::class_<Vocabulary>(m, "Vocabulary")
        .def(py::init<std::string, bool>(), py::arg("path"), py::arg("parse_special") = false)
        .def_property_readonly("has_seams", &Vocabulary::has_seams)
        .def("tokenize", &Vocabulary::tokenize, py::arg("text"))
        .def("near_end", &Vocabulary::near_end, py::arg("head"))
        .def("near_begin", &Vocabulary::near_begin, py::arg("tail"), py::arg("n_bytes"))
        .def("lead", &Vocabulary::lead, py::arg("rest"))
        .def("cut", &Vocabulary::cut, py::arg("prompt"), py::arg("text"), py::arg("n"), py::arg("from_start"));
    py::class_<Compute>(m, "Compute")
        .def(py::init<std::string, int32_t, bool, bool, bool>(), py::arg("path"), py::arg("n_ubatch") = 0,
             py::arg("plain") = false, py::arg("streams") = false, py::arg("flash_attention") = true)
        .def_property_readonly("cacheless", &Compute::cacheless)
        .def_property_readonly("memory", &Compute::memory)
        .def_property_readonly("n_graphs_reused", &Compute::n_graphs_reused)
        .def_property_readonly("has_mrope", &Compute::has_mrope)
        .def_property_readonly("cannot_take_rows", &Compute::cannot_take_rows)
        .def("token_rows", &Compute::token_rows, py::arg("ids"))
        .def("run", &Compute::run, py::arg("ids"), py::arg("positions"), py::arg("sequences"),
             py::arg("rows") = py::none(), py::arg("heights") = std::vector<int32_t>(),
             py::arg("widths") = std::vector<int32_t>(), py::arg("continues") = false, py::arg("wanted") = py::none());
    bind_attention(m);
    bind_matmul(m);
    bind_products(m);
    bind_devices(m);
    bind_media(m);
    bind_towers(m);
    m.attr("UNICODE_VERSION") = gge::unicode_version();
    m.attr("POOLING_MEAN") = static_cast<int>(GGE_POOLING_MEAN);
    m.attr("POOLING_CLS") = static_cast<int>(GGE_POOLING_CLS);
    m.attr("POOLING_LAST") = static_cast<int>(GGE_POOLING_LAST);
}
