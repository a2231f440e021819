// Found before GCC's header of this name, it gives AVX-512, VNNI, BF16 and AMX to a build for AVX2.
//
// Intrinsics are functions of namespace astfast, where kernels find them before GCC's own of the same name. One that is
// missing here doesn't compile: "target specific option mismatch", or "not declared" for tiles. To add one, a line in
// vectors.h is enough where AVX2 has the same operation on half the width; else write down what Intel's manual says.
#pragma once
#include_next <immintrin.h>

#if !defined(__OPTIMIZE__)
#error "Intrinsics with immediate operands are functions only from -O1 on."
#endif

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace astfast {

[[noreturn]] inline void processor_fault(const char* what) {
    std::fprintf(stderr, "emulated processor: %s\n", what);
    std::abort();
}

}  // namespace astfast

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "bf16.h"
#include "tiles.h"
#include "vectors.h"
#pragma GCC pop_options
