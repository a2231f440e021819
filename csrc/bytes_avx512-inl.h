// VPDPBUSD on vectors of 512 bits: unsigned bytes times signed ones.

namespace astfast {
namespace {

template <class VectorType>
struct Avx512Bytes {
    using Simd = VectorType;
    using Bytes = __m512i;
    using Sums = __m512i;

    static Bytes load(const std::byte* b) { return _mm512_loadu_si512(b); }
    static void store(std::byte* b, Bytes x) { _mm512_storeu_si512(b, x); }
    static Bytes repeat(std::int32_t quad) { return _mm512_set1_epi32(quad); }
    static Sums dot(Sums sums, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sums, a, b); }
};

}  // namespace
}  // namespace astfast
