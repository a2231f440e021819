// Vectors of eight floats: AVX2, FMA. Members as in vector_portable-inl.h.

namespace astfast {
namespace {

struct Avx2 {
    static constexpr int kLanes = 8;
    typedef float F __attribute__((vector_size(32)));
    typedef std::int32_t I __attribute__((vector_size(32)));

    static __m256i mask(int n) {  // lanes below n
        return reinterpret_cast<__m256i>(n > I{0, 1, 2, 3, 4, 5, 6, 7});
    }
    static F zero() { return F{}; }
    static F set(float x) { return _mm256_set1_ps(x); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static F load_partial(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
    static void store_partial(float* p, F x, int n) { _mm256_maskstore_ps(p, mask(n), x); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    // fma(a, b, acc) in place. GCC 12 may hold products of a tile's next step in registers that its sums need.
    static F accumulate(F acc, F a, F b) {
        asm("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
        return acc;
    }
    static F remainder(F a, F b, F product) { return fma(a, b, -product); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F nearest(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F divide(F a, F b) { return a / b; }
    static F sqrt(F x) { return _mm256_sqrt_ps(x); }
    static F scale(F x, F n) {
        const I exponent = reinterpret_cast<I>(_mm256_cvtps_epi32(max(n, set(-127.0f)))) + 127;
        return x * reinterpret_cast<F>(exponent << 23);
    }
    static float sum(F x) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static float largest(F x) {
        __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        s = _mm_max_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
    }
    static std::int32_t largest(I x) {
        const auto lanes = reinterpret_cast<__m256i>(x);
        __m128i s = _mm_max_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
        s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        return _mm_cvtsi128_si32(_mm_max_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
    }

    static F round_bf16(F x) {
        const I bits = reinterpret_cast<I>(x);
        const I rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;
        const I result = x == x ? rounded : (bits | 0x400000) & ~0xffff;
        return reinterpret_cast<F>(result);
    }
    static F load_bf16(const std::uint16_t* p) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return reinterpret_cast<F>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    static F load_partial_bf16(const std::uint16_t* p, int n) {
        std::uint16_t halves[8] = {};
        std::memcpy(halves, p, static_cast<std::size_t>(n) * 2);
        return load_bf16(halves);
    }
    static __m128i to_bf16(F x) {
        const __m256i bits = _mm256_srli_epi32(reinterpret_cast<__m256i>(round_bf16(x)), 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    }
    static void store_bf16(std::uint16_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(x)); }
    static void store_partial_bf16(std::uint16_t* p, F x, int n) {
        std::uint16_t halves[8];
        store_bf16(halves, x);
        std::memcpy(p, halves, static_cast<std::size_t>(n) * 2);
    }

    // Whole numbers from -32768 to 32767.
    static void store_int16(std::int16_t* p, F x, int n) {
        const __m256i whole = _mm256_cvtps_epi32(x);
        const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        if (n == kLanes) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
        std::memcpy(p, &halves, static_cast<std::size_t>(n) * 2);
    }

    static void transpose(const std::uint32_t* const* src, std::uint32_t* dst, std::int64_t stride, int n) {
        __m256 r[8], s[8];
        for (int j = 0; j < 8; ++j) {
            const float* row = reinterpret_cast<const float*>(src[j]);
            r[j] = n == 8 ? _mm256_loadu_ps(row) : _mm256_maskload_ps(row, mask(n));
        }
        for (int j = 0; j < 8; j += 4) {
            const __m256 a = _mm256_unpacklo_ps(r[j], r[j + 1]), b = _mm256_unpackhi_ps(r[j], r[j + 1]);
            const __m256 c = _mm256_unpacklo_ps(r[j + 2], r[j + 3]), d = _mm256_unpackhi_ps(r[j + 2], r[j + 3]);
            s[j] = _mm256_shuffle_ps(a, c, 0x44);
            s[j + 1] = _mm256_shuffle_ps(a, c, 0xee);
            s[j + 2] = _mm256_shuffle_ps(b, d, 0x44);
            s[j + 3] = _mm256_shuffle_ps(b, d, 0xee);
        }
        for (int i = 0; i < n; ++i) {
            const __m256 low = s[i % 4], high = s[i % 4 + 4];
            const __m256 column =
                i < 4 ? _mm256_permute2f128_ps(low, high, 0x20) : _mm256_permute2f128_ps(low, high, 0x31);
            _mm256_storeu_ps(reinterpret_cast<float*>(dst + i * stride), column);
        }
    }
};

}  // namespace
}  // namespace astfast
