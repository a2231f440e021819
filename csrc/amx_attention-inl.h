// Attention on AMX tiles: 32 queries against blocks of 128 keys. While the vector units turn the scores of one block
// into probabilities, the tiles multiply the probabilities of the one before by the values and the queries by the keys
// of the next: one product before every row and one in the middle of it, so that both kinds of instructions are always
// within the reach of out-of-order execution. Measured limits of its speed (docs/performance.md):
//   - a block's scores, probabilities (in the scores' place), sums and queries stay in the first-level cache;
//   - while tiles multiply, the vector units multiply at half their rate, so exponentials take few multiplications;
//   - storing a tile costs as much of the front end as 80 other instructions.
//
// Exponentials are taken against a reference score of the row, the largest of its first block, whose probability of 1
// is exact: rounding the largest of all costs the most. The reference is raised, and what was summed so far scaled
// down, only where a block has a score 2^16 above it: rare, and nothing but roundings depends on the reference.

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
    static constexpr std::int64_t kScoreStride = kBlock + 16;  // floats; an odd number of cache lines
    static constexpr float kHeadroom = 0x1p16f;

  public:
    static constexpr std::int64_t kQueryTile = 32, kMaxKeys = std::numeric_limits<std::int64_t>::max();

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
        AmxAttentionOf(head, packed, queries, scratch).run(query);
    }

  private:
    struct alignas(64) Work {
        // Of this block, and of the one before or the next. Probabilities, bfloat16, take the place of a row's scores.
        float scores[2][kQueryTile * kScoreStride];
        float sums[kQueryTile][Simd::kLanes];  // of the probabilities so far, by lane
        float reference[kQueryTile];           // a score
        float offset[kQueryTile];              // by which it enters the fixed point
        float factor[kQueryTile];              // scales the sums of earlier blocks
    };

    AmxAttentionOf(const Head& head, const std::byte* packed, std::int64_t queries, std::byte* scratch)
        : head_(head),
          layout_(head.keys, head.head_dim),
          keys_(packed),
          values_(packed + layout_.key_bytes()),
          queries_(queries),
          blocks_((layout_.steps + kBlockSteps - 1) / kBlockSteps),
          scale_(0x1.715476p+0f / __builtin_sqrtf(static_cast<float>(head.head_dim))),  // log2(e)
          work_(*reinterpret_cast<Work*>(scratch)),
          q_(scratch + sizeof(Work)),
          out_(reinterpret_cast<float*>(q_ + kQueryTile * layout_.key_steps() * 64)) {}

    void run(std::int64_t query) {
        load_queries(query);
        for (std::int64_t panel = 0; panel < kPanels; ++panel) {
            score<0>(0, panel);
            finish_scoring<0>(0, panel);
            score<1>(0, panel);
            finish_scoring<1>(0, panel);
        }
        store_scores(0, kPanels - 1);
        std::fill_n(work_.sums[0], kQueryTile * Simd::kLanes, 0.0f);
        const std::int64_t n = whole_steps(std::min(head_.keys, kBlock));
        for (std::int64_t r = 0; r < queries_; ++r) {
            set_reference(r, largest_score<Simd>(work_.scores[0] + r * kScoreStride, n));
        }
        for (std::int64_t block = 0; block < blocks_; ++block) {
            const std::int64_t valid = head_.keys - block * kBlock;
            rescaled_ = false;
            if (head_.bias != nullptr) {
                valid >= kBlock ? step_through<true, true>(block, kBlock) : step_through<false, true>(block, valid);
            } else {
                valid >= kBlock ? step_through<true, false>(block, kBlock) : step_through<false, false>(block, valid);
            }
            if (rescaled_ && block > 0) rescale();
        }
        const std::int64_t last = blocks_ - 1;
        for (std::int64_t pair = 0; pair < pairs(); ++pair) {
            weigh_both(last, pair, layout_.steps - last * kBlockSteps);
        }
        store_weighted(layout_.columns() / 32 - 1);
        finish(query);
    }

    // Of the steps of a block and the panels of 32 columns that weigh() has.
    std::int64_t pairs() const { return layout_.columns() / 32 * kBlockSteps; }

    // Row by row, a block's scores become probabilities. Beside the first sixteen rows the tiles weigh the values of
    // the block before, whose place the scores of the next one then take beside the others. There are two products a
    // row, one before it and one in the middle of it.
    template <bool kWhole, bool kBiased>
    void step_through(std::int64_t block, std::int64_t valid) {
        constexpr std::int64_t kParts = kQueryTile / 4;  // of two rows
        const auto row = [&](std::int64_t r, const auto& beside) ALWAYS_INLINE {
            if (r >= queries_) return beside();
            exponentiate<kWhole, kBiased>(block, r, valid, beside);
        };
        for (std::int64_t part = 0; part < kParts; ++part) {
            std::int64_t pair = part * pairs() / kParts;
            const std::int64_t end = block > 0 ? (part + 1) * pairs() / kParts : pair;
            const bool any = pair < end;
            if (any) weigh<0>(block - 1, pair, kBlockSteps);
            row(2 * part, [&]() ALWAYS_INLINE {
                if (any) finish_weighing<0>(block - 1, pair, kBlockSteps);
            });
            if (any) weigh<1>(block - 1, pair, kBlockSteps);
            row(2 * part + 1, [&]() ALWAYS_INLINE {
                if (any) finish_weighing<1>(block - 1, pair, kBlockSteps);
            });
            while (++pair < end) weigh_both(block - 1, pair, kBlockSteps);
        }
        if (block > 0) store_weighted(layout_.columns() / 32 - 1);
        static_assert(kParts == kPanels);
        const bool more = block + 1 < blocks_;
        for (std::int64_t part = 0; part < kParts; ++part) {
            if (more) score<0>(block + 1, part);
            row(kQueryTile / 2 + 2 * part, [&]() ALWAYS_INLINE {
                if (more) finish_scoring<0>(block + 1, part);
            });
            if (more) score<1>(block + 1, part);
            row(kQueryTile / 2 + 2 * part + 1, [&]() ALWAYS_INLINE {
                if (more) finish_scoring<1>(block + 1, part);
            });
        }
        if (more) store_scores(block + 1, kPanels - 1);
    }

    void load_queries(std::int64_t query) {
        __m512i largest = _mm512_setzero_si512();
        for (std::int64_t r = 0; r < queries_; ++r) {
            std::byte* start = q_ + r / 16 * layout_.key_steps() * kTileBytes + r % 16 * 64;
            copy_row<Gemm>(OperandRow<std::uint16_t, 16>(start),
                           static_cast<const std::uint16_t*>(head_.q) + (query + r) * head_.q_stride, head_.head_dim);
            largest = largest_magnitude(start, layout_.key_steps(), kTileBytes, largest);
        }
        const float key = *reinterpret_cast<const float*>(values_ + layout_.value_bytes());
        const float bound = largest_of(largest) * key * static_cast<float>(head_.head_dim) * scale_;
        huge_ = !(bound < 0x1p20f);
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
        float* c = work_.scores[block % 2] + panel * 16;
        _tile_stored(0, c, kScoreStride * 4);
        _tile_stored(1, c + 16 * kScoreStride, kScoreStride * 4);
    }

    // Adds the probabilities of one step of a block, of its `steps`, times 32 columns of its values, but for the last
    // product: of the first sixteen queries, or of the others.
    template <int kHalf>
    ALWAYS_INLINE void weigh(std::int64_t block, std::int64_t pair, std::int64_t steps) {
        const std::int64_t panel = pair / kBlockSteps, step = pair % kBlockSteps, stride = layout_.columns() * 4;
        if (step >= steps) return;
        const float* a = work_.scores[block % 2] + step * 16;
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
    ALWAYS_INLINE void finish_weighing(std::int64_t block, std::int64_t pair, std::int64_t steps) {
        const std::int64_t panel = pair / kBlockSteps, step = pair % kBlockSteps;
        if (step >= steps) return;
        if constexpr (kHalf == 0) {
            _tile_stream_loadd(7, values_of(block, panel, step) + layout_.steps * kTileBytes, 64);
            AmxBf16::dot_01();
        } else {
            AmxBf16::dot_11();
            if (step == steps - 1) {
                float* first = out_ + panel * 32;
                _tile_stored(0, first, layout_.columns() * 4);
                _tile_stored(1, first + 16, layout_.columns() * 4);
            }
        }
    }

    void weigh_both(std::int64_t block, std::int64_t pair, std::int64_t steps) {
        weigh<0>(block, pair, steps);
        finish_weighing<0>(block, pair, steps);
        weigh<1>(block, pair, steps);
        finish_weighing<1>(block, pair, steps);
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

    // Scores of row r and one block -> probabilities 2^(scale score + bias - reference), and their sum.
    template <bool kWhole, bool kBiased, class Between>
    [[gnu::always_inline]] void exponentiate(std::int64_t block, std::int64_t r, std::int64_t valid,
                                             const Between& between) {
        float* row = work_.scores[block % 2] + r * kScoreStride;
        __m512i p[kBlockSteps];
        const float* const bias = kBiased ? head_.bias + block * kBlock : nullptr;
        F sum = exponentials<kWhole, kBiased, false>(row, bias, row_of(r), valid, p, between);
        if (__builtin_expect(huge_ || _mm512_cmp_ps_mask(sum, Simd::set(kHeadroom), _CMP_NLT_UQ) != 0, false)) {
            raise_reference(row, r, valid);
            sum = exponentials<kWhole, kBiased, true>(row, bias, row_of(r), valid, p, [] {});
        }
        for (int i = 0; i < kBlockSteps; ++i) _mm512_store_si512(row + i * 16, p[i]);
        asm volatile("" ::: "memory");  // GCC doesn't know that a tile load reads memory
        Simd::store(work_.sums[r], Simd::load(work_.sums[r]) + sum);
    }

    // Floats of a row among which the scores of `valid` keys are, in an order of their own; the others are the last
    // key's.
    static std::int64_t whole_steps(std::int64_t valid) { return (valid + kStep - 1) / kStep * kStep; }

    ALWAYS_INLINE RowOfScores row_of(std::int64_t r) const {
        return {256.0f * scale_, work_.reference[r], work_.offset[r]};
    }

    void set_reference(std::int64_t r, float score) {
        work_.reference[r] = score;
        work_.offset[r] = kFixedOne - 256.0f * scale_ * score;
    }

    // To the largest score of row r and one block, if that is above it; to NaN if a score is.
    void raise_reference(const float* scores, std::int64_t r, std::int64_t valid) {
        const float before = work_.reference[r];
        const std::int64_t n = whole_steps(valid);
        float top = scores[0];
        for (std::int64_t i = 1; i < n; ++i) top = scores[i] > top || scores[i] != scores[i] ? scores[i] : top;
        if (top <= before) return;
        set_reference(r, top);
        if (!rescaled_) std::fill(work_.factor, work_.factor + kQueryTile, 1.0f);
        rescaled_ = true;
        work_.factor[r] = exp_of<Simd, false>(Simd::set((before - top) * scale_ * 0x1.62e430p-1f))[0];  // ln 2
        Simd::store(work_.sums[r], Simd::load(work_.sums[r]) * Simd::set(work_.factor[r]));
    }

    void rescale() {
        for (std::int64_t r = 0; r < queries_; ++r) {
            if (work_.factor[r] == 1.0f) continue;
            const F factor = Simd::set(work_.factor[r]);
            float* row = out_ + r * layout_.columns();
            for (std::int64_t i = 0; i < layout_.columns(); i += Simd::kLanes)
                Simd::store(row + i, Simd::load(row + i) * factor);
        }
    }

    void finish(std::int64_t query) {
        for (std::int64_t r = 0; r < queries_; ++r) {
            auto* out = static_cast<std::uint16_t*>(head_.out) + (query + r) * head_.out_stride;
            const F inverse = Simd::set(1.0f / Simd::sum(Simd::load(work_.sums[r])));
            for_elements<Simd>(out_ + r * layout_.columns(), head_.head_dim,
                               [&](std::int64_t i, int n, F x) { store_from_float<Simd>(out + i, x * inverse, n); });
        }
    }

    const Head& head_;
    const Layout layout_;
    const std::byte *keys_, *values_;
    const std::int64_t queries_, blocks_;
    const float scale_;
    Work& work_;
    std::byte* q_;
    float* out_;             // [32, columns], weighted values so far
    bool huge_ = false;      // scores may leave the range of the fixed point: the reference follows each block
    bool rescaled_ = false;  // a reference was raised in this block
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
