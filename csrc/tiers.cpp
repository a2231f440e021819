#include "tiers.h"

#include "cpu_features.h"
#include "log_mel.h"

#if defined(__x86_64__)
#define ON_X86(kernels) &kernels
#else
#define ON_X86(kernels) nullptr
#endif

namespace astfast {
namespace {

// The newest that `tier`, or one before it that can run, has of its own in this column of the table.
template <class T>
const T* newest(const std::string& tier, const T* Tier::* column) {
    const T* found = nullptr;
    for (const Tier& candidate : tiers()) {
        if (candidate.missing.empty() && candidate.*column != nullptr) found = candidate.*column;
        if (candidate.name == tier) return candidate.missing.empty() ? found : nullptr;
    }
    return nullptr;
}

}  // namespace

const std::vector<Tier>& tiers() {
    static const std::vector<Tier> all = [] {
        const CpuFeatures cpu = detect_cpu();
        // clang-format off
        return std::vector<Tier>{
            // name, missing, float32, bfloat16, int8, log-mel
            {"scalar", "", &scalar_float32, &scalar_bfloat16, &scalar_int8, &log_mel_baseline},
            {"avx2", cpu.missing_for_avx2,
             ON_X86(avx2_float32), ON_X86(avx2_bfloat16), ON_X86(avx2_int8), ON_X86(log_mel_avx2)},
            {"avx_vnni", cpu.missing_for_avx_vnni,
             nullptr, nullptr, ON_X86(avx_vnni_int8), nullptr},
            {"avx512", cpu.missing_for_avx512,
             ON_X86(avx512_float32), ON_X86(avx512_bfloat16), ON_X86(avx512_int8), ON_X86(log_mel_avx512)},
            {"avx512_vnni", cpu.missing_for_avx512_vnni,
             nullptr, nullptr, ON_X86(avx512_vnni_int8), nullptr},
            {"avx512_bf16", cpu.missing_for_avx512_bf16,
             nullptr, ON_X86(avx512_bf16_bfloat16), ON_X86(avx512_bf16_int8), nullptr},
            {"amx", cpu.missing_for_amx,
             nullptr, ON_X86(amx_bfloat16), ON_X86(amx_int8), nullptr},
        };
        // clang-format on
    }();
    return all;
}

const Kernels* kernels_for(const std::string& tier, Precision precision) {
    switch (precision) {
        case Precision::kFloat32:
            return newest(tier, &Tier::float32);
        case Precision::kBfloat16:
            return newest(tier, &Tier::bfloat16);
        case Precision::kInt8:
            return newest(tier, &Tier::int8);
    }
    return nullptr;
}

const LogMelKernel* log_mel_kernel_for(const std::string& tier) {
    return newest(tier, &Tier::log_mel);
}

}  // namespace astfast
