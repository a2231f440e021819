// The multiplier that every tier has: float32 by fused multiply-add. For bfloat16 its operands are rounded to that
// first, for int8 quantised to whole numbers: how those precisions run where there is no instruction for them.

namespace astfast {
namespace {

template <class VectorType, class Shape, class Blocks, Precision kPrecision>
struct FloatGemm : Shape, Blocks, DotTiles<FloatGemm<VectorType, Shape, Blocks, kPrecision>> {
    using V = VectorType;
    using Activation = std::conditional_t<kPrecision == Precision::kFloat32, float, std::uint16_t>;
    using Operand = float;
    using Vector = typename V::F;
    using Sum = typename V::F;
    static constexpr bool kRounds = kPrecision == Precision::kBfloat16, kQuantised = kPrecision == Precision::kInt8;
    static constexpr int kUnit = 1, kUnits = 1;
    static constexpr int kPanel = Shape::kWeightVectors * V::kLanes, kMaxWidth = Shape::kMaxVectors * V::kLanes;
    static constexpr int kColumnsTogether = kPanel, kQueryTile = 24;

    using Values = FloatGemm;
    static float steps(std::int64_t) { return 127.0f; }

    static Vector load(const std::byte* b) { return V::load(reinterpret_cast<const float*>(b)); }
    static Vector broadcast(const std::byte* a) { return V::set(*reinterpret_cast<const float*>(a)); }
    static Sum first(const std::byte*, int) { return V::zero(); }
    static typename V::F load_sum(const float* c) { return V::load(c); }
    template <class Row>
    static std::int32_t make_weights(const Row&, std::int64_t) {
        return 0;
    }
    static Sum dot(Sum acc, Vector a, Vector b) { return V::fma(a, b, acc); }

    static void pack_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel) {
        const std::int64_t columns = std::min(width, head.head_dim - d);
        auto* to = reinterpret_cast<float*>(panel);
        for (std::int64_t key = 0; key < head.keys; ++key, to += width) {
            const Activation* from = static_cast<const Activation*>(head.v) + key * head.kv_stride + d;
            for_vectors<V>(columns, [&](std::int64_t i, int n) { V::store(to + i, load_as_float<V>(from + i, n)); });
            for (std::int64_t i = (columns + V::kLanes - 1) / V::kLanes * V::kLanes; i < width; i += V::kLanes) {
                V::store(to + i, V::zero());
            }
        }
    }
};

}  // namespace
}  // namespace astfast
