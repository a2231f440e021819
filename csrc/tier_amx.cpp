// Tier amx: bfloat16 and int8 on AMX tiles, attention in bfloat16 for both.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "tiers.h"

#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12, on its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target( \
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8,prfchw")

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
#include "fold_keys-inl.h"
#include "attention-inl.h"
#include "image-inl.h"
#include "scan-inl.h"
#include "bf16_vector-inl.h"
#include "bytes_avx512-inl.h"
#include "amx_tiles-inl.h"
#include "amx_heads-inl.h"
#include "fixed_point-inl.h"
#include "amx_attention-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {

const Kernels amx_bfloat16 = kernels_of<AmxGemm<AmxBf16>, AmxAttention>("amx", Precision::kBfloat16);
const Kernels amx_int8 = kernels_of<AmxGemm<AmxInt8>, AmxAttention>("amx", Precision::kInt8);

}  // namespace astfast

#endif
