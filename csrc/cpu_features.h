// CPU feature detection: instruction sets that the processor has and the operating system enables.
#pragma once

#include <cstddef>
#include <string>

namespace astfast {

// For each tier: a description of what this machine lacks for it, or an empty string.
struct CpuFeatures {
    std::string missing_for_avx2;
    std::string missing_for_avx_vnni;
    std::string missing_for_avx512;
    std::string missing_for_avx512_vnni;
    std::string missing_for_avx512_bf16;
    std::string missing_for_amx;
};

// Asks CPUID, XGETBV for the register state that the system saves, and the kernel for permission to use AMX.
CpuFeatures detect_cpu();

std::size_t l2_cache_bytes();  // of one core

}  // namespace astfast
