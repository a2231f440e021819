// The multiplier that every tier has: float32 by fused multiply-add. For bfloat16 its operands are rounded to that
// first, and B is kept in it, for int8 quantised to whole numbers: how those precisions run where there is no
// instruction for them.

namespace astfast {
namespace {

// Columns of B in pairs of bfloat16.
template <class VectorType>
struct Bf16Columns {
    using V = VectorType;
    using Activation = std::uint16_t;
    using Operand = std::uint16_t;
    static constexpr bool kRounds = false, kQuantised = false;  // storing rounds
    static constexpr int kUnit = 2, kUnits = 1, kRowsTogether = 1;
};

template <class VectorType, class Shape, Precision kPrecision>
struct FloatGemm : Shape, SignedBytes, DotTiles<FloatGemm<VectorType, Shape, kPrecision>> {
    using V = VectorType;
    using Activation = std::conditional_t<kPrecision == Precision::kFloat32, float, std::uint16_t>;
    using Operand = float;
    using Vector = typename V::F;
    using Sum = typename V::F;
    static constexpr bool kRounds = kPrecision == Precision::kBfloat16, kQuantised = kPrecision == Precision::kInt8;
    static constexpr int kUnit = kRounds ? 2 : 1, kUnits = 1;

    using Columns = std::conditional_t<kRounds, Bf16Columns<V>, FloatGemm>;
    using Values = FloatGemm;

    static Vector load(const std::byte* b) { return V::load(reinterpret_cast<const float*>(b)); }
    static Vector load(const std::byte* b, int of_pair) {
        using I = typename V::I;
        if (of_pair == 0) return reinterpret_cast<Vector>(reinterpret_cast<I>(load(b)) << 16);
        asm volatile("" : "+r"(b));  // read again: kept, pairs would take registers that sums need
        return reinterpret_cast<Vector>(reinterpret_cast<I>(load(b)) & ~0xffff);
    }
    static Vector broadcast(const std::byte* a) { return V::set(*reinterpret_cast<const float*>(a)); }
    static Sum first(const std::byte*, int) { return V::zero(); }
    static typename V::F load_sum(const float* c) { return V::load(c); }
    static Sum dot(Sum acc, Vector a, Vector b) { return V::accumulate(acc, a, b); }

    static void pack_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel) {
        using I = typename V::I;
        const std::int64_t columns = std::min(width, head.head_dim - d);
        auto* to = reinterpret_cast<float*>(panel);
        for (std::int64_t key = 0; key < head.keys; key += kUnit, to += width) {
            const Activation* from = static_cast<const Activation*>(head.v) + key * head.kv_stride + d;
            for_vectors<V>(columns, [&](std::int64_t i, int n) {
                Vector v = load_as_float<V>(from + i, n);
                if constexpr (kRounds) {
                    const bool pair = key + 1 < head.keys;
                    const Vector next = pair ? load_as_float<V>(from + head.kv_stride + i, n) : V::zero();
                    v = reinterpret_cast<Vector>((reinterpret_cast<I>(v) >> 16 & 0xffff) | reinterpret_cast<I>(next));
                }
                V::store(to + i, v);
            });
            for (std::int64_t i = (columns + V::kLanes - 1) / V::kLanes * V::kLanes; i < width; i += V::kLanes) {
                V::store(to + i, V::zero());
            }
        }
    }
};

}  // namespace
}  // namespace astfast
