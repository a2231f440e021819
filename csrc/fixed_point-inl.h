// The softmax of tiles of queries, in fixed point, beside products on AMX tiles (amx_attention-inl.h).
//
// Exponentials are taken against a reference score of the row, the largest of its first block, whose probability of 1
// is exact: rounding the largest of all costs the most. The reference is raised, and what was summed so far scaled
// down, only where a block has a score 2^16 above it: rare, and nothing but roundings depends on the reference.

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
// Of `valid` keys, if not kWhole, only the steps that have one. between() is called in the middle, or behind them.
// kHuge: scores may be so large that what rounding loses of a scaled one leaves the fixed point.
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
        if (!kWhole && i * kTileKeys >= valid) break;
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
            const auto n = std::min(valid - i * kTileKeys, kTileKeys);
            e = _mm512_maskz_mov_epi16(static_cast<__mmask32>((std::uint64_t{1} << n) - 1), e);
        }
        p[i] = e;
        sums[i % 2] = add_pairs_of_bf16(sums[i % 2], e);
        if (i == kBlockSteps / 2 - 1) between();
    }
    if (!kWhole && valid <= kBlockKeys / 2 - kTileKeys) between();
    return sums[0] + sums[1];
}

// The rows of one tile of queries after the other, a block of their scores at a time.
class FixedPointSoftmax {
    using Simd = Avx512Bf16;
    using F = Simd::F;
    static constexpr float kHeadroom = 0x1p16f;

  public:
    static constexpr std::int64_t kRows = 32;
    static constexpr std::int64_t kStride = kBlockKeys + 16;  // of rows, in floats; an odd number of cache lines

    struct alignas(64) State {
        float sums[kRows][Simd::kLanes];  // of the probabilities so far, by lane
        float reference[kRows];           // a score
        float offset[kRows];              // by which it enters the fixed point
        float factor[kRows];              // scales what was summed before this block
        float inverse[kRows];             // of the sum, of the tile before
    };

    // scale: of scores, whose power of two is a probability.
    FixedPointSoftmax(State& state, float scale) : state_(state), scale_(scale) {}

    // A tile. huge: scores may leave the range of the fixed point, so that the reference follows each block.
    void begin(bool huge) {
        huge_ = huge;
        std::fill_n(state_.sums[0], kRows * Simd::kLanes, 0.0f);
    }

    void begin_block() { rescaled_ = false; }

    // Sixteen rows of a tile's first block, which has `valid` keys, from row `first` on: their references.
    [[gnu::noinline]] void set_references(const float* scores, std::int64_t first, std::int64_t valid) {
        const std::int64_t n = whole_steps(valid);
        const F largest = across_lanes(
            [&](int i) ALWAYS_INLINE {
                const float* const row = scores + (first + i) * kStride;
                F x = Simd::max(Simd::load(row), Simd::load(row + 16));
                for (std::int64_t j = kTileKeys; j < n; j += kTileKeys) {
                    x = Simd::max(x, Simd::max(Simd::load(row + j), Simd::load(row + j + 16)));
                }
                return x;
            },
            Simd::max);
        Simd::store(state_.reference + first, largest);
        Simd::store(state_.offset + first, offset_of(largest));
    }

    // Scores of row r and one block -> probabilities 2^(scale score + bias - reference) in their place, and their sum.
    // kWhole, valid, between: as exponentials() has them.
    template <bool kWhole, bool kBiased, class Between>
    ALWAYS_INLINE void exponentiate(float* row, std::int64_t r, const float* bias, std::int64_t valid,
                                    const Between& between) {
        __m512i p[kBlockSteps];
        F sum = exponentials<kWhole, kBiased, false>(row, bias, row_of(r), valid, p, between);
        if (__builtin_expect(huge_ || _mm512_cmp_ps_mask(sum, Simd::set(kHeadroom), _CMP_NLT_UQ) != 0, false)) {
            raise_reference(row, r, valid);
            sum = exponentials<kWhole, kBiased, true>(row, bias, row_of(r), valid, p, [] {});
        }
        for (int i = 0; i < kBlockSteps; ++i) {
            if (!kWhole && i * kTileKeys >= valid) break;
            _mm512_store_si512(row + i * 16, p[i]);
        }
        asm volatile("" ::: "memory");  // GCC doesn't know that a tile load reads memory
        Simd::store(state_.sums[r], Simd::load(state_.sums[r]) + sum);
    }

    // A reference was raised in this block: what was summed of row r before is to be multiplied by factor(r).
    bool rescaled() const { return rescaled_; }
    float factor(std::int64_t r) const { return state_.factor[r]; }

    // After a tile's last block; inverse(r) of a row's sum stays until the next tile's.
    void invert_sums() {
        for (std::int64_t first = 0; first < kRows; first += 16) {
            const F sum = across_lanes([&](int i) ALWAYS_INLINE { return Simd::load(state_.sums[first + i]); },
                                       [&](F a, F b) ALWAYS_INLINE { return a + b; });
            Simd::store(state_.inverse + first, Simd::set(1.0f) / sum);
        }
    }
    float inverse(std::int64_t r) const { return state_.inverse[r]; }

  private:
    // Floats of a row among which the scores of `valid` keys are, in an order of their own; the others are the last
    // key's.
    static std::int64_t whole_steps(std::int64_t valid) { return (valid + kTileKeys - 1) / kTileKeys * kTileKeys; }

    // Of a reference, or of a vector of them.
    template <class T>
    ALWAYS_INLINE T offset_of(T reference) const {
        return kFixedOne - 256.0f * scale_ * reference;
    }

    ALWAYS_INLINE RowOfScores row_of(std::int64_t r) const {
        return {256.0f * scale_, state_.reference[r], state_.offset[r]};
    }

    // To the largest score of row r and one block, if that is above it; to NaN if a score is.
    void raise_reference(const float* scores, std::int64_t r, std::int64_t valid) {
        const float before = state_.reference[r];
        const std::int64_t n = whole_steps(valid);
        float top = scores[0];
        for (std::int64_t i = 1; i < n; ++i) top = scores[i] > top || scores[i] != scores[i] ? scores[i] : top;
        if (top <= before) return;
        state_.reference[r] = top;
        state_.offset[r] = offset_of(top);
        if (!rescaled_) std::fill(state_.factor, state_.factor + kRows, 1.0f);
        rescaled_ = true;
        state_.factor[r] = exp_of<Simd, false>(Simd::set((before - top) * scale_ * 0x1.62e430p-1f))[0];  // ln 2
        Simd::store(state_.sums[r], Simd::load(state_.sums[r]) * Simd::set(state_.factor[r]));
    }

    State& state_;
    const float scale_;
    bool huge_ = false, rescaled_ = false;
};

}  // namespace
}  // namespace astfast
