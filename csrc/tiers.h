// The kernels of every tier that was compiled in, and the choice between them.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace astfast {

extern const Kernels scalar_float32, scalar_bfloat16, scalar_int8;
#if defined(__x86_64__)
extern const Kernels avx2_float32, avx2_bfloat16, avx2_int8;
extern const Kernels avx_vnni_int8;
extern const Kernels avx512_float32, avx512_bfloat16, avx512_int8;
extern const Kernels avx512_vnni_int8;
extern const Kernels avx512_bf16_bfloat16, avx512_bf16_int8;
extern const Kernels amx_bfloat16, amx_int8;
#endif

struct LogMelKernel;

// A tier: what this machine lacks for it, and its own kernels. Null where those of the tier before it are used.
struct Tier {
    const char* name;
    std::string missing;  // empty where the tier can run
    const Kernels *float32, *bfloat16, *int8;
    const LogMelKernel* log_mel;
};

// All tiers, each faster than the one before it. AVX-512 alone doesn't need AVX-VNNI, which comes before it.
const std::vector<Tier>& tiers();

// The fastest kernels that this tier or one before it has, for a precision or for log-mel spectrograms; nullptr for a
// tier that can't run here.
const Kernels* kernels_for(const std::string& tier, Precision precision);
const LogMelKernel* log_mel_kernel_for(const std::string& tier);

}  // namespace astfast
