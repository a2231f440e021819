// The table of a tier's kernels for one way to multiply, G, and one of attention. Included last by each tier's file.

namespace astfast {
namespace {

template <class G, class Attention = DotAttention<G>>
constexpr Kernels kernels_of(const char* tier, Precision precision) {
    using V = typename G::V;
    constexpr bool kFast = sizeof(typename G::Activation) == 2;
    Kernels k{};
    k.tier = tier;
    k.precision = precision;
    k.activation_bytes = sizeof(typename G::Activation);
    k.panel = G::kPanel;
    k.row_tile = G::kRowTile;
    k.row_bytes = [](std::int64_t width) { return static_cast<std::size_t>(row_bytes<G>(width)); };
    k.panel_bytes = [](std::int64_t width) { return static_cast<std::size_t>(panel_bytes<G>(width)); };
    k.pack_weight = pack_weight<G>;
    k.norm_rows = norm_rows<G>;
    k.copy_rows = copy_rows<G>;
    k.patch_rows = patch_rows<G>;
    k.panels_together = [](std::int64_t width) -> std::int64_t {
        return units_of<G>(width) * unit_bytes<G> > G::kChunkBytes ? G::kPanelsTogether : 1;
    };
    k.chunk_bytes = [](std::int64_t width) {
        return static_cast<std::size_t>(std::min<std::int64_t>(row_bytes<G>(width), G::kChunkBytes));
    };
    k.gemm_panels = gemm_panels<G>;
    k.query_tile = Attention::kQueryTile;
    k.packed_head_bytes = Attention::packed_bytes;
    k.attend_bytes = Attention::scratch_bytes;
    k.pack_head = Attention::pack;
    k.attend = Attention::attend;
    k.norm_row = norm_row<V>;
    k.exp = [](const float* x, std::int64_t n, float* out) {
        for_vectors<V>(n, [&](std::int64_t i, int lanes) {
            store_from_float<V>(out + i, exp_of<V, kFast>(load_as_float<V>(x + i, lanes)), lanes);
        });
    };
    k.gelu = [](const float* x, std::int64_t n, float* out) {
        for_vectors<V>(n, [&](std::int64_t i, int lanes) {
            store_from_float<V>(out + i, gelu_of<V, kFast>(load_as_float<V>(x + i, lanes)), lanes);
        });
    };
    return k;
}

}  // namespace
}  // namespace astfast
