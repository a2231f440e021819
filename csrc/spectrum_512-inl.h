// Power spectra of frames of 512 samples as they are, at any distance, in float32.

namespace astfast {
namespace {

template <class Simd>
struct Spectrum512 {
    using Float = typename Simd::Float;
    static constexpr int kLength = 512;

    Signal<Simd> signal;
    Transform512<Simd, kLength> transform;

    // power [256, lanes] of frame `step` of each lane's run.
    void operator()(int step, float* power) {
        const int start = step * signal.t.frame_shift;
        signal.transpose_to(start + kLength);
        const Float zero = {};
        transform(reinterpret_cast<const Float*>(signal.x) + start, zero, power);
    }
};

}  // namespace
}  // namespace astfast
