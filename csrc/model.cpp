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

// Callbacks of the load of one of several copies, which is a part of the whole.
struct CopyProgress {
    Callbacks whole;
    int64_t i_copy;
    int64_t n_copies;

    Callbacks callbacks() {
        Callbacks own;
        own.user_data = this;
        if (whole.progress != nullptr) {
            own.progress = [](void *self, int64_t done, int64_t total) {
                const auto &[to, i, n] = *static_cast<CopyProgress *>(self);
                to.progress(to.user_data, i * total + done, n * total);
            };
        }
        if (whole.abort != nullptr) {
            own.abort = [](void *self) {
                const Callbacks &to = static_cast<CopyProgress *>(self)->whole;
                return to.abort(to.user_data);
            };
        }
        return own;
    }
};

std::unique_ptr<BackendModel> load_copy(const std::string &path, const std::vector<Device> &devices,
                                        const LoadOptions &options) {
    auto loaded = load_llama_model(path, devices, options);
    const Model::Wrapper wrap = Model::wrapper;
    return wrap == nullptr ? std::move(loaded) : wrap(std::move(loaded));
}

std::vector<std::unique_ptr<BackendModel>> load_copies(const std::string &path, const DeviceChoice &choice,
                                                       LoadOptions options) {
    std::vector<std::unique_ptr<BackendModel>> copies;
    if (!choice.copies) {
        copies.push_back(load_copy(path, choice.devices, options));
        return copies;
    }
    CopyProgress progress{options.callbacks, 0, static_cast<int64_t>(choice.devices.size())};
    options.callbacks = progress.callbacks();
    for (const Device &device : choice.devices) {
        copies.push_back(load_copy(path, {device}, options));
        ++progress.i_copy;
    }
    return copies;
}

} // namespace

DeviceChoice devices_for(const LoadOptions &options) {
    DeviceChoice choice = choose_devices(llama_devices(), options.device, options.split);
    if (choice.copies && options.n_gpu_layers < 0) {
        throw Error(GGE_E_INVALID, "split \"copies\" is for layers on GPUs, n_gpu_layers leaves none there");
    }
    return choice;
}

Model::Model(std::vector<std::unique_ptr<BackendModel>> copies, DeviceChoice device)
    : copies_(std::move(copies)), device_(std::move(device)), pooling_(default_pooling(facts())) {
    if (facts().has_tokenizer) {
        find_special_tokens();
    }
}

Model::~Model() {
    copies_.clear();
    return_free_memory();
}

std::atomic<Model::Wrapper> Model::wrapper{nullptr};

std::shared_ptr<const Model> Model::load(const std::string &path, const LoadOptions &options) {
    DeviceChoice choice = devices_for(options);
    auto copies = load_copies(path, choice, options);
    std::for_each(choice.devices.begin(), choice.devices.end(), ask_driver);
    try {
        return std::make_shared<const Model>(std::move(copies), std::move(choice));
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
    backend().tokenize(probe, false, false, bare);
    backend().tokenize(probe, true, false, full);
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
    write_weights(info, f.weights);
    return info;
}

gge_tower_info Model::tower_info(int32_t i) const {
    const auto &towers = backend().towers();
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
