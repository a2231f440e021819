// Rows of numbers as operands, quantised where Gemm is. gemm_policy-inl.h says what Gemm gives.

namespace astfast {
namespace {

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

// Rows of bfloat16, two in a lane of 32 bits, the first in its lower half.
template <class Simd>
struct Floats {
    typename Simd::F even, odd;
};
template <class Simd>
ALWAYS_INLINE inline Floats<Simd> floats_of(typename Simd::I pairs) {
    using F = typename Simd::F;
    return {reinterpret_cast<F>(pairs << 16), reinterpret_cast<F>(pairs & ~0xffff)};
}

// fn(i, pairs) over a row of k numbers, in whole vectors: zeros past its end.
template <class I, class Fn>
ALWAYS_INLINE inline void for_pairs(const std::uint16_t* x, std::int64_t k, const Fn& fn) {
    constexpr auto kElements = static_cast<std::int64_t>(sizeof(I) / sizeof *x);
    I pairs;
    std::int64_t i = 0;
    for (; i + kElements <= k; i += kElements) {
        std::memcpy(&pairs, x + i, sizeof pairs);
        fn(i, pairs);
    }
    if (i == k) return;
    pairs = I{};
    std::memcpy(&pairs, x + i, static_cast<std::size_t>(k - i) * sizeof *x);
    fn(i, pairs);
}

// A sum with it has the operand that a number is nearest to in its lowest byte: as it is, or offset by 128.
template <class Gemm>
constexpr float kWhole = 0x1.8p23f + (shifts_rows<Gemm> ? 128.0f : 0.0f);

// Such sums, of even elements and odd ones -> operands.
template <class Simd>
ALWAYS_INLINE inline void store_bytes(void* p, typename Simd::F even, typename Simd::F odd) {
    using I = typename Simd::I;
    typedef std::uint16_t Pairs __attribute__((vector_size(sizeof(I) / 2)));
    const I bytes = (reinterpret_cast<I>(even) & 0xff) | reinterpret_cast<I>(odd) << 8;
    const Pairs pairs = __builtin_convertvector(bytes, Pairs);
    std::memcpy(p, &pairs, sizeof pairs);
}

// Less mean_at(i), Floats of two vectors of columns from i on: as write_row has it.
template <class Gemm, class Row, class MeanAt>
inline float write_centred_bf16_row(const Row& row, std::int64_t k, const std::uint16_t* x, const MeanAt& mean_at) {
    using Simd = typename Gemm::Simd;
    using I = typename Simd::I;
    const auto each = [&](const auto& fn) ALWAYS_INLINE {
        for_pairs<I>(x, k, [&](std::int64_t i, I pairs) ALWAYS_INLINE {
            const auto y = floats_of<Simd>(pairs), mean = mean_at(i);
            fn(i, y.even - mean.even, y.odd - mean.odd);
        });
    };
    I largest{};
    each([&](std::int64_t, auto even, auto odd)
             ALWAYS_INLINE { largest = larger_magnitude<Simd>(larger_magnitude<Simd>(largest, even), odd); });
    const Levels levels(Simd::largest(largest), Gemm::quant_levels(k));
    const auto inverse = Simd::set(levels.inverse), whole = Simd::set(kWhole<Gemm>);
    each([&](std::int64_t i, auto even, auto odd) ALWAYS_INLINE {
        store_bytes<Simd>(row.at(i), Simd::fma(even, inverse, whole), Simd::fma(odd, inverse, whole));
    });
    zero_tail<Gemm>(row, k);
    return levels.scale;
}

// Words of bfloat16, the largest magnitude of them in the upper half.
template <class Simd, class Words>
ALWAYS_INLINE inline std::int32_t largest_word(Words x) {
    using I = typename Simd::I;
    const I first = reinterpret_cast<I>(x) << 16, second = reinterpret_cast<I>(x) & ~0xffff;
    return Simd::largest(first > second ? first : second);
}

// A row as write_row has it, where an operand is a byte. Fetches what follows the row, for the next.
template <class Gemm, class Row>
inline float write_bf16_row(const Row& row, std::int64_t k, const std::uint16_t* x) {
    using Simd = typename Gemm::Simd;
    using I = typename Simd::I;
    typedef std::int16_t Halves __attribute__((vector_size(sizeof(I))));
    Halves largest{};
    for_pairs<I>(x, k, [&](std::int64_t, I pairs) ALWAYS_INLINE {
        const Halves magnitude = reinterpret_cast<Halves>(pairs & 0x7fff7fff);
        largest = magnitude > largest ? magnitude : largest;
    });
    const Levels levels(largest_word<Simd>(largest), Gemm::quant_levels(k));
    const auto inverse = Simd::set(levels.inverse), whole = Simd::set(kWhole<Gemm>);
    for_pairs<I>(x, k, [&](std::int64_t i, I pairs) ALWAYS_INLINE {
        __builtin_prefetch(x + k + i);
        const auto [even, odd] = floats_of<Simd>(pairs);
        store_bytes<Simd>(row.at(i), Simd::fma(even, inverse, whole), Simd::fma(odd, inverse, whole));
    });
    zero_tail<Gemm>(row, k);
    return levels.scale;
}

// The same where levels are those of the row's own range. Fetches what follows the row, for the next.
template <class Gemm, class Row>
inline RowScale write_shifted_bf16_row(const Row& row, std::int64_t k, const std::uint16_t* x) {
    using Simd = typename Gemm::Simd;
    using I = typename Simd::I;
    using F = typename Simd::F;
    typedef std::int16_t Halves __attribute__((vector_size(sizeof(I))));
    Halves above{}, below{};
    for_pairs<I>(x, k, [&](std::int64_t, I pairs) ALWAYS_INLINE {
        Halves bits;
        std::memcpy(&bits, &pairs, sizeof bits);
        const Halves negated = bits ^ std::numeric_limits<std::int16_t>::min();
        above = bits > above ? bits : above;
        below = negated > below ? negated : below;
    });
    const RangeLevels levels(largest_word<Simd>(above), largest_word<Simd>(below), Gemm::quant_levels(k));
    const F factor = Simd::set(levels.inverse), offset = Simd::set(levels.shift), whole = Simd::set(kWhole<Gemm>);
    for_pairs<I>(x, k, [&](std::int64_t i, I pairs) ALWAYS_INLINE {
        __builtin_prefetch(x + k + i);
        const auto [even, odd] = floats_of<Simd>(pairs);
        store_bytes<Simd>(row.at(i), Simd::fma(even, factor, offset) + whole, Simd::fma(odd, factor, offset) + whole);
    });
    zero_tail<Gemm>(row, k);
    return levels.row_scale();
}

}  // namespace
}  // namespace astfast
