// Heads packed for attention on AMX tiles (amx_attention-inl.h).

namespace astfast {
namespace {

using AmxTiles = AmxGemm<AmxBf16>;
constexpr std::int64_t kTileKeys = 32;  // of a tile product

// kHeadDim: elements of a head, or 0 where only Head says so: known, a row's work has half of the address arithmetic.
template <std::int64_t kHeadDim>
struct AmxLayout {
    std::int64_t steps;  // of 32 keys

    AmxLayout(std::int64_t keys, std::int64_t head_dim)
        : steps((keys + kTileKeys - 1) / kTileKeys), head_dim_(head_dim) {}
    std::int64_t key_steps() const { return units_of<AmxTiles>(head_dim()) / 16; }  // tiles along head_dim
    std::int64_t columns() const { return (head_dim() + 31) / 32 * 32; }            // of the values, in whole products
    std::int64_t key_bytes() const { return steps * 2 * key_steps() * kTileBytes; }
    std::int64_t value_bytes() const { return steps * (columns() / 16) * kTileBytes; }
    std::int64_t packed_bytes() const { return key_bytes() + value_bytes() + 64; }
    std::int64_t head_dim() const { return kHeadDim > 0 ? kHeadDim : head_dim_; }

  private:
    std::int64_t head_dim_;
};

// Largest magnitudes, as bits of bfloat16, of `lines` lines of 64 bytes and of `largest`.
inline __m512i largest_magnitude(const std::byte* row, std::int64_t lines, std::int64_t stride, __m512i largest) {
    for (std::int64_t i = 0; i < lines; ++i, row += stride) {
        const __m512i x = _mm512_and_si512(_mm512_load_si512(row), _mm512_set1_epi16(0x7fff));
        largest = _mm512_max_epu16(largest, x);
    }
    return largest;
}

inline float largest_of(__m512i magnitudes) {
    const __m512i odd = _mm512_slli_epi32(magnitudes, 16);
    const std::uint32_t bits = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes, odd)) & 0xffff0000u;
    return reinterpret_cast<__m512>(_mm512_set1_epi32(static_cast<int>(bits)))[0];
}

// Keys as panels of 16 [units of head_dim, 16], values as panels of 16 columns [units of keys, 16], then the
// largest magnitude of a key's element. Two panels share 32 keys, in the order in which packing two vectors of
// scores to 16 bits restores theirs; the last key is repeated to whole panels.
inline void pack_head_for_amx(const Head& head, std::byte* packed) {
    const AmxLayout<0> layout(head.keys, head.head_dim);
    alignas(64) std::byte rows[kTileKeys * operand_bytes<AmxTiles>(kMaxHeadDim)];
    const std::int64_t stride = layout.key_steps() * 64;
    __m512i largest = _mm512_setzero_si512();
    for (std::int64_t key = 0; key < layout.steps * kTileKeys; key += kTileKeys) {
        for (std::int64_t j = 0; j < kTileKeys; ++j) {
            const std::int64_t from = std::min(key + j, head.keys - 1) * head.kv_stride;
            std::byte* row = rows + j * stride;
            copy_row<AmxTiles>(LinearRow<AmxTiles>(row), static_cast<const std::uint16_t*>(head.k) + from,
                               head.head_dim);
            largest = largest_magnitude(row, layout.key_steps(), 64, largest);
        }
        for (int panel = 0; panel < 2; ++panel, packed += layout.key_steps() * kTileBytes) {
            const auto row = [&](std::int64_t j) {
                return reinterpret_cast<std::uint32_t*>(rows + (j / 4 * 8 + panel * 4 + j % 4) * stride);
            };
            transpose_to_panel<AmxTiles>(row, 16, layout.key_steps() * 16, 16, 16,
                                         reinterpret_cast<std::uint32_t*>(packed));
        }
    }
    for (std::int64_t d = 0; d < layout.columns(); d += 16, packed += layout.steps * kTileBytes) {
        AmxTiles::pack_values_in_pairs(head, layout.steps * 16, 16, d, packed);
    }
    *reinterpret_cast<float*>(packed) = largest_of(largest);
}

}  // namespace
}  // namespace astfast
