// Projector files as such: keys, tensors, and memory for weights.
#include "backend_llama_encoder.h"
#include "backend_llama_matmul.h"

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace gge {

// ---------------------------------------------------------------- mapping

std::shared_ptr<const FileMapping> FileMapping::open(const std::string &path) {
#ifdef _WIN32
    static_cast<void>(path);
    return nullptr;
#else
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return nullptr;
    }
    struct stat info {};
    void *begin = MAP_FAILED;
    if (::fstat(fd, &info) == 0 && info.st_size > 0) {
        begin = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    }
    ::close(fd);
    if (begin == MAP_FAILED) {
        return nullptr;
    }
    return std::shared_ptr<const FileMapping>(
        new FileMapping(static_cast<char *>(begin), static_cast<size_t>(info.st_size)));
#endif
}

FileMapping::~FileMapping() {
#ifndef _WIN32
    ::munmap(begin_, size_);
#endif
}

// ---------------------------------------------------------------- file

TowerFile::TowerFile(const std::string &path) : path_(path), gguf_(check_file(path)) {
    const std::string architecture = text("general.architecture");
    if (architecture != "clip") {
        fail(GGE_E_FORMAT, "it is no projector file, its architecture is \"" + architecture + R"(", not "clip")");
    }
    std::error_code ec;
    const auto size = std::filesystem::file_size(path, ec);
    if (ec) {
        fail_io("read", path, ec.value());
    }
    bytes_ = static_cast<int64_t>(size);
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf()); ++i) {
        if (tensor_offset(i) > size || tensor_bytes(i) > size - tensor_offset(i)) {
            fail(GGE_E_FORMAT, std::string("the file ends within tensor ") + gguf_get_tensor_name(gguf(), i));
        }
    }
}

void TowerFile::fail(gge_status status, const std::string &what) const {
    throw Error(status, path_ + ": " + what);
}

bool TowerFile::has_key(const std::string &key) const {
    return gguf_find_key(gguf(), key.c_str()) >= 0;
}

bool TowerFile::has_tensor(const std::string &name) const {
    return gguf_find_tensor(gguf(), name.c_str()) >= 0;
}

int64_t TowerFile::find_key(const std::string &key) const {
    const int64_t i = gguf_find_key(gguf(), key.c_str());
    if (i < 0) {
        fail(GGE_E_FORMAT, "it lacks the key " + key);
    }
    return i;
}

std::string TowerFile::text(const std::string &key) const {
    try {
        return read_text(gguf(), key.c_str());
    } catch (const Error &e) {
        fail(e.status(), e.what());
    }
}

bool TowerFile::flag(const std::string &key, bool otherwise) const {
    if (!has_key(key)) {
        return otherwise;
    }
    const int64_t i = find_key(key);
    if (gguf_get_kv_type(gguf(), i) != GGUF_TYPE_BOOL) {
        fail(GGE_E_FORMAT, key + " is not a truth value");
    }
    return gguf_get_val_bool(gguf(), i);
}

bool TowerFile::any_flag(const std::string &key) const {
    if (!has_key(key)) {
        return false;
    }
    const int64_t i = find_key(key);
    if (gguf_get_kv_type(gguf(), i) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf(), i) != GGUF_TYPE_BOOL) {
        fail(GGE_E_FORMAT, key + " is not an array of truth values");
    }
    const auto *values = static_cast<const int8_t *>(gguf_get_arr_data(gguf(), i));
    return std::any_of(values, values + gguf_get_arr_n(gguf(), i), [](int8_t value) { return value != 0; });
}

int64_t TowerFile::integer_at(int64_t key, const std::string &name) const {
    switch (gguf_get_kv_type(gguf(), key)) {
    case GGUF_TYPE_UINT8: return gguf_get_val_u8(gguf(), key);
    case GGUF_TYPE_INT8: return gguf_get_val_i8(gguf(), key);
    case GGUF_TYPE_UINT16: return gguf_get_val_u16(gguf(), key);
    case GGUF_TYPE_INT16: return gguf_get_val_i16(gguf(), key);
    case GGUF_TYPE_UINT32: return gguf_get_val_u32(gguf(), key);
    case GGUF_TYPE_INT32: return gguf_get_val_i32(gguf(), key);
    case GGUF_TYPE_UINT64: return static_cast<int64_t>(std::min<uint64_t>(gguf_get_val_u64(gguf(), key), INT64_MAX));
    case GGUF_TYPE_INT64: return gguf_get_val_i64(gguf(), key);
    default: fail(GGE_E_FORMAT, name + " is not an integer");
    }
}

int64_t TowerFile::integer(const std::string &key, int64_t least, int64_t most) const {
    const int64_t value = integer_at(find_key(key), key);
    if (value < least || value > most) {
        fail(GGE_E_FORMAT, key + " is " + std::to_string(value) + ", possible are " + std::to_string(least) + " to " +
                               std::to_string(most));
    }
    return value;
}

int64_t TowerFile::integer(const std::string &key, int64_t least, int64_t most, int64_t otherwise) const {
    return has_key(key) ? integer(key, least, most) : otherwise;
}

float TowerFile::real(const std::string &key, float least, float most) const {
    const int64_t i = find_key(key);
    if (gguf_get_kv_type(gguf(), i) != GGUF_TYPE_FLOAT32) {
        fail(GGE_E_FORMAT, key + " is not a 32-bit float");
    }
    const float value = gguf_get_val_f32(gguf(), i);
    const bool fits = value >= least && value <= most; // not when it is NaN
    if (!fits) {
        fail(GGE_E_FORMAT, key + " is " + show(value) + ", possible are " + show(least) + " to " + show(most));
    }
    return value;
}

std::array<float, 3> TowerFile::color(const std::string &key, float least) const {
    const int64_t i = find_key(key);
    std::array<float, 3> values{};
    if (gguf_get_kv_type(gguf(), i) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf(), i) != GGUF_TYPE_FLOAT32 ||
        gguf_get_arr_n(gguf(), i) != values.size()) {
        fail(GGE_E_FORMAT, key + " is not an array of three 32-bit floats");
    }
    std::memcpy(values.data(), gguf_get_arr_data(gguf(), i), sizeof(values));
    for (const float value : values) {
        constexpr float most = 1000.0F;
        const bool fits = value >= least && value <= most;
        if (!fits) {
            fail(GGE_E_FORMAT, key + " has " + show(value) + ", possible are " + show(least) + " to " + show(most));
        }
    }
    return values;
}

int64_t TowerFile::find(const std::string &name) const {
    const int64_t i = gguf_find_tensor(gguf(), name.c_str());
    if (i < 0) {
        fail(GGE_E_FORMAT, "it lacks tensor " + name);
    }
    return i;
}

std::vector<int64_t> TowerFile::shape(const std::string &name) const {
    const int64_t *ne = gguf_get_tensor_ne(gguf(), find(name));
    size_t n = GGML_MAX_DIMS;
    while (n > 1 && ne[n - 1] == 1) {
        --n;
    }
    return {ne, ne + n};
}

size_t TowerFile::tensor_bytes(int64_t tensor) const {
    return gguf_get_tensor_size(gguf(), tensor);
}

size_t TowerFile::tensor_offset(int64_t tensor) const {
    return gguf_get_data_offset(gguf()) + gguf_get_tensor_offset(gguf(), tensor);
}

std::vector<char> TowerFile::read(int64_t tensor) const {
    std::vector<char> bytes(tensor_bytes(tensor));
    errno = 0;
    std::ifstream file(path_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(tensor_offset(tensor)));
    if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
        fail_io("read", path_, errno != 0 ? errno : EIO);
    }
    return bytes;
}

// ---------------------------------------------------------------- weights

namespace {

std::string text(const std::vector<int64_t> &shape) {
    std::string s;
    for (const int64_t n : shape) {
        s += (s.empty() ? "[" : ", ") + std::to_string(n);
    }
    return s + "]";
}

ggml_context *make_context(size_t n_tensors) {
    ggml_init_params params{};
    params.mem_size = ggml_tensor_overhead() * std::max<size_t>(n_tensors, 1);
    params.no_alloc = true;
    ggml_context *context = ggml_init(params);
    if (context == nullptr) {
        throw std::bad_alloc();
    }
    return context;
}

void check_abort(const Callbacks &callbacks) {
    if (callbacks.abort != nullptr && callbacks.abort(callbacks.user_data) != 0) {
        throw Error(GGE_E_ABORTED, "a callback asked to stop");
    }
}

ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t device) {
    return device == nullptr ? ggml_backend_cpu_buffer_type() : ggml_backend_dev_buffer_type(device);
}

} // namespace

TowerWeights::TowerWeights(std::shared_ptr<const TowerFile> file) : file_(std::move(file)) {
    const auto n = static_cast<size_t>(gguf_get_n_tensors(file_->gguf()));
    stored_context_.reset(make_context(n));
    made_context_.reset(make_context(n));
}

// Returns the tensor's number in the file.
int64_t TowerWeights::use(const std::string &name, const std::vector<int64_t> &shape) {
    const int64_t i = file_->find(name);
    const std::vector<int64_t> found = file_->shape(name);
    const int64_t n = std::accumulate(found.begin(), found.end(), int64_t{1}, std::multiplies<>());
    // the biases of convolutions have a one in front
    const bool is_bias = shape.size() == 1 && found == std::vector<int64_t>{1, shape[0]};
    std::vector<int64_t> wanted = shape;
    while (wanted.size() > 1 && wanted.back() == 1) {
        wanted.pop_back();
    }
    if (found != wanted && !is_bias) {
        file_->fail(GGE_E_FORMAT, "tensor " + name + " is " + text(found) + ", it must be " + text(wanted));
    }
    n_params_ += n;
    file_bytes_ += static_cast<int64_t>(file_->tensor_bytes(i));
    return i;
}

ggml_tensor *TowerWeights::matrix(const std::string &name, int64_t n_in, int64_t n_out) {
    const int64_t i = use(name, {n_in, n_out});
    ggml_tensor *tensor =
        ggml_new_tensor_2d(stored_context_.get(), gguf_get_tensor_type(file_->gguf(), i), n_in, n_out);
    stored_.push_back({tensor, i, true});
    return tensor;
}

ggml_tensor *TowerWeights::plain(const std::string &name, const std::vector<int64_t> &shape) {
    const int64_t i = use(name, shape);
    const bool as_is = gguf_get_tensor_type(file_->gguf(), i) == GGML_TYPE_F32;
    ggml_tensor *tensor = ggml_new_tensor(as_is ? stored_context_.get() : made_context_.get(), GGML_TYPE_F32,
                                          static_cast<int>(shape.size()), shape.data());
    if (as_is) {
        stored_.push_back({tensor, i, false});
    } else {
        made_.push_back({tensor, {i}, nullptr});
    }
    return tensor;
}

ggml_tensor *TowerWeights::made(const std::vector<std::string> &names, const std::vector<int64_t> &shape, int64_t n_in,
                                int64_t n_out, Make make) {
    Made entry;
    for (const std::string &name : names) {
        entry.sources.push_back(use(name, shape));
    }
    entry.tensor = ggml_new_tensor_2d(made_context_.get(), GGML_TYPE_F32, n_in, n_out);
    entry.make = std::move(make);
    made_.push_back(std::move(entry));
    return made_.back().tensor;
}

std::vector<float> TowerWeights::values(int64_t i) const {
    const std::vector<char> bytes = file_->read(i);
    const ggml_type type = gguf_get_tensor_type(file_->gguf(), i);
    const auto n = bytes.size() / ggml_type_size(type) * static_cast<size_t>(ggml_blck_size(type));
    std::vector<float> values(n);
    if (type == GGML_TYPE_F32) {
        std::memcpy(values.data(), bytes.data(), bytes.size());
    } else {
        ggml_get_type_traits(type)->to_float(bytes.data(), values.data(), static_cast<int64_t>(n));
    }
    return values;
}

TowerWeights::BufferPtr TowerWeights::allocate(ggml_context *tensors, ggml_backend_dev_t device) {
    if (ggml_get_first_tensor(tensors) == nullptr) {
        return nullptr;
    }
    BufferPtr buffer(ggml_backend_alloc_ctx_tensors_from_buft(tensors, buffer_type(device)));
    if (!buffer) {
        file_->fail(GGE_E_MEMORY, "no memory for its weights");
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    memory_ += static_cast<int64_t>(ggml_backend_buffer_get_size(buffer.get()));
    return buffer;
}

size_t TowerWeights::packed_bytes(const std::vector<Stored> &chosen) {
    size_t n = 0;
    for (const Stored &s : chosen) {
        ggml_backend_buffer_type_t type = packed_buffer_type(s.tensor);
        n += round_up(ggml_backend_buft_get_alloc_size(type, s.tensor), ggml_backend_buft_get_alignment(type));
    }
    return n;
}

void TowerWeights::set(const Stored &stored) const {
    const std::vector<char> bytes = file_->read(stored.i);
    ggml_backend_tensor_set(stored.tensor, bytes.data(), 0, bytes.size());
}

// The matrices that our kernels multiply.
std::vector<TowerWeights::Stored> TowerWeights::to_pack(ggml_backend_dev_t device, const LoadOptions &options) const {
    std::vector<Stored> chosen;
    if (device == nullptr && options.cpu_kernels) {
        std::copy_if(stored_.begin(), stored_.end(), std::back_inserter(chosen),
                     [](const Stored &s) { return s.is_matrix && packed_buffer_type(s.tensor) != nullptr; });
    }
    return chosen;
}

// What is packed has its memory afterwards, which those that come later leave alone.
void TowerWeights::pack(const std::vector<Stored> &chosen, const LoadOptions &options) {
    if (chosen.empty()) {
        return;
    }
    packed_buffer_.reset(ggml_backend_buft_alloc_buffer(packed_buffer_type(chosen[0].tensor), packed_bytes(chosen)));
    if (!packed_buffer_) {
        file_->fail(GGE_E_MEMORY, "no memory for its weights");
    }
    ggml_backend_buffer_set_usage(packed_buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    auto *at = static_cast<char *>(ggml_backend_buffer_get_base(packed_buffer_.get()));
    for (const Stored &s : chosen) {
        check_abort(options.callbacks);
        if (ggml_backend_tensor_alloc(packed_buffer_.get(), s.tensor, at) != GGML_STATUS_SUCCESS) {
            file_->fail(GGE_E_INTERNAL, "its weights cannot be placed");
        }
        at += packed_bytes({s});
        set(s);
    }
    memory_ += static_cast<int64_t>(ggml_backend_buffer_get_size(packed_buffer_.get()));
}

// Returns false where the file must be read instead.
bool TowerWeights::map() {
    constexpr size_t alignment = 32; // of ggml's tensors
    const auto is_aligned = [&](const Stored &s) { return file_->tensor_offset(s.i) % alignment == 0; };
    if (stored_.empty() || !std::all_of(stored_.begin(), stored_.end(), is_aligned)) {
        return false;
    }
    mapping_ = FileMapping::open(file_->path());
    if (!mapping_ || mapping_->size() != static_cast<size_t>(file_->bytes())) {
        return false;
    }
    stored_buffer_.reset(ggml_backend_cpu_buffer_from_ptr(mapping_->begin(), mapping_->size()));
    if (!stored_buffer_) {
        return false;
    }
    ggml_backend_buffer_set_usage(stored_buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    memory_ += mapped_bytes();
    for (const Stored &s : stored_) {
        if (s.tensor->data == nullptr &&
            ggml_backend_tensor_alloc(stored_buffer_.get(), s.tensor, mapping_->begin() + file_->tensor_offset(s.i)) !=
                GGML_STATUS_SUCCESS) {
            file_->fail(GGE_E_INTERNAL, "its weights cannot be placed");
        }
    }
    return true;
}

void TowerWeights::load(ggml_backend_dev_t device, const LoadOptions &options) {
    pack(to_pack(device, options), options);
    if (device != nullptr || !options.mmap || !map()) {
        std::vector<Stored> others;
        std::copy_if(stored_.begin(), stored_.end(), std::back_inserter(others),
                     [](const Stored &s) { return s.tensor->data == nullptr; });
        stored_buffer_ = allocate(stored_context_.get(), device);
        for (const Stored &s : others) {
            check_abort(options.callbacks);
            set(s);
        }
    }
    made_buffer_ = allocate(made_context_.get(), device);
    for (const Made &m : made_) {
        check_abort(options.callbacks);
        std::vector<std::vector<float>> sources;
        sources.reserve(m.sources.size());
        for (const int64_t i : m.sources) {
            sources.push_back(values(i));
        }
        const std::vector<float> made = m.make ? m.make(sources) : std::move(sources[0]);
        ggml_backend_tensor_set(m.tensor, made.data(), 0, made.size() * sizeof(float));
    }
}

void TowerWeights::pretend(ggml_backend_dev_t device, const LoadOptions &options) {
    const auto without_memory = [&](ggml_backend_buffer_type_t type) {
        BufferPtr buffer(ggml_backend_buft_alloc_buffer(type, 0));
        if (!buffer) {
            file_->fail(GGE_E_DEVICE, "the device has no buffers");
        }
        ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        return buffer;
    };
    const auto bytes = [&](ggml_context *tensors) {
        return static_cast<int64_t>(ggml_backend_alloc_ctx_tensors_from_buft_size(tensors, buffer_type(device)));
    };
    memory_ = bytes(made_context_.get());
    const std::vector<Stored> packed = to_pack(device, options);
    if (!packed.empty()) {
        packed_buffer_ = without_memory(packed_buffer_type(packed[0].tensor));
        memory_ += static_cast<int64_t>(packed_bytes(packed));
    }
    for (const Stored &s : packed) {
        s.tensor->buffer = packed_buffer_.get();
    }
    memory_ += device == nullptr ? mapped_bytes() : bytes(stored_context_.get());
    stored_buffer_ = without_memory(buffer_type(device));
    for (ggml_context *tensors : {stored_context_.get(), made_context_.get()}) {
        for (ggml_tensor *t = ggml_get_first_tensor(tensors); t != nullptr; t = ggml_get_next_tensor(tensors, t)) {
            t->buffer = t->buffer == nullptr ? stored_buffer_.get() : t->buffer;
        }
    }
}

// Of those that are in no buffer yet.
int64_t TowerWeights::mapped_bytes() const {
    int64_t n = 0;
    for (const Stored &s : stored_) {
        n += s.tensor->buffer == nullptr ? static_cast<int64_t>(ggml_nbytes(s.tensor)) : 0;
    }
    return n;
}

} // namespace gge
