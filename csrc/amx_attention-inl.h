// Attention on AMX tiles: 32 queries against blocks of 128 keys. While the vector units turn the scores of one block
// into probabilities, the tiles multiply the probabilities of the one before by the values and the queries by the keys
// of the next: one product before every row and one in the middle of it, so that both kinds of instructions are always
// within the reach of out-of-order execution. Blocks follow one another through all tiles of queries: the last of one
// tile and the first of the next are neighbours too. Measured limits of its speed (docs/performance.md):
//   - a block's scores, probabilities (in the scores' place), sums and queries stay in the first-level cache;
//   - while tiles multiply, the vector units multiply at half their rate, so exponentials take few multiplications;
//   - storing a tile costs as much of the front end as 80 other instructions.

namespace astfast {
namespace {

// kHeadDim as in AmxLayout.
template <std::int64_t kHeadDim>
class AmxAttentionOf {
    using Gemm = AmxTiles;
    using Layout = AmxLayout<kHeadDim>;
    using Simd = Gemm::Simd;
    using F = Simd::F;
    static constexpr std::int64_t kBlock = kBlockKeys, kStep = kTileKeys;
    static constexpr std::int64_t kPanels = kBlock / 16;
    static constexpr std::int64_t kScoreStride = FixedPointSoftmax::kStride;

  public:
    static constexpr std::int64_t kQueryTile = FixedPointSoftmax::kRows,
                                  kMaxKeys = std::numeric_limits<std::int64_t>::max();

    static std::size_t packed_bytes(std::int64_t keys, std::int64_t head_dim) {
        return static_cast<std::size_t>(Layout(keys, head_dim).packed_bytes());
    }

    static std::size_t scratch_bytes(std::int64_t, std::int64_t head_dim) {
        const Layout layout(1, head_dim);
        return sizeof(Work) + static_cast<std::size_t>(kQueryTile * (layout.key_steps() * 64 + layout.columns() * 4));
    }

    static void attend(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                       std::byte* scratch) {
        const TileSession session;
        AmxAttentionOf(head, packed, query, queries, scratch).run();
    }

  private:
    struct alignas(64) Work {
        // Of this block, and of the one before or the next. Probabilities, bfloat16, take the place of a row's scores.
        float scores[2][kQueryTile * kScoreStride];
        FixedPointSoftmax::State softmax;
        std::byte largest[64];  // magnitudes of the queries loaded last
    };

    AmxAttentionOf(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                   std::byte* scratch)
        : head_(head),
          layout_(head.keys, head.head_dim),
          keys_(packed),
          values_(packed + layout_.key_bytes()),
          query_(query),
          queries_(queries),
          tiles_((queries + kQueryTile - 1) / kQueryTile),
          blocks_((layout_.steps + kBlockSteps - 1) / kBlockSteps),
          scale_(0x1.715476p+0f / __builtin_sqrtf(static_cast<float>(head.head_dim))),  // log2(e)
          work_(*reinterpret_cast<Work*>(scratch)),
          softmax_(work_.softmax, scale_),
          q_(scratch + sizeof(Work)),
          out_(reinterpret_cast<float*>(q_ + kQueryTile * layout_.key_steps() * 64)),
          now_(work_.scores[0]),
          other_(work_.scores[1]) {}

    void run() {
        load_queries(0, 0, kQueryTile);
        for (std::int64_t panel = 0; panel < kPanels; ++panel) {
            score<0>(0, panel);
            finish_scoring<0>(0, panel);
            score<1>(0, panel);
            finish_scoring<1>(0, panel);
        }
        store_scores(0, kPanels - 1);
        for (std::int64_t tile = 0; tile < tiles_; ++tile) {
            softmax_.begin(has_huge_scores());
            for (std::int64_t block = 0; block < blocks_; ++block) {
                const std::int64_t valid = head_.keys - block * kBlock;
                std::swap(now_, other_);
                softmax_.begin_block();
                if (head_.bias != nullptr) {
                    valid >= kBlock ? step<true, true>(tile, block, kBlock) : step<false, true>(tile, block, valid);
                } else {
                    valid >= kBlock ? step<true, false>(tile, block, kBlock) : step<false, false>(tile, block, valid);
                }
                if (softmax_.rescaled() && block > 0) rescale(queries_of(tile));
            }
            softmax_.invert_sums();
        }
        std::swap(now_, other_);
        for (std::int64_t pair = 0; pair < pairs(); ++pair) weigh_both(blocks_ - 1, pair);
        store_weighted(layout_.columns() / 32 - 1);
        finish(tiles_ - 1, 0, kQueryTile);
    }

    std::int64_t queries_of(std::int64_t tile) const { return std::min(kQueryTile, queries_ - tile * kQueryTile); }

    // Of the steps of a block and the panels of 32 columns that weigh() has.
    std::int64_t pairs() const { return layout_.columns() / 32 * kBlockSteps; }

    // Row by row, a block's scores become probabilities. Beside the first sixteen rows the tiles weigh the values of
    // the block before, whose place the scores of the next one then take beside the others. There are two products a
    // row, one before it and one in the middle of it. Beside a tile's last block the queries of the next tile are
    // loaded; beside its first one the tile before it is finished.
    template <bool kWhole, bool kBiased>
    void step(std::int64_t tile, std::int64_t block, std::int64_t valid) {
        constexpr std::int64_t kParts = kQueryTile / 4;      // of two rows
        constexpr std::int64_t kRows = kQueryTile / kParts;  // of a tile, for a part
        const bool first = block == 0, last = block == blocks_ - 1;
        const bool weighs = !first || tile > 0, scores = !last || tile + 1 < tiles_;
        const std::int64_t before = first ? blocks_ - 1 : block - 1, next = last ? 0 : block + 1;
        const std::int64_t queries = queries_of(tile);
        const float* const bias = kBiased ? head_.bias + block * kBlock : nullptr;
        const auto row = [&](std::int64_t r, const auto& beside) ALWAYS_INLINE {
            if (r >= queries) return beside();
            softmax_.exponentiate<kWhole, kBiased>(now_ + r * kScoreStride, r, bias, valid, beside);
        };
        for (std::int64_t part = 0; part < kParts; ++part) {
            std::int64_t pair = part * pairs() / kParts;
            const std::int64_t end = weighs ? (part + 1) * pairs() / kParts : pair;
            const bool any = pair < end;
            if (first && part % (kParts / 2) == 0) softmax_.set_references(now_, part * kRows, valid);
            if (any) weigh<0>(before, pair);
            row(2 * part, [&]() ALWAYS_INLINE {
                if (any) finish_weighing<0>(before, pair);
            });
            if (any) weigh<1>(before, pair);
            row(2 * part + 1, [&]() ALWAYS_INLINE {
                if (any) finish_weighing<1>(before, pair);
            });
            while (++pair < end) weigh_both(before, pair);
            if (last && scores) load_queries(tile + 1, part * kRows, kRows);
        }
        if (weighs) store_weighted(layout_.columns() / 32 - 1);
        static_assert(kParts == kPanels);
        for (std::int64_t part = 0; part < kParts; ++part) {
            if (scores) score<0>(next, part);
            row(kQueryTile / 2 + 2 * part, [&]() ALWAYS_INLINE {
                if (scores) finish_scoring<0>(next, part);
            });
            if (scores) score<1>(next, part);
            row(kQueryTile / 2 + 2 * part + 1, [&]() ALWAYS_INLINE {
                if (scores) finish_scoring<1>(next, part);
            });
            if (first && weighs) finish(tile - 1, part * kRows, kRows);
        }
        if (scores) store_scores(next, kPanels - 1);
    }

    // Rows [first, first + rows) of a tile, as far as it has them.
    [[gnu::noinline]] void load_queries(std::int64_t tile, std::int64_t first, std::int64_t rows) {
        __m512i largest = first == 0 ? _mm512_setzero_si512() : _mm512_load_si512(work_.largest);
        const std::int64_t end = std::min(first + rows, queries_of(tile));
        for (std::int64_t r = first; r < end; ++r) {
            std::byte* start = q_ + r / 16 * layout_.key_steps() * kTileBytes + r % 16 * 64;
            const std::int64_t from = (query_ + tile * kQueryTile + r) * head_.q_stride;
            copy_row<Gemm>(OperandRow<std::uint16_t, 16>(start), static_cast<const std::uint16_t*>(head_.q) + from,
                           layout_.head_dim());
            largest = largest_magnitude(start, layout_.key_steps(), kTileBytes, largest);
        }
        _mm512_store_si512(work_.largest, largest);
    }

    // Of the queries loaded last: whether scores may leave the range of the fixed point.
    bool has_huge_scores() const {
        const float key = *reinterpret_cast<const float*>(values_ + layout_.value_bytes());
        const float query = largest_of(_mm512_load_si512(work_.largest));
        return !(query * key * static_cast<float>(head_.head_dim) * scale_ < 0x1p20f);
    }

    bool has_panel(std::int64_t block, std::int64_t panel) const { return block * kPanels + panel < layout_.steps * 2; }

    // Half of the scores of a panel of a block, along head_dim, but for the last product. Queries of up to 64 elements
    // stay in tiles 2 to 5 for a block. The panel is stored when the next one begins.
    template <int kHalf>
    ALWAYS_INLINE void score(std::int64_t block, std::int64_t panel) {
        if (kHalf == 0 && panel > 0) store_scores(block, panel - 1);
        if (!has_panel(block, panel)) return;
        const std::int64_t steps = layout_.key_steps(), middle = (steps + 1) / 2;
        const std::byte* b = keys_ + (block * kPanels + panel) * steps * kTileBytes;
        const bool load = panel == 0 || steps > 2;
        if constexpr (kHalf == 0) {
            _tile_zero(0);
            _tile_zero(1);
            for (std::int64_t step = 0; step < middle; ++step) {
                if (step > 0) _tile_dpbf16ps(1, 4, 6);
                if (load) _tile_loadd(2, q_ + step * kTileBytes, 64);
                if (load) _tile_loadd(4, q_ + (steps + step) * kTileBytes, 64);
                _tile_stream_loadd(6, b + step * kTileBytes, 64);
                _tile_dpbf16ps(0, 2, 6);
            }
        } else {
            for (std::int64_t step = middle; step < steps; ++step) {
                if (step > middle) _tile_dpbf16ps(1, 5, 7);
                if (load) _tile_loadd(3, q_ + step * kTileBytes, 64);
                if (load) _tile_loadd(5, q_ + (steps + step) * kTileBytes, 64);
                _tile_stream_loadd(7, b + step * kTileBytes, 64);
                _tile_dpbf16ps(0, 3, 7);
            }
        }
    }

    // The last product of it, where there is one.
    template <int kHalf>
    ALWAYS_INLINE void finish_scoring(std::int64_t block, std::int64_t panel) {
        if (!has_panel(block, panel)) return;
        if constexpr (kHalf == 0) {
            _tile_dpbf16ps(1, 4, 6);
        } else if (layout_.key_steps() > 1) {
            _tile_dpbf16ps(1, 5, 7);
        }
    }

    ALWAYS_INLINE void store_scores(std::int64_t block, std::int64_t panel) {
        if (!has_panel(block, panel)) return;
        float* c = other_ + panel * 16;
        _tile_stored(0, c, kScoreStride * 4);
        _tile_stored(1, c + 16 * kScoreStride, kScoreStride * 4);
    }

    std::int64_t steps_of(std::int64_t block) const {
        return std::min(kBlockSteps, layout_.steps - block * kBlockSteps);
    }

    // Adds the probabilities of one step of a block times 32 columns of its values, but for the last product: of the
    // first sixteen queries, or of the others.
    template <int kHalf>
    ALWAYS_INLINE void weigh(std::int64_t block, std::int64_t pair) {
        const std::int64_t panel = pair / kBlockSteps, step = pair % kBlockSteps, stride = layout_.columns() * 4;
        if (step >= steps_of(block)) return;
        const float* a = other_ + step * 16;
        float *first = out_ + panel * 32, *second = first + 16 * layout_.columns();
        if constexpr (kHalf == 0) {
            if (step == 0) {
                if (panel > 0) store_weighted(panel - 1);
                _tile_zero(0);
                _tile_zero(1);
                if (block > 0) {
                    _tile_loadd(0, first, stride);
                    _tile_loadd(1, first + 16, stride);
                }
            }
            _tile_loadd(4, a, kScoreStride * 4);
            _tile_stream_loadd(6, values_of(block, panel, step), 64);
            AmxBf16::dot_00();
        } else {
            if (step == 0) {
                _tile_zero(2);
                _tile_zero(3);
                if (block > 0) {
                    _tile_loadd(2, second, stride);
                    _tile_loadd(3, second + 16, stride);
                }
            }
            _tile_loadd(5, a + 16 * kScoreStride, kScoreStride * 4);
            AmxBf16::dot_10();
        }
    }

    // The last product of it. A sum is stored some work after its last product.
    template <int kHalf>
    ALWAYS_INLINE void finish_weighing(std::int64_t block, std::int64_t pair) {
        const std::int64_t panel = pair / kBlockSteps, step = pair % kBlockSteps;
        if (step >= steps_of(block)) return;
        if constexpr (kHalf == 0) {
            _tile_stream_loadd(7, values_of(block, panel, step) + layout_.steps * kTileBytes, 64);
            AmxBf16::dot_01();
        } else {
            AmxBf16::dot_11();
            if (step == steps_of(block) - 1) {
                float* first = out_ + panel * 32;
                _tile_stored(0, first, layout_.columns() * 4);
                _tile_stored(1, first + 16, layout_.columns() * 4);
            }
        }
    }

    void weigh_both(std::int64_t block, std::int64_t pair) {
        weigh<0>(block, pair);
        finish_weighing<0>(block, pair);
        weigh<1>(block, pair);
        finish_weighing<1>(block, pair);
    }

    // The first sixteen columns of 32 of the values, for 32 keys; the others are one panel further.
    const std::byte* values_of(std::int64_t block, std::int64_t panel, std::int64_t step) const {
        return values_ + (2 * panel * layout_.steps + block * kBlockSteps + step) * kTileBytes;
    }

    // Stores tiles 2 and 3, in which weigh() accumulates.
    ALWAYS_INLINE void store_weighted(std::int64_t panel) {
        float* second = out_ + panel * 32 + 16 * layout_.columns();
        _tile_stored(2, second, layout_.columns() * 4);
        _tile_stored(3, second + 16, layout_.columns() * 4);
    }

    void rescale(std::int64_t queries) {
        for (std::int64_t r = 0; r < queries; ++r) {
            if (softmax_.factor(r) == 1.0f) continue;
            const F factor = Simd::set(softmax_.factor(r));
            float* row = out_ + r * layout_.columns();
            for (std::int64_t i = 0; i < layout_.columns(); i += Simd::kLanes)
                Simd::store(row + i, Simd::load(row + i) * factor);
        }
    }

    // Rows [first, first + rows) of a tile's output, as far as it has them.
    [[gnu::noinline]] void finish(std::int64_t tile, std::int64_t first, std::int64_t rows) {
        const std::int64_t end = std::min(first + rows, queries_of(tile));
        for (std::int64_t r = first; r < end; ++r) {
            auto* out = static_cast<std::uint16_t*>(head_.out) + (query_ + tile * kQueryTile + r) * head_.out_stride;
            const F inverse = Simd::set(softmax_.inverse(r));
            for_elements<Simd>(out_ + r * layout_.columns(), layout_.head_dim(),
                               [&](std::int64_t i, int n, F x) { store_from_float<Simd>(out + i, x * inverse, n); });
        }
    }

    const Head& head_;
    const Layout layout_;
    const std::byte *keys_, *values_;
    const std::int64_t query_, queries_, tiles_, blocks_;
    const float scale_;
    Work& work_;
    FixedPointSoftmax softmax_;
    std::byte* q_;
    float* out_;           // [32, columns], weighted values so far
    float *now_, *other_;  // scores of this block; of the one before, then of the next
};

// Heads of 64 elements, which all published models have, and of others.
struct AmxAttention : AmxAttentionOf<0> {
    static constexpr auto pack = pack_head_for_amx;

    static void attend(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                       std::byte* scratch) {
        (head.head_dim == 64 ? AmxAttentionOf<64>::attend : AmxAttentionOf<0>::attend)(head, packed, query, queries,
                                                                                       scratch);
    }
};

}  // namespace
}  // namespace astfast
