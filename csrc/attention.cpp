#include "attention.h"

#include <cmath>
#include <vector>

namespace gge {
void attend(const AttentionInput &in, int32_t i_thread, int32_t n_threads) {
    std::vector<float> score(static_cast<size_t>(in.n_tokens));
    const int32_t group = in.n_heads / in.n_heads_kv;
    for (int32_t i = i_thread; i < in.n_tokens; i += n_threads) {
        for (int32_t h = 0; h < in.n_heads; ++h) {
            const float *q =
                in.q.data + static_cast<size_t>(i) * in.q.token_stride + static_cast<size_t>(h) * in.q.head_stride;
            float m = in.sinks ? in.sinks[h] : -INFINITY;
            for (int32_t j = in.ranges[2 * i]; j < in.ranges[2 * i + 1]; ++j) {
                const float *k = in.k.data + static_cast<size_t>(j) * in.k.token_stride +
                                 static_cast<size_t>(h / group) * in.k.head_stride;
                float s = 0;
                for (int32_t d = 0; d < in.n_dims; ++d)
                    s += q[d] * k[d];
                s *= in.scale;
                if (in.softcap > 0)
                    s = in.softcap * std::tanh(s / in.softcap);
                if (in.max_bias > 0) {
                    int n2 = 1;
                    while (2 * n2 <= in.n_heads)
                        n2 *= 2;
                    const float m0 = std::pow(2.0F, -in.max_bias / static_cast<float>(n2)),
                                m1 = std::pow(2.0F, -in.max_bias / 2 / static_cast<float>(n2));
                    s -= (h < n2 ? std::pow(m0, static_cast<float>(h + 1))
                                 : std::pow(m1, static_cast<float>(2 * (h - n2) + 1))) *
                         std::fabs(static_cast<float>(i - j));
                }
                score[static_cast<size_t>(j)] = s;
                m = std::fmax(m, s);
            }
            float sum = in.sinks ? std::exp(in.sinks[h] - m) : 0;
            float *out = in.out + (static_cast<size_t>(i) * static_cast<size_t>(in.n_heads) + static_cast<size_t>(h)) *
                                      static_cast<size_t>(in.n_dims_v);
            for (int32_t d = 0; d < in.n_dims_v; ++d)
                out[d] = 0;
            for (int32_t j = in.ranges[2 * i]; j < in.ranges[2 * i + 1]; ++j) {
                const float *v = in.v.data + static_cast<size_t>(j) * in.v.token_stride +
                                 static_cast<size_t>(h / group) * in.v.head_stride;
                const float e = std::exp(score[static_cast<size_t>(j)] - m);
                sum += e;
                for (int32_t d = 0; d < in.n_dims_v; ++d)
                    out[d] += e * v[d];
            }
            for (int32_t d = 0; d < in.n_dims_v; ++d)
                out[d] /= sum;
        }
    }
}
} // namespace gge
