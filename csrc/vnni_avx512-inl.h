// VPDPBUSD on vectors of 512 bits: tiles of 8 x 48, and of 6 x 64 for keys, whose scores are words (word_scores-inl.h).

namespace astfast {
namespace {

// Instructions in the tiles that products with keys have.
template <class Instructions>
struct KeysOf : Instructions {
    using Shape = TileShape<typename Instructions::Simd, 4, 24, 4, WholePanels>;
};

template <class VectorType>
struct Avx512Vnni {
    using Simd = VectorType;
    using Shape = TileShape<Simd, 4, 24, 3, WholePanels>;
    using Gelu = GeluOnLines<Simd>;
    using Bytes = __m512i;
    using Sums = __m512i;

    static Bytes load(const std::byte* b) { return _mm512_loadu_si512(b); }
    static void store(std::byte* b, Bytes x) { _mm512_storeu_si512(b, x); }
    static Bytes repeat(std::int32_t quad) { return _mm512_set1_epi32(quad); }
    static Sums dot(Sums sums, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sums, a, b); }
    static typename Simd::F as_float(Sums sums) { return _mm512_cvtepi32_ps(sums); }

    using Scores = WordScores<KeysOf<Avx512Vnni>>;
    using Softmax = BesideSoftmax<Simd, ProbabilitiesOfWords<Simd>>;
};

template <class VectorType>
using VnniGemm = VnniProduct<true, Avx512Vnni<VectorType>>;

}  // namespace
}  // namespace astfast
