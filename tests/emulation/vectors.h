// The _mm512 intrinsics, and the masked ones of half their width.
#pragma once

#define EMULATED [[gnu::always_inline]] inline

namespace astfast {
namespace halves {

template <class Half, class Whole>
EMULATED Half take(const Whole& x, int index) {
    Half half;
    std::memcpy(&half, reinterpret_cast<const char*>(&x) + index * sizeof half, sizeof half);
    return half;
}

__m256 of(__m512);
__m256d of(__m512d);
__m256i of(__m512i);

template <class Whole>
EMULATED auto low(const Whole& x) {
    return take<decltype(of(x))>(x, 0);
}

template <class Whole>
EMULATED auto high(const Whole& x) {
    return take<decltype(of(x))>(x, 1);
}

template <class Whole, class Half>
EMULATED Whole join(Half low, Half high) {
    Whole whole;
    std::memcpy(&whole, &low, sizeof low);
    std::memcpy(reinterpret_cast<char*>(&whole) + sizeof low, &high, sizeof high);
    return whole;
}

}  // namespace halves

// What AVX2 does in the same way to half a vector.
#define OF_ONE(To, From, name)                                          \
    EMULATED To _mm512_##name(From a) {                                 \
        using namespace halves;                                         \
        return join<To>(_mm256_##name(low(a)), _mm256_##name(high(a))); \
    }
#define OF_TWO(T, name)                                                                 \
    EMULATED T _mm512_##name(T a, T b) {                                                \
        using namespace halves;                                                         \
        return join<T>(_mm256_##name(low(a), low(b)), _mm256_##name(high(a), high(b))); \
    }
#define OF_THREE(T, name)                                                                                \
    EMULATED T _mm512_##name(T a, T b, T c) {                                                            \
        using namespace halves;                                                                          \
        return join<T>(_mm256_##name(low(a), low(b), low(c)), _mm256_##name(high(a), high(b), high(c))); \
    }

OF_ONE(__m512, __m512, sqrt_ps)
OF_ONE(__m512, __m512i, cvtepi32_ps)
OF_ONE(__m512i, __m512, cvtps_epi32)
OF_TWO(__m512, max_ps)
OF_TWO(__m512, min_ps)
OF_TWO(__m512, unpackhi_ps)
OF_TWO(__m512, unpacklo_ps)
OF_TWO(__m512i, add_epi16)
OF_TWO(__m512i, add_epi32)
OF_TWO(__m512i, adds_epi16)
OF_TWO(__m512i, avg_epu16)
OF_TWO(__m512i, madd_epi16)
OF_TWO(__m512i, maddubs_epi16)
OF_TWO(__m512i, max_epi16)
OF_TWO(__m512i, max_epu16)
OF_TWO(__m512i, max_epu32)
OF_TWO(__m512i, min_epu16)
OF_TWO(__m512i, mulhi_epu16)
OF_TWO(__m512i, mulhrs_epi16)
OF_TWO(__m512i, mullo_epi32)
OF_TWO(__m512i, packs_epi32)
OF_TWO(__m512i, packus_epi32)
OF_TWO(__m512i, sub_epi16)
OF_TWO(__m512i, unpackhi_epi16)
OF_TWO(__m512i, unpackhi_epi32)
OF_TWO(__m512i, unpackhi_epi64)
OF_TWO(__m512i, unpacklo_epi16)
OF_TWO(__m512i, unpacklo_epi32)
OF_TWO(__m512i, unpacklo_epi64)
OF_THREE(__m512, fmadd_ps)
OF_THREE(__m512, fmsub_ps)
OF_THREE(__m512, fnmadd_ps)
OF_THREE(__m512d, fmadd_pd)

EMULATED __m512d _mm512_cvtps_pd(__m256 a) {
    using namespace halves;
    return join<__m512d>(_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
}
EMULATED __m512i _mm512_and_si512(__m512i a, __m512i b) {
    return a & b;
}
EMULATED __m512i _mm512_or_si512(__m512i a, __m512i b) {
    return a | b;
}
EMULATED __m512i _mm512_xor_si512(__m512i a, __m512i b) {
    return a ^ b;
}
EMULATED __m512i _mm512_slli_epi16(__m512i a, unsigned n) {
    return n < 16 ? reinterpret_cast<__m512i>(reinterpret_cast<__v32hu>(a) << n) : __m512i{};
}
EMULATED __m512i _mm512_srli_epi16(__m512i a, unsigned n) {
    return n < 16 ? reinterpret_cast<__m512i>(reinterpret_cast<__v32hu>(a) >> n) : __m512i{};
}
EMULATED __m512i _mm512_srlv_epi16(__m512i a, __m512i n) {
    const auto lanes = reinterpret_cast<__v32hu>(a), shifts = reinterpret_cast<__v32hu>(n);
    __v32hu shifted{};
    for (int i = 0; i < 32; ++i) shifted[i] = shifts[i] < 16 ? lanes[i] >> shifts[i] : 0;
    return reinterpret_cast<__m512i>(shifted);
}
EMULATED __m512i _mm512_sllv_epi16(__m512i a, __m512i n) {
    const auto lanes = reinterpret_cast<__v32hu>(a), shifts = reinterpret_cast<__v32hu>(n);
    __v32hu shifted{};
    for (int i = 0; i < 32; ++i) shifted[i] = shifts[i] < 16 ? lanes[i] << shifts[i] : 0;
    return reinterpret_cast<__m512i>(shifted);
}
EMULATED __m512i _mm512_slli_epi32(__m512i a, unsigned n) {
    return n < 32 ? reinterpret_cast<__m512i>(reinterpret_cast<__v16su>(a) << n) : __m512i{};
}
EMULATED __m512i _mm512_srli_epi32(__m512i a, unsigned n) {
    return n < 32 ? reinterpret_cast<__m512i>(reinterpret_cast<__v16su>(a) >> n) : __m512i{};
}
EMULATED __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int lanes) {
    using namespace halves;
    return join<__m512>(_mm256_shuffle_ps(low(a), low(b), lanes), _mm256_shuffle_ps(high(a), high(b), lanes));
}
EMULATED __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
    using namespace halves;
    const int below = _mm256_movemask_ps(_mm256_cmp_ps(low(a), low(b), predicate));
    const int above = _mm256_movemask_ps(_mm256_cmp_ps(high(a), high(b), predicate));
    return static_cast<__mmask16>(below | above << 8);
}

EMULATED __m512 _mm512_setzero_ps() {
    return __m512{};
}
EMULATED __m512i _mm512_setzero_si512() {
    return __m512i{};
}
EMULATED __m512 _mm512_set1_ps(float x) {
    return halves::join<__m512>(_mm256_set1_ps(x), _mm256_set1_ps(x));
}
EMULATED __m512i _mm512_set1_epi16(short x) {
    return halves::join<__m512i>(_mm256_set1_epi16(x), _mm256_set1_epi16(x));
}
EMULATED __m512i _mm512_set1_epi32(int x) {
    return halves::join<__m512i>(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}

template <class T>
EMULATED T load_vector(const void* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
EMULATED void check_alignment(const void* p) {
    if (reinterpret_cast<std::uintptr_t>(p) % 64 != 0) processor_fault("an aligned access that is not aligned");
}
EMULATED __m512 _mm512_loadu_ps(const void* p) {
    return load_vector<__m512>(p);
}
EMULATED __m512i _mm512_loadu_si512(const void* p) {
    return load_vector<__m512i>(p);
}
EMULATED __m512i _mm512_load_si512(const void* p) {
    check_alignment(p);
    return load_vector<__m512i>(p);
}
EMULATED void _mm512_storeu_ps(void* p, __m512 x) {
    std::memcpy(p, &x, sizeof x);
}
EMULATED void _mm512_storeu_si512(void* p, __m512i x) {
    std::memcpy(p, &x, sizeof x);
}
EMULATED void _mm512_store_si512(void* p, __m512i x) {
    check_alignment(p);
    std::memcpy(p, &x, sizeof x);
}

// Masked lanes are not touched in memory.
template <class Vector, class T>
EMULATED Vector load_lanes(std::uint64_t mask, const void* p) {
    T lanes[sizeof(Vector) / sizeof(T)] = {};
    for (unsigned i = 0; i < sizeof(Vector) / sizeof(T); ++i) {
        if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const char*>(p) + i * sizeof(T), sizeof(T));
    }
    return load_vector<Vector>(lanes);
}
template <class T, class Vector>
EMULATED void store_lanes(void* p, std::uint64_t mask, const Vector& x) {
    T lanes[sizeof(Vector) / sizeof(T)];
    std::memcpy(lanes, &x, sizeof lanes);
    for (unsigned i = 0; i < sizeof(Vector) / sizeof(T); ++i) {
        if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + i * sizeof(T), lanes + i, sizeof(T));
    }
}
EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
    return load_lanes<__m512, float>(mask, p);
}
EMULATED __m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void* p) {
    return load_lanes<__m512i, int>(mask, p);
}
EMULATED __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* p) {
    return load_lanes<__m256i, short>(mask, p);
}
EMULATED __m512i _mm512_mask_blend_epi8(__mmask64 mask, __m512i otherwise, __m512i x) {
    store_lanes<char>(&otherwise, mask, x);
    return otherwise;
}
EMULATED __m512i _mm512_mask_blend_epi16(__mmask32 mask, __m512i otherwise, __m512i x) {
    store_lanes<short>(&otherwise, mask, x);
    return otherwise;
}
EMULATED __m512i _mm512_maskz_mov_epi16(__mmask32 mask, __m512i x) {
    return load_lanes<__m512i, short>(mask, &x);
}
EMULATED __m512i _mm512_mask_mov_epi32(__m512i otherwise, __mmask16 mask, __m512i x) {
    store_lanes<int>(&otherwise, mask, x);
    return otherwise;
}
EMULATED void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 x) {
    store_lanes<float>(p, mask, x);
}
EMULATED void _mm256_mask_storeu_epi16(void* p, __mmask16 mask, __m256i x) {
    store_lanes<short>(p, mask, x);
}

EMULATED __m512i _mm512_cvtepu16_epi32(__m256i x) {
    return halves::join<__m512i>(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                                 _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}

// Sixteen lanes, each by itself.
template <class T, class Fn>
EMULATED auto by_lane(const Fn& fn) {
    typedef T Result __attribute__((vector_size(16 * sizeof(T))));
    Result result;
    for (int i = 0; i < 16; ++i) result[i] = fn(i);
    return result;
}
EMULATED __m256i _mm512_cvtepi32_epi16(__m512i x) {
    const auto lanes = reinterpret_cast<__v16si>(x);
    return reinterpret_cast<__m256i>(by_lane<short>([&](int i) { return static_cast<short>(lanes[i]); }));
}
EMULATED void _mm512_mask_cvtepi32_storeu_epi8(void* p, __mmask16 mask, __m512i x) {
    const auto lanes = reinterpret_cast<__v16si>(x);
    const auto bytes = by_lane<signed char>([&](int i) { return static_cast<signed char>(lanes[i]); });
    store_lanes<signed char>(p, mask, bytes);
}
EMULATED __m512i _mm512_permutexvar_epi32(__m512i index, __m512i x) {
    const auto lanes = reinterpret_cast<__v16si>(x), from = reinterpret_cast<__v16si>(index);
    return reinterpret_cast<__m512i>(by_lane<int>([&](int i) { return lanes[from[i] & 15]; }));
}
EMULATED __m512i _mm512_permutexvar_epi16(__m512i index, __m512i x) {
    typedef std::uint16_t Words __attribute__((vector_size(64)));
    const auto words = reinterpret_cast<Words>(x), from = reinterpret_cast<Words>(index);
    Words result;
    for (int i = 0; i < 32; ++i) result[i] = words[from[i] & 31];
    return reinterpret_cast<__m512i>(result);
}
EMULATED __m256bh _mm512_cvtneps_pbh(__m512 x) {
    const auto halves = by_lane<std::uint16_t>([&](int i) { return bf16::rounded(x[i]); });
    return reinterpret_cast<__m256bh>(halves);
}
EMULATED __m512 _mm512_roundscale_ps(__m512 x, int control) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    if (control != kNearest) processor_fault("a rounding that is not emulated");
    using namespace halves;
    return join<__m512>(_mm256_round_ps(low(x), kNearest), _mm256_round_ps(high(x), kNearest));
}

// 1 / x with 14 bits of its fraction: as far off as the manual allows.
EMULATED __m512 _mm512_rcp14_ps(__m512 x) {
    const __m512 exact = 1.0f / x;
    return reinterpret_cast<__m512>(reinterpret_cast<__v16su>(exact) & ~0x1ffu);
}

// a 2^floor(n), rounded once: exact in float64.
inline float scaled(float a, float n) {
    const float infinity = __builtin_inff(), magnitude = __builtin_fabsf(a);
    if (n != n || (a == 0 && n == infinity) || (magnitude == infinity && n == -infinity)) return __builtin_nanf("");
    const auto whole = static_cast<std::int64_t>(__builtin_floorf(n < -400 ? -400.0f : n > 400 ? 400.0f : n));
    const std::int64_t bits = (whole + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return static_cast<float>(static_cast<double>(a) * power);
}
EMULATED __m512 _mm512_scalef_ps(__m512 a, __m512 n) {
    return by_lane<float>([&](int i) { return scaled(a[i], n[i]); });
}

// Quarters of 128 bits.
EMULATED __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int lanes) {
    using halves::take;
    const auto from_a = [&](int i) { return take<__m128i>(a, lanes >> i & 3); };
    const auto from_b = [&](int i) { return take<__m128i>(b, lanes >> i & 3); };
    using halves::join;
    return join<__m512i>(join<__m256i>(from_a(0), from_a(2)), join<__m256i>(from_b(4), from_b(6)));
}
EMULATED __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int lanes) {
    return reinterpret_cast<__m512>(
        _mm512_shuffle_i32x4(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b), lanes));
}
EMULATED __m128 _mm512_extractf32x4_ps(__m512 x, int quarter) {
    return halves::take<__m128>(x, quarter);
}
EMULATED __m512 _mm512_insertf32x4(__m512 x, __m128 quarter, int index) {
    std::memcpy(reinterpret_cast<char*>(&x) + index * sizeof quarter, &quarter, sizeof quarter);
    return x;
}
EMULATED __m128 _mm512_castps512_ps128(__m512 x) {
    return halves::take<__m128>(x, 0);
}
EMULATED __m512 _mm512_castps128_ps512(__m128 x) {  // the rest is undefined: NaN shows who reads it
    return _mm512_insertf32x4(_mm512_set1_ps(__builtin_nanf("")), x, 0);
}

// In the order of GCC's: halves, quarters, then lanes two and one apart.
EMULATED float _mm512_reduce_add_ps(__m512 x) {
    const __m256 eight = halves::low(x) + halves::high(x);
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    return (four[0] + four[2]) + (four[1] + four[3]);
}
EMULATED float _mm512_reduce_max_ps(__m512 x) {
    const __m256 eight = _mm256_max_ps(halves::high(x), halves::low(x));
    const __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_max_ss(two, _mm_movehdup_ps(two))[0];
}
EMULATED int _mm512_reduce_add_epi32(__m512i x) {
    const auto lanes = reinterpret_cast<__v16su>(x);
    unsigned sum = 0;
    for (int i = 0; i < 16; ++i) sum += lanes[i];
    return static_cast<int>(sum);
}
EMULATED unsigned _mm512_reduce_max_epu32(__m512i x) {
    const auto lanes = reinterpret_cast<__v16su>(x);
    unsigned largest = 0;
    for (int i = 0; i < 16; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

// The upper products first, as the manual has it.
EMULATED __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
    const auto dot = [](__m256 c, __m256i x, __m256i y) {
        return bf16::fma(bf16::even(x), bf16::even(y), bf16::fma(bf16::odd(x), bf16::odd(y), bf16::flushed(c)));
    };
    using namespace halves;
    const auto x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b);
    return join<__m512>(dot(low(sum), low(x), low(y)), dot(high(sum), high(x), high(y)));
}

EMULATED __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

// Unsigned bytes of a, signed ones of b.
EMULATED __m256i _mm256_dpbusd_avx_epi32(__m256i sum, __m256i a, __m256i b) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, low), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
EMULATED __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
    const auto x = reinterpret_cast<__v32hu>(a);
    const auto y = reinterpret_cast<__v32hi>(b);
    const auto even = _mm512_madd_epi16(reinterpret_cast<__m512i>(x & 0xff), reinterpret_cast<__m512i>(y << 8 >> 8));
    const auto odd = _mm512_madd_epi16(reinterpret_cast<__m512i>(x >> 8), reinterpret_cast<__m512i>(y >> 8));
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}

}  // namespace astfast

#undef OF_ONE
#undef OF_TWO
#undef OF_THREE
#undef EMULATED
