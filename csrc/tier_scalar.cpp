// Tier scalar: any machine, vectors of four floats in the compiler's baseline instruction set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "tiers.h"

// clang-format off
#include "vector_portable-inl.h"
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

// 4 x 8: 8 of 16 registers, since there is no fused multiply-add.
template <Precision kPrecision>
using ScalarGemm = FloatGemm<Portable, TileShape<Portable, 2, 8, 2, BlocksOfPanels>, kPrecision>;

const Kernels scalar_float32 = kernels_of<ScalarGemm<Precision::kFloat32>>("scalar", Precision::kFloat32);
const Kernels scalar_bfloat16 = kernels_of<ScalarGemm<Precision::kBfloat16>>("scalar", Precision::kBfloat16);
const Kernels scalar_int8 = kernels_of<ScalarGemm<Precision::kInt8>, DotAttention<ScalarGemm<Precision::kBfloat16>>>(
    "scalar", Precision::kInt8);

}  // namespace astfast
