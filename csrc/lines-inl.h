// Functions of 16-bit words as 32 straight lines, which VPERMW looks up: it takes a third of a cycle beside products,
// where a product takes one.

namespace astfast {
namespace {

// Where each line starts, and how far it goes.
struct Lines {
    alignas(64) std::uint16_t starts[32], lengths[32];
};

// Where the line starts that five bits of a word, from kBit on, name, and how far along it the bits below them are.
struct OnLines {
    __m512i start, along;

    template <int kBit>
    static ALWAYS_INLINE OnLines of(__m512i words, const Lines& lines) {
        const __m512i line = _mm512_srli_epi16(words, kBit), within = _mm512_slli_epi16(words, 16 - kBit);
        return {_mm512_permutexvar_epi16(line, _mm512_load_si512(lines.starts)),
                _mm512_mulhi_epu16(_mm512_permutexvar_epi16(line, _mm512_load_si512(lines.lengths)), within)};
    }
};

// erf(i / 8 / sqrt 2) in 15 bits: least maximum error of each line, of the last one 1 from 3.97 on.
constexpr Lines kErfLines = {
    {2,     3265,  6477,  9590,  12560, 15351, 17931, 20281, 22386, 24244, 25859, 27239, 28402, 29366, 30152, 30784,
     31284, 31673, 31971, 32197, 32364, 32486, 32575, 32637, 32681, 32711, 32731, 32745, 32753, 32759, 32763, 32765},
    {3260, 3209, 3111, 2968, 2789, 2579, 2349, 2106, 1859, 1615, 1382, 1164, 965, 788, 633, 501,
     390,  299,  226,  168,  123,  89,   63,   44,   30,   20,   14,   9,    6,   4,   2,   4}};

// gelu(x) = x / 2 + |x / 2| erf(|x| / sqrt 2), off by 0.00024 |x| at most: for what is quantised to bytes next.
template <class Simd>
struct GeluOnLines {
    using F = typename Simd::F;
    using I = typename Simd::I;

    // x / 2 -> gelu(x), in place.
    template <int kCount>
    static ALWAYS_INLINE void of(F (&halves)[kCount]) {
        unrolled<(kCount + 1) / 2>([&](auto pair) ALWAYS_INLINE {
            constexpr int kFirst = 2 * decltype(pair)::value, kSecond = std::min(kFirst + 1, kCount - 1);
            const F x = magnitude<Simd>(halves[kFirst]), y = magnitude<Simd>(halves[kSecond]);
            const auto on = OnLines::of<10>(_mm512_packus_epi32(words(x), words(y)), kErfLines);
            const __m512i erf = _mm512_add_epi16(on.start, on.along), zero = _mm512_setzero_si512();
            halves[kFirst] = Simd::fma(x, fraction(_mm512_unpacklo_epi16(erf, zero)), halves[kFirst]);
            if constexpr (kSecond > kFirst) {
                halves[kSecond] = Simd::fma(y, fraction(_mm512_unpackhi_epi16(erf, zero)), halves[kSecond]);
            }
        });
    }

  private:
    // |x / 2| up to 2, NaN too, in units of 2^-14.
    static ALWAYS_INLINE __m512i words(F half) {
        const I bits = reinterpret_cast<I>(Simd::min(half, Simd::set(0x1.fffcp+0f)));
        return _mm512_cvtps_epi32(reinterpret_cast<F>(bits + (14 << 23)));
    }
    static ALWAYS_INLINE F fraction(__m512i word) {  // of 15 bits, not 0
        return reinterpret_cast<F>(reinterpret_cast<I>(_mm512_cvtepi32_ps(word)) - (15 << 23));
    }
};

}  // namespace
}  // namespace astfast
