// VPDPBUSD on vectors of 512 bits, in tiles of 8 x 48.
//
// Probabilities are computed in 16 bits, 32 a vector: u = -log2 of one, offset by that of 255 / 256, has 5 whole bits
// and 11 of fraction, 2^-fraction of 15 bits is a straight line in each of 32 parts, looked up (off by 0.00006 of it,
// rms), and the whole part is a power of two that it is multiplied by.

namespace astfast {
namespace {

template <class VectorType>
struct Avx512Vnni {
    using Simd = VectorType;
    using Shape = TileShape<Simd, 4, 24, 3, WholePanels>;
    using Gelu = GeluOnLines<Simd>;
    using Bytes = __m512i;
    using Sums = __m512i;

    static Bytes load(const std::byte* b) { return _mm512_loadu_si512(b); }
    static void store(std::byte* b, Bytes x) { _mm512_storeu_si512(b, x); }
    static Bytes repeat(std::int32_t quad) { return _mm512_set1_epi32(quad); }
    static Bytes first(std::int64_t n, int byte) {
        const __mmask64 mask = ~__mmask64{0} >> (64 - std::min<std::int64_t>(64, n));
        return _mm512_maskz_mov_epi8(mask, _mm512_set1_epi8(static_cast<char>(byte)));
    }
    static Sums dot(Sums sums, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sums, a, b); }
    static typename Simd::F as_float(Sums sums) { return _mm512_cvtepi32_ps(sums); }

    // 255 exp(factor (score - largest)), rounded to bytes; their sum before they are rounded, but for those below
    // 2^-19. Of what is not finite, the sum is zero.
    class Probabilities {
      public:
        static constexpr int kUnits = 2;
        static constexpr bool kSeesNan = false;  // keys are taken about their mean: a NaN is in all scores

        ALWAYS_INLINE Probabilities(float largest, float factor)
            : top_(Simd::set(largest)),
              factor_(Simd::set(std::min(factor * 0x1.715476p+11f, std::numeric_limits<float>::max()))) {}

        ALWAYS_INLINE __m512i words(const float* score) {
            const __m512i u = _mm512_packus_epi32(distance(score), distance(score + 16));
            const auto on = OnLines::of<6>(u, kLines);
            const __m512i whole = _mm512_srli_epi16(u, 11), m = _mm512_sub_epi16(on.start, on.along);
            const __m512i power = _mm512_srlv_epi16(all(256), whole);
            large_ = _mm512_dpwssd_epi32(large_, m, power);
            small_ = _mm512_dpwssd_epi32(small_, m, _mm512_srlv_epi16(all(512), _mm512_sub_epi16(whole, all(9))));
            return _mm512_mulhrs_epi16(m, power);
        }

        ALWAYS_INLINE static void store(std::byte* at, std::int64_t key, __m512i low, __m512i high) {
            const typename Simd::I order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
            const __m512i bytes = _mm512_packus_epi16(low, high);
            _mm512_storeu_si512(at + key, _mm512_permutexvar_epi32(reinterpret_cast<__m512i>(order), bytes));
        }

        ALWAYS_INLINE float sum() const {
            return (Simd::sum(as_float(large_)) + Simd::sum(as_float(small_)) * 0x1p-10f) * 0x1p-15f;
        }

      private:
        ALWAYS_INLINE static __m512i all(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }

        ALWAYS_INLINE __m512i distance(const float* score) const {  // sixteen of u
            const auto u = Simd::fma(top_ - Simd::load(score), factor_, Simd::set(kLeast));
            return _mm512_min_epu32(_mm512_cvtps_epi32(u), _mm512_set1_epi32(0xffff));
        }

        static constexpr Lines kLines = exp2_lines([](int i) { return (32767ull * kExp2[32 - i] + (1u << 30)) >> 31; });
        static constexpr float kLeast = 0x1.720d9cp+3f;  // 2048 log2(256 / 255)
        typename Simd::F top_, factor_;
        __m512i large_ = _mm512_setzero_si512(), small_ = large_;  // sums of those from 2^-9 and 2^-19 on
    };
    using Softmax = BesideSoftmax<Simd, Probabilities>;
};

template <class VectorType>
using VnniGemm = VnniProduct<true, Avx512Vnni<VectorType>>;

}  // namespace
}  // namespace astfast
