// Log-mel on vectors of sixteen: AVX-512F.
#include <cstdint>
#include <cstring>

#include "log_mel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12: its own _mm512_undefined_ps

#pragma GCC push_options
#pragma GCC optimize("O3,fp-contract=off")
#pragma GCC target("avx512f")

#include "log_mel-inl.h"

namespace astfast {
namespace {

struct Sixteen {
    static constexpr int lanes = 16;
    using Float = __m512;
    using Half = __m256;
    using Double = __m512d;
    typedef std::int32_t Int __attribute__((vector_size(64)));

    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float fms(Float a, Float b, Float c) { return _mm512_fmsub_ps(a, b, c); }
    static Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
    static Double fma(Double a, Double b, Double c) { return _mm512_fmadd_pd(a, b, c); }
    static Double widen(Half x) { return _mm512_cvtps_pd(x); }

    // Four rows of each 128-bit quarter transposed: lane f of x[k] <-> lane k of row f % 4, quarter f / 4.
    static void transpose(const Float* a, Float* b) {
        const Float low01 = _mm512_unpacklo_ps(a[0], a[1]), high01 = _mm512_unpackhi_ps(a[0], a[1]);
        const Float low23 = _mm512_unpacklo_ps(a[2], a[3]), high23 = _mm512_unpackhi_ps(a[2], a[3]);
        b[0] = _mm512_shuffle_ps(low01, low23, 0x44);
        b[1] = _mm512_shuffle_ps(low01, low23, 0xee);
        b[2] = _mm512_shuffle_ps(high01, high23, 0x44);
        b[3] = _mm512_shuffle_ps(high01, high23, 0xee);
    }
    static void transpose_load(const float* const* rows, int i, Float* x) {
        Float quarters[4];
        for (int f = 0; f < 4; ++f) {
            quarters[f] = _mm512_castps128_ps512(_mm_loadu_ps(rows[f] + i));
            quarters[f] = _mm512_insertf32x4(quarters[f], _mm_loadu_ps(rows[f + 4] + i), 1);
            quarters[f] = _mm512_insertf32x4(quarters[f], _mm_loadu_ps(rows[f + 8] + i), 2);
            quarters[f] = _mm512_insertf32x4(quarters[f], _mm_loadu_ps(rows[f + 12] + i), 3);
        }
        transpose(quarters, x);
    }
    static void transpose_store(const Float* x, float* const* rows, int i) {
        Float quarters[4];
        transpose(x, quarters);
        for (int f = 0; f < 4; ++f) {
            _mm_storeu_ps(rows[f] + i, _mm512_castps512_ps128(quarters[f]));
            _mm_storeu_ps(rows[f + 4] + i, _mm512_extractf32x4_ps(quarters[f], 1));
            _mm_storeu_ps(rows[f + 8] + i, _mm512_extractf32x4_ps(quarters[f], 2));
            _mm_storeu_ps(rows[f + 12] + i, _mm512_extractf32x4_ps(quarters[f], 3));
        }
    }
};

}  // namespace

const LogMelKernel log_mel_avx512 = {"avx512", Sixteen::lanes, log_mel<Sixteen>};

}  // namespace astfast

#pragma GCC pop_options

#endif
