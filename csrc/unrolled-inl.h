// Loops that are unrolled in the source: with numbers of turns that are constants, and no calls.

namespace astfast {
namespace {

#define ALWAYS_INLINE __attribute__((always_inline))
// fn(0), fn(1), ... fn(kCount - 1), each a constant.
template <class Fn, int... kIndices>
ALWAYS_INLINE inline void unrolled(const Fn& fn, std::integer_sequence<int, kIndices...>) {
    (fn(std::integral_constant<int, kIndices>{}), ...);
}
template <int kCount, class Fn>
ALWAYS_INLINE inline void unrolled(const Fn& fn) {
    unrolled(fn, std::make_integer_sequence<int, kCount>{});
}

}  // namespace
}  // namespace astfast
