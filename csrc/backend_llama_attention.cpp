// Our attention as an op of a graph.
#include "attention.h"
#include "backend_llama.h"

#include <ggml.h>

namespace gge {
namespace {

// t: [n_dims, n_heads, n_tokens]
HeadsView heads_of(const ggml_tensor *t) {
    return {static_cast<const float *>(t->data), t->nb[2] / sizeof(float), t->nb[1] / sizeof(float)};
}

} // namespace

void attend_packed(ggml_tensor *out, int i_thread, int n_threads, void *userdata) {
    const auto *op = static_cast<const llama_packed_attention *>(userdata);
    const ggml_tensor *q = out->src[0];
    const ggml_tensor *k = out->src[1];
    const ggml_tensor *v = out->src[2];
    const ggml_tensor *sinks = out->src[4];
    AttentionInput input;
    input.q = heads_of(q);
    input.k = heads_of(k);
    input.v = heads_of(v);
    input.n_tokens = static_cast<int32_t>(q->ne[2]);
    input.n_heads = static_cast<int32_t>(q->ne[1]);
    input.n_heads_kv = static_cast<int32_t>(k->ne[1]);
    input.n_dims = static_cast<int32_t>(q->ne[0]);
    input.n_dims_v = static_cast<int32_t>(v->ne[0]);
    input.ranges = static_cast<const int32_t *>(out->src[3]->data);
    input.starts = input.ranges + size_t{2} * static_cast<size_t>(input.n_tokens);
    input.scale = op->scale;
    input.softcap = op->softcap;
    input.max_bias = op->max_bias;
    input.sinks = sinks == nullptr ? nullptr : static_cast<const float *>(sinks->data);
    input.out = static_cast<float *>(out->data);
    attend(input, i_thread, n_threads);
}

} // namespace gge
