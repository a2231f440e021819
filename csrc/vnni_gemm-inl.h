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
//   dot(sums, a, b)           -> Sums, unsigned bytes of a times signed ones of b
//   as_float(sums)            -> Simd::F
//   Scores and Softmax, or probability_levels(n), as attention asks for
template <bool kOffset, class Instructions>
struct VnniProduct : Instructions,
                     Instructions::Shape,
                     OffsetBytes<VnniProduct<kOffset, Instructions>, Instructions>,
                     DotTiles<VnniProduct<kOffset, Instructions>> {
    using Simd = typename Instructions::Simd;
    using Activation = std::uint16_t;
    using Operand = std::conditional_t<kOffset, std::uint8_t, std::int8_t>;  // how it is stored: offset or not
    using Vector = typename Instructions::Bytes;
    using Sum = typename Instructions::Sums;
    using WeightPacking = VnniProduct;
    using ValueGemm = VnniProduct<false, Instructions>;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 4, kPadUnits = 1, kBytes = sizeof(Vector);

    static Sum initial_sum(const std::byte* end, int vector) {
        if constexpr (!kOffset) return Sum{};
        return reinterpret_cast<Sum>(Instructions::load(end + VnniProduct::kPanel * 4 + vector * kBytes));
    }

    static Vector broadcast(const std::byte* a) {
        std::int32_t quad;
        std::memcpy(&quad, a, sizeof quad);
        return Instructions::repeat(quad);
    }
};

}  // namespace
}  // namespace astfast
