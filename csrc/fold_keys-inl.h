// Means and ranges of keys and values over all keys of a head.

namespace astfast {
namespace {

// Columns of k or v folded over all keys: done(column, state) for each vector of `width` columns, where `state` is
// `start` after state.take(values) of every key's. Those of four vectors stay in registers.
template <class Gemm, class State, class Done>
inline void fold_keys(const Head& head, const typename Gemm::Activation* x, std::int64_t width, const State& start,
                      const Done& done) {
    using Simd = typename Gemm::Simd;
    const auto fold_vectors = [&](auto vectors, std::int64_t d, int lanes) ALWAYS_INLINE {
        constexpr int kVectors = decltype(vectors)::value;
        State states[kVectors];
        unrolled<kVectors>([&](auto v) ALWAYS_INLINE { states[v] = start; });
        const auto* row = x + d;
        for (std::int64_t key = 0; key < head.keys; ++key, row += head.kv_stride) {
            fetch(row + 16 * head.kv_stride, kVectors * Simd::kLanes);
            unrolled<kVectors>(
                [&](auto v) ALWAYS_INLINE { states[v].take(load_as_float<Simd>(row + v * Simd::kLanes, lanes)); });
        }
        unrolled<kVectors>([&](auto v) ALWAYS_INLINE { done(d + v * Simd::kLanes, states[v]); });
    };
    constexpr int kTogether = 4;
    std::int64_t d = 0;
    for (; d + kTogether * Simd::kLanes <= width; d += kTogether * Simd::kLanes) {
        fold_vectors(std::integral_constant<int, kTogether>{}, d, Simd::kLanes);
    }
    for_vectors<Simd>(width - d,
                      [&](std::int64_t i, int lanes) { fold_vectors(std::integral_constant<int, 1>{}, d + i, lanes); });
}

// The mean over all keys.
template <class Simd>
struct MeanOfKeys {
    typename Simd::F share, mean;  // 1 / keys

    static MeanOfKeys of(std::int64_t keys) { return {Simd::set(1.0f / static_cast<float>(keys)), Simd::zero()}; }
    ALWAYS_INLINE void take(typename Simd::F x) { mean = Simd::fma(x, share, mean); }
};

// And the largest magnitude about it, in bits.
template <class Simd>
struct RangeOfKeys {
    MeanOfKeys<Simd> mean;
    typename Simd::F least, most;

    static RangeOfKeys of(std::int64_t keys) {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        return {MeanOfKeys<Simd>::of(keys), Simd::set(kInfinity), Simd::set(-kInfinity)};
    }
    ALWAYS_INLINE void take(typename Simd::F x) {
        mean.take(x);
        least = Simd::min(least, x);
        most = Simd::max(most, x);
    }
    auto magnitude() const {
        return larger_magnitude<Simd>(larger_magnitude<Simd>(typename Simd::I{}, most - mean.mean), least - mean.mean);
    }
};

// Mean over all keys of `width` columns of k: mean [width, up to a vector more].
template <class Gemm>
inline void mean_over_keys(const Head& head, const typename Gemm::Activation* x, std::int64_t width, float* mean) {
    using Mean = MeanOfKeys<typename Gemm::Simd>;
    fold_keys<Gemm>(head, x, width, Mean::of(head.keys),
                    [&](std::int64_t i, const Mean& state) ALWAYS_INLINE { Gemm::Simd::store(mean + i, state.mean); });
}

}  // namespace
}  // namespace astfast
