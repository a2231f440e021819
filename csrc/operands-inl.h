// Rows of operands: their layout, which kernels.h describes, their scales, loads and stores. gemm_policy-inl.h says
// what Gemm gives.

namespace astfast {
namespace {

template <class Gemm>
constexpr std::int64_t units_of(std::int64_t k) {
    const std::int64_t units = (k + Gemm::kElementsPerUnit - 1) / Gemm::kElementsPerUnit;
    return (units + Gemm::kPadUnits - 1) / Gemm::kPadUnits * Gemm::kPadUnits;
}

// Bytes of a unit in a row of A: four, but where Gemm multiplies longer operands than B is kept in.
template <class Gemm>
constexpr std::int64_t unit_bytes = Gemm::kElementsPerUnit * static_cast<std::int64_t>(sizeof(typename Gemm::Operand));

// Bytes of the operands of a row of A.
template <class Gemm>
constexpr std::int64_t operand_bytes(std::int64_t k) {
    return (units_of<Gemm>(k) * unit_bytes<Gemm> + 63) / 64 * 64;
}

// Bytes from one row of A to the next, counted as if all of a row's lines were together. A quantised row has one more
// line, for its scale. Rows are an odd number of cache lines apart, so that a column of them doesn't fall into one
// cache set, unless lines of several rows alternate anyway.
template <class Gemm>
constexpr std::int64_t row_bytes(std::int64_t k) {
    const std::int64_t lines = operand_bytes<Gemm>(k) / 64 + (Gemm::kQuantised ? 1 : 0);
    return (Gemm::kRowsTogether == 1 ? lines | 1 : lines) * 64;
}

// One row's operands: lines of 64 bytes, kRowsTogether lines apart.
template <class T, std::int64_t kRowsTogether>
class OperandRow {
  public:
    explicit OperandRow(std::byte* start) : start_(start) {}

    T* at(std::int64_t i) const {
        const std::int64_t byte = i * static_cast<std::int64_t>(sizeof(T));
        if constexpr (kRowsTogether == 1) return reinterpret_cast<T*>(start_ + byte);
        return reinterpret_cast<T*>(start_ + byte / 64 * 64 * kRowsTogether + byte % 64);
    }

  private:
    std::byte* start_;
};

// Row r of A.
template <class Gemm>
inline OperandRow<typename Gemm::Operand, Gemm::kRowsTogether> row_of(std::byte* a, std::int64_t r, std::int64_t k) {
    return OperandRow<typename Gemm::Operand, Gemm::kRowsTogether>(
        a + r / Gemm::kRowsTogether * (Gemm::kRowsTogether * row_bytes<Gemm>(k)) + r % Gemm::kRowsTogether * 64);
}

// A row whose lines lie one after the other, whatever those of A do.
template <class Gemm>
using LinearRow = OperandRow<typename Gemm::Operand, 1>;

// Of a quantised row of A: what its products are multiplied by, after `shift` times the initial sums of the columns has
// been added to them. Where bytes of rows have no sign (OffsetBytes), a row's levels are those between its smallest and
// its largest element, of which one side may be short, as after a GELU: x = scale (byte - 128 - 128 shift), and a
// column's initial sum is -128 times the sum of its weights.
struct RowScale {
    float scale, shift;
};

template <class Gemm>
constexpr bool shifts_rows = std::is_same_v<typename Gemm::Operand, std::uint8_t>;

// Where the scale of a row of A is, by row: those of rows that alternate lie one after the other behind their operands.
template <class Gemm>
inline auto scales_of(std::byte* a, std::int64_t k) {
    std::byte* const first = a + operand_bytes<Gemm>(k) * Gemm::kRowsTogether;
    return [first, stride = row_bytes<Gemm>(k)](std::int64_t r) ALWAYS_INLINE {
        constexpr std::uint64_t kTogether = Gemm::kRowsTogether;
        const auto row = static_cast<std::uint64_t>(r);
        const auto group = static_cast<std::int64_t>(row / kTogether * kTogether);
        return reinterpret_cast<RowScale*>(first + group * stride) + row % kTogether;
    };
}

template <class Gemm>
inline RowScale* scale_of(std::byte* a, std::int64_t r, std::int64_t k) {
    return scales_of<Gemm>(a, k)(r);
}

// The scales themselves, by row.
template <class Gemm>
inline auto row_scales(const std::byte* a, std::int64_t k) {
    return [at = scales_of<Gemm>(const_cast<std::byte*>(a), k)](std::int64_t r)
               ALWAYS_INLINE { return Gemm::kQuantised ? *at(r) : RowScale{1.0f, 0.0f}; };
}

template <class Simd>
inline typename Simd::F load_as_float(const float* p, int n) {
    return n == Simd::kLanes ? Simd::load(p) : Simd::load_partial(p, n);
}

template <class Simd>
inline typename Simd::F load_as_float(const std::uint16_t* p, int n) {
    return n == Simd::kLanes ? Simd::load_bf16(p) : Simd::load_partial_bf16(p, n);
}

template <class Simd>
inline void store_from_float(float* p, typename Simd::F x, int n) {
    n == Simd::kLanes ? Simd::store(p, x) : Simd::store_partial(p, x, n);
}

template <class Simd>
inline void store_from_float(std::uint16_t* p, typename Simd::F x, int n) {
    n == Simd::kLanes ? Simd::store_bf16(p, x) : Simd::store_partial_bf16(p, x, n);
}

template <class Simd>
inline void store_from_float(std::int8_t* p, typename Simd::F x, int n) {
    Simd::store_int8(p, x, n);
}

template <class Simd>
inline void store_from_float(std::int16_t* p, typename Simd::F x, int n) {
    Simd::store_int16(p, x, n);
}

template <class Simd>
inline void store_from_float(std::uint8_t* p, typename Simd::F x, int n) {  // offset by 128
    Simd::store_int8(reinterpret_cast<std::int8_t*>(p), x + Simd::set(128.0f), n);
}

template <class Gemm>
inline void store_operand(typename Gemm::Operand* p, typename Gemm::Simd::F x, int n = Gemm::Simd::kLanes) {
    if constexpr (Gemm::kRoundsToBf16) x = Gemm::Simd::round_bf16(x);
    store_from_float<typename Gemm::Simd>(p, x, n);
}

// fn(start, n) over [0, size) in vectors; n < kLanes in the last one only.
template <class Simd, class Fn>
inline void for_vectors(std::int64_t size, const Fn& fn) {
    std::int64_t i = 0;
    for (; i + Simd::kLanes <= size; i += Simd::kLanes) fn(i, Simd::kLanes);
    if (i < size) fn(i, static_cast<int>(size - i));
}

// Columns from k on, which share a line with the one before them, or lines lie one after the other.
template <class Gemm, class Row>
inline void zero_tail(const Row& row, std::int64_t k) {
    const std::int64_t tail = units_of<Gemm>(k) * Gemm::kElementsPerUnit - k;
    if (tail > 0) std::memset(row.at(k), 0, static_cast<std::size_t>(tail) * sizeof(typename Gemm::Operand));
}

}  // namespace
}  // namespace astfast
