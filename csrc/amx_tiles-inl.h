// Products on AMX tiles. A row of a tile is 64 bytes, sixteen units; A is stored as tiles of sixteen rows and B as
// tiles of sixteen columns, one after the other along K, so that a tile is 1 KB that lies together. A product is 32 x
// 32: four accumulators, fed by two tiles of A and two of B a step, a load for every tile product.
//
// Operands come from the second-level cache, at half the bytes a cycle that the unit could use, so everything else
// stays out of its way: K of a long panel goes in chunks that fit the first-level cache beside the sums of a few tiles,
// tiles of A, which are read once a panel, are loaded past the first-level cache's replacement, the next panel is
// fetched into the second-level cache meanwhile, and rows of the last product, of this panel or the one before, go
// through its epilogue one by one between the tile products of this one. Measured: three rows after every four tile
// products take a sixth longer, and so do fifteen more instructions a row for addresses.

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

template <class Operands>
struct AmxGemm;

// Tiles 0 to 3 are C [2, 2], 4 and 5 the rows of A, 6 and 7 the columns of B. dot_RC is one product.
struct AmxBf16 : Bf16Operands {
    static void dot_00() { _tile_dpbf16ps(0, 4, 6); }
    static void dot_01() { _tile_dpbf16ps(1, 4, 7); }
    static void dot_10() { _tile_dpbf16ps(2, 5, 6); }
    static void dot_11() { _tile_dpbf16ps(3, 5, 7); }
    static Simd::F load_sum(const float* c) { return Simd::load(c); }
};

// Rows are bytes between their least and their largest element, as VnniProduct has them: after a GELU that is nearly a
// bit more than about zero. Sums start from a column's initial one, an epilogue adds the row's shift of it.
struct AmxInt8 : OffsetBytes<AmxGemm<AmxInt8>, Avx512Bytes<Avx512Bf16>> {
    using Simd = Avx512Bf16;
    using Gelu = GeluOnLines<Simd>;
    using Activation = std::uint16_t;
    using Operand = std::uint8_t;
    static constexpr bool kRoundsToBf16 = false, kQuantised = true;
    static constexpr int kElementsPerUnit = 4;

    static void dot_00() { _tile_dpbusd(0, 4, 6); }
    static void dot_01() { _tile_dpbusd(1, 4, 7); }
    static void dot_10() { _tile_dpbusd(2, 5, 6); }
    static void dot_11() { _tile_dpbusd(3, 5, 7); }
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

// A product from sums c [16 or 32, 32], of four bytes each, rows `stride` of them apart: 0 repeats the first row.
template <class Sum>
void load_product(const Sum* c, std::int64_t stride, bool second_rows) {
    _tile_loadd(0, c, stride * 4);
    _tile_loadd(1, c + 16, stride * 4);
    if (second_rows) {
        _tile_loadd(2, c + 16 * stride, stride * 4);
        _tile_loadd(3, c + 16 * stride + 16, stride * 4);
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

constexpr std::int64_t kBesides = 3;  // calls of beside() a step

// Adds `steps` tiles along K: the second tiles of A and B lie a_second and b_second bytes after the first ones, the
// next ones right behind them. beside() is called between the tile products of a step, after_step() once.
template <class Operands, bool kSecondRows, class Beside, class AfterStep>
ALWAYS_INLINE inline void add_products(const std::byte* a, std::int64_t a_second, const std::byte* b,
                                       std::int64_t b_second, std::int64_t steps, const Beside& beside,
                                       const AfterStep& after_step) {
    for (std::int64_t step = 0; step < steps; ++step, a += kTileBytes, b += kTileBytes) {
        _tile_stream_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        Operands::dot_00();
        beside();
        _tile_loadd(7, b + b_second, 64);
        Operands::dot_01();
        beside();
        after_step();
        if constexpr (kSecondRows) {
            _tile_stream_loadd(5, a + a_second, 64);
            Operands::dot_10();
            beside();
            Operands::dot_11();
        } else {
            beside();
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
        const std::int64_t whole = epilogue_at(0, panels - 1).is_whole() ? panels : panels - 1;
        multiply_panels<true>(a, rows, k, b, 0, whole, epilogue_at);
        multiply_panels<false>(a, rows, k, b, whole, panels, epilogue_at);
    }

  private:
    // Where a panel is longer, tiles along K that some tiles of rows are multiplied by before the next ones are read,
    // at most: 24 KB of B, which stay in the first-level cache with 24 KB of sums.
    static constexpr std::int64_t kChunkSteps = 12;
    static constexpr std::int64_t kTilesTogether = 6;

    // Panels [first, end) of B; of all but the last one of all, columns are whole.
    template <bool kWhole, class EpilogueAt>
    static void multiply_panels(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b,
                                std::int64_t first, std::int64_t end, const EpilogueAt& epilogue_at) {
        if (first == end) return;
        if constexpr (!decltype(epilogue_at(0, 0))::kHasGelu) {  // which takes longer than a chunk
            if (units_of<AmxGemm>(k) / kPadUnits > kChunkSteps) {
                return multiply_panels<kWhole, true>(a, rows, k, b, first, end, epilogue_at);
            }
        }
        multiply_panels<kWhole, false>(a, rows, k, b, first, end, epilogue_at);
    }

    // kInChunks: K in chunks, for several tiles of rows at a time. Beside a product go all rows of the one that was
    // finished before it, so that its sums may take their place.
    template <bool kWhole, bool kInChunks, class EpilogueAt>
    [[gnu::noinline]] static void multiply_panels(const std::byte* a, std::int64_t rows, std::int64_t k,
                                                  const std::byte* b, std::int64_t first, std::int64_t end,
                                                  const EpilogueAt& epilogue_at) {
        using Epilogue = decltype(epilogue_at(0, 0));
        const TileSession session;
        const std::int64_t steps = units_of<AmxGemm>(k) / kPadUnits, panel = panel_bytes<AmxGemm>(k);
        const std::int64_t group = kRowsTogether * row_bytes<AmxGemm>(k), tiles = (rows + kRowTile - 1) / kRowTile;
        const std::int64_t chunks = kInChunks ? (steps + kChunkSteps - 1) / kChunkSteps : 1,
                           chunk = (steps + chunks - 1) / chunks;
        const std::int64_t groups = (tiles + kTilesTogether - 1) / kTilesTogether;
        const std::int64_t together = kInChunks ? (tiles + groups - 1) / groups : 1;
        const std::int64_t bytes_a_step = (panel / 64 / (tiles * steps) + 1) * 64;

        const auto scale = row_scales<AmxGemm>(a, k);
        alignas(64) float products[kInChunks ? kTilesTogether : 2][kRowTile * kPanel];
        alignas(Epilogue) std::byte epilogues[2][sizeof(Epilogue)];  // of the panel of the last product, and the next
        Epilogue* epilogue = nullptr;
        std::int64_t next_row = 0, waiting = 0;  // rows of the last product whose epilogue is yet to come
        const float* next = nullptr;
        const auto finish_row = [&]() ALWAYS_INLINE {
            if constexpr (kWhole) {
                epilogue->next_whole_row(next, scale(next_row));
            } else {
                epilogue->next_row(next, scale(next_row));
            }
            ++next_row;
            next += kPanel;
            --waiting;
        };
        std::int64_t besides = steps * kBesides, due = 0;  // rows, times besides
        const auto beside = [&]() ALWAYS_INLINE {
            for (due += kRowTile; due >= besides; due -= besides) {
                if (waiting > 0) finish_row();
            }
        };
        std::int64_t tile = 0;
        for (std::int64_t p = first; p < end; ++p) {
            const std::byte *const from_b = b + p * panel, *ahead = from_b + panel;
            const auto fetch_ahead = [&]() ALWAYS_INLINE {
                for (const std::byte* stop = std::min(ahead + bytes_a_step, from_b + 2 * panel); ahead < stop;
                     ahead += 64) {
                    _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
                }
            };
            auto* const made = new (epilogues[p % 2]) Epilogue(epilogue_at(0, p));
            for (std::int64_t first_row = 0, step = 0; first_row < rows;) {
                const std::int64_t end_row = std::min(rows, first_row + together * kRowTile);
                const std::int64_t count_steps = std::min(chunk, steps - step);
                if constexpr (kInChunks) besides = count_steps * kBesides;
                for (std::int64_t r = first_row; r < end_row; r += kRowTile, ++tile) {
                    float* const c = products[kInChunks ? (r - first_row) / kRowTile : tile % 2];
                    const std::int64_t count = std::min<std::int64_t>(kRowTile, rows - r);
                    const std::byte* from = a + r / kRowsTogether * group + step * kTileBytes;
                    const std::byte* from_panel = from_b + step * kTileBytes;
                    const bool second_rows = count > kRowsTogether;
                    if (kInChunks && step > 0) {
                        load_product(c, kPanel, second_rows);
                    } else if constexpr (shifts_rows<AmxGemm>) {
                        auto* const panel_end = const_cast<std::byte*>(from_b) + steps * 2 * kTileBytes;
                        load_product(PanelScales::initial_sums(panel_end, kPanel), 0, second_rows);
                    } else {
                        zero_product(second_rows);
                    }
                    if (second_rows) {
                        add_products<Operands, true>(from, group, from_panel, steps * kTileBytes, count_steps, beside,
                                                     fetch_ahead);
                    } else {
                        add_products<Operands, false>(from, group, from_panel, steps * kTileBytes, count_steps, beside,
                                                      fetch_ahead);
                    }
                    store_product(c, kPanel, second_rows);
                    if (step + count_steps == steps) {
                        next = c;
                        next_row = r;
                        waiting = count;
                        epilogue = made;
                    }
                }
                step += count_steps;
                if (step == steps) {
                    step = 0;
                    first_row = end_row;
                }
            }
        }
        while (waiting > 0) finish_row();
    }
};

}  // namespace
}  // namespace astfast
