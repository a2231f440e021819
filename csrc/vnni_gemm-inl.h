// int8 by VPDPBUSD, which multiplies unsigned by signed bytes: rows of A are offset by 128, and every sum starts from
// -128 times its column's sum, of which an epilogue adds the part by which a row's range is off centre; probabilities
// are unsigned as they are. Sums are exact.

namespace astfast {
namespace {

// Instructions has its vectors and their operations:
//   Simd, Shape               vectors of float32, of as many bytes as Bytes; the TileShape
//   Bytes, Sums               vectors of bytes, of sums
//   load(p), store(p, x)
//   repeat(quad)              int32 -> Bytes, four bytes in all lanes
//   first(n, byte)            int64, int -> Bytes: `byte` in the first n, zero in the others
//   dot(sums, a, b)           -> Sums, unsigned bytes of a times signed ones of b
//   as_float(sums)            -> Simd::F
//   Softmax, or probability_levels(n), as attention asks for
template <bool kOffset, class Instructions>
struct VnniProduct : Instructions, Instructions::Shape, DotTiles<VnniProduct<kOffset, Instructions>> {
    using Simd = typename Instructions::Simd;
    using Activation = std::uint16_t;
    using Operand = std::conditional_t<kOffset, std::uint8_t, std::int8_t>;  // how it is stored: offset or not
    using Vector = typename Instructions::Bytes;
    using Sum = typename Instructions::Sums;
    using WeightPacking = VnniProduct;
    using ValueGemm = VnniProduct<false, Instructions>;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 4, kPadUnits = 1, kBytes = sizeof(Vector);

    // As many as initial sums of k weights have room for.
    static float quant_levels(std::int64_t k) { return std::min(127.0f, static_cast<float>(0x7fff0000 / (128 * k))); }

    static Sum initial_sum(const std::byte* end, int vector) {
        if constexpr (!kOffset) return Sum{};
        return reinterpret_cast<Sum>(Instructions::load(end + VnniProduct::kPanel * 4 + vector * kBytes));
    }

    static Vector broadcast(const std::byte* a) {
        std::int32_t quad;
        std::memcpy(&quad, a, sizeof quad);
        return Instructions::repeat(quad);
    }

    // Turns a row of weights, quantised like a row of A, into signed bytes; returns the initial sum of its column.
    template <class Row>
    static std::int32_t make_weights(const Row& row, std::int64_t k) {
        Sum sums{};
        for (std::int64_t i = 0; i < k; i += kBytes) {
            auto* const at = reinterpret_cast<std::byte*>(row.at(i));
            const Vector w = Instructions::load(at) ^ Instructions::first(k - i, -128);
            Instructions::store(at, w);
            sums = Instructions::dot(sums, Instructions::first(k - i, 1), w);
        }
        const auto lanes = reinterpret_cast<typename Simd::I>(sums);
        std::uint32_t sum = 0;
        for (int i = 0; i < Simd::kLanes; ++i) sum += static_cast<std::uint32_t>(lanes[i]);
        return static_cast<std::int32_t>(-128u * sum);
    }
};

}  // namespace
}  // namespace astfast
