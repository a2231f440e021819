// int8 by VPDPBUSD, which multiplies unsigned by signed bytes: rows of A are offset by 128, and every sum starts from
// -128 times its column's sum; probabilities are unsigned as they are. Sums are exact. Tiles of 8 x 48.

namespace astfast {
namespace {

template <bool kOffset>
struct VnniProduct : TileShape<Avx512, 4, 24, 3, WholePanels>, DotTiles<VnniProduct<kOffset>> {
    using Simd = Avx512;
    using Activation = std::uint16_t;
    using Operand = std::conditional_t<kOffset, std::uint8_t, std::int8_t>;  // how it is stored: offset or not
    using Vector = __m512i;
    using Sum = __m512i;
    using WeightPacking = VnniProduct;
    using ValueGemm = VnniProduct<false>;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 4, kPadUnits = 1;

    static float quant_levels(std::int64_t k) { return levels_with_room(k, 127.0f); }
    static float probability_levels(std::int64_t) { return 255.0f; }

    static Sum initial_sum(const std::byte* end, int vector) {
        return kOffset ? _mm512_loadu_si512(end + VnniProduct::kPanel * 4 + vector * 64) : _mm512_setzero_si512();
    }
    static Simd::F load_sum(const float* c) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(c)); }

    static Vector load(const std::byte* b) { return _mm512_loadu_si512(b); }
    static Vector broadcast(const std::byte* a) {
        std::int32_t quad;
        std::memcpy(&quad, a, sizeof quad);
        return _mm512_set1_epi32(quad);
    }
    static Sum dot(Sum acc, Vector a, Vector b) { return _mm512_dpbusd_epi32(acc, a, b); }

    // Turns a row of weights, quantised like a row of A, into signed bytes; returns the initial sum of its column.
    template <class Row>
    static std::int32_t make_weights(const Row& row, std::int64_t k) {
        std::uint32_t sum = 0;  // modulo 2^32, as the products are added: it is the end that has room
        for (std::int64_t i = 0; i < k; ++i) {
            const int w = *row.at(i) - 128;
            *row.at(i) = static_cast<std::uint8_t>(w);
            sum += static_cast<std::uint32_t>(w);
        }
        return static_cast<std::int32_t>(-128 * sum);
    }
};

using VnniGemm = VnniProduct<true>;

}  // namespace
}  // namespace astfast
