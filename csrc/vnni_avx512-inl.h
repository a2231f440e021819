// VPDPBUSD on vectors of 512 bits: tiles of 8 x 48, and of 6 x 64 for keys, whose scores are words (word_scores-inl.h).

namespace astfast {
namespace {

// Instructions in the tiles that products with keys have.
template <class Instructions>
struct KeysOf : Instructions {
    using Shape = TileShape<typename Instructions::Simd, 4, 24, 4, WholePanels>;
};

template <class VectorType>
struct Avx512Vnni : Avx512Bytes<VectorType> {
    using Simd = VectorType;
    using Shape = TileShape<Simd, 4, 24, 3, WholePanels>;
    using Gelu = GeluOnLines<Simd>;

    static typename Simd::F as_float(__m512i sums) { return _mm512_cvtepi32_ps(sums); }

    using Scores = WordScores<KeysOf<Avx512Vnni>>;
    using Softmax = BesideSoftmax<Simd, ProbabilitiesOfWords<Simd>>;
};

template <class VectorType>
using VnniGemm = VnniProduct<true, Avx512Vnni<VectorType>>;

}  // namespace
}  // namespace astfast
