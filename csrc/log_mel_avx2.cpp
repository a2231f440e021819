// Log-mel on vectors of eight: AVX2 and FMA.
#include <cstdint>
#include <cstring>

#include "log_mel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC optimize("O3,fp-contract=off")
#pragma GCC target("avx2,fma")

#include "log_mel-inl.h"

namespace astfast {
namespace {

struct Eight {
    static constexpr int lanes = 8;
    using Float = __m256;
    using Half = __m128;
    using Double = __m256d;
    typedef std::int32_t Int __attribute__((vector_size(32)));

    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float fms(Float a, Float b, Float c) { return _mm256_fmsub_ps(a, b, c); }
    static Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
    static Double fma(Double a, Double b, Double c) { return _mm256_fmadd_pd(a, b, c); }
    static Double widen(Half x) { return _mm256_cvtps_pd(x); }

    // Four rows of each 128-bit half transposed: lane f of x[k] <-> lane k of row f % 4, half f / 4.
    static void transpose(const Float* a, Float* b) {
        const Float low01 = _mm256_unpacklo_ps(a[0], a[1]), high01 = _mm256_unpackhi_ps(a[0], a[1]);
        const Float low23 = _mm256_unpacklo_ps(a[2], a[3]), high23 = _mm256_unpackhi_ps(a[2], a[3]);
        b[0] = _mm256_shuffle_ps(low01, low23, 0x44);
        b[1] = _mm256_shuffle_ps(low01, low23, 0xee);
        b[2] = _mm256_shuffle_ps(high01, high23, 0x44);
        b[3] = _mm256_shuffle_ps(high01, high23, 0xee);
    }
    static void transpose_load(const float* const* rows, int i, Float* x) {
        Float halves[4];
        for (int f = 0; f < 4; ++f) {
            halves[f] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[f] + i)),
                                             _mm_loadu_ps(rows[f + 4] + i), 1);
        }
        transpose(halves, x);
    }
    static void transpose_store(const Float* x, float* const* rows, int i) {
        Float halves[4];
        transpose(x, halves);
        for (int f = 0; f < 4; ++f) {
            _mm_storeu_ps(rows[f] + i, _mm256_castps256_ps128(halves[f]));
            _mm_storeu_ps(rows[f + 4] + i, _mm256_extractf128_ps(halves[f], 1));
        }
    }
};

}  // namespace

const LogMelKernel log_mel_avx2 = {"avx2", Eight::lanes, log_mel<Eight>};

}  // namespace astfast

#pragma GCC pop_options

#endif
