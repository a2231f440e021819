// The contract of a GEMM policy: the type parameter `Gemm` of packing, products and attention. It says how a tier
// multiplies in one precision. kernels.h defines rows of A, panels of B and units.
//
// Policies: FloatGemm (scalar, avx2, avx512), MaddGemm (avx2 int8), VnniProduct (int8 of avx_vnni, avx512_vnni and
// avx512_bf16), Bf16Gemm (avx512_bf16), AmxGemm<AmxBf16> and AmxGemm<AmxInt8> (amx).

// clang-format off
// member                  | type or signature       | meaning; which policies override it
// ------------------------+-------------------------+-----------------------------------------------------------------
// Operands: packing (pack-inl.h)
// Simd                    | struct                  | the tier's vectors of float32; contract in vector_portable-inl.h
// Activation              | float, uint16_t         | elements that ops exchange; uint16_t is bfloat16
// Operand                 | float, uint16_t,        | elements of a row of A; uint16_t is bfloat16, uint8_t is int8
//                         | int16_t, int8_t,        | offset by 128 (OffsetBytes)
//                         | uint8_t                 |
// kElementsPerUnit        | int                     | operands along K in a unit. A unit has four bytes in B and in A,
//                         |                         | more in A only where Operand is longer than B's: FloatGemm in
//                         |                         | bfloat16
// kPadUnits               | int                     | K is padded with zeros to a multiple of so many units: 1, AMX 16
// kRowsTogether           | int                     | rows of A whose lines of 64 bytes alternate: 1, AMX 16
// kRoundsToBf16           | bool                    | float operands are rounded to bfloat16: FloatGemm in bfloat16
// kQuantised              | bool                    | int8: rows of A and columns of B are scaled to whole numbers
// WeightPacking           | struct                  | packs columns of B, has the members above: Gemm itself,
//                         |                         | FloatGemm in bfloat16 Bf16WeightPacking
// quant_levels(k)         | int64 -> float          | if kQuantised: what the largest of k magnitudes becomes: 127, of
//                         |                         | MaddGemm 32,767, or what 32-bit sums have room for if less
// make_weights(panel, k,  | -> void                 | if kQuantised: turns columns quantised like rows of A into those
//   initial_sums)         |                         | of B, and writes what their sums start from, if not 0: OffsetBytes
//                         |                         | -128 times a column's. Columns past the last one mean nothing
//
// Products of panels (gemm-inl.h, tile-inl.h). Numbers of tiers that dot vectors come from TileShape.
// kPanel                  | int                     | columns of a panel of weights
// kColumnsTogether        | int                     | columns of B that lie together, dividing kPanel: kPanel, AMX 16
// kRowTile                | int                     | rows of the largest tile of C
// kChunkBytes             | int64                   | bytes of a row of A that kPanelsTogether panels are multiplied by
// kPanelsTogether         | int                     | before the next bytes are read: BlocksOfPanels, else all and 1
// multiply(a, rows, k,    | -> void                 | rows of A times panels of B; at(r, p) makes the epilogue of panel
//   b, panels, at)        |                         | p from row r on: DotTiles, or AmxGemm's own
// load_sum(c)             | const float* -> Simd::F | a vector of C, as products leave it, in float32: DotTiles, or
//                         |                         | AmxGemm's own
//
// Tiles of dot products (DotTiles, from which all but AmxGemm derive)
// Vector, Sum             | vector types            | units of B; sums
// load(b)                 | const byte* -> Vector   | a vector of units
// load(b, part)           | const byte*, int        | part 0 or 1 of a vector of units, where a unit is longer in A
//                         | -> Vector               | than in B: FloatGemm in bfloat16
// broadcast(a)            | const byte* -> Vector   | four bytes of a row of A in all lanes
// dot(sum, a, b)          | -> Sum                  | sum + a b in each lane, over the products of a unit
// initial_sum(end, v)     | const byte*, int -> Sum | what sums of vector v of a panel start from, `end` being the end
//                         |                         | of its units: 0, VnniProduct reads PanelScales::initial_sums
// kMaxVectors, kMaxWidth  | int                     | vectors, and columns, of the widest tile
// rows_of(vectors)        | int -> int, constexpr   | rows of a tile of so many vectors
// as_float(sum)           | Sum -> Simd::F          | in float32
// kBlockUnits, kTiles,    | int64, int, int, bool   | the order in which tiles read a panel: WholePanels or
//   kStepsTogether,       |                         | BlocksOfPanels
//   kStreams              |                         |
// kLastUnits,             | int                     | units that kRowsOfGroup rows of a tile after the other are
//   kRowsOfGroup          |                         | multiplied by last; 0: tiles don't finish beside one another
// Gelu                    | class                   | if kQuantised: GeluOnLines, on 512 bits
//
// Attention by DotAttention (attention-inl.h); AMX has AmxAttention instead
// Scores                  | class                   | how scores are kept: FloatScores (scores-inl.h) if it has none,
//                         |                         | VnniProduct on 512 bits WordScores
// width_for(n)            | int64 -> int64          | columns of a panel of values for n of them: DotTiles
// tile(...)               | -> void                 | rows times one panel of keys or values: DotTiles
// ValueGemm               | policy                  | multiplies probabilities by values, in Gemm's units and tiles:
//                         |                         | Gemm itself, VnniProduct one without offset (probabilities have
//                         |                         | no sign)
// pack_values(head,       | -> void                 | unless kQuantised: columns [d, d + width) of v -> one panel over
//   width, d, panel)      |                         | all keys
// Softmax                 | class                   | BesideSoftmax, where it pays: VnniProduct on 512 bits, Bf16Gemm
// probability_levels(n)   | int64 -> float          | if kQuantised, without Softmax: what a probability of 1 becomes,
//                         |                         | with n keys
// clang-format on

namespace astfast {
namespace {

template <class T, class... Types>
constexpr bool is_one_of = (std::is_same_v<T, Types> || ...);

// Whether Gemm gives what packing asks for; a static_assert names what is missing.
template <class Gemm>
constexpr bool packs() {
    using Operand = typename Gemm::Operand;
    using Packing = typename Gemm::WeightPacking;
    constexpr int kOperandBytes = static_cast<int>(sizeof(Operand));
    static_assert(is_one_of<typename Gemm::Activation, float, std::uint16_t>, "ops exchange float32 or bfloat16");
    static_assert(is_one_of<Operand, float, std::uint16_t, std::int16_t, std::int8_t, std::uint8_t>);
    static_assert(64 % (Gemm::Simd::kLanes * kOperandBytes) == 0, "a line holds whole vectors of operands");
    static_assert(Gemm::kElementsPerUnit * kOperandBytes % 4 == 0, "a unit of A is one or more steps of four bytes");
    static_assert(Packing::kElementsPerUnit * sizeof(typename Packing::Operand) == 4, "a unit of B has four bytes");
    static_assert(Packing::kElementsPerUnit == Gemm::kElementsPerUnit && Packing::kPadUnits == Gemm::kPadUnits,
                  "A and B are padded alike");
    static_assert(Packing::kQuantised == Gemm::kQuantised);
    static_assert(is_one_of<std::integral_constant<int, Gemm::kRowsTogether>, std::integral_constant<int, 1>,
                            std::integral_constant<int, 16>>);
    static_assert(!Gemm::kRoundsToBf16 || std::is_same_v<Operand, float>, "storing as bfloat16 rounds by itself");
    if constexpr (Gemm::kQuantised) {
        static_assert(std::is_same_v<decltype(Gemm::quant_levels(std::int64_t{1})), float>);
        static_assert(!Gemm::kRoundsToBf16 && std::is_same_v<Packing, Gemm>);
    }
    return true;
}

// Whether Gemm gives what products of panels ask for.
template <class Gemm>
constexpr bool multiplies() {
    using Simd = typename Gemm::Simd;
    static_assert(packs<Gemm>());
    static_assert(Gemm::kPanel % Simd::kLanes == 0, "a panel has whole vectors of columns");
    static_assert(Gemm::kPanel % Gemm::kColumnsTogether == 0 && Gemm::kRowTile % Gemm::kRowsTogether == 0);
    static_assert(Gemm::kColumnsTogether % Simd::kLanes == 0, "transposed by vectors");
    static_assert(Gemm::kChunkBytes >= 64 && Gemm::kPanelsTogether >= 1);
    static_assert(sizeof(Gemm::load_sum(std::declval<const float*>())) == sizeof(typename Simd::F));
    return true;
}

// Whether Gemm gives what tiles of dot products ask for.
template <class Gemm>
constexpr bool dots_vectors() {
    using Vector = typename Gemm::Vector;
    using Sum = typename Gemm::Sum;
    using Bytes = const std::byte*;
    static_assert(Gemm::kRowsTogether == 1 && Gemm::kPadUnits == 1, "tiles of dot products read rows one by one");
    static_assert(sizeof(Sum) == sizeof(typename Gemm::Simd::F), "a vector of sums takes the place of one of float32");
    static_assert(sizeof(Gemm::load(std::declval<Bytes>())) == sizeof(Vector));
    static_assert(sizeof(Gemm::broadcast(std::declval<Bytes>())) == sizeof(Vector));
    static_assert(sizeof(Gemm::dot(std::declval<Sum>(), std::declval<Vector>(), std::declval<Vector>())) ==
                  sizeof(Sum));
    static_assert(sizeof(Gemm::initial_sum(std::declval<Bytes>(), 0)) == sizeof(Sum));
    static_assert(sizeof(Gemm::as_float(std::declval<Sum>())) == sizeof(typename Gemm::Simd::F));
    static_assert(Gemm::kMaxVectors >= 1 && Gemm::kMaxVectors <= 4 && Gemm::kPanel <= Gemm::kMaxWidth);
    static_assert(Gemm::kMaxWidth == Gemm::kMaxVectors * Gemm::Simd::kLanes && Gemm::rows_of(1) >= 4);
    static_assert(Gemm::kStepsTogether >= 1 && Gemm::kTiles >= 1 && Gemm::kBlockUnits >= 1);
    static_assert(Gemm::kLastUnits == 0 || Gemm::kTiles * Gemm::kPanelsTogether == 1,
                  "one tile of one panel at a time");
    return true;
}

// Whether Gemm makes probabilities beside products.
template <class Gemm, class = void>
constexpr bool has_softmax = false;
template <class Gemm>
constexpr bool has_softmax<Gemm, std::void_t<typename Gemm::Softmax>> = true;

// Whether Gemm has a GELU for what is quantised next.
template <class Gemm, class = void>
constexpr bool has_gelu = false;
template <class Gemm>
constexpr bool has_gelu<Gemm, std::void_t<typename Gemm::Gelu>> = true;

// Whether Gemm gives what DotAttention asks for.
template <class Gemm>
constexpr bool attends() {
    using ValueGemm = typename Gemm::ValueGemm;
    static_assert(multiplies<Gemm>() && dots_vectors<Gemm>() && dots_vectors<ValueGemm>());
    static_assert(ValueGemm::kElementsPerUnit == Gemm::kElementsPerUnit && ValueGemm::kPanel == Gemm::kPanel &&
                      ValueGemm::kMaxVectors == Gemm::kMaxVectors,
                  "in the same units and tiles");
    static_assert(sizeof(typename ValueGemm::Operand) <= sizeof(float), "probabilities take the place of scores");
    if constexpr (Gemm::kQuantised) {
        if constexpr (!has_softmax<Gemm>) {
            static_assert(std::is_same_v<decltype(Gemm::probability_levels(std::int64_t{1})), float>);
        }
    } else {
        static_assert(std::is_same_v<decltype(Gemm::pack_values(std::declval<const Head&>(), std::int64_t{},
                                                                std::int64_t{}, std::declval<std::byte*>())),
                                     void>);
    }
    return true;
}

// Levels of operands that `limit` allows, as many as 32-bit sums of k products of two have room for.
inline float levels_with_room(std::int64_t k, float limit) {
    const float room = __builtin_sqrtf(static_cast<float>(0x7fff0000 / k));
    return std::min(limit, static_cast<float>(static_cast<std::int32_t>(room)));
}

// Members of policies whose quantised operands have a sign.
struct SignedBytes {
    static float quant_levels(std::int64_t k) { return levels_with_room(k, 127.0f); }
    static void make_weights(std::byte*, std::int64_t, std::int32_t*) {}
};

// Members of policies whose rows are bytes without a sign, offset by 128. Instructions as VnniProduct takes them.
template <class Gemm, class Instructions>
struct OffsetBytes {
    // As many as initial sums of k weights have room for.
    static float quant_levels(std::int64_t k) { return std::min(127.0f, static_cast<float>(0x7fff0000 / (128 * k))); }

    // Turns a panel of weights, quantised like rows of A, into signed bytes.
    static void make_weights(std::byte* panel, std::int64_t k, std::int32_t* initial_sums) {
        using Simd = typename Instructions::Simd;
        constexpr std::int64_t kTogether = Gemm::kColumnsTogether;
        const std::int64_t units = (k + 3) / 4,
                           padded = (units + Gemm::kPadUnits - 1) / Gemm::kPadUnits * Gemm::kPadUnits;
        const std::uint32_t last = ~std::uint32_t{0} >> (units * 4 - k) * 8;  // bytes of the last unit
        for (std::int64_t v = 0; v < Gemm::kPanel; v += Simd::kLanes) {
            std::byte* at = panel + (v / kTogether * kTogether * padded + v % kTogether) * 4;
            typename Instructions::Sums sums{};
            for (std::int64_t unit = 0; unit < units; ++unit, at += kTogether * 4) {
                const std::uint32_t mask = unit + 1 < units ? ~std::uint32_t{0} : last;
                const auto bytes = [&](std::uint32_t quad) {
                    return Instructions::repeat(static_cast<std::int32_t>(quad & mask));
                };
                const typename Instructions::Bytes w = Instructions::load(at) ^ bytes(0x80808080);
                Instructions::store(at, w);
                sums = Instructions::dot(sums, bytes(0x01010101), w);
            }
            const auto times_minus_128 = (~reinterpret_cast<typename Simd::I>(sums) + 1) << 7;
            std::memcpy(initial_sums + v, &times_minus_128, sizeof times_minus_128);
        }
    }
};

// Beside of products that nothing runs beside.
struct Alone {
    static constexpr int kMaxRows = std::numeric_limits<int>::max();
    template <class Multiply>
    void operator()(const Multiply&) const {}
};

// Scales and initial sums, stored after the units of a panel of quantised weights.
struct PanelScales {
    static constexpr std::int64_t bytes(std::int64_t panel) { return panel * 8; }

    static float* scales(std::byte* end) { return reinterpret_cast<float*>(end); }  // [panel], by column
    static std::int32_t* initial_sums(std::byte* end, std::int64_t panel) {         // [panel], by column
        return reinterpret_cast<std::int32_t*>(end + panel * 4);
    }
};

}  // namespace
}  // namespace astfast
