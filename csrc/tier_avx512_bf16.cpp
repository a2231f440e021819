// Tier avx512_bf16 (AVX-512 BF16): tiles of 8 x 48, two products an accumulator and instruction.
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

#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12, on its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")

// clang-format off
#include "vector_avx512-inl.h"
#include "unrolled-inl.h"
#include "math-inl.h"
#include "lines-inl.h"
#include "gemm_policy-inl.h"
#include "operands-inl.h"
#include "quantise-inl.h"
#include "pack-inl.h"
#include "norm-inl.h"
#include "tile-inl.h"
#include "gemm-inl.h"
#include "bf16_vector-inl.h"
#include "scores-inl.h"
#include "softmax-inl.h"
#include "fold_keys-inl.h"
#include "attention-inl.h"
#include "image-inl.h"
#include "scan-inl.h"
#include "bytes_avx512-inl.h"
#include "vnni_gemm-inl.h"
#include "word_scores-inl.h"
#include "vnni_avx512-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {
namespace {

struct Bf16Gemm : Bf16Operands, TileShape<Avx512, 4, 24, 3, WholePanels>, DotTiles<Bf16Gemm> {
    using Vector = __m512i;
    using WeightPacking = Bf16Gemm;
    using ValueGemm = Bf16Gemm;
    static constexpr int kPadUnits = 1;

    static Sum initial_sum(const std::byte*, int) { return Simd::zero(); }
    static Simd::F as_float(Sum sum) { return sum; }

    static Vector load(const std::byte* b) { return _mm512_loadu_si512(b); }
    static Vector broadcast(const std::byte* a) {
        std::int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        return _mm512_set1_epi32(pair);
    }
    static Sum dot(Sum acc, Vector a, Vector b) {
        return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
    static void pack_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel) {
        pack_values_in_pairs(head, units_of<Bf16Gemm>(head.keys), width, d, panel);
    }

    // exp(factor (score - largest)), 32 in fixed point, and the sum of the rounded ones. u is 512 times the binary
    // logarithm, offset by bfloat16's exponent of 1: its whole part is the result's exponent, 2^fraction - 1 its
    // fraction, rounded. 1 is exact, what is below 2^-127 zero.
    class Probabilities {
      public:
        using Score = float;
        using Maximum = MaximumOfFloats<Simd>;
        static constexpr int kUnits = 4;

        static void pad(float* row, std::int64_t keys, std::int64_t end) {
            std::fill(row + keys, row + end, Maximum::kNone);
        }

        ALWAYS_INLINE Probabilities(float largest, float factor)
            : top_(Simd::set(largest)),
              factor_(Simd::set(std::min(factor * 0x1.715476p+9f, std::numeric_limits<float>::max()))) {}

        ALWAYS_INLINE __m512i words(const float* score) {
            const __m512i u = _mm512_packus_epi32(logarithm(score), logarithm(score + Simd::kLanes));
            const auto on = OnLines::of<4>(u, kLines);
            const __m512i whole = _mm512_and_si512(_mm512_srli_epi16(u, 2), all(-128));
            const __m512i p = _mm512_add_epi16(whole, _mm512_srli_epi16(_mm512_add_epi16(on.start, on.along), 8));
            sum_ = add_pairs_of_bf16(sum_, p);
            return p;
        }

        ALWAYS_INLINE static void store(std::byte* at, std::int64_t key, __m512i low, __m512i high) {
            const Simd::I pairs = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
            const auto order = reinterpret_cast<__m512i>(pairs);
            _mm512_storeu_si512(at + key * 2, _mm512_permutexvar_epi32(order, low));
            _mm512_storeu_si512(at + key * 2 + 64, _mm512_permutexvar_epi32(order, high));
        }

        ALWAYS_INLINE float sum(std::int64_t, std::int64_t, float) const { return Simd::sum(sum_); }

      private:
        ALWAYS_INLINE static __m512i all(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }

        ALWAYS_INLINE __m512i logarithm(const float* score) const {  // sixteen of u
            const Simd::F one = Simd::set(512.0f * 127.0f);
            return _mm512_cvtps_epi32(Simd::fma(Simd::load(score) - top_, factor_, one));
        }

        Simd::F top_, factor_, sum_ = Simd::zero();
        // In 15 bits, with half a unit of bfloat16's 7.
        static constexpr Lines kLines =
            exp2_lines([](int i) { return ((kExp2[i] - (1u << 30) + (1u << 14)) >> 15) + 128; });
    };
    using Softmax = BesideSoftmax<Simd, Probabilities>;
};

}  // namespace

const Kernels avx512_bf16_bfloat16 = kernels_of<Bf16Gemm>("avx512_bf16", Precision::kBfloat16);
const Kernels avx512_bf16_int8 = kernels_of<VnniGemm<Avx512Bf16>>("avx512_bf16", Precision::kInt8);

}  // namespace astfast

#endif
