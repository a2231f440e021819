// What one core gives of each multiply-add instruction when nothing is loaded or stored: the ceiling of any kernel.
//
// peaks.py compiles this file and calls it from as many threads as the engine uses. Twelve independent accumulators
// (six tiles) are in flight, which hides the latency; every operand stays in a register or a tile.
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 100000L  // between two looks at the clock

// Registers 0 and 1 are the factors, 2 to 13 the sums. `one(n)` is the instruction that adds to sum n.
#define TWELVE(one) one(2) one(3) one(4) one(5) one(6) one(7) one(8) one(9) one(10) one(11) one(12) one(13)
#define CLOBBERED                                                                                                     \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",        \
        "xmm13", "xmm14"
#define CLEAR(n) "vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n"
#define CLEAR_YMM(n) "vpxor %%ymm" #n ", %%ymm" #n ", %%ymm" #n "\n"
#define CLEAR_XMM(n) "pxor %%xmm" #n ", %%xmm" #n "\n"
#define LOOP(prepare, body, finish)                                                                                   \
    long rounds = ROUNDS;                                                                                             \
    __asm__ volatile(prepare "1:\n" body "dec %0\n jnz 1b\n" finish : "+r"(rounds) : "r"(factor) : CLOBBERED, "cc")

static void sse2_float32(uint32_t factor) {
#define STEP(n) "mulps %%xmm0, %%xmm" #n "\n addps %%xmm1, %%xmm" #n "\n"
    LOOP("movd %1, %%xmm0\n shufps $0, %%xmm0, %%xmm0\n movaps %%xmm0, %%xmm1\n" TWELVE(CLEAR_XMM), TWELVE(STEP), "");
#undef STEP
}

static void avx2_float32(uint32_t factor) {
#define STEP(n) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #n "\n"
    LOOP("vmovd %1, %%xmm0\n vpbroadcastd %%xmm0, %%ymm0\n vmovdqa %%ymm0, %%ymm1\n" TWELVE(CLEAR_YMM), TWELVE(STEP),
         "vzeroupper\n");
#undef STEP
}

// Products of pairs of 16 bits, and the addition that they need.
static void avx2_int8(uint32_t factor) {
#define STEP(n) "vpmaddwd %%ymm0, %%ymm1, %%ymm14\n vpaddd %%ymm14, %%ymm" #n ", %%ymm" #n "\n"
    LOOP("vmovd %1, %%xmm0\n vpbroadcastd %%xmm0, %%ymm0\n vmovdqa %%ymm0, %%ymm1\n" TWELVE(CLEAR_YMM), TWELVE(STEP),
         "vzeroupper\n");
#undef STEP
}

static void avx_vnni_int8(uint32_t factor) {
#define STEP(n) "%{vex%} vpdpbusd %%ymm0, %%ymm1, %%ymm" #n "\n"
    LOOP("vmovd %1, %%xmm0\n vpbroadcastd %%xmm0, %%ymm0\n vmovdqa %%ymm0, %%ymm1\n" TWELVE(CLEAR_YMM), TWELVE(STEP),
         "vzeroupper\n");
#undef STEP
}

#define BROADCAST "vpbroadcastd %1, %%zmm0\n vmovdqa64 %%zmm0, %%zmm1\n"

static void avx512_float32(uint32_t factor) {
#define STEP(n) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #n "\n"
    LOOP(BROADCAST TWELVE(CLEAR), TWELVE(STEP), "vzeroupper\n");
#undef STEP
}

static void avx512_bfloat16(uint32_t factor) {
#define STEP(n) "vdpbf16ps %%zmm0, %%zmm1, %%zmm" #n "\n"
    LOOP(BROADCAST TWELVE(CLEAR), TWELVE(STEP), "vzeroupper\n");
#undef STEP
}

static void avx512_int8(uint32_t factor) {
#define STEP(n) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #n "\n"
    LOOP(BROADCAST TWELVE(CLEAR), TWELVE(STEP), "vzeroupper\n");
#undef STEP
}

// Tiles 0 to 5 are the sums, 6 and 7 the factors, each of 16 rows of 64 bytes: signs and mantissas vary, since the
// processor runs faster on tiles that are all alike (by a fifth on zeros) than on any model's numbers.
#define VARIED 0x807f807f
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
#define SIX(instruction)                                                                                              \
    instruction " %%tmm7, %%tmm6, %%tmm0\n" instruction " %%tmm7, %%tmm6, %%tmm1\n"                                   \
    instruction " %%tmm7, %%tmm6, %%tmm2\n" instruction " %%tmm7, %%tmm6, %%tmm3\n"                                   \
    instruction " %%tmm7, %%tmm6, %%tmm4\n" instruction " %%tmm7, %%tmm6, %%tmm5\n"
#define TILE_LOOP(instruction)                                                                                        \
    struct tile_config config = {.palette = 1};                                                                       \
    uint32_t values[16 * 16];                                                                                         \
    long rounds = ROUNDS / 10;                                                                                        \
    for (uint32_t i = 0, x = 1; i < 16 * 16; ++i) values[i] = factor ^ ((x = x * 1664525 + 1013904223) & VARIED);      \
    for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = 16;                         \
    __asm__ volatile("ldtilecfg %1\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"         \
                     "tilezero %%tmm4\n tilezero %%tmm5\n"                                                            \
                     "tileloadd (%2,%3), %%tmm6\n tileloadd (%2,%3), %%tmm7\n"                                        \
                     "1:\n" SIX(instruction) "dec %0\n jnz 1b\n tilerelease\n"                                        \
                     : "+r"(rounds)                                                                                   \
                     : "m"(config), "r"(values), "r"(64L)                                                             \
                     : "memory", "cc")

static void amx_bfloat16(uint32_t factor) {
    TILE_LOOP("tdpbf16ps");
}

static void amx_int8(uint32_t factor) {
    TILE_LOOP("tdpbusd");
}

static const uint32_t kFloat = 0x3f000000, kBfloat = 0x3f003f00, kBytes = 0x01010101;  // 0.5; 0.5 twice; four ones
static const double kTile = 2.0 * 16 * 16 * 6 * (ROUNDS / 10), kVector = 2.0 * 12 * ROUNDS;

// Operations (multiplications and additions) a second of one core over at least so many seconds; 0 for an unknown name
// and where the kernel does not grant the tiles. The caller knows that the CPU has the instruction.
double instruction_peak(const char* name, double seconds) {
    const struct {
        const char* name;
        void (*run)(uint32_t factor);
        uint32_t factor;
        double operations;  // of one run
    } loops[] = {
        {"sse2 float32", sse2_float32, kFloat, 4 * kVector},
        {"avx2 float32", avx2_float32, kFloat, 8 * kVector},
        {"avx2 int8", avx2_int8, kBytes, 16 * kVector},
        {"avx_vnni int8", avx_vnni_int8, kBytes, 32 * kVector},
        {"avx512 float32", avx512_float32, kFloat, 16 * kVector},
        {"avx512 bfloat16", avx512_bfloat16, kBfloat, 32 * kVector},
        {"avx512 int8", avx512_int8, kBytes, 64 * kVector},
        {"amx bfloat16", amx_bfloat16, kBfloat, 32 * kTile},
        {"amx int8", amx_int8, kBytes, 64 * kTile},
    };
    for (unsigned i = 0; i < sizeof loops / sizeof *loops; ++i) {
        if (strcmp(name, loops[i].name) != 0) continue;
        const long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM of XTILEDATA
        if (strncmp(name, "amx", 3) == 0 && syscall(SYS_arch_prctl, request_permission, tile_data) != 0) return 0;
        loops[i].run(loops[i].factor);  // wakes the core up
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (double runs = 1;; ++runs) {
            loops[i].run(loops[i].factor);
            clock_gettime(CLOCK_MONOTONIC, &end);
            const double passed = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
            if (passed >= seconds) return runs * loops[i].operations / passed;
        }
    }
    return 0;
}
