// Tier avx2 (AVX2, FMA, F16C): tiles of 6 x 16, of float32 or of int32 sums.
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

#pragma GCC target("avx2,fma,f16c")

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
#include "float_gemm-inl.h"
#include "madd_gemm-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {

using Shape = TileShape<Avx2, 2, 12, 2, BlocksOfPanels>;
template <Precision kPrecision>
using Avx2Gemm = FloatGemm<Avx2, Shape, kPrecision>;

const Kernels avx2_float32 = kernels_of<Avx2Gemm<Precision::kFloat32>>("avx2", Precision::kFloat32);
const Kernels avx2_bfloat16 = kernels_of<Avx2Gemm<Precision::kBfloat16>>("avx2", Precision::kBfloat16);
const Kernels avx2_int8 = kernels_of<MaddGemm<Shape>>("avx2", Precision::kInt8);

}  // namespace astfast

#endif
