// Products on AMX tiles. A row of a tile is 64 bytes, sixteen units; A is stored as tiles of sixteen rows and B as
// tiles of sixteen columns, one after the other along K, so that a tile is 1 KB that lies together. A product is 32 x
// 32: four accumulators, fed by two tiles of A and two of B a step, a load for every tile product.
//
// Both operands come from the second-level cache, at half the bytes a cycle that the unit could use, so everything else
// stays out of its way: tiles of A, which are read once a panel, are loaded past the first-level cache's replacement,
// the next panel is fetched into the second-level cache meanwhile, and the epilogue of the last product runs row by row
// between the steps of this one.

namespace astfast {
namespace {

struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tile registers are set up while a kernel runs and released after it, so that context switches need not save them.
struct TileSession {
    TileSession() {
        static constexpr TileConfig kConfig;  // in memory: GCC takes the intrinsic to read eight bytes of it
        _tile_loadconfig(&kConfig);
    }
    ~TileSession() { _tile_release(); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;
};

// Tiles 0 to 3 are C [2, 2], 4 and 5 the rows of A, 6 and 7 the columns of B. dot_RC is one product.
struct AmxBf16 : Bf16Operands {
    static void dot_00() { _tile_dpbf16ps(0, 4, 6); }
    static void dot_01() { _tile_dpbf16ps(1, 4, 7); }
    static void dot_10() { _tile_dpbf16ps(2, 5, 6); }
    static void dot_11() { _tile_dpbf16ps(3, 5, 7); }
    static Simd::F load_sum(const float* c) { return Simd::load(c); }
};

struct AmxInt8 : SignedBytes {
    using Simd = Avx512Bf16;
    using Gelu = GeluOnLines<Simd>;
    using Activation = std::uint16_t;
    using Operand = std::int8_t;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 4;

    static void dot_00() { _tile_dpbssd(0, 4, 6); }
    static void dot_01() { _tile_dpbssd(1, 4, 7); }
    static void dot_10() { _tile_dpbssd(2, 5, 6); }
    static void dot_11() { _tile_dpbssd(3, 5, 7); }
    static Simd::F load_sum(const float* c) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(c)); }
};

constexpr std::int64_t kTileBytes = 1024;

inline void zero_product(bool second_rows) {
    _tile_zero(0);
    _tile_zero(1);
    if (second_rows) {
        _tile_zero(2);
        _tile_zero(3);
    }
}

// c [16 or 32, 32], rows `stride` floats apart.
inline void store_product(float* c, std::int64_t stride, bool second_rows) {
    _tile_stored(0, c, stride * 4);
    _tile_stored(1, c + 16, stride * 4);
    if (second_rows) {
        _tile_stored(2, c + 16 * stride, stride * 4);
        _tile_stored(3, c + 16 * stride + 16, stride * 4);
    }
}

// Adds `steps` tiles along K: the second tiles of A and B lie a_second and b_second bytes after the first ones, the
// next ones a_step and b_step bytes. beside() is called once a step.
template <class Operands, bool kSecondRows, class Beside>
[[gnu::always_inline]] inline void add_products(const std::byte* a, std::int64_t a_second, std::int64_t a_step,
                                                const std::byte* b, std::int64_t b_second, std::int64_t b_step,
                                                std::int64_t steps, const Beside& beside) {
    for (std::int64_t step = 0; step < steps; ++step, a += a_step, b += b_step) {
        _tile_stream_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        Operands::dot_00();
        _tile_loadd(7, b + b_second, 64);
        Operands::dot_01();
        beside();
        if constexpr (kSecondRows) {
            _tile_stream_loadd(5, a + a_second, 64);
            Operands::dot_10();
            Operands::dot_11();
        }
    }
}

template <class Operands>
struct AmxGemm : Operands {
    using WeightPacking = AmxGemm;
    static constexpr int kPadUnits = 16;
    static constexpr int kPanel = 32, kColumnsTogether = 16;
    static constexpr int kRowTile = 32, kRowsTogether = 16;

    static constexpr std::int64_t kChunkBytes = std::int64_t{1} << 40;
    static constexpr int kPanelsTogether = 1;

    template <class EpilogueAt>
    static void multiply(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b, std::int64_t panels,
                         const EpilogueAt& epilogue_at) {
        for (std::int64_t p = 0; p < panels; ++p) {
            auto epilogue = epilogue_at(0, p);
            multiply_panel(a, rows, k, b + p * panel_bytes<AmxGemm>(k), epilogue);
        }
    }

  private:
    template <class Epilogue>
    static void multiply_panel(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b,
                               Epilogue& epilogue) {
        const TileSession session;
        const std::int64_t steps = units_of<AmxGemm>(k) / kPadUnits, panel = panel_bytes<AmxGemm>(k);
        const std::int64_t group = kRowsTogether * row_bytes<AmxGemm>(k), tiles = (rows + kRowTile - 1) / kRowTile;

        const std::byte *ahead = b + panel, *const ahead_end = ahead + panel;
        const std::int64_t lines_a_step = panel / 64 / (tiles * steps) + 1;
        alignas(64) float products[2][kRowTile * kPanel];
        const float* done = nullptr;  // the last product, whose rows [next_row, end_row) wait for their epilogue
        std::int64_t next_row = 0, end_row = 0;
        const auto finish_rows = [&](std::int64_t count) {
            for (; count > 0 && next_row < end_row; --count, ++next_row, done += kPanel) {
                epilogue.next_row(done, row_scale<AmxGemm>(a, next_row, k));
            }
        };
        const std::int64_t rows_a_step = (kRowTile + steps - 1) / steps;
        const auto beside = [&] {
            finish_rows(rows_a_step);
            for (std::int64_t line = 0; line < lines_a_step && ahead < ahead_end; ++line, ahead += 64) {
                _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
            }
        };
        for (std::int64_t r = 0, tile = 0; r < rows; r += kRowTile, ++tile) {
            const std::byte* from = a + r / kRowsTogether * group;
            float* const c = products[tile % 2];
            const bool second_rows = rows - r > 16;
            zero_product(second_rows);
            const auto add = [&](auto both) {
                add_products<Operands, decltype(both)::value>(from, group, kTileBytes, b, steps * kTileBytes,
                                                              kTileBytes, steps, beside);
            };
            second_rows ? add(std::true_type{}) : add(std::false_type{});
            store_product(c, kPanel, second_rows);
            done = c;
            next_row = r;
            end_row = std::min<std::int64_t>(r + kRowTile, rows);
        }
        finish_rows(kRowTile);
    }
};

}  // namespace
}  // namespace astfast
