// The kernels of every tier that was compiled in, and the choice between them.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace astfast {

extern const Kernels scalar_float32, scalar_bfloat16, scalar_int8;
#if defined(__x86_64__)
extern const Kernels avx2_float32, avx2_bfloat16, avx2_int8;
extern const Kernels avx512_float32, avx512_bfloat16, avx512_int8;
extern const Kernels avx512_vnni_int8;
extern const Kernels avx512_bf16_bfloat16, avx512_bf16_int8;
extern const Kernels amx_bfloat16, amx_int8;
#endif

struct Tier {
    const char* name;
    std::string missing;  // what this machine lacks for it; empty where it can run
};

// All tiers, each faster than the one before it.
const std::vector<Tier>& tiers();

// The fastest kernels for a precision that this tier or one below it has; nullptr for a tier that can't run here.
const Kernels* kernels_for(const std::string& tier, Precision precision);

}  // namespace astfast
