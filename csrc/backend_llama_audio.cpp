// The audio tower of Qwen2.5-Omni: mel frames -> two convolutions -> transformer -> mean of neighbours -> rows. A sound
// is cut into pieces that know nothing of each other.
#include "backend_llama_encoder.h"

#include <numeric>

namespace gge {
namespace {

constexpr int64_t n_taps = 3; // of both convolutions

class AudioEncoder final : public Encoder {
public:
    AudioEncoder(std::shared_ptr<const TowerFile> file, const std::string &projector, int32_t n_embd)
        : Encoder(std::move(file), GGE_MODALITY_AUDIO, projector) {
        const TowerFile &f = weights_.file();
        n_mel_ = f.integer("clip.audio.num_mel_bins", 1, 1024);
        transformer_ = read_transformer(weights_, "audio", "a", NormKind::layer, false, false);
        const int64_t n = transformer_.n_embd;
        conv1_.weight = weights_.plain("a.conv1d.1.weight", {n_taps, n_mel_, n});
        conv1_.bias = weights_.plain("a.conv1d.1.bias", {n});
        conv2_.weight = weights_.made({"a.conv1d.2.weight"}, {n_taps, n, n}, n_taps * n, n,
                                      [n](const std::vector<std::vector<float>> &kernel) {
                                          return taps_first(kernel[0], static_cast<size_t>(n));
                                      });
        conv2_.bias = weights_.plain("a.conv1d.2.bias", {n});
        read_positions();
        post_norm_ = read_norm(weights_, "a.post_ln", n, NormKind::layer);
        out_ = read_linear(weights_, "mm.a.fc", n, check_width(f, "mm.a.fc.weight", n_embd));

        facts_.n_embd = n_embd;
        facts_.n_layer = static_cast<int32_t>(transformer_.layers.size());
        facts_.n_mel_bins = static_cast<int32_t>(n_mel_);
        facts_.n_window = static_cast<int32_t>(window_);
        facts_.n_params = weights_.n_params();
        facts_.tensor_bytes = weights_.file_bytes();
        facts_.file_bytes = f.bytes();
    }

    void check(const TowerInput &input) const override {
        constexpr int64_t most = 1 << 24; // mel frames, 46 hours
        if (input.n_frames < 3 || input.n_frames > most || input.n_rows != (input.n_frames + 1) / 4 ||
            input.values == nullptr) {
            throw Error(GGE_E_INTERNAL, "a sound has " + std::to_string(input.n_frames) + " mel frames and " +
                                            std::to_string(input.n_rows) + " rows, which do not fit the audio tower");
        }
    }

    TowerInput example(int64_t n_rows) const override {
        TowerInput input;
        input.n_rows = n_rows;
        input.n_frames = 4 * n_rows;
        return input;
    }

    int64_t n_values(const TowerInput &input) const override { return input.n_frames * n_mel_; }

    std::vector<int64_t> build(TowerGraph &graph, const std::vector<TowerInput> &inputs) const override {
        Packed packed = pack(inputs);
        graph.start(transformer_.layers.size(), packed.runs.size());
        ggml_context *context = graph.context();
        const int64_t n = transformer_.n_embd;
        const auto n_tokens = static_cast<int64_t>(packed.positions.size());

        ggml_tensor *x = graph.input(std::move(packed.frames), n_taps * n_mel_, packed.n_frames);
        const Linear conv1 = {ggml_reshape_2d(context, conv1_.weight, n_taps * n_mel_, n), conv1_.bias};
        x = graph.gelu_erf(graph.linear(conv1, x));
        x = ggml_pad(context, x, 0, 1, 0, 0); // the row of zeros around each piece
        x = ggml_get_rows(context, x, graph.input(std::move(packed.taps)));
        x = ggml_reshape_2d(context, x, n_taps * n, n_tokens);
        x = graph.gelu_erf(graph.linear(conv2_, x));
        x = ggml_add(context, x, ggml_get_rows(context, positions_, graph.input(std::move(packed.positions))));
        for (const Layer &layer : transformer_.layers) {
            x = graph.layer(transformer_, layer, packed.runs, nullptr, &TowerGraph::gelu_erf, x);
        }
        ggml_tensor *left = ggml_get_rows(context, x, graph.input(std::move(packed.left)));
        ggml_tensor *right = ggml_get_rows(context, x, graph.input(std::move(packed.right)));
        x = ggml_scale(context, ggml_add(context, left, right), 0.5F);
        x = graph.norm(post_norm_, transformer_.eps, x);
        graph.finish(graph.linear(out_, x));

        std::vector<int64_t> order(static_cast<size_t>(graph.rows()->ne[1]));
        std::iota(order.begin(), order.end(), int64_t{0});
        return order;
    }

private:
    struct Piece {
        size_t i_input;
        int64_t begin; // frames
        int64_t length;
        int64_t first_token = 0; // in the transformer

        int64_t n_tokens() const { return (length + 1) / 2; }
    };

    // All pieces, those of equal length next to each other.
    struct Packed {
        std::vector<float> frames; // what the first convolution sees of each frame: [n_taps, n_mel, n_frames]
        int64_t n_frames = 0;
        std::vector<int32_t> taps; // the frames that the second one sees for each token
        std::vector<int32_t> positions;
        std::vector<Run> runs;
        std::vector<int32_t> left; // the tokens of which a row is the mean
        std::vector<int32_t> right;
    };

    // [n_taps, n, n] -> [n, n_taps, n], by ggml's order of dimensions
    static std::vector<float> taps_first(const std::vector<float> &kernel, size_t n) {
        std::vector<float> turned(kernel.size());
        for (size_t out = 0; out < n; ++out) {
            for (size_t in = 0; in < n; ++in) {
                for (size_t tap = 0; tap < n_taps; ++tap) {
                    turned[(out * n_taps + tap) * n + in] = kernel[(out * n + in) * n_taps + tap];
                }
            }
        }
        return turned;
    }

    void read_positions() {
        const TowerFile &f = weights_.file();
        const std::string name = "a.position_embd.weight";
        const std::vector<int64_t> shape = f.shape(name);
        const int64_t n = shape.size() > 1 ? shape[1] : 1;
        positions_ = weights_.plain(name, {transformer_.n_embd, n});
        window_ = f.integer("clip.audio.n_window", 1, n, 100);
        if (window_ > n) {
            f.fail(GGE_E_FORMAT, "tensor " + name + " has " + std::to_string(n) + " positions, a piece needs " +
                                     std::to_string(window_));
        }
    }

    Packed pack(const std::vector<TowerInput> &inputs) const {
        std::vector<Piece> pieces;
        for (size_t i = 0; i < inputs.size(); ++i) {
            for (int64_t begin = 0; begin < inputs[i].n_frames; begin += 2 * window_) {
                pieces.push_back({i, begin, std::min(2 * window_, inputs[i].n_frames - begin)});
            }
        }
        std::vector<Piece *> sorted;
        sorted.reserve(pieces.size());
        for (Piece &piece : pieces) {
            sorted.push_back(&piece);
        }
        std::stable_sort(sorted.begin(), sorted.end(),
                         [](const Piece *a, const Piece *b) { return a->length > b->length; });
        Packed packed;
        for (const Piece *piece : sorted) {
            packed.n_frames += piece->length;
        }
        packed.frames.reserve(static_cast<size_t>(packed.n_frames * n_taps * n_mel_));
        int64_t n_frames = 0;
        for (Piece *piece : sorted) {
            piece->first_token = static_cast<int64_t>(packed.positions.size());
            pack(inputs[piece->i_input], *piece, n_frames, packed);
            n_frames += piece->length;
        }
        pair_tokens(pieces, packed);
        return packed;
    }

    void pack(const TowerInput &input, const Piece &piece, int64_t first_frame, Packed &packed) const {
        add_group(packed.runs, piece.n_tokens());
        for (int64_t t = 0; t < piece.length; ++t) {
            for (int64_t bin = 0; bin < n_mel_; ++bin) {
                const float *mel = input.values + bin * input.n_frames + piece.begin;
                for (int64_t at = t - 1; at <= t + 1; ++at) {
                    packed.frames.push_back(at < 0 || at >= piece.length ? 0.0F : mel[at]);
                }
            }
        }
        for (int64_t t = 0; t < piece.n_tokens(); ++t) {
            packed.positions.push_back(static_cast<int32_t>(t));
            for (int64_t at = 2 * t - 1; at <= 2 * t + 1; ++at) {
                const bool outside = at < 0 || at >= piece.length;
                packed.taps.push_back(static_cast<int32_t>(outside ? packed.n_frames : first_frame + at));
            }
        }
    }

    // Over the whole of each sound; an odd last token is dropped. pieces: in the order of the inputs.
    static void pair_tokens(const std::vector<Piece> &pieces, Packed &packed) {
        std::vector<int32_t> tokens; // of one sound
        for (size_t i = 0; i < pieces.size(); ++i) {
            for (int64_t t = 0; t < pieces[i].n_tokens(); ++t) {
                tokens.push_back(static_cast<int32_t>(pieces[i].first_token + t));
            }
            if (i + 1 == pieces.size() || pieces[i + 1].i_input != pieces[i].i_input) {
                for (size_t t = 0; t + 1 < tokens.size(); t += 2) {
                    packed.left.push_back(tokens[t]);
                    packed.right.push_back(tokens[t + 1]);
                }
                tokens.clear();
            }
        }
    }

    int64_t n_mel_ = 0;
    int64_t window_ = 0; // half the frames of a piece
    Transformer transformer_;
    Linear conv1_;
    Linear conv2_;
    ggml_tensor *positions_ = nullptr;
    Norm post_norm_;
    Linear out_;
};

} // namespace

std::unique_ptr<Encoder> make_qwen25o_audio(std::shared_ptr<const TowerFile> file, const std::string &projector,
                                            int32_t n_embd) {
    return std::make_unique<AudioEncoder>(std::move(file), projector, n_embd);
}

} // namespace gge
