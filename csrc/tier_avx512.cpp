// Tier avx512 (AVX-512 F, BW, VL, DQ): tiles of 8 x 48 float32.
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
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")

// clang-format off
#include "vector_avx512-inl.h"
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
#include "float_gemm-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {

template <Precision kPrecision>
using Avx512Gemm = FloatGemm<Avx512, TileShape<Avx512, 4, 24, 3, WholePanels>, kPrecision>;

const Kernels avx512_float32 = kernels_of<Avx512Gemm<Precision::kFloat32>>("avx512", Precision::kFloat32);
const Kernels avx512_bfloat16 = kernels_of<Avx512Gemm<Precision::kBfloat16>>("avx512", Precision::kBfloat16);
const Kernels avx512_int8 = kernels_of<Avx512Gemm<Precision::kInt8>, DotAttention<Avx512Gemm<Precision::kBfloat16>>>(
    "avx512", Precision::kInt8);

}  // namespace astfast

#endif
