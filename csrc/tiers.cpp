#include "tiers.h"

#include "cpu_features.h"

namespace astfast {

const std::vector<Tier>& tiers() {
    static const std::vector<Tier> all = [] {
        const CpuFeatures cpu = detect_cpu();
        return std::vector<Tier>{
            {"scalar", ""},
            {"avx2", cpu.missing_for_avx2},
            {"avx512", cpu.missing_for_avx512},
            {"avx512_vnni", cpu.missing_for_avx512_vnni},
            {"avx512_bf16", cpu.missing_for_avx512_bf16},
            {"amx", cpu.missing_for_amx},
        };
    }();
    return all;
}

const Kernels* kernels_for(const std::string& tier, Precision precision) {
    struct Row {
        const char* name;
        const Kernels *float32, *bfloat16, *int8;
    };
    static constexpr Row kTable[] = {
        {"scalar", &scalar_float32, &scalar_bfloat16, &scalar_int8},
#if defined(__x86_64__)
        {"avx2", &avx2_float32, &avx2_bfloat16, &avx2_int8},
        {"avx512", &avx512_float32, &avx512_bfloat16, &avx512_int8},
        {"avx512_vnni", nullptr, nullptr, &avx512_vnni_int8},
        {"avx512_bf16", nullptr, &avx512_bf16_bfloat16, &avx512_bf16_int8},
        {"amx", nullptr, &amx_bfloat16, &amx_int8},
#endif
    };
    const Kernels* found = nullptr;
    for (const Tier& candidate : tiers()) {
        for (const Row& row : kTable) {
            if (row.name != std::string(candidate.name) || !candidate.missing.empty()) continue;
            const Kernels* own = precision == Precision::kFloat32    ? row.float32
                                 : precision == Precision::kBfloat16 ? row.bfloat16
                                                                     : row.int8;
            if (own != nullptr) found = own;
        }
        if (candidate.name == tier) return candidate.missing.empty() ? found : nullptr;
    }
    return nullptr;
}

}  // namespace astfast
