// The table of a tier's kernels for one GEMM policy (gemm_policy-inl.h) and its attention. Included last by each tier's
// file.

namespace astfast {
namespace {

template <class Gemm, class Attention = DotAttention<Gemm>>
constexpr Kernels kernels_of(const char* tier, Precision precision) {
    static_assert(multiplies<Gemm>());
    using Simd = typename Gemm::Simd;
    constexpr bool kFast = sizeof(typename Gemm::Activation) == 2;
    Kernels k{};
    k.tier = tier;
    k.precision = precision;
    k.activation_bytes = sizeof(typename Gemm::Activation);
    k.panel = Gemm::kPanel;
    k.row_tile = Gemm::kRowTile;
    k.row_bytes = [](std::int64_t width) { return static_cast<std::size_t>(row_bytes<Gemm>(width)); };
    k.panel_bytes = [](std::int64_t width) { return static_cast<std::size_t>(panel_bytes<Gemm>(width)); };
    k.pack_weight = pack_weight<Gemm>;
    k.norm_rows = norm_rows<Gemm>;
    k.copy_rows = copy_rows<Gemm>;
    k.patch_rows = patch_rows<Gemm>;
    k.conv_rows = conv_rows<Gemm>;
    k.panels_together = panels_together<Gemm>;
    k.chunk_bytes = [](std::int64_t width) {
        return static_cast<std::size_t>(std::min<std::int64_t>(row_bytes<Gemm>(width), Gemm::kChunkBytes));
    };
    k.gemm_panels = gemm_panels<Gemm>;
    k.query_tile = Attention::kQueryTile;
    k.max_keys = Attention::kMaxKeys;
    k.packed_head_bytes = Attention::packed_bytes;
    k.attend_bytes = Attention::scratch_bytes;
    k.pack_head = Attention::pack;
    k.attend = Attention::attend;
    k.sum_heads = sum_heads<Simd, typename Gemm::Activation>;
    k.depthwise_silu = depthwise_silu<Simd, typename Gemm::Activation>;
    k.selective_scan = selective_scan<Simd, typename Gemm::Activation>;
    k.norm_row = norm_row<Simd>;
    k.exp = [](const float* x, std::int64_t n, float* out) {
        for_vectors<Simd>(n, [&](std::int64_t i, int lanes) {
            store_from_float<Simd>(out + i, exp_of<Simd, kFast>(load_as_float<Simd>(x + i, lanes)), lanes);
        });
    };
    k.gelu = [](const float* x, std::int64_t n, float* out) {
        for_vectors<Simd>(n, [&](std::int64_t i, int lanes) {
            store_from_float<Simd>(out + i, gelu_of<Simd, kFast>(load_as_float<Simd>(x + i, lanes)), lanes);
        });
    };
    return k;
}

}  // namespace
}  // namespace astfast
