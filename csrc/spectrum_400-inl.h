// Power spectra of Kaldi's frames at 16 kHz: 400 samples every 160, in float32 but for the mean.

namespace astfast {
namespace {

template <class Simd>
struct Spectrum400 {
    using Float = typename Simd::Float;
    using Double = typename Simd::Double;
    using Half = typename Simd::Half;
    static constexpr int kLength = 400, kShift = 160, kPart = 80;

    const LogMelTables& t;
    const float* const* rows;  // [lanes]
    Float* p;                  // [samples of a row], pre-emphasised
    Double* sums;              // [parts, 2 halves]: of the samples
    Transform512<Simd, kLength> transform;
    int parts = 0;    // in p and sums
    Float last = {};  // sample of the last part

    // The next samples of each lane's run, transposed.
    __attribute__((noinline)) void read_part() {
        const Float emphasis = splat<Float>(static_cast<float>(-t.pre_emphasis));
        const float* row[Simd::lanes];  // in registers: what is stored could alias the members
        for (int f = 0; f < Simd::lanes; ++f) row[f] = rows[f];
        Float* const y = p;
        Float before = last;
        Double low = {}, high = {};
        for (int i = parts * kPart; i < (parts + 1) * kPart; i += 8) {
            Float x[8];
            Simd::transpose_load(row, i, x);
            Simd::transpose_load(row, i + 4, x + 4);
            const Float sum = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
            for (int k = 7; k > 0; --k) y[i + k] = Simd::fma(x[k - 1], emphasis, x[k]);
            y[i] = Simd::fma(before, emphasis, x[0]);
            before = x[7];
            low += Simd::widen(reinterpret_cast<const Half*>(&sum)[0]);
            high += Simd::widen(reinterpret_cast<const Half*>(&sum)[1]);
        }
        last = before;
        sums[2 * parts] = low;
        sums[2 * parts + 1] = high;
        ++parts;
    }

    // The mean of a frame after pre-emphasis.
    Float offset(int first_part) const {
        const double scale = (1.0 - static_cast<float>(t.pre_emphasis)) / kLength;
        Float mean;
        for (int half = 0; half < 2; ++half) {
            Double sum = {};
            for (int part = first_part; part < first_part + kLength / kPart; ++part) sum += sums[2 * part + half];
            reinterpret_cast<Half*>(&mean)[half] = __builtin_convertvector(sum * scale, Half);
        }
        return mean;
    }

    // power [256, lanes] of frame `step` of each lane's run.
    void operator()(int step, float* power) {
        const int first_part = step * (kShift / kPart);
        while (parts < first_part + kLength / kPart) read_part();
        Float* const frame = p + step * kShift;
        Float start;  // the first sample has no other before it
        for (int f = 0; f < Simd::lanes; ++f) start[f] = rows[f][step * kShift];
        frame[0] = start * splat<Float>(1.0f - static_cast<float>(t.pre_emphasis));
        transform(frame, -offset(first_part), power);
    }
};

}  // namespace
}  // namespace astfast
