// Rows of A and panels of B: the operands of a product, in the layout that kernels.h describes.
//
// G, the way a tier multiplies, gives: V, its vectors; Activation, float or uint16_t (bfloat16), what ops exchange;
// Operand, float, uint16_t, int8_t or uint8_t (int8 offset by 128), what it multiplies; kUnit, operands in a unit;
// Columns, how the columns of B are made, G itself where its operands are no longer than B's; kUnits, what K is padded
// to, in units; kQuantised, and then steps(k), what the largest magnitude of k operands
// becomes; kRounds, float operands to bfloat16; kRowsTogether, rows of A whose lines of 64 bytes alternate: 1, or 16
// where A is made of AMX tiles.

namespace astfast {
namespace {

template <class G>
constexpr std::int64_t units_of(std::int64_t k) {
    const std::int64_t units = (k + G::kUnit - 1) / G::kUnit;
    return (units + G::kUnits - 1) / G::kUnits * G::kUnits;
}

// What G gives where quantised operands are signed, of bytes' size. make_weights(row, k) turns a row that was quantised
// like one of A into one of B, and returns what sums of its column start from.
struct SignedBytes {
    static float steps(std::int64_t) { return 127.0f; }
    template <class Row>
    static std::int32_t make_weights(const Row&, std::int64_t) {
        return 0;
    }
};

// Bytes of a unit in a row of A: four, but where G multiplies longer operands than B is kept in.
template <class G>
constexpr std::int64_t unit_bytes = G::kUnit * static_cast<std::int64_t>(sizeof(typename G::Operand));

// Bytes of the operands of a row of A.
template <class G>
constexpr std::int64_t operand_bytes(std::int64_t k) {
    return (units_of<G>(k) * unit_bytes<G> + 63) / 64 * 64;
}

// Bytes from one row of A to the next, counted as if all of a row's lines were together. A quantised row has one more
// line, for its scale. Rows are an odd number of cache lines apart, so that a column of them doesn't fall into one
// cache set, unless lines of several rows alternate anyway.
template <class G>
constexpr std::int64_t row_bytes(std::int64_t k) {
    const std::int64_t lines = operand_bytes<G>(k) / 64 + (G::kQuantised ? 1 : 0);
    return (G::kRowsTogether == 1 ? lines | 1 : lines) * 64;
}

// One row's operands: lines of 64 bytes, kRowsTogether lines apart.
template <class T, std::int64_t kRowsTogether>
class OperandRow {
  public:
    explicit OperandRow(std::byte* start) : start_(start) {}

    T* at(std::int64_t i) const {
        const std::int64_t byte = i * static_cast<std::int64_t>(sizeof(T));
        if constexpr (kRowsTogether == 1) return reinterpret_cast<T*>(start_ + byte);
        return reinterpret_cast<T*>(start_ + byte / 64 * 64 * kRowsTogether + byte % 64);
    }

  private:
    std::byte* start_;
};

// Row r of A.
template <class G>
inline OperandRow<typename G::Operand, G::kRowsTogether> row_of(std::byte* a, std::int64_t r, std::int64_t k) {
    return OperandRow<typename G::Operand, G::kRowsTogether>(
        a + r / G::kRowsTogether * (G::kRowsTogether * row_bytes<G>(k)) + r % G::kRowsTogether * 64);
}

// A row whose lines lie one after the other, whatever those of A do.
template <class G>
using LinearRow = OperandRow<typename G::Operand, 1>;

// Where the scale of a quantised row of A lies: what its products are to be multiplied by.
template <class G>
inline float* scale_of(std::byte* a, std::int64_t r, std::int64_t k) {
    constexpr auto kPerLine = static_cast<std::int64_t>(64 / sizeof(typename G::Operand));
    return reinterpret_cast<float*>(row_of<G>(a, r, k).at(operand_bytes<G>(k) / 64 * kPerLine));
}

template <class G>
inline float row_scale(const std::byte* a, std::int64_t r, std::int64_t k) {
    if constexpr (G::kQuantised) return *scale_of<G>(const_cast<std::byte*>(a), r, k);
    return 1.0f;
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

template <class V>
inline void store_from_float(std::int8_t* p, typename V::F x, int n) {
    V::store_int8(p, x, n);
}

template <class V>
inline void store_from_float(std::int16_t* p, typename V::F x, int n) {
    V::store_int16(p, x, n);
}

template <class V>
inline void store_from_float(std::uint8_t* p, typename V::F x, int n) {  // offset by 128
    V::store_int8(reinterpret_cast<std::int8_t*>(p), x + V::set(128.0f), n);
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

// Columns from k on, which share a line with the one before them, or lines lie one after the other.
template <class G, class Row>
inline void zero_tail(const Row& row, std::int64_t k) {
    const std::int64_t tail = units_of<G>(k) * G::kUnit - k;
    if (tail > 0) std::memset(row.at(k), 0, static_cast<std::size_t>(tail) * sizeof(typename G::Operand));
}

// Writes one row of operands and its padding; each(fn) calls fn(i, n, x) for its elements. Returns the scale of a
// quantised row. Vectors never cross a line: i is a multiple of kLanes, and lines hold whole vectors.
template <class G, class Row, class Each>
inline float write_row(const Row& row, std::int64_t k, const Each& each) {
    using V = typename G::V;
    float scale = 1.0f;
    if constexpr (G::kQuantised) {
        auto largest = V::zero();
        each([&](std::int64_t, int, typename V::F x) { largest = V::max(largest, V::max(x, -x)); });
        const float magnitude = V::largest(largest);
        const auto inverse = V::set(magnitude > 0.0f ? G::steps(k) / magnitude : 0.0f);
        each([&](std::int64_t i, int n, typename V::F x) { store_operand<G>(row.at(i), V::nearest(x * inverse), n); });
        scale = magnitude / G::steps(k);
    } else {
        each([&](std::int64_t i, int n, typename V::F x) { store_operand<G>(row.at(i), x, n); });
    }
    zero_tail<G>(row, k);
    return scale;
}

template <class G, class Each>
inline void write_row_of_a(std::byte* a, std::int64_t r, std::int64_t k, const Each& each) {
    const float scale = write_row<G>(row_of<G>(a, r, k), k, each);
    if constexpr (G::kQuantised) *scale_of<G>(a, r, k) = scale;
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
inline void normalise(const float* x, const Norm& norm, std::pair<float, float> moments, const Fn& fn) {
    const auto centre = V::set(moments.first), scale = V::set(moments.second);
    for_vectors<V>(norm.width, [&](std::int64_t i, int n) {
        const auto centred = (load_as_float<V>(x + i, n) - centre) * scale;
        fn(i, n, V::fma(centred, load_as_float<V>(norm.weight + i, n), load_as_float<V>(norm.bias + i, n)));
    });
}

template <class V>
void norm_row(const float* x, const Norm& norm, float* out) {
    normalise<V>(x, norm, moments<V>(x, norm.width, norm.eps),
                 [&](std::int64_t i, int n, typename V::F y) { store_from_float<V>(out + i, y, n); });
}

template <class G>
void norm_rows(const Rows<const float>& x, std::int64_t row, std::int64_t rows, const Norm& norm, std::byte* a) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* source = x.at(row + r);
        const auto statistics = moments<typename G::V>(source, norm.width, norm.eps);
        write_row_of_a<G>(a, r, norm.width,
                          [&](const auto& fn) { normalise<typename G::V>(source, norm, statistics, fn); });
    }
}

// fn(i, n, x[i .. i + n)) over [0, k).
template <class V, class T, class Fn>
inline void for_elements(const T* x, std::int64_t k, const Fn& fn) {
    for_vectors<V>(k, [&](std::int64_t i, int n) { fn(i, n, load_as_float<V>(x + i, n)); });
}

// One row of activations as operands, and its padding. Returns the scale of a quantised row.
template <class G, class Row>
inline float copy_row(const Row& row, const typename G::Activation* x, std::int64_t k) {
    using Operand = typename G::Operand;
    if constexpr (std::is_same_v<typename G::Activation, Operand>) {
        constexpr auto kLine = static_cast<std::int64_t>(64 / sizeof(Operand));
        std::int64_t i = 0;
        for (; i + kLine <= k; i += kLine) std::memcpy(row.at(i), x + i, 64);
        if (i < k) std::memcpy(row.at(i), x + i, static_cast<std::size_t>(k - i) * sizeof(Operand));
        zero_tail<G>(row, k);
        return 1.0f;
    }
    return write_row<G>(row, k, [&](const auto& fn) { for_elements<typename G::V>(x, k, fn); });
}

template <class G>
inline void copy_row_of_a(std::byte* a, std::int64_t r, const typename G::Activation* x, std::int64_t k) {
    const float scale = copy_row<G>(row_of<G>(a, r, k), x, k);
    if constexpr (G::kQuantised) *scale_of<G>(a, r, k) = scale;
}

template <class G>
void copy_rows(const Rows<const void>& x, std::int64_t row, std::int64_t rows, std::int64_t k, std::byte* a) {
    using Activation = typename G::Activation;
    const Rows<const Activation> typed{static_cast<const Activation*>(x.data), x.per_clip, x.clip_stride, x.row_stride};
    for (std::int64_t r = 0; r < rows; ++r) copy_row_of_a<G>(a, r, typed.at(row + r), k);
}

// Column j * size + i of a patch's row is frame j, mel bin i of the patch: mel bins are contiguous in the spectrogram.
template <class G>
void patch_rows(const Patches& p, std::int64_t row, std::int64_t rows, std::byte* a) {
    using V = typename G::V;
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t clip = (row + r) / p.patches, patch = (row + r) % p.patches;
        const std::int64_t f = patch / p.time_patches, t = patch % p.time_patches;
        const float* corner = p.frames.data + clip * p.frames.clip_stride + t * p.time_stride * p.frames.row_stride +
                              f * p.frequency_stride;
        write_row_of_a<G>(a, r, p.size * p.size, [&](const auto& fn) {
            if (p.size % V::kLanes == 0) {
                for (std::int64_t j = 0; j < p.size; ++j) {
                    for_elements<V>(corner + j * p.frames.row_stride, p.size,
                                    [&](std::int64_t i, int n, auto y) { fn(j * p.size + i, n, y); });
                }
                return;
            }
            for_vectors<V>(p.size * p.size, [&](std::int64_t i, int n) {  // vectors go over the ends of frames
                float elements[V::kLanes] = {};
                for (int l = 0; l < n; ++l) {
                    elements[l] = corner[(i + l) / p.size * p.frames.row_stride + (i + l) % p.size];
                }
                fn(i, n, V::load(elements));
            });
        });
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
