#include "cpu_features.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <initializer_list>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace astfast {

#if defined(__x86_64__)
namespace {

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

// Register states that the operating system saves and restores (XCR0).
std::uint64_t saved_states() {
    const bool os_uses_xsave = (cpuid(1, 0).ecx >> 27 & 1) != 0;
    if (!os_uses_xsave) return 0;
    std::uint32_t low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<std::uint64_t>(high) << 32 | low;
}

bool may_use_amx() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::string absent(std::initializer_list<std::pair<const char*, unsigned>> features) {
    std::string names;
    for (const auto& [name, present] : features) {
        if ((present & 1) == 0) names += (names.empty() ? "" : ", ") + std::string(name);
    }
    return names.empty() ? names : "the processor has no " + names;
}

}  // namespace

CpuFeatures detect_cpu() {
    const Registers basic = cpuid(1, 0), extended = cpuid(7, 0), more = cpuid(7, 1);
    const std::uint64_t states = saved_states();
    const auto unsaved = [states](std::uint64_t bits, const char* registers) {
        return (states & bits) == bits ? std::string() : "the operating system does not save " + std::string(registers);
    };
    const auto first = [](std::initializer_list<std::string> reasons) {
        for (const std::string& reason : reasons) {
            if (!reason.empty()) return reason;
        }
        return std::string();
    };
    CpuFeatures cpu;
    cpu.missing_for_avx2 =
        first({absent({{"AVX2", extended.ebx >> 5}, {"FMA", basic.ecx >> 12}, {"F16C", basic.ecx >> 29}}),
               unsaved(0x6, "the AVX registers")});
    cpu.missing_for_avx_vnni = first({cpu.missing_for_avx2, absent({{"AVX-VNNI", more.eax >> 4}})});
    cpu.missing_for_avx512 = first({cpu.missing_for_avx2,
                                    absent({{"AVX512F", extended.ebx >> 16},
                                            {"AVX512DQ", extended.ebx >> 17},
                                            {"AVX512BW", extended.ebx >> 30},
                                            {"AVX512VL", extended.ebx >> 31}}),
                                    unsaved(0xe6, "the AVX-512 registers")});
    cpu.missing_for_avx512_vnni = first({cpu.missing_for_avx512, absent({{"AVX512_VNNI", extended.ecx >> 11}})});
    cpu.missing_for_avx512_bf16 = first({cpu.missing_for_avx512_vnni, absent({{"AVX512_BF16", more.eax >> 5}})});
    cpu.missing_for_amx = first(
        {cpu.missing_for_avx512_bf16,
         absent({{"AMX_TILE", extended.edx >> 24}, {"AMX_BF16", extended.edx >> 22}, {"AMX_INT8", extended.edx >> 25}}),
         unsaved(0x60000, "the AMX tiles")});
    if (cpu.missing_for_amx.empty() && !may_use_amx())
        cpu.missing_for_amx = "the kernel does not let a process use AMX";
    return cpu;
}

#else

CpuFeatures detect_cpu() {
    const std::string reason = "this is not an x86-64 processor";
    return {reason, reason, reason, reason, reason, reason};
}

#endif

std::size_t l2_cache_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (bytes > 0) return static_cast<std::size_t>(bytes);
#endif
    return std::size_t{1} << 20;
}

}  // namespace astfast
