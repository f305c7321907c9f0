// A loaded model, on one device, several, or a copy on each: what its file says, and what follows from it for embedding.
#pragma once

#include "devices.h"

#include <atomic>
#include <memory>
#include <vector>

namespace gge {

// The devices for a model. Throws Error.
DeviceChoice devices_for(const LoadOptions &options);

class Model {
public:
    // copies: of one file, at least one
    Model(std::vector<std::unique_ptr<BackendModel>> copies, DeviceChoice device);
    ~Model();
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    // What every backend passes through once it is loaded; white-box tests put a faulty one around it.
    using Wrapper = std::unique_ptr<BackendModel> (*)(std::unique_ptr<BackendModel>);
    static std::atomic<Wrapper> wrapper;

    static std::shared_ptr<const Model> load(const std::string &path, const LoadOptions &options);

    size_t n_copies() const noexcept { return copies_.size(); }
    const BackendModel &backend(size_t copy = 0) const noexcept { return *copies_[copy]; }
    const ModelFacts &facts() const noexcept { return backend().facts(); }

    const std::vector<Device> &devices() const noexcept { return device_.devices; }

    // The file's pooling, or what follows from the attention type. May be RANK.
    gge_pooling pooling() const noexcept { return pooling_; }

    // What tokenising puts around the tokens of a text.
    const std::vector<int32_t> &prefix() const noexcept { return prefix_; }
    const std::vector<int32_t> &suffix() const noexcept { return suffix_; }

    gge_model_info info() const;
    gge_tower_info tower_info(int32_t i) const;

private:
    void find_special_tokens();

    std::vector<std::unique_ptr<BackendModel>> copies_;
    DeviceChoice device_;
    gge_pooling pooling_;
    std::vector<int32_t> prefix_;
    std::vector<int32_t> suffix_;
    bool supplied_eos_ = false;
};

} // namespace gge
