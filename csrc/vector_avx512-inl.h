// Vectors of sixteen floats: AVX-512 F, BW, VL, DQ. Members as in vector_portable-inl.h.

namespace astfast {
namespace {

struct Avx512 {
    static constexpr int kLanes = 16;
    typedef float F __attribute__((vector_size(64)));
    typedef std::int32_t I __attribute__((vector_size(64)));

    static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1); }  // lanes below n
    static F zero() { return F{}; }
    static F set(float x) { return _mm512_set1_ps(x); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
    static void store_partial(float* p, F x, int n) { _mm512_mask_storeu_ps(p, mask(n), x); }
    static F accumulate(F acc, F a, F b) { return fma(a, b, acc); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F remainder(F a, F b, F product) { return fma(a, b, -product); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F nearest(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F divide(F a, F b) {  // a / b to within an ulp, without the divider: b is positive and ordinary
        const F r = _mm512_rcp14_ps(b);
        const F w = fma(r, fma(-r, b, set(1.0f)), r);
        const F q = a * w;
        return fma(fma(-q, b, a), w, q);
    }
    static F sqrt(F x) { return _mm512_sqrt_ps(x); }
    static F scale(F x, F n) { return _mm512_scalef_ps(x, n); }
    static float sum(F x) { return _mm512_reduce_add_ps(x); }
    static float largest(F x) { return _mm512_reduce_max_ps(x); }
    static std::int32_t largest(I x) {
        return static_cast<std::int32_t>(_mm512_reduce_max_epu32(reinterpret_cast<__m512i>(x)));
    }

    static F round_bf16(F x) {
        const I bits = reinterpret_cast<I>(x);
        const I rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;
        const I result = x == x ? rounded : (bits | 0x400000) & ~0xffff;
        return reinterpret_cast<F>(result);
    }
    static F from_bf16(__m256i halves) {
        return reinterpret_cast<F>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    static F load_bf16(const std::uint16_t* p) {
        return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static F load_partial_bf16(const std::uint16_t* p, int n) {
        return from_bf16(_mm256_maskz_loadu_epi16(mask(n), p));
    }
    static __m256i to_bf16(F x) {
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(reinterpret_cast<__m512i>(round_bf16(x)), 16));
    }
    static void store_bf16(std::uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }
    static void store_partial_bf16(std::uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, mask(n), to_bf16(x)); }

    // Whole numbers from -128 to 255, as their lowest byte.
    static void store_int8(std::int8_t* p, F x, int n) {
        _mm512_mask_cvtepi32_storeu_epi8(p, mask(n), _mm512_cvtps_epi32(x));
    }

    static void transpose(const std::uint32_t* const* src, std::uint32_t* dst, std::int64_t stride, int n) {
        __m512i r[16], s[16];
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) r[j] = _mm512_maskz_loadu_epi32(mask(n), src[j]);
#pragma GCC unroll 4
        for (int j = 0; j < 16; j += 4) {  // 4 x 4 within each 128-bit lane
            const __m512i a = _mm512_unpacklo_epi32(r[j], r[j + 1]), b = _mm512_unpackhi_epi32(r[j], r[j + 1]);
            const __m512i c = _mm512_unpacklo_epi32(r[j + 2], r[j + 3]), d = _mm512_unpackhi_epi32(r[j + 2], r[j + 3]);
            s[j] = _mm512_unpacklo_epi64(a, c);
            s[j + 1] = _mm512_unpackhi_epi64(a, c);
            s[j + 2] = _mm512_unpacklo_epi64(b, d);
            s[j + 3] = _mm512_unpackhi_epi64(b, d);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {  // then the lanes: s[j + 4 g] lane l holds rows 4 g.. of column 4 l + j
            const __m512i a = _mm512_shuffle_i32x4(s[j], s[j + 4], 0x88),
                          b = _mm512_shuffle_i32x4(s[j + 8], s[j + 12], 0x88);
            const __m512i c = _mm512_shuffle_i32x4(s[j], s[j + 4], 0xdd),
                          d = _mm512_shuffle_i32x4(s[j + 8], s[j + 12], 0xdd);
            r[j] = _mm512_shuffle_i32x4(a, b, 0x88);
            r[j + 8] = _mm512_shuffle_i32x4(a, b, 0xdd);
            r[j + 4] = _mm512_shuffle_i32x4(c, d, 0x88);
            r[j + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            if (i < n) _mm512_storeu_si512(dst + i * stride, r[i]);
        }
    }
};

}  // namespace
}  // namespace astfast
