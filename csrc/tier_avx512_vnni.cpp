// Tier avx512_vnni (AVX-512 VNNI): int8, attention included.
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
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

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

const Kernels avx512_vnni_int8 = kernels_of<VnniGemm<Avx512>>("avx512_vnni", Precision::kInt8);

}  // namespace astfast

#endif
