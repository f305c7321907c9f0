#include "model.h"

#include <algorithm>

namespace gge {
namespace {

gge_pooling default_pooling(const ModelFacts &facts) {
    if (facts.pooling != GGE_POOLING_DEFAULT) {
        return facts.pooling;
    }
    return facts.attention == Attention::causal ? GGE_POOLING_LAST : GGE_POOLING_MEAN;
}

} // namespace

Model::Model(std::unique_ptr<BackendModel> backend, DeviceChoice device)
    : backend_(std::move(backend)), device_(std::move(device)), pooling_(default_pooling(backend_->facts())) {
    if (facts().has_tokenizer) {
        find_special_tokens();
    }
}

std::atomic<Model::Wrapper> Model::wrapper{nullptr};

std::shared_ptr<const Model> Model::load(const std::string &path, const LoadOptions &options) {
    DeviceChoice choice = choose_devices(llama_devices(), options.device, options.split);
    auto backend = load_llama_model(path, choice.devices, options);
    std::for_each(choice.devices.begin(), choice.devices.end(), ask_driver);
    if (const Wrapper wrap = wrapper) {
        backend = wrap(std::move(backend));
    }
    try {
        return std::make_shared<const Model>(std::move(backend), std::move(choice));
    } catch (const Error &e) {
        throw Error(e.status(), path + ": " + e.what());
    }
}

// The vocabulary types have different rules (CLS and SEP of WordPiece, add_bos_token, add_eos_token, ...). Instead of
// repeating them, a probe text is tokenised with and without special tokens.
void Model::find_special_tokens() {
    const std::string_view probe = "a word, 12";
    std::vector<int32_t> bare;
    std::vector<int32_t> full;
    backend_->tokenize(probe, false, false, bare);
    backend_->tokenize(probe, true, false, full);
    const auto middle = std::search(full.begin(), full.end(), bare.begin(), bare.end());
    if (middle == full.end() && !bare.empty()) {
        throw Error(GGE_E_FORMAT, "the vocabulary's special tokens change the tokens of the text beside them");
    }
    prefix_.assign(full.begin(), middle);
    suffix_.assign(middle + static_cast<std::ptrdiff_t>(bare.size()), full.end());

    // jina-embeddings-v5-text-nano pools its end token, but llama.cpp appends it only if the file has add_eos_token.
    const ModelFacts &f = facts();
    if (f.architecture == "eurobert" && pooling_ == GGE_POOLING_LAST && suffix_.empty() && f.token_eos >= 0) {
        suffix_.push_back(f.token_eos);
        supplied_eos_ = true;
    }
}

gge_model_info Model::info() const {
    const ModelFacts &f = facts();
    gge_model_info info{};
    info.pooling = pooling_;
    info.pooling_in_file = f.pooling != GGE_POOLING_DEFAULT;
    info.attention = f.attention == Attention::causal ? GGE_ATTENTION_CAUSAL : GGE_ATTENTION_BIDIRECTIONAL;
    info.has_cache = f.has_cache;
    info.n_embd = f.n_embd;
    info.n_layer = f.n_layer;
    info.n_ctx_train = f.n_ctx_train;
    info.n_vocab = f.n_vocab;
    info.add_bos = !prefix_.empty();
    info.add_eos = !suffix_.empty();
    info.add_eos_in_file = info.add_eos != 0 && !supplied_eos_;
    info.token_bos = f.token_bos;
    info.token_eos = f.token_eos;
    info.token_sep = f.token_sep;
    info.token_pad = f.token_pad;
    info.n_cls_out = f.n_cls_out;
    info.n_adapters = f.n_adapters;
    info.n_gpu_layers = f.n_gpu_layers;
    info.n_params = f.n_params;
    info.tensor_bytes = f.tensor_bytes;
    info.file_bytes = f.file_bytes;
    copy_string(info.architecture, f.architecture);
    copy_string(info.name, f.name);
    copy_string(info.quantization, f.quantization);
    copy_string(info.tokenizer, f.tokenizer);
    copy_string(info.device, names_of(device_.devices));
    copy_string(info.device_reason, device_.reason);
    copy_string(info.cpu_kernels, f.cpu_kernels);
    return info;
}

gge_tower_info Model::tower_info(int32_t i) const {
    const auto &towers = backend_->towers();
    if (i < 0 || static_cast<size_t>(i) >= towers.size()) {
        throw Error(GGE_E_INVALID,
                    "tower " + std::to_string(i) + " does not exist, there are " + std::to_string(towers.size()));
    }
    const TowerFacts &f = towers[static_cast<size_t>(i)]->facts();
    gge_tower_info info{};
    info.modality = f.modality;
    info.n_layer = f.n_layer;
    info.patch_size = f.patch_size;
    info.merge_size = f.merge_size;
    info.n_mel_bins = f.n_mel_bins;
    info.n_window = f.n_window;
    info.min_pixels = f.min_pixels;
    info.max_pixels = f.max_pixels;
    info.video_min_pixels = f.video_min_pixels;
    info.video_max_pixels = f.video_max_pixels;
    info.n_params = f.n_params;
    info.tensor_bytes = f.tensor_bytes;
    info.file_bytes = f.file_bytes;
    copy_string(info.projector, f.projector);
    copy_string(info.name, f.name);
    return info;
}

} // namespace gge
