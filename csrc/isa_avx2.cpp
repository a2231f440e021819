// AVX2 and FMA: tiles of 6 x 16 float32.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "tiers.h"

#pragma GCC target("avx2,fma,f16c")

// clang-format off
#include "vector_avx2-inl.h"
#include "math-inl.h"
#include "pack-inl.h"
#include "gemm-inl.h"
#include "attention-inl.h"
#include "float_gemm-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {

template <Precision kPrecision>
using Gemm = FloatGemm<Avx2, TileShape<2, 12, 2, 128, 20>, kPrecision>;

const Kernels avx2_float32 = kernels_of<Gemm<Precision::kFloat32>>("avx2", Precision::kFloat32);
const Kernels avx2_bfloat16 = kernels_of<Gemm<Precision::kBfloat16>>("avx2", Precision::kBfloat16);
const Kernels avx2_int8 =
    kernels_of<Gemm<Precision::kInt8>, DotAttention<Gemm<Precision::kBfloat16>>>("avx2", Precision::kInt8);

}  // namespace astfast

#endif
