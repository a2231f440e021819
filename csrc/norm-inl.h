// LayerNorm of rows, into memory or as operands.

namespace astfast {
namespace {

// Mean and 1 / sqrt(variance + eps) of [width], the variance about the mean in a second pass.
template <class Simd>
inline std::pair<float, float> moments(const float* x, std::int64_t width, float eps) {
    using F = typename Simd::F;
    const float per_element = 1.0f / static_cast<float>(width);
    const std::int64_t step = 4 * Simd::kLanes;
    F sums[4] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
    std::int64_t i = 0;
    for (; i + step <= width; i += step) {
        unrolled<4>([&](auto j) ALWAYS_INLINE { sums[j] = sums[j] + Simd::load(x + i + j * Simd::kLanes); });
    }
    for_vectors<Simd>(width - i,
                      [&](std::int64_t start, int n) { sums[0] = sums[0] + load_as_float<Simd>(x + i + start, n); });
    const float mean = Simd::sum((sums[0] + sums[1]) + (sums[2] + sums[3])) * per_element;

    const F centre = Simd::set(mean);
    F squares[4] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
    for (i = 0; i + step <= width; i += step) {
        unrolled<4>([&](auto j) ALWAYS_INLINE {
            const F d = Simd::load(x + i + j * Simd::kLanes) - centre;
            squares[j] = Simd::fma(d, d, squares[j]);
        });
    }
    float tail = 0.0f;  // of fewer than kLanes elements
    for_vectors<Simd>(width - i, [&](std::int64_t start, int n) {
        if (n == Simd::kLanes) {
            const F d = Simd::load(x + i + start) - centre;
            squares[0] = Simd::fma(d, d, squares[0]);
            return;
        }
        for (int j = 0; j < n; ++j) {
            const float d = x[i + start + j] - mean;
            tail += d * d;
        }
    });
    const float variance = (Simd::sum((squares[0] + squares[1]) + (squares[2] + squares[3])) + tail) * per_element;
    return {mean, 1.0f / __builtin_sqrtf(variance + eps)};
}

// fn(start, n, LN(x)[start .. start + n)) over the row.
template <class Simd, class Fn>
inline void normalise(const float* x, const Norm& norm, std::pair<float, float> moments, const Fn& fn) {
    const auto centre = Simd::set(moments.first), scale = Simd::set(moments.second);
    for_vectors<Simd>(norm.width, [&](std::int64_t i, int n) {
        const auto centred = (load_as_float<Simd>(x + i, n) - centre) * scale;
        fn(i, n, Simd::fma(centred, load_as_float<Simd>(norm.weight + i, n), load_as_float<Simd>(norm.bias + i, n)));
    });
}

template <class Simd>
void norm_row(const float* x, const Norm& norm, float* out) {
    normalise<Simd>(x, norm, moments<Simd>(x, norm.width, norm.eps),
                    [&](std::int64_t i, int n, typename Simd::F y) { store_from_float<Simd>(out + i, y, n); });
}

template <class Gemm>
void norm_rows(const Rows<const float>& x, std::int64_t row, std::int64_t rows, const Norm& norm, std::byte* a) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* source = x.at(row + r);
        if (r + 1 < rows) fetch(x.at(row + r + 1), norm.width);
        const auto statistics = moments<typename Gemm::Simd>(source, norm.width, norm.eps);
        write_row_of_a<Gemm>(a, r, norm.width,
                             [&](const auto& fn) { normalise<typename Gemm::Simd>(source, norm, statistics, fn); });
    }
}

}  // namespace
}  // namespace astfast
