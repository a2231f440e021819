// Packing of operands: rows of A and panels of B, in the layout that kernels.h describes. gemm_policy-inl.h says what
// Gemm gives.

namespace astfast {
namespace {

template <class Gemm>
constexpr std::int64_t units_of(std::int64_t k) {
    const std::int64_t units = (k + Gemm::kElementsPerUnit - 1) / Gemm::kElementsPerUnit;
    return (units + Gemm::kPadUnits - 1) / Gemm::kPadUnits * Gemm::kPadUnits;
}

// Bytes of a unit in a row of A: four, but where Gemm multiplies longer operands than B is kept in.
template <class Gemm>
constexpr std::int64_t unit_bytes = Gemm::kElementsPerUnit * static_cast<std::int64_t>(sizeof(typename Gemm::Operand));

// Bytes of the operands of a row of A.
template <class Gemm>
constexpr std::int64_t operand_bytes(std::int64_t k) {
    return (units_of<Gemm>(k) * unit_bytes<Gemm> + 63) / 64 * 64;
}

// Bytes from one row of A to the next, counted as if all of a row's lines were together. A quantised row has one more
// line, for its scale. Rows are an odd number of cache lines apart, so that a column of them doesn't fall into one
// cache set, unless lines of several rows alternate anyway.
template <class Gemm>
constexpr std::int64_t row_bytes(std::int64_t k) {
    const std::int64_t lines = operand_bytes<Gemm>(k) / 64 + (Gemm::kQuantised ? 1 : 0);
    return (Gemm::kRowsTogether == 1 ? lines | 1 : lines) * 64;
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
template <class Gemm>
inline OperandRow<typename Gemm::Operand, Gemm::kRowsTogether> row_of(std::byte* a, std::int64_t r, std::int64_t k) {
    return OperandRow<typename Gemm::Operand, Gemm::kRowsTogether>(
        a + r / Gemm::kRowsTogether * (Gemm::kRowsTogether * row_bytes<Gemm>(k)) + r % Gemm::kRowsTogether * 64);
}

// A row whose lines lie one after the other, whatever those of A do.
template <class Gemm>
using LinearRow = OperandRow<typename Gemm::Operand, 1>;

// Of a quantised row of A: what its products are multiplied by, after `shift` times the initial sums of the columns has
// been added to them. Where bytes of rows have no sign (VnniProduct), a row's levels are those between its smallest and
// its largest element, of which one side may be short, as after a GELU: x = scale (byte - 128 - 128 shift), and a
// column's initial sum is -128 times the sum of its weights.
struct RowScale {
    float scale, shift;
};

template <class Gemm>
constexpr bool shifts_rows = std::is_same_v<typename Gemm::Operand, std::uint8_t>;

template <class Gemm>
inline RowScale* scale_of(std::byte* a, std::int64_t r, std::int64_t k) {
    constexpr auto kPerLine = static_cast<std::int64_t>(64 / sizeof(typename Gemm::Operand));
    return reinterpret_cast<RowScale*>(row_of<Gemm>(a, r, k).at(operand_bytes<Gemm>(k) / 64 * kPerLine));
}

template <class Gemm>
inline RowScale row_scale(const std::byte* a, std::int64_t r, std::int64_t k) {
    if constexpr (Gemm::kQuantised) return *scale_of<Gemm>(const_cast<std::byte*>(a), r, k);
    return {1.0f, 0.0f};
}

// row_scale of any row, where rows lie one after the other: without the address of the first one for each.
template <class Gemm>
inline auto row_scales(const std::byte* a, std::int64_t k) {
    static_assert(Gemm::kRowsTogether == 1);
    const auto* const first = reinterpret_cast<const std::byte*>(scale_of<Gemm>(const_cast<std::byte*>(a), 0, k));
    return [first, stride = row_bytes<Gemm>(k)](std::int64_t r) ALWAYS_INLINE {
        return Gemm::kQuantised ? *reinterpret_cast<const RowScale*>(first + r * stride) : RowScale{1.0f, 0.0f};
    };
}

template <class Simd>
inline typename Simd::F load_as_float(const float* p, int n) {
    return n == Simd::kLanes ? Simd::load(p) : Simd::load_partial(p, n);
}

template <class Simd>
inline typename Simd::F load_as_float(const std::uint16_t* p, int n) {
    return n == Simd::kLanes ? Simd::load_bf16(p) : Simd::load_partial_bf16(p, n);
}

template <class Simd>
inline void store_from_float(float* p, typename Simd::F x, int n) {
    n == Simd::kLanes ? Simd::store(p, x) : Simd::store_partial(p, x, n);
}

template <class Simd>
inline void store_from_float(std::uint16_t* p, typename Simd::F x, int n) {
    n == Simd::kLanes ? Simd::store_bf16(p, x) : Simd::store_partial_bf16(p, x, n);
}

template <class Simd>
inline void store_from_float(std::int8_t* p, typename Simd::F x, int n) {
    Simd::store_int8(p, x, n);
}

template <class Simd>
inline void store_from_float(std::int16_t* p, typename Simd::F x, int n) {
    Simd::store_int16(p, x, n);
}

template <class Simd>
inline void store_from_float(std::uint8_t* p, typename Simd::F x, int n) {  // offset by 128
    Simd::store_int8(reinterpret_cast<std::int8_t*>(p), x + Simd::set(128.0f), n);
}

template <class Gemm>
inline void store_operand(typename Gemm::Operand* p, typename Gemm::Simd::F x, int n = Gemm::Simd::kLanes) {
    if constexpr (Gemm::kRoundsToBf16) x = Gemm::Simd::round_bf16(x);
    store_from_float<typename Gemm::Simd>(p, x, n);
}

// fn(start, n) over [0, size) in vectors; n < kLanes in the last one only.
template <class Simd, class Fn>
inline void for_vectors(std::int64_t size, const Fn& fn) {
    std::int64_t i = 0;
    for (; i + Simd::kLanes <= size; i += Simd::kLanes) fn(i, Simd::kLanes);
    if (i < size) fn(i, static_cast<int>(size - i));
}

// Columns from k on, which share a line with the one before them, or lines lie one after the other.
template <class Gemm, class Row>
inline void zero_tail(const Row& row, std::int64_t k) {
    const std::int64_t tail = units_of<Gemm>(k) * Gemm::kElementsPerUnit - k;
    if (tail > 0) std::memset(row.at(k), 0, static_cast<std::size_t>(tail) * sizeof(typename Gemm::Operand));
}

// Magnitudes of floats as whole numbers: in the same order, and infinity and NaN above all others.
template <class Simd>
inline typename Simd::I larger_magnitude(typename Simd::I largest, typename Simd::F x) {
    const auto magnitude = reinterpret_cast<typename Simd::I>(x) & 0x7fffffff;
    return magnitude > largest ? magnitude : largest;
}

// Quantisation of numbers of so many levels up to this magnitude, given in bits: what they are multiplied by before
// they are rounded, and their scale afterwards. Levels of what is tiny are no finer than those of 2^-100, whose inverse
// is finite. The scale of what is not finite is NaN, and so becomes every product.
struct Levels {
    float inverse, scale;

    Levels(std::int32_t magnitude_bits, float levels) {
        constexpr std::int32_t kInfinity = 0x7f800000, kSmallest = (127 - 100) << 23;
        const bool finite = magnitude_bits < kInfinity;
        const std::int32_t bits = finite ? std::max(magnitude_bits, kSmallest) : 0x7fc00000;
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        inverse = finite ? levels / magnitude : 0.0f;
        scale = magnitude / levels;
    }
};

// 2 * side + 1 levels from the least to the largest element of a row, from the bits of their magnitudes: an element
// becomes the whole number nearest to inverse x + shift.
struct RangeLevels {
    float scale, inverse, shift;

    RangeLevels(std::int32_t above, std::int32_t below, float side) {
        const Levels up(above, 2.0f * side), down(below, 2.0f * side);  // as wide as each side needs alone
        scale = up.scale + down.scale;
        inverse = scale == scale ? 1.0f / scale : 0.0f;
        shift = down.scale * inverse * 2.0f * side - side;
    }

    RowScale row_scale() const { return {scale, shift * (1.0f / 128.0f)}; }
};

// Writes one row of operands and its padding; each(fn) calls fn(i, n, x) for its elements. Returns the scale of a
// quantised row. Vectors never cross a line: i is a multiple of kLanes, and lines hold whole vectors.
template <class Gemm, class Row, class Each>
inline float write_row(const Row& row, std::int64_t k, const Each& each) {
    using Simd = typename Gemm::Simd;
    float scale = 1.0f;
    if constexpr (Gemm::kQuantised) {
        typename Simd::I largest{};
        each([&](std::int64_t, int, typename Simd::F x) { largest = larger_magnitude<Simd>(largest, x); });
        const Levels levels(Simd::largest(largest), Gemm::quant_levels(k));
        const auto inverse = Simd::set(levels.inverse);
        each([&](std::int64_t i, int n, typename Simd::F x) {
            store_operand<Gemm>(row.at(i), Simd::nearest(x * inverse), n);
        });
        scale = levels.scale;
    } else {
        each([&](std::int64_t i, int n, typename Simd::F x) { store_operand<Gemm>(row.at(i), x, n); });
    }
    zero_tail<Gemm>(row, k);
    return scale;
}

// The same where levels are those of the row's own range.
template <class Gemm, class Row, class Each>
inline RowScale write_shifted_row(const Row& row, std::int64_t k, const Each& each) {
    using Simd = typename Gemm::Simd;
    using I = typename Simd::I;
    I above{}, below{};  // magnitudes of what is above and below zero, in bits, as Levels takes them
    each([&](std::int64_t, int, typename Simd::F x) {
        const I bits = reinterpret_cast<I>(x), negated = bits ^ std::numeric_limits<std::int32_t>::min();
        above = bits > above ? bits : above;
        below = negated > below ? negated : below;
    });
    const RangeLevels levels(Simd::largest(above), Simd::largest(below), Gemm::quant_levels(k));
    const auto factor = Simd::set(levels.inverse), offset = Simd::set(levels.shift);
    each([&](std::int64_t i, int n, typename Simd::F x) {
        store_operand<Gemm>(row.at(i), Simd::nearest(Simd::fma(x, factor, offset)), n);
    });
    zero_tail<Gemm>(row, k);
    return levels.row_scale();
}

// The same of bfloat16, two in a lane of 32 bits, the first in its lower half. Fetches what follows the row, for the
// next.
template <class Gemm, class Row>
inline RowScale write_shifted_bf16_row(const Row& row, std::int64_t k, const std::uint16_t* x) {
    using Simd = typename Gemm::Simd;
    using I = typename Simd::I;
    using F = typename Simd::F;
    typedef std::int16_t Halves __attribute__((vector_size(sizeof(I))));
    typedef std::uint16_t Pairs __attribute__((vector_size(sizeof(I) / 2)));
    constexpr std::int64_t kElements = 2 * Simd::kLanes;
    const auto each = [&](const auto& fn) ALWAYS_INLINE {
        Halves bits;
        std::int64_t i = 0;
        for (; i + kElements <= k; i += kElements) {
            std::memcpy(&bits, x + i, sizeof bits);
            fn(i, bits);
        }
        if (i == k) return;
        bits = Halves{};
        std::memcpy(&bits, x + i, static_cast<std::size_t>(k - i) * sizeof *x);
        fn(i, bits);
    };
    Halves above{}, below{};
    each([&](std::int64_t, Halves bits) ALWAYS_INLINE {
        const Halves negated = bits ^ std::numeric_limits<std::int16_t>::min();
        above = bits > above ? bits : above;
        below = negated > below ? negated : below;
    });
    const auto largest = [](Halves x) ALWAYS_INLINE {  // in the upper half
        const I first = reinterpret_cast<I>(x) << 16, second = reinterpret_cast<I>(x) & ~0xffff;
        return Simd::largest(first > second ? first : second);
    };
    const RangeLevels levels(largest(above), largest(below), Gemm::quant_levels(k));
    const F factor = Simd::set(levels.inverse), offset = Simd::set(levels.shift);
    const F whole = Simd::set(0x1.8p23f + 128.0f);  // a sum with it has the operand in its lowest bits
    each([&](std::int64_t i, Halves bits) ALWAYS_INLINE {
        __builtin_prefetch(x + k + i);
        const I pair = reinterpret_cast<I>(bits);
        const auto byte = [&](I x) ALWAYS_INLINE {
            return reinterpret_cast<I>(Simd::fma(reinterpret_cast<F>(x), factor, offset) + whole);
        };
        const I bytes = (byte(pair << 16) & 0xff) | byte(pair & ~0xffff) << 8;
        const Pairs pairs = __builtin_convertvector(bytes, Pairs);
        std::memcpy(row.at(i), &pairs, sizeof pairs);
    });
    zero_tail<Gemm>(row, k);
    return levels.row_scale();
}

template <class Gemm, class Each>
inline void write_row_of_a(std::byte* a, std::int64_t r, std::int64_t k, const Each& each) {
    const auto row = row_of<Gemm>(a, r, k);
    if constexpr (shifts_rows<Gemm>) {
        *scale_of<Gemm>(a, r, k) = write_shifted_row<Gemm>(row, k, each);
    } else {
        const float scale = write_row<Gemm>(row, k, each);
        if constexpr (Gemm::kQuantised) *scale_of<Gemm>(a, r, k) = {scale, 0.0f};
    }
}

// A row into the cache, ahead of time.
template <class T>
inline void fetch(const T* row, std::int64_t size) {
    constexpr auto kLine = static_cast<std::int64_t>(64 / sizeof(T));
    for (std::int64_t i = 0; i < size; i += kLine) __builtin_prefetch(row + i);
}

// fn(i, n, x[i .. i + n)) over [0, k).
template <class Simd, class T, class Fn>
inline void for_elements(const T* x, std::int64_t k, const Fn& fn) {
    for_vectors<Simd>(k, [&](std::int64_t i, int n) { fn(i, n, load_as_float<Simd>(x + i, n)); });
}

// One row of activations as operands, and its padding. Returns the scale of a quantised row.
template <class Gemm, class Row>
inline float copy_row(const Row& row, const typename Gemm::Activation* x, std::int64_t k) {
    using Operand = typename Gemm::Operand;
    if constexpr (std::is_same_v<typename Gemm::Activation, Operand>) {
        constexpr auto kLine = static_cast<std::int64_t>(64 / sizeof(Operand));
        std::int64_t i = 0;
        for (; i + kLine <= k; i += kLine) std::memcpy(row.at(i), x + i, 64);
        if (i < k) std::memcpy(row.at(i), x + i, static_cast<std::size_t>(k - i) * sizeof(Operand));
        zero_tail<Gemm>(row, k);
        return 1.0f;
    }
    return write_row<Gemm>(row, k, [&](const auto& fn) { for_elements<typename Gemm::Simd>(x, k, fn); });
}

template <class Gemm>
inline void copy_row_of_a(std::byte* a, std::int64_t r, const typename Gemm::Activation* x, std::int64_t k,
                          const float* factors) {
    using Simd = typename Gemm::Simd;
    if constexpr (!Gemm::kQuantised) {
        copy_row<Gemm>(row_of<Gemm>(a, r, k), x, k);
        return;
    }
    if constexpr (shifts_rows<Gemm>) {
        if (factors == nullptr) {
            *scale_of<Gemm>(a, r, k) = write_shifted_bf16_row<Gemm>(row_of<Gemm>(a, r, k), k, x);
            return;
        }
    }
    write_row_of_a<Gemm>(a, r, k, [&](const auto& fn) {
        for_elements<Simd>(x, k, [&](std::int64_t i, int n, typename Simd::F y) {
            fn(i, n, factors == nullptr ? y : y * load_as_float<Simd>(factors + i, n));
        });
    });
}

template <class Gemm>
void copy_rows(const Rows<const void>& x, std::int64_t row, std::int64_t rows, std::int64_t k, const float* factors,
               std::byte* a) {
    using Activation = typename Gemm::Activation;
    const Rows<const Activation> typed{static_cast<const Activation*>(x.data), x.per_clip, x.clip_stride, x.row_stride};
    for (std::int64_t r = 0; r < rows; ++r) copy_row_of_a<Gemm>(a, r, typed.at(row + r), k, factors);
}

// Column j * size + i of a patch's row is frame j, mel bin i of the patch: mel bins are contiguous in the spectrogram.
template <class Gemm>
void patch_rows(const Patches& p, std::int64_t row, std::int64_t rows, std::byte* a) {
    using Simd = typename Gemm::Simd;
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t clip = (row + r) / p.patches, patch = (row + r) % p.patches;
        const std::int64_t f = patch / p.time_patches, t = patch % p.time_patches;
        const float* corner = p.frames.data + clip * p.frames.clip_stride + t * p.time_stride * p.frames.row_stride +
                              f * p.frequency_stride;
        write_row_of_a<Gemm>(a, r, p.size * p.size, [&](const auto& fn) {
            if (p.size % Simd::kLanes == 0) {
                for (std::int64_t j = 0; j < p.size; ++j) {
                    for_elements<Simd>(corner + j * p.frames.row_stride, p.size,
                                       [&](std::int64_t i, int n, auto y) { fn(j * p.size + i, n, y); });
                }
                return;
            }
            for_vectors<Simd>(p.size * p.size, [&](std::int64_t i, int n) {  // vectors go over the ends of frames
                float elements[Simd::kLanes] = {};
                for (int l = 0; l < n; ++l) {
                    elements[l] = corner[(i + l) / p.size * p.frames.row_stride + (i + l) % p.size];
                }
                fn(i, n, Simd::load(elements));
            });
        });
    }
}

// `columns` rows of operands, each padded to whole units -> columns [0, width) of a panel [units, stride]; those from
// `columns` on are zero. row(j) is the address of column j.
template <class Gemm, class Row>
inline void transpose_to_panel(const Row& row, std::int64_t columns, std::int64_t units, std::int64_t width,
                               std::int64_t stride, std::uint32_t* panel) {
    using Simd = typename Gemm::Simd;
    alignas(64) static constexpr std::uint32_t kZeros[16] = {};
    for (std::int64_t j = 0; j < width; j += Simd::kLanes) {
        for (std::int64_t u = 0; u < units; u += Simd::kLanes) {
            const std::uint32_t* sources[Simd::kLanes];
            for (int i = 0; i < Simd::kLanes; ++i) sources[i] = j + i < columns ? row(j + i) + u : kZeros;
            const int n = static_cast<int>(std::min<std::int64_t>(Simd::kLanes, units - u));
            Simd::transpose(sources, panel + u * stride + j, stride, n);
        }
    }
}

}  // namespace
}  // namespace astfast
