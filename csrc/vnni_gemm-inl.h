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

    // Scores of queries, rows of `keys` -> 255 exp(factor (score - maximum)), rounded to bytes, in place, zero up to a
    // multiple of 64, and the inverse of their sum before they are rounded, but for those below 2^-19. Of what is not
    // finite, the sum is zero. Each call takes the next kMaxRows queries, beside products: they use the multipliers,
    // this the other units more. The maximum of a row is found beside the exponentials of the one before.
    class Softmax {
      public:
        static constexpr int kMaxRows = 4, kUnits = 2;  // of as many rows, as many units as 32 keys

        Softmax(float* scores, std::int64_t stride, std::int64_t keys, std::int64_t queries, const float* factors,
                float* inverse_sums)
            : scores_(scores),
              stride_(stride),
              keys_((keys + 63) / 64 * 64),
              queries_(queries),
              factors_(factors),
              inverse_sums_(inverse_sums) {
            for (std::int64_t r = 0; r < queries; ++r) {
                std::fill(scores + r * stride + keys, scores + r * stride + keys_, kNone);
            }
            largest_ = Simd::set(kNone);
            for (std::int64_t i = 0; i < keys_; i += Simd::kLanes) {
                largest_ = Simd::max(largest_, Simd::load(scores + i));
            }
        }

        template <class Multiply>
        ALWAYS_INLINE void operator()(const Multiply& multiply) const {
            for (const std::int64_t end = std::min(next_ + kMaxRows, queries_); next_ < end; ++next_) {
                float* const row = scores_ + next_ * stride_;
                inverse_sums_[next_] = 1.0f / exponentials(row, next_ + 1 < queries_ ? row + stride_ : row, multiply);
            }
        }

      private:
        static constexpr float kNone = -std::numeric_limits<float>::infinity();

        // Of one row, with multiply() after each 32 keys; leaves the maxima of the row `following`.
        template <class Multiply>
        ALWAYS_INLINE float exponentials(float* row, const float* following, const Multiply& multiply) const {
            // With [] GCC would also make a plain function of it, outside of the tier's target.
            const auto words = [&](int x) ALWAYS_INLINE { return _mm512_set1_epi16(static_cast<short>(x)); };
            const __m512i furthest = _mm512_set1_epi32(0xffff);
            const typename Simd::I order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
            const auto top = Simd::set(Simd::largest(largest_));
            const auto least = Simd::set(0x1.720d9cp+3f);  // 2048 log2(256 / 255)
            const auto factor =
                Simd::set(std::min(factors_[next_] * 0x1.715476p+11f, std::numeric_limits<float>::max()));
            __m512i large = _mm512_setzero_si512(), small = large;  // sums of probabilities from 2^-9 and 2^-19 on
            auto largest = Simd::set(kNone);
            const auto distance = [&](const float* score) ALWAYS_INLINE {  // sixteen of u
                const auto u = Simd::fma(top - Simd::load(score), factor, least);
                return _mm512_min_epu32(_mm512_cvtps_epi32(u), furthest);
            };
            const auto probabilities = [&](const float* score) ALWAYS_INLINE {  // 32 words
                const __m512i u = _mm512_packus_epi32(distance(score), distance(score + 16));
                const __m512i whole = _mm512_srli_epi16(u, 11), fraction = _mm512_slli_epi16(u, 5);
                __m512i m = _mm512_sub_epi16(words(7554), _mm512_mulhi_epu16(fraction, words(1286)));
                m = _mm512_sub_epi16(words(22653), _mm512_mulhi_epu16(fraction, m));
                m = _mm512_sub_epi16(words(32767), _mm512_mulhi_epu16(fraction, m));
                const __m512i power = _mm512_srlv_epi16(words(256), whole);
                large = _mm512_dpwssd_epi32(large, m, power);
                small = _mm512_dpwssd_epi32(small, m, _mm512_srlv_epi16(words(512), _mm512_sub_epi16(whole, words(9))));
                return _mm512_mulhrs_epi16(m, power);
            };
            auto* const bytes = reinterpret_cast<std::byte*>(row);
            for (std::int64_t i = 0; i < keys_; i += 64) {
                const __m512i low = probabilities(row + i);
                multiply();
                const __m512i high = probabilities(row + i + 32);
                _mm512_storeu_si512(bytes + i, _mm512_permutexvar_epi32(reinterpret_cast<__m512i>(order),
                                                                        _mm512_packus_epi16(low, high)));
#pragma GCC unroll 4
                for (int j = 0; j < 64; j += 16) largest = Simd::max(largest, Simd::load(following + i + j));
                multiply();
            }
            largest_ = largest;
            return (Simd::sum(as_float(large)) + Simd::sum(as_float(small)) * 0x1p-10f) * 0x1p-15f;
        }

        float* scores_;
        std::int64_t stride_, keys_, queries_;
        const float* factors_;
        float* inverse_sums_;
        mutable std::int64_t next_ = 0;
        mutable typename Simd::F largest_;  // of the next query's scores
    };
};

template <class VectorType>
using VnniGemm = VnniProduct<true, VectorType>;

}  // namespace
}  // namespace astfast
