// AVX-512 vectors with the processor's own conversion to bfloat16, and the operands of the GEMM policies that multiply
// pairs of bfloat16: values packed in pairs of keys.

namespace astfast {
namespace {

struct Avx512Bf16 : Avx512 {
    static __m256i to_bf16(F x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
    static void store_bf16(std::uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }
    static void store_partial_bf16(std::uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, mask(n), to_bf16(x)); }
};

// sum + the two bfloat16 of each lane.
ALWAYS_INLINE inline __m512 add_pairs_of_bf16(__m512 sum, __m512i x) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(ones));
}

// op over the lanes of each of sixteen vectors, in the order of Avx512::sum; lane i of the result is of row(i).
template <class Row, class Op>
ALWAYS_INLINE inline Avx512::F across_lanes(const Row& row, const Op& op) {
    using F = Avx512::F;
    F x[16];
    unrolled<16>([&](auto i) ALWAYS_INLINE { x[i] = row((i & 5) << 1 | (i & 10) >> 1); });  // ends in order
    unrolled<8>([&](auto i) ALWAYS_INLINE {
        const F a = x[i], b = x[i + 8];
        x[i] = op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    });
    unrolled<4>([&](auto i) ALWAYS_INLINE {
        const F a = x[i], b = x[i + 4];
        x[i] = op(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    });
    unrolled<2>([&](auto i) ALWAYS_INLINE {
        const F a = x[i], b = x[i + 2];
        x[i] = op(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    });
    return op(_mm512_shuffle_ps(x[0], x[1], 0x88), _mm512_shuffle_ps(x[0], x[1], 0xdd));
}

struct Bf16Operands {
    using Simd = Avx512Bf16;
    using Activation = std::uint16_t;
    using Operand = std::uint16_t;
    using Sum = Simd::F;
    static constexpr bool kRoundsToBf16 = false, kQuantised = false;  // storing rounds
    static constexpr int kElementsPerUnit = 2;

    // Columns [d, d + width) of v -> a panel of `units` pairs of keys; keys and columns past the end are zero.
    static void pack_values_in_pairs(const Head& head, std::int64_t units, std::int64_t width, std::int64_t d,
                                     std::byte* panel) {
        const std::int64_t columns = std::min(width, head.head_dim - d);
        for (std::int64_t u = 0; u < units; ++u, panel += width * 4) {
            const std::uint16_t* even = static_cast<const std::uint16_t*>(head.v) + 2 * u * head.kv_stride + d;
            for (std::int64_t i = 0; i < width; i += Simd::kLanes) {
                const auto n = static_cast<int>(std::clamp<std::int64_t>(columns - i, 0, Simd::kLanes));
                const __mmask16 low = Simd::mask(2 * u < head.keys ? n : 0),
                                high = Simd::mask(2 * u + 1 < head.keys ? n : 0);
                const __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(low, even + i));
                const __m512i b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(high, even + head.kv_stride + i));
                _mm512_storeu_si512(panel + i * 4, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
            }
        }
    }
};

}  // namespace
}  // namespace astfast
