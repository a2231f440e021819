// Attention on AMX tiles: 32 queries against blocks of 128 keys, everything of a block in the first-level cache. While
// the vector units turn the scores of one block into probabilities, the tiles multiply those of the block before it by
// the values and the queries by the keys of the next.
//
// Exponentials are taken against a reference score of the row, the largest of its first block. It is raised, and what
// was summed so far scaled down, only where a later block has a score so far above it (2^8) that sums could suffer:
// rare, and the result is the same whatever the reference.

namespace astfast {
namespace {

class AmxAttention {
    using G = AmxGemm<AmxBf16>;
    using V = G::V;
    using F = V::F;
    static constexpr std::int64_t kBlock = 128, kPanel = 32, kBlockPanels = kBlock / kPanel;
    static constexpr std::int64_t kScoreStride = kBlock + 16;  // floats; an odd number of cache lines
    static constexpr int kChunks = 8;                          // of the rows: tile work comes between them
    static constexpr float kHeadroom = 8.0f;                   // in powers of two

  public:
    static constexpr std::int64_t kQueryTile = 32;

    static std::size_t packed_bytes(std::int64_t keys, std::int64_t head_dim) {
        const Layout layout(keys, head_dim);
        return static_cast<std::size_t>(layout.panels * (layout.key_panel_bytes() + layout.columns * 64));
    }

    static std::size_t scratch_bytes(std::int64_t, std::int64_t head_dim) {
        const Layout layout(1, head_dim);
        return sizeof(Work) + static_cast<std::size_t>(kQueryTile * (layout.key_steps * 64 + layout.columns * 4));
    }

    // Keys as panels of 32, each as two panels of 16 [units of head_dim, 16]; then values as panels of 16 columns
    // [units of keys, 16].
    static void pack(const Head& head, std::byte* packed) {
        const Layout layout(head.keys, head.head_dim);
        alignas(64) std::byte rows[V::kLanes * operand_bytes<G>(kMaxHeadDim)];
        const std::int64_t stride = operand_bytes<G>(head.head_dim);
        const auto row = [&](std::int64_t j) { return reinterpret_cast<std::uint32_t*>(rows + j * stride); };
        for (std::int64_t key = 0; key < layout.panels * kPanel; key += V::kLanes) {
            const std::int64_t count = std::clamp<std::int64_t>(head.keys - key, 0, V::kLanes);
            for (std::int64_t j = 0; j < count; ++j) {
                copy_row<G>(LinearRow<G>(rows + j * stride),
                            static_cast<const std::uint16_t*>(head.k) + (key + j) * head.kv_stride, head.head_dim);
            }
            transpose_to_panel<G>(row, count, layout.key_steps * 16, 16, 16, reinterpret_cast<std::uint32_t*>(packed));
            packed += layout.key_panel_bytes() / 2;
        }
        for (std::int64_t d = 0; d < layout.columns; d += 16, packed += layout.panels * kTileBytes) {
            G::pack_values_in_pairs(head, layout.panels * 16, 16, d, packed);
        }
    }

    static void attend(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                       std::byte* scratch) {
        const TileSession session;
        AmxAttention(head, packed, queries, scratch).run(query);
    }

  private:
    struct Layout {
        std::int64_t key_steps;  // tiles along head_dim
        std::int64_t panels;     // of 32 keys
        std::int64_t columns;    // of the values, in whole panels of 32

        Layout(std::int64_t keys, std::int64_t head_dim)
            : key_steps(units_of<G>(head_dim) / 16),
              panels((keys + kPanel - 1) / kPanel),
              columns((head_dim + kPanel - 1) / kPanel * kPanel) {}
        std::int64_t key_panel_bytes() const { return key_steps * 2 * kTileBytes; }
    };

    struct alignas(64) Work {
        float scores[2][kQueryTile * kScoreStride];           // of this block and the next
        std::uint16_t probabilities[2][kQueryTile * kBlock];  // of this block and the last, as tiles of A
        float sums[kQueryTile][V::kLanes];                    // of the probabilities so far, by lane
        float reference[kQueryTile];                          // scaled to powers of two
        float factor[kQueryTile];                             // for what was summed before this block
    };

    AmxAttention(const Head& head, const std::byte* packed, std::int64_t queries, std::byte* scratch)
        : head_(head),
          layout_(head.keys, head.head_dim),
          keys_(packed),
          values_(packed + layout_.panels * layout_.key_panel_bytes()),
          queries_(queries),
          second_rows_(queries > 16),
          work_(*reinterpret_cast<Work*>(scratch)),
          q_(scratch + sizeof(Work)),
          out_(reinterpret_cast<float*>(q_ + kQueryTile * layout_.key_steps * 64)) {}

    void run(std::int64_t query) {
        const float scale = 0x1.715476p+0f / __builtin_sqrtf(static_cast<float>(head_.head_dim));  // log2(e)
        for (std::int64_t r = 0; r < queries_; ++r) {
            const OperandRow<std::uint16_t, 16> row(q_ + r / 16 * layout_.key_steps * kTileBytes + r % 16 * 64);
            copy_row<G>(row, static_cast<const std::uint16_t*>(head_.q) + (query + r) * head_.q_stride, head_.head_dim);
        }
        const std::int64_t blocks = (layout_.panels + kBlockPanels - 1) / kBlockPanels;
        for (std::int64_t panel = 0; panel < kBlockPanels; ++panel) score(0, panel);
        for (std::int64_t block = 0; block < blocks; ++block) {
            rescaled_ = false;
            for (int chunk = 0; chunk < kChunks; ++chunk) {
                if (chunk % 2 == 0) {
                    score(block + 1, chunk / 2);
                } else if (block > 0) {
                    const std::int64_t panels = layout_.columns / 32, half = chunk / 2;
                    for (std::int64_t p = half * panels / 4; p < (half + 1) * panels / 4; ++p) weigh(block - 1, p);
                }
                const std::int64_t end = std::min<std::int64_t>((chunk + 1) * kQueryTile / kChunks, queries_);
                for (std::int64_t r = chunk * kQueryTile / kChunks; r < end; ++r) exponentiate(block, r, scale);
            }
            if (rescaled_ && block > 0) rescale();
        }
        for (std::int64_t panel = 0; panel < layout_.columns / 32; ++panel) weigh(blocks - 1, panel);
        finish(query);
    }

    // Scores of panel `panel` of a block, if there is one.
    void score(std::int64_t block, std::int64_t panel) {
        const std::int64_t index = block * kBlockPanels + panel;
        if (index >= layout_.panels) return;
        const std::byte* b = keys_ + index * layout_.key_panel_bytes();
        const std::int64_t side = layout_.key_steps * kTileBytes;
        zero_product(second_rows_);
        multiply(q_, side, kTileBytes, b, side, layout_.key_steps);
        store_product(work_.scores[block % 2] + panel * kPanel, kScoreStride, second_rows_);
    }

    // Adds the probabilities of a block times columns [32 panel, 32 panel + 32) of its values.
    void weigh(std::int64_t block, std::int64_t panel) {
        const std::int64_t first = block * kBlockPanels, side = layout_.panels * kTileBytes;
        const auto* a = reinterpret_cast<const std::byte*>(work_.probabilities[block % 2]);
        float* c = out_ + panel * 32;
        block > 0 ? load_product(c, layout_.columns, second_rows_) : zero_product(second_rows_);
        multiply(a, kBlockPanels * kTileBytes, kTileBytes, values_ + 2 * panel * side + first * kTileBytes, side,
                 std::min(kBlockPanels, layout_.panels - first));
        store_product(c, layout_.columns, second_rows_);
    }

    void multiply(const std::byte* a, std::int64_t a_second, std::int64_t step, const std::byte* b,
                  std::int64_t b_second, std::int64_t steps) {
        const auto nothing = [] {};
        if (second_rows_) {
            add_products<AmxBf16, true>(a, a_second, step, b, b_second, step, steps, nothing);
        } else {
            add_products<AmxBf16, false>(a, a_second, step, b, b_second, step, steps, nothing);
        }
    }

    // Scores of row r and one block -> probabilities 2^(scale score - reference), and their sum.
    void exponentiate(std::int64_t block, std::int64_t r, float scale) {
        const std::int64_t valid = std::min(kBlock, head_.keys - block * kBlock);
        valid == kBlock ? exponentiate_row<true>(block, r, scale, valid)
                        : exponentiate_row<false>(block, r, scale, valid);
    }

    template <bool kWhole>
    [[gnu::always_inline]] void exponentiate_row(std::int64_t block, std::int64_t r, float scale, std::int64_t valid) {
        constexpr int kVectors = kBlock / V::kLanes;
        const float* scores = work_.scores[block % 2] + r * kScoreStride;
        const int vectors = kWhole ? kVectors : static_cast<int>((valid + kPanel - 1) / kPanel * (kPanel / V::kLanes));
        const F factor = V::set(scale);
        F s[kVectors], tops[2];
#pragma GCC unroll 8
        for (int i = 0; i < vectors; ++i) {
            s[i] = V::load(scores + i * V::kLanes);
            if constexpr (!kWhole) {  // keys that there are not weigh nothing
                const auto n = static_cast<int>(std::clamp<std::int64_t>(valid - i * V::kLanes, 0, V::kLanes));
                s[i] = _mm512_mask_mov_ps(V::set(-0x1p126f), V::mask(n), s[i]);
            }
            tops[i % 2] = i < 2 ? s[i] : V::max(tops[i % 2], s[i]);
        }
        const F top = V::max(tops[0], tops[1]) * factor;
        F sum = V::load(work_.sums[r]);
        if (block == 0) {
            work_.reference[r] = V::largest(top);
            sum = V::zero();
        } else if (const float before = work_.reference[r];
                   _mm512_cmp_ps_mask(top, V::set(before + kHeadroom), _CMP_GT_OQ) != 0) {
            work_.reference[r] = V::largest(top);
            if (!rescaled_) std::fill(work_.factor, work_.factor + kQueryTile, 1.0f);
            rescaled_ = true;
            work_.factor[r] = exp_of<V, false>(V::set((before - work_.reference[r]) * 0x1.62e430p-1f))[0];  // ln 2
            sum = sum * V::set(work_.factor[r]);
        }
        const F reference = V::set(-work_.reference[r]);
        auto* p = reinterpret_cast<std::byte*>(work_.probabilities[block % 2]) + r / 16 * kBlockPanels * kTileBytes +
                  r % 16 * 64;
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i += 2, p += kTileBytes) {
            const F e0 = small_exp2(V::fma(s[i], factor, reference));
            const F e1 = small_exp2(V::fma(s[i + 1], factor, reference));
            sum = sum + (e0 + e1);
            _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(e1, e0)));
        }
        V::store(work_.sums[r], sum);
    }

    // 2^t, t at most kHeadroom: fast_exp2 (math-inl.h) with the exponent added in place; 2^-126 for anything below.
    [[gnu::always_inline]] static F small_exp2(F t) {
        const F magic = V::set(0x1.8p23f);
        const F clamped = V::max(V::set(-126.0f), t);
        const F shifted = clamped + magic;
        const F p = fast_exp2_fraction<V>(clamped - (shifted - magic));
        return reinterpret_cast<F>(reinterpret_cast<V::I>(p) + (reinterpret_cast<V::I>(shifted) << 23));
    }

    void rescale() {
        for (std::int64_t r = 0; r < queries_; ++r) {
            if (work_.factor[r] == 1.0f) continue;
            const F factor = V::set(work_.factor[r]);
            float* row = out_ + r * layout_.columns;
            for (std::int64_t i = 0; i < layout_.columns; i += V::kLanes) V::store(row + i, V::load(row + i) * factor);
        }
    }

    void finish(std::int64_t query) {
        for (std::int64_t r = 0; r < queries_; ++r) {
            auto* out = static_cast<std::uint16_t*>(head_.out) + (query + r) * head_.out_stride;
            const F inverse = V::set(1.0f / V::sum(V::load(work_.sums[r])));
            for_elements<V>(out_ + r * layout_.columns, head_.head_dim,
                            [&](std::int64_t i, int n, F x) { store_from_float<V>(out + i, x * inverse, n); });
        }
    }

    const Head& head_;
    const Layout layout_;
    const std::byte *keys_, *values_;
    const std::int64_t queries_;
    const bool second_rows_;
    Work& work_;
    std::byte* q_;
    float* out_;  // [32, columns], weighted values so far
    bool rescaled_ = false;
};

}  // namespace
}  // namespace astfast
