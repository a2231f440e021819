// Single instructions for test_emulated_intrinsics.py, which builds this for the processor and for the emulation.
#include <immintrin.h>

#include <cstdint>

#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12, on its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target( \
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avxvnni,amx-tile,amx-bf16,amx-int8")

namespace astfast {

#define OF_TWO(name)                                                                           \
    extern "C" void name(const char* a, const char* b, char* out) {                            \
        _mm512_storeu_si512(out, _mm512_##name(_mm512_loadu_si512(a), _mm512_loadu_si512(b))); \
    }

OF_TWO(add_epi16)
OF_TWO(adds_epi16)
OF_TWO(avg_epu16)
OF_TWO(maddubs_epi16)
OF_TWO(max_epi16)
OF_TWO(min_epu16)
OF_TWO(mulhi_epu16)
OF_TWO(mulhrs_epi16)
OF_TWO(packs_epi32)
OF_TWO(packus_epi32)
OF_TWO(permutexvar_epi16)
OF_TWO(permutexvar_epi32)
OF_TWO(sllv_epi16)
OF_TWO(srlv_epi16)
OF_TWO(unpackhi_epi16)
OF_TWO(unpackhi_epi32)
OF_TWO(unpackhi_epi64)
OF_TWO(unpacklo_epi16)
OF_TWO(unpacklo_epi32)
OF_TWO(unpacklo_epi64)

extern "C" void mask_blend_epi8(const char* a, const char* b, char* out) {
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    _mm512_storeu_si512(out, _mm512_mask_blend_epi8(0xf00000000000a005, x, y));
}
extern "C" void mask_blend_epi16(const char* a, const char* b, char* out) {
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    _mm512_storeu_si512(out, _mm512_mask_blend_epi16(0xf000a005, x, y));
}
extern "C" void shuffle_i32x4(const char* a, const char* b, char* out) {
    _mm512_storeu_si512(out, _mm512_shuffle_i32x4(_mm512_loadu_si512(a), _mm512_loadu_si512(b), 0x9c));
}
extern "C" void shuffle_f32x4(const float* a, const float* b, float* out) {
    _mm512_storeu_ps(out, _mm512_shuffle_f32x4(_mm512_loadu_ps(a), _mm512_loadu_ps(b), 0x9c));
}
extern "C" void shuffle_ps(const float* a, const float* b, float* out) {
    _mm512_storeu_ps(out, _mm512_shuffle_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(b), 0x9c));
}
extern "C" void scalef_ps(const float* a, const float* b, float* out) {
    _mm512_storeu_ps(out, _mm512_scalef_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(b)));
}
extern "C" void rcp14_ps(const float* a, float* out) {
    _mm512_storeu_ps(out, _mm512_rcp14_ps(_mm512_loadu_ps(a)));
}
extern "C" void reduce_add_ps(const float* a, float* out) {
    *out = _mm512_reduce_add_ps(_mm512_loadu_ps(a));
}
extern "C" void cvtneps_pbh(const float* a, char* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(a))));
}
extern "C" void mask_cvtepi32_storeu_epi8(const char* a, unsigned mask, char* out) {
    _mm512_mask_cvtepi32_storeu_epi8(out, static_cast<__mmask16>(mask), _mm512_loadu_si512(a));
}
extern "C" void dpbusd_epi32(const char* sum, const char* a, const char* b, char* out) {
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    _mm512_storeu_si512(out, _mm512_dpbusd_epi32(_mm512_loadu_si512(sum), x, y));
}
extern "C" void dpbusd_avx_epi32(const char* sum, const char* a, const char* b, char* out) {
    for (int i = 0; i < 64; i += 32) {
        const auto load = [i](const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i)); };
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_dpbusd_avx_epi32(load(sum), load(a), load(b)));
    }
}
extern "C" void dpbf16_ps(const float* sum, const char* a, const char* b, float* out) {
    const auto x = reinterpret_cast<__m512bh>(_mm512_loadu_si512(a));
    const auto y = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b));
    _mm512_storeu_ps(out, _mm512_dpbf16_ps(_mm512_loadu_ps(sum), x, y));
}

// c += a b on tiles 0, 1 and 2, rows of each `stride` bytes apart.
#define OF_TILES(name)                                                                             \
    extern "C" void name(const char* config, const char* a, const char* b, char* c, long stride) { \
        _tile_loadconfig(config);                                                                  \
        _tile_loadd(0, c, stride);                                                                 \
        _tile_loadd(1, a, stride);                                                                 \
        _tile_stream_loadd(2, b, stride);                                                          \
        _tile_##name(0, 1, 2);                                                                     \
        _tile_stored(0, c, stride);                                                                \
        _tile_release();                                                                           \
    }

OF_TILES(dpbf16ps)
OF_TILES(dpbssd)
OF_TILES(dpbusd)

extern "C" void zero_without_a_session() {
    _tile_zero(0);
}
extern "C" void load_unaligned() {
    alignas(64) static char bytes[128];
    _mm512_storeu_si512(bytes, _mm512_load_si512(bytes + 4));
}

}  // namespace astfast
