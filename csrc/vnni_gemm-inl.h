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

    // Turns a panel of weights, quantised like rows of A, into signed bytes.
    static void make_weights(std::byte* panel, std::int64_t k, std::int32_t* initial_sums) {
        const std::int64_t units = (k + 3) / 4;
        const std::uint32_t last = ~std::uint32_t{0} >> (units * 4 - k) * 8;  // bytes of the last unit
        for (std::int64_t v = 0; v < VnniProduct::kPanel; v += Simd::kLanes) {
            Sum sums{};
            for (std::int64_t unit = 0; unit < units; ++unit) {
                const std::uint32_t mask = unit + 1 < units ? ~std::uint32_t{0} : last;
                const auto bytes = [&](std::uint32_t quad) {
                    return Instructions::repeat(static_cast<std::int32_t>(quad & mask));
                };
                std::byte* const at = panel + (unit * VnniProduct::kPanel + v) * 4;
                const Vector w = Instructions::load(at) ^ bytes(0x80808080);
                Instructions::store(at, w);
                sums = Instructions::dot(sums, bytes(0x01010101), w);
            }
            const auto times_minus_128 = (~reinterpret_cast<typename Simd::I>(sums) + 1) << 7;
            std::memcpy(initial_sums + v, &times_minus_128, sizeof times_minus_128);
        }
    }
};

}  // namespace
}  // namespace astfast
