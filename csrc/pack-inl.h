// Rows of A and panels of B: the operands of a product, in the layout that kernels.h describes.
//
// G, the way a tier multiplies, gives: V, its vectors; Activation, float or uint16_t (bfloat16), what ops exchange;
// Operand, float or uint16_t, what it multiplies; kUnit, operands in a unit; kUnits, what K is padded to, in units.

namespace astfast {
namespace {

template <class G>
constexpr std::int64_t units_of(std::int64_t k) {
    const std::int64_t units = (k + G::kUnit - 1) / G::kUnit;
    return (units + G::kUnits - 1) / G::kUnits * G::kUnits;
}

// Rows of A are an odd number of cache lines apart, so that a column of them doesn't fall into one cache set.
template <class G>
constexpr std::int64_t row_bytes(std::int64_t k) {
    return ((units_of<G>(k) * 4 + 63) / 64 | 1) * 64;
}

template <class V>
inline typename V::F load_as_float(const float* p, int n) {
    return n == V::kLanes ? V::load(p) : V::load_partial(p, n);
}

template <class V>
inline typename V::F load_as_float(const std::uint16_t* p, int n) {
    return n == V::kLanes ? V::load_bf16(p) : V::load_partial_bf16(p, n);
}

template <class V>
inline void store_from_float(float* p, typename V::F x, int n) {
    n == V::kLanes ? V::store(p, x) : V::store_partial(p, x, n);
}

template <class V>
inline void store_from_float(std::uint16_t* p, typename V::F x, int n) {
    n == V::kLanes ? V::store_bf16(p, x) : V::store_partial_bf16(p, x, n);
}

template <class G>
inline void store_operand(typename G::Operand* p, typename G::V::F x, int n = G::V::kLanes) {
    if constexpr (G::kRounds) x = G::V::round_bf16(x);
    store_from_float<typename G::V>(p, x, n);
}

// fn(start, n) over [0, size) in vectors; n < kLanes in the last one only.
template <class V, class Fn>
inline void for_vectors(std::int64_t size, const Fn& fn) {
    std::int64_t i = 0;
    for (; i + V::kLanes <= size; i += V::kLanes) fn(i, V::kLanes);
    if (i < size) fn(i, static_cast<int>(size - i));
}

template <class G>
inline void zero_tail(typename G::Operand* row, std::int64_t k) {
    const std::int64_t padded = units_of<G>(k) * G::kUnit;
    std::memset(row + k, 0, static_cast<std::size_t>(padded - k) * sizeof *row);
}

// Mean and 1 / sqrt(variance + eps) of [width], the variance about the mean in a second pass.
template <class V>
inline std::pair<float, float> moments(const float* x, std::int64_t width, float eps) {
    using F = typename V::F;
    const float per_element = 1.0f / static_cast<float>(width);
    const std::int64_t step = 4 * V::kLanes;
    F sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    std::int64_t i = 0;
    for (; i + step <= width; i += step) {
        for (int j = 0; j < 4; ++j) sums[j] = sums[j] + V::load(x + i + j * V::kLanes);
    }
    for_vectors<V>(width - i,
                   [&](std::int64_t start, int n) { sums[0] = sums[0] + load_as_float<V>(x + i + start, n); });
    const float mean = V::sum((sums[0] + sums[1]) + (sums[2] + sums[3])) * per_element;

    const F centre = V::set(mean);
    F squares[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (i = 0; i + step <= width; i += step) {
        for (int j = 0; j < 4; ++j) {
            const F d = V::load(x + i + j * V::kLanes) - centre;
            squares[j] = V::fma(d, d, squares[j]);
        }
    }
    float tail = 0.0f;  // of fewer than kLanes elements
    for_vectors<V>(width - i, [&](std::int64_t start, int n) {
        if (n == V::kLanes) {
            const F d = V::load(x + i + start) - centre;
            squares[0] = V::fma(d, d, squares[0]);
            return;
        }
        for (int j = 0; j < n; ++j) {
            const float d = x[i + start + j] - mean;
            tail += d * d;
        }
    });
    const float variance = (V::sum((squares[0] + squares[1]) + (squares[2] + squares[3])) + tail) * per_element;
    return {mean, 1.0f / __builtin_sqrtf(variance + eps)};
}

// fn(start, n, LN(x)[start .. start + n)) over the row.
template <class V, class Fn>
inline void normalise(const float* x, const Norm& norm, const Fn& fn) {
    const auto [mean, rstd] = moments<V>(x, norm.width, norm.eps);
    const auto centre = V::set(mean), scale = V::set(rstd);
    for_vectors<V>(norm.width, [&](std::int64_t i, int n) {
        const auto centred = (load_as_float<V>(x + i, n) - centre) * scale;
        fn(i, n, V::fma(centred, load_as_float<V>(norm.weight + i, n), load_as_float<V>(norm.bias + i, n)));
    });
}

template <class V>
void norm_row(const float* x, const Norm& norm, float* out) {
    normalise<V>(x, norm, [&](std::int64_t i, int n, typename V::F y) { store_from_float<V>(out + i, y, n); });
}

template <class G>
void norm_rows(const Rows<const float>& x, std::int64_t row, std::int64_t rows, const Norm& norm, std::byte* a) {
    for (std::int64_t r = row; r < row + rows; ++r, a += row_bytes<G>(norm.width)) {
        auto* operands = reinterpret_cast<typename G::Operand*>(a);
        normalise<typename G::V>(
            x.at(r), norm, [&](std::int64_t i, int n, typename G::V::F y) { store_operand<G>(operands + i, y, n); });
        zero_tail<G>(operands, norm.width);
    }
}

template <class G>
inline void copy_row(const typename G::Activation* x, std::int64_t k, typename G::Operand* operands) {
    if constexpr (std::is_same_v<typename G::Activation, typename G::Operand>) {
        std::memcpy(operands, x, static_cast<std::size_t>(k) * sizeof *x);
    } else {
        using V = typename G::V;
        for_vectors<V>(k,
                       [&](std::int64_t i, int n) { store_operand<G>(operands + i, load_as_float<V>(x + i, n), n); });
    }
    zero_tail<G>(operands, k);
}

template <class G>
void copy_rows(const Rows<const void>& x, std::int64_t row, std::int64_t rows, std::int64_t k, std::byte* a) {
    using Activation = typename G::Activation;
    const Rows<const Activation> typed{static_cast<const Activation*>(x.data), x.per_clip, x.clip_stride, x.row_stride};
    for (std::int64_t r = row; r < row + rows; ++r, a += row_bytes<G>(k)) {
        copy_row<G>(typed.at(r), k, reinterpret_cast<typename G::Operand*>(a));
    }
}

// Column j * size + i of a patch's row is frame j, mel bin i of the patch: mel bins are contiguous in the spectrogram.
template <class G>
void patch_rows(const Patches& p, std::int64_t row, std::int64_t rows, std::byte* a) {
    const std::int64_t k = p.size * p.size;
    for (std::int64_t r = row; r < row + rows; ++r, a += row_bytes<G>(k)) {
        auto* operands = reinterpret_cast<typename G::Operand*>(a);
        const std::int64_t clip = r / p.patches, patch = r % p.patches;
        const std::int64_t f = patch / p.time_patches, t = patch % p.time_patches;
        const float* corner = p.frames.data + clip * p.frames.clip_stride + t * p.time_stride * p.frames.row_stride +
                              f * p.frequency_stride;
        for (std::int64_t j = 0; j < p.size; ++j) {
            using V = typename G::V;
            for_vectors<V>(p.size, [&](std::int64_t i, int n) {
                store_operand<G>(operands + j * p.size + i, load_as_float<V>(corner + j * p.frames.row_stride + i, n),
                                 n);
            });
        }
        zero_tail<G>(operands, k);
    }
}

// `columns` rows of operands, each padded to whole units -> columns [0, width) of a panel [units, stride]; those from
// `columns` on are zero. row(j) is the address of column j.
template <class G, class Row>
inline void transpose_to_panel(const Row& row, std::int64_t columns, std::int64_t units, std::int64_t width,
                               std::int64_t stride, std::uint32_t* panel) {
    using V = typename G::V;
    alignas(64) static constexpr std::uint32_t kZeros[16] = {};
    for (std::int64_t j = 0; j < width; j += V::kLanes) {
        for (std::int64_t u = 0; u < units; u += V::kLanes) {
            const std::uint32_t* sources[V::kLanes];
            for (int i = 0; i < V::kLanes; ++i) sources[i] = j + i < columns ? row(j + i) + u : kZeros;
            const int n = static_cast<int>(std::min<std::int64_t>(V::kLanes, units - u));
            V::transpose(sources, panel + u * stride + j, stride, n);
        }
    }
}

}  // namespace
}  // namespace astfast
