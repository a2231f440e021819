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
    const bool float32 = precision == Precision::kFloat32;
    const Kernels* found = nullptr;
    for (const Tier& candidate : tiers()) {
        const std::string name = candidate.name;
        if (candidate.missing.empty()) {
            if (name == "scalar") found = float32 ? &scalar_float32 : &scalar_bfloat16;
#if defined(__x86_64__)
            if (name == "avx2") found = float32 ? &avx2_float32 : &avx2_bfloat16;
            if (name == "avx512") found = float32 ? &avx512_float32 : &avx512_bfloat16;
            if (name == "avx512_bf16" && !float32) found = &avx512_bf16_bfloat16;
            if (name == "amx" && !float32) found = &amx_bfloat16;
#endif
        }
        if (name == tier) return candidate.missing.empty() ? found : nullptr;
    }
    return nullptr;
}

}  // namespace astfast
