// Scores of quantised attention as words of 16 bits, 32 in a vector of 512: what multiplies beside products with keys
// and values takes their time, and a word costs half of a float. A sum of 64 products of bytes has 21 bits. Dropping
// five of them is an error of 9 rms where rounding queries and keys to bytes has left one of 137 (numbers that are
// normally distributed, three deviations the largest).
//
// Column 16 v + i of a panel of 64 keys is key 4 i + v: words, and bytes of probabilities, end in the order of the keys
// without a shuffle.

namespace astfast {
namespace {

// A score is (sum >> shift) * the scale of its key / the largest such scale, within 127 / 128 of a word's range;
// columns without a key have -2^15 + 1, below all others.
template <class Instructions>
struct WordScores {
    using KeyGemm = VnniProduct<true, Instructions>;
    using Simd = typename KeyGemm::Simd;
    using I = typename Simd::I;
    using F = typename Simd::F;
    using Score = std::int16_t;
    static constexpr std::int64_t kQueries = 48;
    static constexpr std::int64_t kPanel = KeyGemm::kPanel;
    static_assert(kPanel == 4 * Simd::kLanes && Simd::kLanes == 16);

    static std::int64_t columns(std::int64_t) { return kPanel; }
    static std::int64_t key_of(std::int64_t column) { return column % 16 * 4 + column / 16; }

    // What factor() needs: scales that scores are to be multiplied by, the largest bias, a line further biases by
    // column.
    template <class Layout>
    static std::int64_t extra_bytes(const Layout& layout) {
        return 64 + layout.key_panels * kPanel * 4;
    }

    // By how many bits sums of products over this width are longer than words: 5 up to 64, 6 up to 128.
    static int shift_of(std::int64_t head_dim) {
        int shift = 5;
        while (head_dim > std::int64_t{2} << shift) ++shift;
        return shift;
    }

    // Scales of a panel's columns -> words, in place.
    template <class Layout>
    static void finish_keys(const Head& head, const Layout& layout, std::byte* packed, std::byte* extra) {
        const auto end_of = [&](std::int64_t panel) {
            return packed + (panel + 1) * layout.key_panel_bytes - PanelScales::bytes(kPanel);
        };
        I bits{};
        for (std::int64_t panel = 0; panel < layout.key_panels; ++panel) {
            for (std::int64_t i = 0; i < kPanel; i += Simd::kLanes) {
                bits = larger_magnitude<Simd>(bits, Simd::load(PanelScales::scales(end_of(panel)) + i));
            }
        }
        const Levels levels(Simd::largest(bits), 32767.0f);
        const auto factor = reinterpret_cast<float*>(extra);
        const int shift = shift_of(head.head_dim);
        *factor = levels.scale * static_cast<float>(1 << (15 + shift));

        for (std::int64_t column = 0; column < kPanel; ++column) {
            const std::int64_t panel = layout.key_panels - 1;
            if (panel * kPanel + key_of(column) < head.keys) continue;
            PanelScales::scales(end_of(panel))[column] = levels.scale * 32767.0f;
            PanelScales::initial_sums(end_of(panel), kPanel)[column] = -(1 << (15 + shift));
        }
        for (std::int64_t panel = 0; panel < layout.key_panels; ++panel) {
            float* const scales = PanelScales::scales(end_of(panel));
            const auto whole = [&](int v) { return nearest(Simd::load(scales + 16 * v) * Simd::set(levels.inverse)); };
            const __m512i first = words(whole(0), whole(2) << 16), second = words(whole(1), whole(3) << 16);
            _mm512_storeu_si512(scales, first);
            _mm512_storeu_si512(scales + 16, second);
        }
        if (head.bias == nullptr) return;
        factor[1] = *std::max_element(head.bias, head.bias + head.keys);
        for (std::int64_t i = 0; i < layout.key_panels * kPanel; ++i) {
            factor[16 + i] = head.bias[i / kPanel * kPanel + key_of(i % kPanel)];
        }
    }

    // C, where rows of sums become scores.
    struct Stored {
        static constexpr bool kResumes = false;

        std::int16_t* c;
        std::int64_t stride;
        const float* scales;  // of columns, in words
        I drop, keep;         // so many bits, of a sum and of a word

        template <int kVectors>
        ALWAYS_INLINE void next(const typename KeyGemm::Sum (&sums)[kVectors]) {
            static_assert(kVectors == 4);
            unrolled<2>([&](auto half) ALWAYS_INLINE {
                const auto even = reinterpret_cast<I>(sums[half]), odd = reinterpret_cast<I>(sums[half + 2]);
                const __m512i scale = _mm512_loadu_si512(scales + 16 * half);
                _mm512_storeu_si512(c + 32 * half, _mm512_mulhrs_epi16(words(even >> drop, odd << keep), scale));
            });
            c += stride;
        }
    };

    template <class Layout>
    static Stored stored(std::int16_t* row, const Layout& layout, const std::byte* end) {
        const int shift = shift_of(layout.head_dim);
        return {row, layout.score_stride, reinterpret_cast<const float*>(end), I{} + shift, I{} + (16 - shift)};
    }

    template <class Layout>
    static float factor(float query_scale, const Layout& layout, const std::byte* extra, const Head& head,
                        std::int16_t* row) {
        const auto* const values = reinterpret_cast<const float*>(extra);
        const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head.head_dim));
        const float factor = scale * query_scale * values[0];
        if (head.bias == nullptr) return factor;
        // In units of which a word has room for the largest score and the largest bias (values[1], log2) together.
        constexpr float kLn2 = 0x1.62e430p-1f, kLargest = 127.0f / 128.0f * 0x1p15f, kRoom = kLargest + 200.0f;
        const float limited = std::clamp(factor, 0x1p-100f, 0x1p100f);
        if (!(limited == limited)) return factor;
        const float unit = std::max(limited, (kLargest * limited + kLn2 * values[1]) * (1.0f / kRoom));
        const auto share = static_cast<short>(std::min(32767.0f, 0x1p15f * (limited / unit)));
        const auto bias_scale = Simd::set(kLn2 / unit), least = Simd::set(-0x1p15f);
        for (std::int64_t i = 0; i < layout.key_panels * kPanel; i += 32) {
            const float* const bias = values + 16 + i / kPanel * kPanel + i % kPanel / 2;
            const auto of = [&](const float* x) { return nearest(Simd::max(least, Simd::load(x) * bias_scale)); };
            const __m512i added = words(of(bias), of(bias + 32) << 16);
            const __m512i scores = _mm512_mulhrs_epi16(_mm512_loadu_si512(row + i), _mm512_set1_epi16(share));
            _mm512_storeu_si512(row + i, _mm512_adds_epi16(scores, added));
        }
        return unit;
    }

  private:
    static I nearest(F x) { return reinterpret_cast<I>(_mm512_cvtps_epi32(x)); }

    // Of each lane the lower half of `even` and the upper one of `odd`.
    static __m512i words(I even, I odd) {
        return _mm512_mask_blend_epi16(0xaaaaaaaa, reinterpret_cast<__m512i>(even), reinterpret_cast<__m512i>(odd));
    }
};

// 255 exp(factor (score - largest)) of words, rounded to bytes; their sum before that, in 128ths. u = -log2 of one has
// 6 whole bits and 10 of fraction, 2^-fraction of 16 bits is a straight line in each of 32 parts, looked up, and the
// whole part shifts it.
template <class Simd>
class ProbabilitiesOfWords {
  public:
    using Score = std::int16_t;
    static constexpr int kUnits = 2;

    class Maximum {
      public:
        ALWAYS_INLINE Maximum() : largest_(all(-32768)) {}  // an implicit one has no instruction set

        ALWAYS_INLINE void take(const std::int16_t* scores) {
            const __m512i x = _mm512_loadu_si512(scores), y = _mm512_loadu_si512(scores + 32);
            largest_ = _mm512_max_epi16(_mm512_max_epi16(largest_, x), y);
        }
        ALWAYS_INLINE int largest() const {
            using I = typename Simd::I;
            const I pairs = reinterpret_cast<I>(largest_), low = pairs << 16 >> 16, high = pairs >> 16;
            return Simd::largest((low > high ? low : high) + 32768) - 32768;
        }
        ALWAYS_INLINE bool nan() const { return false; }

      private:
        __m512i largest_;
    };

    static void pad(std::int16_t*, std::int64_t, std::int64_t) {}  // WordScores did

    ALWAYS_INLINE ProbabilitiesOfWords(int largest, float factor)
        : factor_(factor),
          range_(factor),
          top_(all(largest)),
          furthest_(all(range_.furthest)),
          shift_(all(range_.shift)),
          multiplier_(all(range_.multiplier)),
          largest_(largest) {}

    ALWAYS_INLINE __m512i words(const std::int16_t* scores) {
        const __m512i below = _mm512_min_epu16(_mm512_sub_epi16(top_, _mm512_loadu_si512(scores)), furthest_);
        const __m512i u = _mm512_mulhi_epu16(_mm512_sllv_epi16(below, shift_), multiplier_);
        const auto on = OnLines::of<5>(u, kLines);
        const __m512i p = _mm512_srlv_epi16(_mm512_sub_epi16(on.start, on.along), _mm512_srli_epi16(u, 10));
        const __m512i rounded = _mm512_avg_epu16(p, all(2 * kHalf));  // of 15 bits, and kHalf
        sums_ = _mm512_dpwssd_epi32(sums_, rounded, all(1));
        return rounded;
    }

    ALWAYS_INLINE static void store(std::byte* at, std::int64_t key, __m512i low, __m512i high) {
        const __m512i even = _mm512_srli_epi16(low, 7), odd = _mm512_slli_epi16(high, 1);
        _mm512_storeu_si512(at + key, _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, even, odd));
    }

    ALWAYS_INLINE float sum(std::int64_t keys, std::int64_t pads, std::int16_t last) const {
        const auto too_much = static_cast<float>(keys * kHalf + pads * (word(last) - kHalf));
        const float sum = Simd::sum(_mm512_cvtepi32_ps(sums_)) - too_much;
        return sum * 0x1p-7f + 0.0f * std::min(factor_, 1.0f);  // NaN if factor is
    }

  private:
    // u of a distance: (the distance, at most furthest) << shift, times multiplier >> 16.
    struct Range {
        int furthest = 0, shift = 0, multiplier = 0;

        explicit Range(float factor) {
            if (!(factor == factor)) return;
            const float steps = std::min(factor, 0x1p20f) * 0x1.715476p+10f;
            std::int32_t bits;
            std::memcpy(&bits, &steps, sizeof bits);
            shift = std::clamp((bits >> 23) - 126, 0, 15);
            multiplier = static_cast<int>(std::min(65535.0f, steps * static_cast<float>(1 << (16 - shift))));
            furthest = 65535 >> shift;
        }
    };

    // words() of one score.
    int word(int score) const {
        const auto steps = static_cast<std::uint32_t>(std::min(largest_ - score, range_.furthest)) << range_.shift;
        const auto u = static_cast<int>(steps * static_cast<std::uint32_t>(range_.multiplier) >> 16);
        const int line = u >> 5 & 31, along = kLines.lengths[line] * (u << 11 & 0xffff) >> 16;
        return (((kLines.starts[line] - along) >> std::min(u >> 10, 16)) + 2 * kHalf + 1) >> 1;
    }

    ALWAYS_INLINE static __m512i all(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }

    static constexpr int kHalf = 64;  // of a byte's unit, in 15 bits
    // 255 in 256ths at the start.
    static constexpr Lines kLines = exp2_lines([](int i) { return (65280ull * kExp2[32 - i] + (1u << 30)) >> 31; });

    float factor_;
    Range range_;
    __m512i top_, furthest_, shift_, multiplier_, sums_ = _mm512_setzero_si512();
    int largest_;
};

}  // namespace
}  // namespace astfast
