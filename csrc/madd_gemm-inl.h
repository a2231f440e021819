// int8 where no instruction multiplies bytes: VPMADDWD multiplies pairs of 16-bit numbers, and adds them in 32 bits. So
// operands keep as many levels as their sums have room for (1,672 for sums of 768 products, where bytes have 127), at
// no cost. By bytes, VPMADDUBSW would be a quarter faster, but saturates unless weights have 7 bits.

namespace astfast {
namespace {

template <class Shape>
struct MaddGemm : Shape, SignedBytes, DotTiles<MaddGemm<Shape>> {
    using Simd = Avx2;
    using Activation = std::uint16_t;
    using Operand = std::int16_t;
    using Vector = __m256i;
    using Sum = Simd::I;
    using WeightPacking = MaddGemm;
    using ValueGemm = MaddGemm;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 2, kPadUnits = 1;

    static float quant_levels(std::int64_t k) { return levels_with_room(k, 32767.0f); }
    static float probability_levels(std::int64_t keys) { return quant_levels(keys); }

    static Vector load(const std::byte* b) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)); }
    static Vector broadcast(const std::byte* a) {
        std::int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        return _mm256_set1_epi32(pair);
    }
    static Sum initial_sum(const std::byte*, int) { return Sum{}; }
    static Simd::F as_float(Sum sum) { return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(sum)); }
    static Sum dot(Sum acc, Vector a, Vector b) {
        Vector products;  // together, or GCC 12 takes all products of an unrolled step first and spills them
        asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(products) : "x"(a), "x"(b));
        return acc;
    }
};

}  // namespace
}  // namespace astfast
