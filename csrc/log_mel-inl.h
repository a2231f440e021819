// The log-mel kernel for any vector type. Included once by each tier's file, inside its target region, after every
// other header: all of it has internal linkage, so no tier's code can be linked into another.

// clang-format off
#include "spectrum-inl.h"
#include "transform_512-inl.h"
#include "spectrum_400-inl.h"
#include "spectrum_512-inl.h"
// clang-format on

namespace astfast {
namespace {

// scale * log(x) + offset for normal positive numbers, the logarithm itself at most 2 ulp off: x = 2^e (1 + f) with 1 +
// f in [sqrt(1/2), sqrt(2)), log x = e ln 2 + f - f^2 / 2 + f^3 q(f); q is minimax for the relative error of the whole,
// 2^-27.
template <class Simd>
inline typename Simd::Float scaled_log(typename Simd::Float x, float scale, float offset) {
    using Float = typename Simd::Float;
    using Int = typename Simd::Int;
    constexpr int kSqrtHalf = 0x3f3504f3;                                     // its bits
    const Int exponent = (reinterpret_cast<Int>(x) - kSqrtHalf) & ~0x7fffff;  // 2^23 e
    const Float f = reinterpret_cast<Float>(reinterpret_cast<Int>(x) - exponent) - 1.0f;
    Float q = Simd::fma(f, splat<Float>(-0x1.392084p-4f), splat<Float>(0x1.055d2ep-3f));
    q = Simd::fma(q, f, splat<Float>(-0x1.0d6f5ap-3f));
    q = Simd::fma(q, f, splat<Float>(0x1.22d814p-3f));
    q = Simd::fma(q, f, splat<Float>(-0x1.54749cp-3f));
    q = Simd::fma(q, f, splat<Float>(0x1.99a03ep-3f));
    q = Simd::fma(q, f, splat<Float>(-0x1.00021ep-2f));
    q = Simd::fma(q, f, splat<Float>(0x1.555554p-2f));
    q = Simd::fma(q, f, splat<Float>(-0.5f));
    const Float log = Simd::fma(f * f, q, f);
    return Simd::fma(__builtin_convertvector(exponent, Float), splat<Float>(0x1.62e430p-24f * scale),
                     Simd::fma(log, splat<Float>(scale), splat<Float>(offset)));
}

// Of one frame a lane: the least over all filters that read a bin, and the sum over all.
template <class Simd>
struct Energies {
    typename Simd::Float lowest, total;
};

// Whether any lane of a comparison's result is true.
template <class Simd>
inline bool any(typename Simd::Int flags) {
    std::int64_t words[sizeof(flags) / sizeof(std::int64_t)], all = 0;
    std::memcpy(words, &flags, sizeof(flags));
    for (const std::int64_t word : words) all |= word;
    return all != 0;
}

// Energies [num_mel_bins, rounded up to a multiple of four] of one frame a lane. Four neighbouring filters read equally
// many bins, so that their sums run side by side. A function apart from the logarithms, like all that have many
// constants or sums: with 16 registers these would be spilled for each other.
template <class Simd>
__attribute__((noinline)) Energies<Simd> mel_energies(const LogMelTables& t, const float* power,
                                                      typename Simd::Float* energies) {
    using Float = typename Simd::Float;
    const Float floor = splat<Float>(t.floor), addend = splat<Float>(t.addend);
    Float lowest = splat<Float>(3e38f), total = {};
    const MelFilters* const end = t.filters + (t.num_mel_bins + 3) / 4;
    const float* weights = t.weights;
    for (const MelFilters* filters = t.filters; filters != end; ++filters, energies += 4) {
        Float sums[4] = {};
        const float* bins[4];
        for (int k = 0; k < 4; ++k) bins[k] = power + static_cast<std::ptrdiff_t>(filters->first_bin[k]) * Simd::lanes;
        // i is scaled such that every address is a base and a multiple that an instruction can take.
        const std::ptrdiff_t count = 4 * static_cast<std::ptrdiff_t>(filters->bins);
        for (std::ptrdiff_t i = 0; i < count; i += 4) {
            for (int k = 0; k < 4; ++k) {
                const Float bin = *reinterpret_cast<const Float*>(bins[k] + i * (Simd::lanes / 4));
                sums[k] = Simd::fma(bin, splat<Float>(weights[i + k]), sums[k]);
            }
        }
        weights += count;
        for (int k = 0; k < 4; ++k) {
            energies[k] = (sums[k] > floor ? sums[k] : floor) + addend;
            total += energies[k];
        }
        for (int k = 0; k < 4; ++k) {
            if (!filters->any_empty || !filters->empty[k]) lowest = energies[k] < lowest ? energies[k] : lowest;
        }
    }
    return {lowest, total};
}

// Their normalised logarithms -> the row of each lane, which is then advanced to the next.
template <class Simd>
__attribute__((noinline)) void write_rows(const LogMelTables& t, const typename Simd::Float* energies, float** rows) {
    using Float = typename Simd::Float;
    const float scale = t.scale, offset = -t.shift * t.scale;
    const int whole = t.num_mel_bins / 4 * 4;
    float* row[Simd::lanes];  // in registers: what is stored could alias the caller's
    for (int f = 0; f < Simd::lanes; ++f) {
        row[f] = rows[f];
        rows[f] += t.num_mel_bins;
    }
    for (int mel = 0; mel < whole; mel += 4) {
        Float bands[4];
        for (int k = 0; k < 4; ++k) bands[k] = scaled_log<Simd>(energies[mel + k], scale, offset);
        Simd::transpose_store(bands, row, mel);
    }
    for (int mel = whole; mel < t.num_mel_bins; ++mel) {
        const Float band = scaled_log<Simd>(energies[mel], scale, offset);
        for (int f = 0; f < Simd::lanes; ++f) row[f][mel] = band[f];
    }
}

// `steps` consecutive frames a lane, from in[f] on, in float64; with one half, the others
// are the same frames again.
template <class Simd>
void exact_frames(const LogMelTables& t, const float* const* in, float** rows, int steps, int halves, float* scratch,
                  const Scratch& parts) {
    using Double = typename Simd::Double;
    const int samples = (steps - 1) * t.frame_shift + t.frame_length;
    Spectrum<Simd> spectrum{t,
                            {t, in, samples, scratch + parts.signal, reinterpret_cast<Double*>(scratch + parts.sums)},
                            reinterpret_cast<Double*>(scratch),
                            halves};
    auto* const energies = reinterpret_cast<typename Simd::Float*>(scratch);
    for (int step = 0; step < steps; ++step) {
        spectrum(step, scratch + parts.power);
        mel_energies<Simd>(t, scratch + parts.power, energies);
        write_rows<Simd>(t, energies, rows);
    }
}

// The frames of every lane by a spectrum in float32, which rounds off some 1e-8 of the root of a frame's energy in
// every bin. A frame with a filter of less than a four-billionth of its energy, beside a loud tone for instance, is
// done again in float64. `in` and `rows` are overwritten.
template <class Simd, class Spectrum>
void float32_frames(const LogMelTables& t, const float* wave, Spectrum& spectrum, const std::int32_t* first,
                    const float** in, float** rows, int steps, float* out, float* scratch, const Scratch& parts) {
    using Float = typename Simd::Float;
    using Int = typename Simd::Int;
    constexpr float kDoubtful = 2.5e-10f;
    auto* const energies = reinterpret_cast<Float*>(scratch);
    auto* const doubtful = reinterpret_cast<std::int32_t*>(scratch + parts.doubtful);
    int count = 0;
    for (int step = 0; step < steps; ++step) {
        spectrum(step, scratch + parts.power);
        const Energies<Simd> all = mel_energies<Simd>(t, scratch + parts.power, energies);
        write_rows<Simd>(t, energies, rows);
        const Int flags = all.lowest < kDoubtful * all.total;
        if (!any<Simd>(flags)) continue;
        for (int f = 0; f < Simd::lanes; ++f) {
            if (flags[f]) doubtful[count++] = first[f] + step;
        }
    }
    for (int i = 0; i < count; i += Simd::lanes) {
        const int halves = count - i <= Simd::lanes / 2 ? 1 : 2;
        for (int f = 0; f < Simd::lanes; ++f) {
            const int index = i + f % (halves * Simd::lanes / 2);
            const std::ptrdiff_t frame = doubtful[index < count ? index : count - 1];
            in[f] = wave + frame * t.frame_shift;
            rows[f] = out + frame * t.num_mel_bins;
        }
        exact_frames<Simd>(t, in, rows, 1, halves, scratch, parts);
    }
}

// Lane f computes the frames first[f], first[f] + 1, ... Where the lanes don't divide the frames evenly, the last ones
// begin earlier and compute some frames that their neighbours compute too, which gives the same bits.
template <class Simd>
void log_mel(const LogMelTables& t, const float* wave, std::int64_t frames, float* out, float* scratch) {
    using Float = typename Simd::Float;
    using Double = typename Simd::Double;
    const int steps = static_cast<int>((frames + Simd::lanes - 1) / Simd::lanes);
    std::int32_t first[Simd::lanes];
    const float* in[Simd::lanes];
    float* rows[Simd::lanes];
    for (int f = 0; f < Simd::lanes; ++f) {
        first[f] = static_cast<std::int32_t>(f * steps < frames - steps ? f * steps : frames - steps);
        in[f] = wave + static_cast<std::ptrdiff_t>(first[f]) * t.frame_shift;
        rows[f] = out + static_cast<std::ptrdiff_t>(first[f]) * t.num_mel_bins;
    }
    const Scratch parts = scratch_of(t, Simd::lanes, frames);
    float* const signal = scratch + parts.signal;
    auto* const sums = reinterpret_cast<Double*>(scratch + parts.sums);
    auto* const z = reinterpret_cast<Float*>(scratch);
    if (frames_of(t) == Frames::kOf400) {
        Spectrum400<Simd> spectrum{t, in, reinterpret_cast<Float*>(signal), sums, {t, z}};
        float32_frames<Simd>(t, wave, spectrum, first, in, rows, steps, out, scratch, parts);
    } else if (frames_of(t) == Frames::kOf512) {
        const int samples = (steps - 1) * t.frame_shift + t.frame_length;
        Spectrum512<Simd> spectrum{{t, in, samples, signal, sums}, {t, z}};
        float32_frames<Simd>(t, wave, spectrum, first, in, rows, steps, out, scratch, parts);
    } else {
        exact_frames<Simd>(t, in, rows, steps, 2, scratch, parts);
    }
}

}  // namespace
}  // namespace astfast
