// The softmax of 16-bit and quantised attention on vectors of 512 bits, beside products: those use the multipliers,
// exponentials the other units more.

namespace astfast {
namespace {

// 2^30 * 2^(i / 32)
constexpr std::uint32_t kExp2[] = {
    1073741824u, 1097253708u, 1121280436u, 1145833280u, 1170923762u, 1196563654u, 1222764986u, 1249540052u, 1276901417u,
    1304861917u, 1333434672u, 1362633090u, 1392470869u, 1422962010u, 1454120821u, 1485961921u, 1518500250u, 1551751076u,
    1585730000u, 1620452965u, 1655936265u, 1692196547u, 1729250827u, 1767116489u, 1805811301u, 1845353420u, 1885761398u,
    1927054196u, 1969251188u, 2012372174u, 2056437387u, 2101467502u, 2147483648u};

// A power of two of 32 parts of its fraction: at(i) is the power at i / 32, in 16 bits.
template <class At>
constexpr Lines exp2_lines(const At& at) {
    Lines lines{};
    for (int i = 0; i < 32; ++i) {
        lines.starts[i] = static_cast<std::uint16_t>(at(i));
        lines.lengths[i] = static_cast<std::uint16_t>(at(i) < at(i + 1) ? at(i + 1) - at(i) : at(i) - at(i + 1));
    }
    return lines;
}

// The largest of a row of scores in float32, and whether one is NaN.
template <class Simd>
class MaximumOfFloats {
  public:
    static constexpr float kNone = -std::numeric_limits<float>::infinity();

    ALWAYS_INLINE MaximumOfFloats() : largest_(Simd::set(kNone)) {}  // an implicit one has no instruction set

    ALWAYS_INLINE void take(const float* scores) {
#pragma GCC unroll 2
        for (int j = 0; j < 64; j += 2 * Simd::kLanes) {
            const auto x = Simd::load(scores + j), y = Simd::load(scores + j + Simd::kLanes);
            largest_ = Simd::max(Simd::max(largest_, x), y);
            nan_ |= _mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q);
        }
    }
    ALWAYS_INLINE float largest() const { return Simd::largest(largest_); }
    ALWAYS_INLINE bool nan() const { return nan_ != 0; }

  private:
    typename Simd::F largest_;
    __mmask16 nan_ = 0;
};

// Scores of queries -> probabilities as operands, in place, zero up to a multiple of 64, and the inverse of their sum.
// Each call takes the next kMaxRows queries, with multiply() after each 32 keys. The maximum of a row is found beside
// the exponentials of the one before. Probabilities has
//   Score                           type of a score
//   kUnits                          of as many rows, as many units of products as 32 keys
//   Maximum                         of a row: take(scores) of 64 of them, largest(), nan() if one may make its row NaN
//   pad(row, keys, end)             makes scores from `keys` to `end` none, if products didn't
//   Probabilities(largest, factor)  of a row: exp(factor (score - largest))
//   words(scores)                   32 scores -> probabilities in 16 bits, in packing's order; adds to the sum
//   store(at, key, low, high)       the words of 64 keys from `key` on, as operands of a row that begins at `at`
//   sum(keys, pads, last)           of that many, of which `pads` are none, with the score `last`
template <class Simd, class Probabilities>
class BesideSoftmax {
  public:
    static constexpr int kMaxRows = 4, kUnits = Probabilities::kUnits;
    static constexpr bool kHasUnits = false;

    using Score = typename Probabilities::Score;

    BesideSoftmax(Score* scores, std::int64_t stride, std::int64_t keys, std::int64_t queries, const float* factors,
                  float* inverse_sums)
        : scores_(scores),
          stride_(stride),
          keys_((keys + 63) / 64 * 64),
          pads_(keys_ - keys),
          queries_(queries),
          factors_(factors),
          inverse_sums_(inverse_sums) {
        for (std::int64_t r = 0; r < queries; ++r) Probabilities::pad(scores + r * stride, keys, keys_);
        Maximum maximum;
        for (std::int64_t i = 0; i < keys_; i += 64) maximum.take(scores + i);
        maximum_ = maximum;
    }

    template <class Multiply>
    ALWAYS_INLINE void operator()(const Multiply& multiply) const {
        for (const std::int64_t end = std::min(next_ + kMaxRows, queries_); next_ < end; ++next_) {
            Score* const row = scores_ + next_ * stride_;
            inverse_sums_[next_] = 1.0f / exponentials(row, next_ + 1 < queries_ ? row + stride_ : row, multiply);
        }
    }

  private:
    using Maximum = typename Probabilities::Maximum;

    // Of one row; leaves the maximum of the row `following`.
    template <class Multiply>
    ALWAYS_INLINE float exponentials(Score* row, const Score* following, const Multiply& multiply) const {
        Probabilities probabilities(maximum_.largest(), factors_[next_]);
        const Score last = row[keys_ - 1];
        Maximum maximum;
        auto* const bytes = reinterpret_cast<std::byte*>(row);
        for (std::int64_t i = 0; i < keys_; i += 64) {
            const __m512i low = probabilities.words(row + i);
            multiply();
            const __m512i high = probabilities.words(row + i + 32);
            Probabilities::store(bytes, i, low, high);
            maximum.take(following + i);
            multiply();
        }
        const bool nan = maximum_.nan();
        maximum_ = maximum;
        return nan ? std::numeric_limits<float>::quiet_NaN() : probabilities.sum(keys_, pads_, last);
    }

    Score* scores_;
    std::int64_t stride_, keys_, pads_, queries_;
    const float* factors_;
    float* inverse_sums_;
    mutable std::int64_t next_ = 0;
    mutable Maximum maximum_;  // of the next query's scores
};

}  // namespace
}  // namespace astfast
