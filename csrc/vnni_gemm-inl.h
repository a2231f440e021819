// int8 by VPDPBUSD, which multiplies unsigned by signed bytes: rows of A are offset by 128, and every sum starts from
// -128 times its column's sum, of which an epilogue adds the part by which a row's range is off centre; probabilities
// are unsigned as they are. Sums are exact. Tiles of 8 x 48.
//
// Probabilities are computed in 16 bits, 32 a vector: u = -log2 of one, offset by that of 255 / 256, has 5 whole bits
// and 11 of fraction, 2^-fraction is a cubic of 15 bits, and the whole part is a power of two that it is multiplied by.

namespace astfast {
namespace {

template <bool kOffset, class VectorType>
struct VnniProduct : TileShape<VectorType, 4, 24, 3, WholePanels>, DotTiles<VnniProduct<kOffset, VectorType>> {
    using Simd = VectorType;
    using Activation = std::uint16_t;
    using Operand = std::conditional_t<kOffset, std::uint8_t, std::int8_t>;  // how it is stored: offset or not
    using Vector = __m512i;
    using Sum = __m512i;
    using WeightPacking = VnniProduct;
    using ValueGemm = VnniProduct<false, VectorType>;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 4, kPadUnits = 1;

    // As many as initial sums of k weights have room for.
    static float quant_levels(std::int64_t k) { return std::min(127.0f, static_cast<float>(0x7fff0000 / (128 * k))); }

    static Sum initial_sum(const std::byte* end, int vector) {
        return kOffset ? _mm512_loadu_si512(end + VnniProduct::kPanel * 4 + vector * 64) : _mm512_setzero_si512();
    }
    static typename Simd::F as_float(Sum sum) { return _mm512_cvtepi32_ps(sum); }
    static typename Simd::F load_sum(const float* c) { return as_float(_mm512_loadu_si512(c)); }

    static Vector load(const std::byte* b) { return _mm512_loadu_si512(b); }
    static Vector broadcast(const std::byte* a) {
        std::int32_t quad;
        std::memcpy(&quad, a, sizeof quad);
        return _mm512_set1_epi32(quad);
    }
    static Sum dot(Sum acc, Vector a, Vector b) { return _mm512_dpbusd_epi32(acc, a, b); }

    // Turns a row of weights, quantised like a row of A, into signed bytes; returns the initial sum of its column.
    template <class Row>
    static std::int32_t make_weights(const Row& row, std::int64_t k) {
        __m512i sums = _mm512_setzero_si512();
        for (std::int64_t i = 0; i < k; i += 64) {
            const __mmask64 mask = ~__mmask64{0} >> (64 - std::min<std::int64_t>(64, k - i));
            const __m512i offset = _mm512_maskz_mov_epi8(mask, _mm512_set1_epi8(-128));
            const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(row.at(i)), offset);
            _mm512_storeu_si512(row.at(i), w);
            sums = _mm512_dpbusd_epi32(sums, _mm512_maskz_mov_epi8(mask, _mm512_set1_epi8(1)), w);
        }
        return static_cast<std::int32_t>(-128u * static_cast<std::uint32_t>(_mm512_reduce_add_epi32(sums)));
    }

    // Scores [keys] of one query -> 255 exp(scale (score - maximum)), rounded to bytes, in place, zero up to a multiple
    // of 64; returns their sum before they are rounded, but for those below 2^-19. Of what is not finite, the sum is
    // zero.
    static float softmax_row(float* scores, std::int64_t keys, float maximum, float scale) {
        // With [] GCC would also make a plain function of it, outside of the tier's target.
        const auto words = [&](int x) ALWAYS_INLINE { return _mm512_set1_epi16(static_cast<short>(x)); };
        const __m512i furthest = _mm512_set1_epi32(0xffff);
        const typename Simd::I order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
        const auto top = Simd::set(maximum), least = Simd::set(0x1.720d9cp+3f);  // 2048 log2(256 / 255)
        const auto factor = Simd::set(std::min(scale * 0x1.715476p+11f, std::numeric_limits<float>::max()));
        __m512i large = _mm512_setzero_si512(), small = large;  // sums of probabilities from 2^-9 and 2^-19 on
        const auto distance = [&](typename Simd::F score) ALWAYS_INLINE {  // sixteen of u
            return _mm512_min_epu32(_mm512_cvtps_epi32(Simd::fma(top - score, factor, least)), furthest);
        };
        const auto probabilities = [&](__m512i u) ALWAYS_INLINE {  // 32 words
            const __m512i whole = _mm512_srli_epi16(u, 11), fraction = _mm512_slli_epi16(u, 5);
            __m512i m = _mm512_sub_epi16(words(7554), _mm512_mulhi_epu16(fraction, words(1286)));
            m = _mm512_sub_epi16(words(22653), _mm512_mulhi_epu16(fraction, m));
            m = _mm512_sub_epi16(words(32767), _mm512_mulhi_epu16(fraction, m));
            const __m512i power = _mm512_srlv_epi16(words(256), whole);
            large = _mm512_dpwssd_epi32(large, m, power);
            small = _mm512_dpwssd_epi32(small, m, _mm512_srlv_epi16(words(512), _mm512_sub_epi16(whole, words(9))));
            return _mm512_mulhrs_epi16(m, power);
        };
        auto* const bytes = reinterpret_cast<std::byte*>(scores);
        const auto group = [&](std::int64_t i, const auto& load) ALWAYS_INLINE {  // of 64
            const __m512i low = _mm512_packus_epi32(load(i), load(i + 16));
            const __m512i high = _mm512_packus_epi32(load(i + 32), load(i + 48));
            const __m512i p = _mm512_packus_epi16(probabilities(low), probabilities(high));
            _mm512_storeu_si512(bytes + i, _mm512_permutexvar_epi32(reinterpret_cast<__m512i>(order), p));
        };
        std::int64_t i = 0;
        for (; i + 64 <= keys; i += 64) {
            group(i, [&](std::int64_t at) ALWAYS_INLINE { return distance(Simd::load(scores + at)); });
        }
        if (i < keys) {
            group(i, [&](std::int64_t at) {
                const auto n = static_cast<int>(std::clamp<std::int64_t>(keys - at, 0, Simd::kLanes));
                return _mm512_mask_mov_epi32(furthest, Simd::mask(n), distance(load_as_float<Simd>(scores + at, n)));
            });
        }
        return (Simd::sum(as_float(large)) + Simd::sum(as_float(small)) * 0x1p-10f) * 0x1p-15f;
    }
};

template <class VectorType>
using VnniGemm = VnniProduct<true, VectorType>;

}  // namespace
}  // namespace astfast
