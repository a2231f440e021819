// Tier avx_vnni (AVX-VNNI, of processors without AVX-512): int8, attention included, in tiles of 6 x 16.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "tiers.h"

#pragma GCC target("avx2,fma,f16c,avxvnni")

// clang-format off
#include "vector_avx2-inl.h"
#include "unrolled-inl.h"
#include "math-inl.h"
#include "gemm_policy-inl.h"
#include "operands-inl.h"
#include "quantise-inl.h"
#include "pack-inl.h"
#include "norm-inl.h"
#include "tile-inl.h"
#include "gemm-inl.h"
#include "scores-inl.h"
#include "fold_keys-inl.h"
#include "attention-inl.h"
#include "image-inl.h"
#include "scan-inl.h"
#include "vnni_gemm-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {
namespace {

struct BytesOfAvx2 : Avx2 {
    // Whole numbers from -128 to 255.
    static void store_int8(std::int8_t* p, F x, int n) {
        const __m256i whole = _mm256_and_si256(_mm256_cvtps_epi32(x), _mm256_set1_epi32(255));
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        const __m128i bytes = _mm_packus_epi16(words, words);
        std::memcpy(p, &bytes, static_cast<std::size_t>(n));
    }
};

struct AvxVnni {
    using Simd = BytesOfAvx2;
    using Shape = TileShape<Simd, 2, 12, 2, BlocksOfPanels>;
    using Bytes = __m256i;
    using Sums = Simd::I;

    static Bytes load(const std::byte* b) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)); }
    static void store(std::byte* b, Bytes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(b), x); }
    static Bytes repeat(std::int32_t quad) { return _mm256_set1_epi32(quad); }
    static Sums dot(Sums sums, Bytes a, Bytes b) {
        return reinterpret_cast<Sums>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sums), a, b));
    }
    static Simd::F as_float(Sums sums) { return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(sums)); }

    static float probability_levels(std::int64_t) { return 255.0f; }
};

}  // namespace

const Kernels avx_vnni_int8 = kernels_of<VnniProduct<true, AvxVnni>>("avx_vnni", Precision::kInt8);

}  // namespace astfast

#endif
