// The multiplier that every tier has: float32 by fused multiply-add. For bfloat16 its operands are rounded to that
// first, and B is kept in it, for int8 quantised to whole numbers: how those precisions run where there is no
// instruction for them.

namespace astfast {
namespace {

// How B is packed where it is kept in pairs of bfloat16.
template <class VectorType>
struct Bf16WeightPacking {
    using Simd = VectorType;
    using Activation = std::uint16_t;
    using Operand = std::uint16_t;
    static constexpr bool kRoundsToBf16 = false, kQuantised = false;  // storing rounds
    static constexpr int kElementsPerUnit = 2, kPadUnits = 1, kRowsTogether = 1;
};

template <class VectorType, class Shape, Precision kPrecision>
struct FloatGemm : Shape, SignedBytes, DotTiles<FloatGemm<VectorType, Shape, kPrecision>> {
    using Simd = VectorType;
    using Activation = std::conditional_t<kPrecision == Precision::kFloat32, float, std::uint16_t>;
    using Operand = float;
    using Vector = typename Simd::F;
    using Sum = typename Simd::F;
    static constexpr bool kRoundsToBf16 = kPrecision == Precision::kBfloat16,
                          kQuantised = kPrecision == Precision::kInt8;
    static constexpr int kElementsPerUnit = kRoundsToBf16 ? 2 : 1, kPadUnits = 1;

    using WeightPacking = std::conditional_t<kRoundsToBf16, Bf16WeightPacking<Simd>, FloatGemm>;
    using ValueGemm = FloatGemm;

    static Vector load(const std::byte* b) { return Simd::load(reinterpret_cast<const float*>(b)); }
    static Vector load(const std::byte* b, int of_pair) {
        using I = typename Simd::I;
        if (of_pair == 0) return reinterpret_cast<Vector>(reinterpret_cast<I>(load(b)) << 16);
        asm volatile("" : "+r"(b));  // read again: kept, pairs would take registers that sums need
        return reinterpret_cast<Vector>(reinterpret_cast<I>(load(b)) & ~0xffff);
    }
    static Vector broadcast(const std::byte* a) { return Simd::set(*reinterpret_cast<const float*>(a)); }
    static Sum initial_sum(const std::byte*, int) { return Simd::zero(); }
    static typename Simd::F as_float(Sum sum) { return sum; }
    static Sum dot(Sum acc, Vector a, Vector b) { return Simd::accumulate(acc, a, b); }

    static void pack_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel) {
        using I = typename Simd::I;
        const std::int64_t columns = std::min(width, head.head_dim - d);
        auto* to = reinterpret_cast<float*>(panel);
        for (std::int64_t key = 0; key < head.keys; key += kElementsPerUnit, to += width) {
            const Activation* from = static_cast<const Activation*>(head.v) + key * head.kv_stride + d;
            for_vectors<Simd>(columns, [&](std::int64_t i, int n) {
                Vector v = load_as_float<Simd>(from + i, n);
                if constexpr (kRoundsToBf16) {
                    const bool pair = key + 1 < head.keys;
                    const Vector next = pair ? load_as_float<Simd>(from + head.kv_stride + i, n) : Simd::zero();
                    v = reinterpret_cast<Vector>((reinterpret_cast<I>(v) >> 16 & 0xffff) | reinterpret_cast<I>(next));
                }
                Simd::store(to + i, v);
            });
            for (std::int64_t i = (columns + Simd::kLanes - 1) / Simd::kLanes * Simd::kLanes; i < width;
                 i += Simd::kLanes) {
                Simd::store(to + i, Simd::zero());
            }
        }
    }
};

}  // namespace
}  // namespace astfast
