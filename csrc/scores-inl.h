// Scores of queries by keys, between the products with keys and the softmax. gemm_policy-inl.h says what Gemm gives.

namespace astfast {
namespace {

// Scores times `scale` plus the bias of each key times `bias_scale`, in place.
template <class Simd>
inline void add_bias(float* scores, std::int64_t keys, float scale, const float* bias, float bias_scale) {
    const auto factor = Simd::set(scale), bias_factor = Simd::set(bias_scale);
    for (std::int64_t i = 0; i < keys; i += Simd::kLanes) {
        Simd::store(scores + i, Simd::fma(Simd::load(bias + i), bias_factor, Simd::load(scores + i) * factor));
    }
}

// In float32, key by key: what Gemm::Scores is where a policy has none. Members:
//   Score, kQueries                type of a score; queries that attend together: 1,214 keys make 120 KB of scores
//   KeyGemm                        policy of the products with keys
//   columns(keys), key_of(column)  how many columns a panel has for so many keys, and which of them is where
//   extra_bytes(layout)            of a packed head, for itself
//   finish_keys(head, layout,      after all keys are packed; extra: where those bytes are
//     packed, extra)
//   stored(row, layout, end)       where the tile of a panel goes, `end` being the end of its units
//   factor(query_scale, layout,    exp(factor (score - largest)) is what the softmax takes; adds the keys' bias to the
//     extra, head, row)            row's scores, if they have one
template <class Gemm>
struct FloatScores {
    using Simd = typename Gemm::Simd;
    using Score = float;
    static constexpr std::int64_t kQueries = 24;
    using KeyGemm = Gemm;

    static std::int64_t columns(std::int64_t keys) { return std::min<std::int64_t>(Gemm::kPanel, keys); }
    static std::int64_t key_of(std::int64_t column) { return column; }

    template <class Layout>
    static std::int64_t extra_bytes(const Layout&) {
        return 0;
    }
    template <class Layout>
    static void finish_keys(const Head&, const Layout&, std::byte*, std::byte*) {}

    template <class Layout>
    static auto stored(float* row, const Layout& layout, const std::byte* end) {
        return StoredRows<Gemm, Gemm::kQuantised>{row, layout.score_stride, reinterpret_cast<const float*>(end)};
    }

    template <class Layout>
    static float factor(float query_scale, const Layout&, const std::byte*, const Head& head, float* row) {
        const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head.head_dim));
        if (head.bias == nullptr) return scale * query_scale;
        add_bias<Simd>(row, head.keys, query_scale, head.bias, 0x1.62e430p-1f / scale);  // ln 2
        return scale;
    }
};

template <class Gemm, class = void>
struct ScoresOf {
    using Type = FloatScores<Gemm>;
};
template <class Gemm>
struct ScoresOf<Gemm, std::void_t<typename Gemm::Scores>> {
    using Type = typename Gemm::Scores;
};

}  // namespace
}  // namespace astfast
