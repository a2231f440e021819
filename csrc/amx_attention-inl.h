// Attention on AMX tiles: 32 queries against blocks of 128 keys. While the vector units turn the scores of one block
// into probabilities, the tiles multiply the probabilities of the one before by the values and the queries by the keys
// of the next: after every row a part of it, so that both kinds of instructions are always within the reach of
// out-of-order execution. Measured limits of its speed (docs/performance.md):
//   - a block's scores, probabilities (in the scores' place), sums and queries stay in the first-level cache;
//   - while tiles multiply, the vector units multiply at half their rate, so exponentials take few multiplications;
//   - storing a tile costs as much of the front end as 80 other instructions.
//
// Exponentials are taken against a reference score of the row, the largest of its first block, whose probability of 1
// is exact: rounding the largest of all costs the most. The reference is raised, and what was summed so far scaled
// down, only where a block has a score 2^16 above it: rare, and nothing but roundings depends on the reference.

namespace astfast {
namespace {

class AmxAttention {
    using Gemm = AmxGemm<AmxBf16>;
    using Simd = Gemm::Simd;
    using F = Simd::F;
    static constexpr std::int64_t kBlock = 128, kStep = 32;  // keys of a block, of a tile product
    static constexpr std::int64_t kBlockSteps = kBlock / kStep;
    static constexpr std::int64_t kPanels = kBlock / 16;
    static constexpr std::int64_t kScoreStride = kBlock + 16;  // floats; an odd number of cache lines
    static constexpr float kHeadroom = 0x1p16f;
    static constexpr float kOne = 256.0f * 127.0f + 0.6875f;  // 1 in fixed point, and what halving cuts off in the mean

  public:
    static constexpr std::int64_t kQueryTile = 32, kMaxKeys = std::numeric_limits<std::int64_t>::max();

    static std::size_t packed_bytes(std::int64_t keys, std::int64_t head_dim) {
        const Layout layout(keys, head_dim);
        return static_cast<std::size_t>(layout.key_bytes() + layout.value_bytes() + 64);
    }

    static std::size_t scratch_bytes(std::int64_t, std::int64_t head_dim) {
        const Layout layout(1, head_dim);
        return sizeof(Work) + static_cast<std::size_t>(kQueryTile * (layout.key_steps * 64 + layout.columns * 4));
    }

    // Keys as panels of 16 [units of head_dim, 16], values as panels of 16 columns [units of keys, 16], then the
    // largest magnitude of a key's element. Two panels share 32 keys, in the order in which packing two vectors of
    // scores to 16 bits restores theirs; the last key is repeated to whole panels.
    static void pack(const Head& head, std::byte* packed) {
        const Layout layout(head.keys, head.head_dim);
        alignas(64) std::byte rows[kStep * operand_bytes<Gemm>(kMaxHeadDim)];
        const std::int64_t stride = layout.key_steps * 64;
        __m512i largest = _mm512_setzero_si512();
        for (std::int64_t key = 0; key < layout.steps * kStep; key += kStep) {
            for (std::int64_t j = 0; j < kStep; ++j) {
                const std::int64_t from = std::min(key + j, head.keys - 1) * head.kv_stride;
                prefetch(head, key + j + kStep);
                std::byte* row = rows + j * stride;
                copy_row<Gemm>(LinearRow<Gemm>(row), static_cast<const std::uint16_t*>(head.k) + from, head.head_dim);
                largest = largest_magnitude(row, layout.key_steps, 64, largest);
            }
            for (int panel = 0; panel < 2; ++panel, packed += layout.key_steps * kTileBytes) {
                const auto row = [&](std::int64_t j) {
                    return reinterpret_cast<std::uint32_t*>(rows + (j / 4 * 8 + panel * 4 + j % 4) * stride);
                };
                transpose_to_panel<Gemm>(row, 16, layout.key_steps * 16, 16, 16,
                                         reinterpret_cast<std::uint32_t*>(packed));
            }
        }
        for (std::int64_t d = 0; d < layout.columns; d += 16, packed += layout.steps * kTileBytes) {
            Gemm::pack_values_in_pairs(head, layout.steps * 16, 16, d, packed);
        }
        *reinterpret_cast<float*>(packed) = largest_of(largest);
    }

    static void attend(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                       std::byte* scratch) {
        const TileSession session;
        AmxAttention(head, packed, queries, scratch).run(query);
    }

  private:
    struct Layout {
        std::int64_t key_steps;  // tiles along head_dim
        std::int64_t steps;      // of 32 keys
        std::int64_t columns;    // of the values, in whole products of 32

        Layout(std::int64_t keys, std::int64_t head_dim)
            : key_steps(units_of<Gemm>(head_dim) / 16),
              steps((keys + kStep - 1) / kStep),
              columns((head_dim + 31) / 32 * 32) {}
        std::int64_t key_bytes() const { return steps * 2 * key_steps * kTileBytes; }
        std::int64_t value_bytes() const { return steps * (columns / 16) * kTileBytes; }
    };

    struct alignas(64) Work {
        // Of this block, and of the one before or the next. Probabilities, bfloat16, take the place of a row's scores.
        float scores[2][kQueryTile * kScoreStride];
        float sums[kQueryTile][Simd::kLanes];  // of the probabilities so far, by lane
        float reference[kQueryTile];           // a score
        float offset[kQueryTile];              // by which it enters the fixed point
        float factor[kQueryTile];              // scales the sums of earlier blocks
    };

    AmxAttention(const Head& head, const std::byte* packed, std::int64_t queries, std::byte* scratch)
        : head_(head),
          layout_(head.keys, head.head_dim),
          keys_(packed),
          values_(packed + layout_.key_bytes()),
          queries_(queries),
          blocks_((layout_.steps + kBlockSteps - 1) / kBlockSteps),
          halves_(layout_.columns / 32 * kBlockSteps * 2),
          scale_(0x1.715476p+0f / __builtin_sqrtf(static_cast<float>(head.head_dim))),  // log2(e)
          work_(*reinterpret_cast<Work*>(scratch)),
          q_(scratch + sizeof(Work)),
          out_(reinterpret_cast<float*>(q_ + kQueryTile * layout_.key_steps * 64)) {}

    void run(std::int64_t query) {
        load_queries(query);
        for (std::int64_t half = 0; half < kQueryTile / 2; ++half) score(0, half);
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
        for (std::int64_t half = 0; half < halves_; ++half) weigh(last, half, layout_.steps - last * kBlockSteps);
        store_weighted(layout_.columns / 32 - 1);
        finish(query);
    }

    // Row by row, a block's scores become probabilities. Beside the first sixteen rows the tiles weigh the values of
    // the block before, whose place the scores of the next one then take beside the others.
    template <bool kWhole, bool kBiased>
    void step_through(std::int64_t block, std::int64_t valid) {
        constexpr std::int64_t kParts = kQueryTile / 2;
        for (std::int64_t r = 0; r < kParts; ++r) {
            for (std::int64_t half = r * halves_ / kParts; block > 0 && half < (r + 1) * halves_ / kParts; ++half) {
                weigh(block - 1, half, kBlockSteps);
            }
            if (r < queries_) exponentiate<kWhole, kBiased>(block, r, valid);
        }
        if (block > 0) store_weighted(layout_.columns / 32 - 1);
        for (std::int64_t r = kParts; r < kQueryTile; ++r) {
            if (block + 1 < blocks_) score(block + 1, r - kParts);
            if (r < queries_) exponentiate<kWhole, kBiased>(block, r, valid);
        }
        if (block + 1 < blocks_) store_scores(block + 1, kPanels - 1);
    }

    void load_queries(std::int64_t query) {
        __m512i largest = _mm512_setzero_si512();
        for (std::int64_t r = 0; r < queries_; ++r) {
            std::byte* start = q_ + r / 16 * layout_.key_steps * kTileBytes + r % 16 * 64;
            copy_row<Gemm>(OperandRow<std::uint16_t, 16>(start),
                           static_cast<const std::uint16_t*>(head_.q) + (query + r) * head_.q_stride, head_.head_dim);
            largest = largest_magnitude(start, layout_.key_steps, kTileBytes, largest);
        }
        const float key = *reinterpret_cast<const float*>(values_ + layout_.value_bytes());
        const float bound = largest_of(largest) * key * static_cast<float>(head_.head_dim) * scale_;
        huge_ = !(bound < 0x1p20f);
    }

    // Half of the scores of a panel of a block: along head_dim, its first half at even values of `half`. Queries of up
    // to 64 elements stay in tiles 2 to 5 for a block. The panel is stored when the next one begins.
    void score(std::int64_t block, std::int64_t half) {
        const std::int64_t panel = half / 2, index = block * kPanels + panel, steps = layout_.key_steps;
        if (half % 2 == 0 && panel > 0) store_scores(block, panel - 1);
        if (index >= layout_.steps * 2) return;
        const std::byte* b = keys_ + index * steps * kTileBytes;
        const bool load = panel == 0 || steps > 2;
        if (half % 2 == 0) {
            _tile_zero(0);
            _tile_zero(1);
            for (std::int64_t step = 0; step < (steps + 1) / 2; ++step) {
                if (load) _tile_loadd(2, q_ + step * kTileBytes, 64);
                if (load) _tile_loadd(4, q_ + (steps + step) * kTileBytes, 64);
                _tile_stream_loadd(6, b + step * kTileBytes, 64);
                _tile_dpbf16ps(0, 2, 6);
                _tile_dpbf16ps(1, 4, 6);
            }
        } else {
            for (std::int64_t step = (steps + 1) / 2; step < steps; ++step) {
                if (load) _tile_loadd(3, q_ + step * kTileBytes, 64);
                if (load) _tile_loadd(5, q_ + (steps + step) * kTileBytes, 64);
                _tile_stream_loadd(7, b + step * kTileBytes, 64);
                _tile_dpbf16ps(0, 3, 7);
                _tile_dpbf16ps(1, 5, 7);
            }
        }
    }

    void store_scores(std::int64_t block, std::int64_t panel) {
        if (block * kPanels + panel >= layout_.steps * 2) return;
        float* c = work_.scores[block % 2] + panel * 16;
        _tile_stored(0, c, kScoreStride * 4);
        _tile_stored(1, c + 16 * kScoreStride, kScoreStride * 4);
    }

    // Adds the probabilities of one step of a block, of its `steps`, times 32 columns of its values: of the first
    // sixteen queries at even values of `half`, of the others at odd ones. A sum is stored some work after its last
    // product.
    void weigh(std::int64_t block, std::int64_t half, std::int64_t steps) {
        const std::int64_t panel = half / 2 / kBlockSteps, step = half / 2 % kBlockSteps;
        if (step >= steps) return;
        const std::int64_t side = layout_.steps * kTileBytes, stride = layout_.columns * 4;
        const float* a = work_.scores[block % 2] + step * 16;
        const std::byte* b = values_ + 2 * panel * side + (block * kBlockSteps + step) * kTileBytes;
        float *first = out_ + panel * 32, *second = first + 16 * layout_.columns;
        if (half % 2 == 0) {
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
            _tile_stream_loadd(6, b, 64);
            AmxBf16::dot_00();
            _tile_stream_loadd(7, b + side, 64);
            AmxBf16::dot_01();
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
            AmxBf16::dot_11();
            if (step == steps - 1) {
                _tile_stored(0, first, stride);
                _tile_stored(1, first + 16, stride);
            }
        }
    }

    // Stores tiles 2 and 3, in which weigh() accumulates.
    void store_weighted(std::int64_t panel) {
        float* second = out_ + panel * 32 + 16 * layout_.columns;
        _tile_stored(2, second, layout_.columns * 4);
        _tile_stored(3, second + 16, layout_.columns * 4);
    }

    // Scores of row r and one block -> probabilities 2^(scale score + bias - reference), and their sum.
    template <bool kWhole, bool kBiased>
    [[gnu::always_inline]] void exponentiate(std::int64_t block, std::int64_t r, std::int64_t valid) {
        float* row = work_.scores[block % 2] + r * kScoreStride;
        __m512i p[kBlockSteps];
        const float* const bias = kBiased ? head_.bias + block * kBlock : nullptr;
        F sum = exponentials<kWhole, kBiased, false>(row, bias, r, valid, p);
        if (__builtin_expect(huge_ || _mm512_cmp_ps_mask(sum, Simd::set(kHeadroom), _CMP_NLT_UQ) != 0, false)) {
            raise_reference(row, r, valid);
            sum = exponentials<kWhole, kBiased, true>(row, bias, r, valid, p);
        }
        for (int i = 0; i < kBlockSteps; ++i) _mm512_store_si512(row + i * 16, p[i]);
        asm volatile("" ::: "memory");  // GCC doesn't know that a tile load reads memory
        Simd::store(work_.sums[r], Simd::load(work_.sums[r]) + sum);
    }

    // Probabilities of row r and one block; returns their sums. In fixed point, two vectors at once: u is 256 times
    // the binary logarithm, offset by bfloat16's exponent, so that u / 2 would be the result if 2^f were 1 + f between
    // whole powers; g is the difference, f (0.3410 - 0.3320 f). The offset has what halving cuts off besides. Off by
    // 0.0021 (rms) and 0.0060 (at most) of a probability, the rounding to bfloat16 included, which alone gives 0.0017
    // and 0.0039; 0.0000 in the mean. 1 is exact, what is below 2^-127 zero. The sum is that of the rounded ones.
    // kHuge: scores may be so large that what rounding loses of a scaled one leaves the fixed point.
    template <bool kWhole, bool kBiased, bool kHuge>
    [[gnu::always_inline]] F exponentials(const float* scores, const float* bias, std::int64_t r, std::int64_t valid,
                                          __m512i* p) {
        const F factor = Simd::set(256.0f * scale_), offset = Simd::set(kHuge ? kOne : work_.offset[r]);
        const F reference = Simd::set(work_.reference[r]);
        const auto load = [&](const float* at) ALWAYS_INLINE {
            if constexpr (kHuge) return Simd::load(at) - reference;
            return Simd::load(at);
        };
        __m512i half = _mm512_set1_epi16(static_cast<short>(0x8000));
        asm("" : "+v"(half));  // so that GCC doesn't make a shift of it, which only one port takes
        __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
#pragma GCC unroll 4
        for (int i = 0; i < kBlockSteps; ++i, scores += kStep) {
            F offsets[2] = {offset, offset};
            if constexpr (kBiased) {  // in the order of the panels' keys, see pack
                const __m512i low = _mm512_loadu_si512(bias + i * kStep);
                const __m512i high = _mm512_loadu_si512(bias + i * kStep + Simd::kLanes);
                const F first = reinterpret_cast<F>(_mm512_shuffle_i32x4(low, high, 0x88));
                const F second = reinterpret_cast<F>(_mm512_shuffle_i32x4(low, high, 0xdd));
                offsets[0] = Simd::fma(first, Simd::set(256.0f), offset);
                offsets[1] = Simd::fma(second, Simd::set(256.0f), offset);
            }
            const __m512i u =
                _mm512_packus_epi32(_mm512_cvtps_epi32(Simd::fma(load(scores), factor, offsets[0])),
                                    _mm512_cvtps_epi32(Simd::fma(load(scores + Simd::kLanes), factor, offsets[1])));
            const __m512i f = _mm512_and_si512(u, _mm512_set1_epi16(255));
            const __m512i slope =
                _mm512_sub_epi16(_mm512_set1_epi16(22350), _mm512_maddubs_epi16(u, _mm512_set1_epi16(85)));
            const __m512i g = _mm512_mulhi_epu16(slope, f);
            __m512i e = _mm512_mulhi_epu16(_mm512_sub_epi16(u, g), half);
            if constexpr (!kWhole) {  // keys past the end get probability zero
                const auto n = std::clamp<std::int64_t>(valid - i * kStep, 0, kStep);
                e = _mm512_maskz_mov_epi16(static_cast<__mmask32>((std::uint64_t{1} << n) - 1), e);
            }
            p[i] = e;
            sums[i % 2] = add_pairs_of_bf16(sums[i % 2], e);
        }
        return sums[0] + sums[1];
    }

    // Floats of a row among which the scores of `valid` keys are, in an order of their own; the others are the last
    // key's.
    static std::int64_t whole_steps(std::int64_t valid) { return (valid + kStep - 1) / kStep * kStep; }

    void set_reference(std::int64_t r, float score) {
        work_.reference[r] = score;
        work_.offset[r] = kOne - 256.0f * scale_ * score;
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
            float* row = out_ + r * layout_.columns;
            for (std::int64_t i = 0; i < layout_.columns; i += Simd::kLanes)
                Simd::store(row + i, Simd::load(row + i) * factor);
        }
    }

    void finish(std::int64_t query) {
        for (std::int64_t r = 0; r < queries_; ++r) {
            auto* out = static_cast<std::uint16_t*>(head_.out) + (query + r) * head_.out_stride;
            const F inverse = Simd::set(1.0f / Simd::sum(Simd::load(work_.sums[r])));
            for_elements<Simd>(out_ + r * layout_.columns, head_.head_dim,
                               [&](std::int64_t i, int n, F x) { store_from_float<Simd>(out + i, x * inverse, n); });
        }
    }

    // A key and its value: rows lie too far apart for the hardware prefetcher.
    static void prefetch(const Head& head, std::int64_t key) {
        if (key >= head.keys) return;
        for (const void* row : {head.k, head.v}) {
            const auto* start = static_cast<const char*>(row) + key * head.kv_stride * 2;
            for (std::int64_t i = 0; i < head.head_dim * 2; i += 64) _mm_prefetch(start + i, _MM_HINT_T0);
        }
    }

    // Largest magnitudes, as bits of bfloat16, of `lines` lines of 64 bytes and of `largest`.
    static __m512i largest_magnitude(const std::byte* row, std::int64_t lines, std::int64_t stride, __m512i largest) {
        for (std::int64_t i = 0; i < lines; ++i, row += stride) {
            const __m512i x = _mm512_and_si512(_mm512_load_si512(row), _mm512_set1_epi16(0x7fff));
            largest = _mm512_max_epu16(largest, x);
        }
        return largest;
    }

    static float largest_of(__m512i magnitudes) {
        const __m512i odd = _mm512_slli_epi32(magnitudes, 16);
        const std::uint32_t bits = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes, odd)) & 0xffff0000u;
        return reinterpret_cast<F>(_mm512_set1_epi32(static_cast<int>(bits)))[0];
    }

    const Head& head_;
    const Layout layout_;
    const std::byte *keys_, *values_;
    const std::int64_t queries_, blocks_, halves_;
    const float scale_;
    Work& work_;
    std::byte* q_;
    float* out_;             // [32, columns], weighted values so far
    bool huge_ = false;      // scores may leave the range of the fixed point: the reference follows each block
    bool rescaled_ = false;  // a reference was raised in this block
};

}  // namespace
}  // namespace astfast
