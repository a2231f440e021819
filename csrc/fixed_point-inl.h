// Exponentials of rows of scores in fixed point, beside products on AMX tiles (amx_attention-inl.h).

namespace astfast {
namespace {

constexpr std::int64_t kBlockKeys = 128;  // of a block of scores
constexpr std::int64_t kBlockSteps = kBlockKeys / kTileKeys;
constexpr float kFixedOne = 256.0f * 127.0f + 0.6875f;  // 1 in fixed point, and what halving cuts off in the mean

struct RowOfScores {
    float factor;     // of a score: it becomes 256 times its binary logarithm
    float reference;  // the score that becomes 1
    float offset;     // by which it enters the fixed point
};

// Probabilities of a row and one block of keys; returns their sums. In fixed point, two vectors at once: u is 256 times
// the binary logarithm, offset by bfloat16's exponent, so that u / 2 would be the result if 2^f were 1 + f between
// whole powers; g is the difference, f (0.3410 - 0.3320 f). The offset has what halving cuts off besides. Off by
// 0.0021 (rms) and 0.0060 (at most) of a probability, the rounding to bfloat16 included, which alone gives 0.0017
// and 0.0039; 0.0000 in the mean. 1 is exact, what is below 2^-127 zero. The sum is that of the rounded ones.
// between() is called in the middle. kHuge: scores may be so large that what rounding loses of a scaled one leaves the
// fixed point.
template <bool kWhole, bool kBiased, bool kHuge, class Between>
ALWAYS_INLINE inline __m512 exponentials(const float* scores, const float* bias, const RowOfScores& row,
                                         std::int64_t valid, __m512i* p, const Between& between) {
    using Simd = Avx512Bf16;
    using F = Simd::F;
    const F factor = Simd::set(row.factor), offset = Simd::set(kHuge ? kFixedOne : row.offset);
    const F reference = Simd::set(row.reference);
    const auto load = [&](const float* at) ALWAYS_INLINE -> F {
        if constexpr (kHuge) return Simd::load(at) - reference;
        return Simd::load(at);
    };
    __m512i half = _mm512_set1_epi16(static_cast<short>(0x8000));
    asm("" : "+v"(half));  // so that GCC doesn't make a shift of it, which only one port takes
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
#pragma GCC unroll 4
    for (int i = 0; i < kBlockSteps; ++i, scores += kTileKeys) {
        F offsets[2] = {offset, offset};
        if constexpr (kBiased) {  // in the order of the panels' keys, see pack_head_for_amx
            const __m512i low = _mm512_loadu_si512(bias + i * kTileKeys);
            const __m512i high = _mm512_loadu_si512(bias + i * kTileKeys + Simd::kLanes);
            const F first = reinterpret_cast<F>(_mm512_shuffle_i32x4(low, high, 0x88));
            const F second = reinterpret_cast<F>(_mm512_shuffle_i32x4(low, high, 0xdd));
            offsets[0] = Simd::fma(first, Simd::set(256.0f), offset);
            offsets[1] = Simd::fma(second, Simd::set(256.0f), offset);
        }
        const __m512i u =
            _mm512_packus_epi32(_mm512_cvtps_epi32(Simd::fma(load(scores), factor, offsets[0])),
                                _mm512_cvtps_epi32(Simd::fma(load(scores + Simd::kLanes), factor, offsets[1])));
        const __m512i f = _mm512_and_si512(u, _mm512_set1_epi16(255));
        const __m512i slope =
            _mm512_sub_epi16(_mm512_set1_epi16(22350), _mm512_maddubs_epi16(u, _mm512_set1_epi16(85)));
        const __m512i g = _mm512_mulhi_epu16(slope, f);
        __m512i e = _mm512_mulhi_epu16(_mm512_sub_epi16(u, g), half);
        if constexpr (!kWhole) {  // keys past the end get probability zero
            const auto n = std::clamp<std::int64_t>(valid - i * kTileKeys, 0, kTileKeys);
            e = _mm512_maskz_mov_epi16(static_cast<__mmask32>((std::uint64_t{1} << n) - 1), e);
        }
        p[i] = e;
        sums[i % 2] = add_pairs_of_bf16(sums[i % 2], e);
        if (i == kBlockSteps / 2 - 1) between();
    }
    return sums[0] + sums[1];
}

}  // namespace
}  // namespace astfast
