// The log-mel kernel for any vector type. Included once by each tier's file, inside its target region, after every
// other header: all of it has internal linkage, so no tier's code can be linked into another.

// clang-format off
#include "spectrum-inl.h"
#include "spectrum_400-inl.h"
// clang-format on

namespace astfast {
namespace {

// scale * log(x) + offset for normal positive numbers, the logarithm itself at most 2 ulp off: x = 2^e (1 + f) with 1 +
// f in [sqrt(1/2), sqrt(2)), log x = e ln 2 + f - f^2 / 2 + f^3 q(f); q is minimax for the relative error of the whole,
// 2^-27.
template <class V>
inline typename V::Float scaled_log(typename V::Float x, float scale, float offset) {
    using Float = typename V::Float;
    using Int = typename V::Int;
    constexpr int kSqrtHalf = 0x3f3504f3;                                     // its bits
    const Int exponent = (reinterpret_cast<Int>(x) - kSqrtHalf) & ~0x7fffff;  // 2^23 e
    const Float f = reinterpret_cast<Float>(reinterpret_cast<Int>(x) - exponent) - 1.0f;
    Float q = V::fma(f, splat<Float>(-0x1.392084p-4f), splat<Float>(0x1.055d2ep-3f));
    q = V::fma(q, f, splat<Float>(-0x1.0d6f5ap-3f));
    q = V::fma(q, f, splat<Float>(0x1.22d814p-3f));
    q = V::fma(q, f, splat<Float>(-0x1.54749cp-3f));
    q = V::fma(q, f, splat<Float>(0x1.99a03ep-3f));
    q = V::fma(q, f, splat<Float>(-0x1.00021ep-2f));
    q = V::fma(q, f, splat<Float>(0x1.555554p-2f));
    q = V::fma(q, f, splat<Float>(-0.5f));
    const Float log = V::fma(f * f, q, f);
    return V::fma(__builtin_convertvector(exponent, Float), splat<Float>(0x1.62e430p-24f * scale),
                  V::fma(log, splat<Float>(scale), splat<Float>(offset)));
}

// Of one frame a lane, over all filters that read a bin.
template <class V>
struct Energies {
    typename V::Float lowest, total;
};

// Four neighbouring filters, which read equally many bins, so that their sums run side by side.
template <class V>
inline void mel_bands(const LogMelTables& t, const MelFilters& filters, const float* power, typename V::Float* bands,
                      Energies<V>& all) {
    using Float = typename V::Float;
    Float energies[4] = {};
    const Float* bins[4];
    for (int k = 0; k < 4; ++k) bins[k] = reinterpret_cast<const Float*>(power) + filters.first_bin[k];
    const float* weights = t.weights + filters.first_weight;
    for (std::ptrdiff_t i = 0; i < filters.bins; ++i, weights += 4) {
        for (int k = 0; k < 4; ++k) energies[k] = V::fma(bins[k][i], splat<Float>(weights[k]), energies[k]);
    }
    for (int k = 0; k < 4; ++k) {
        const Float energy = energies[k] > t.floor ? energies[k] : splat<Float>(t.floor);
        if (!filters.empty[k]) {
            all.lowest = energy < all.lowest ? energy : all.lowest;
            all.total += energy;
        }
        bands[k] = scaled_log<V>(energy, t.scale, -t.shift * t.scale);
    }
}

// Power spectra [points, lanes] -> the row of each lane, which is then advanced to the next.
template <class V>
inline Energies<V> write_rows(const LogMelTables& t, const float* power, float** rows) {
    using Float = typename V::Float;
    Energies<V> all{splat<Float>(3e38f), Float{}};
    for (int mel = 0; mel < t.num_mel_bins; mel += 4) {
        Float bands[4];
        mel_bands<V>(t, t.filters[mel / 4], power, bands, all);
        if (mel + 4 <= t.num_mel_bins) {
            V::transpose_store(bands, rows, mel);
        } else {
            for (int f = 0; f < V::lanes; ++f) {
                for (int k = 0; mel + k < t.num_mel_bins; ++k) rows[f][mel + k] = bands[k][f];
            }
        }
    }
    for (int f = 0; f < V::lanes; ++f) rows[f] += t.num_mel_bins;
    return all;
}

// `steps` consecutive frames a lane, from in[f] on, in float64; with one half, the others
// are the same frames again.
template <class V>
void exact_frames(const LogMelTables& t, const float* const* in, float** rows, int steps, int halves, float* scratch,
                  const Scratch& parts) {
    using Double = typename V::Double;
    const int samples = (steps - 1) * t.frame_shift + t.frame_length;
    Spectrum<V> spectrum{t,
                         {t, in, samples, scratch + parts.signal, reinterpret_cast<Double*>(scratch + parts.sums)},
                         reinterpret_cast<Double*>(scratch),
                         halves};
    for (int step = 0; step < steps; ++step) {
        spectrum(step, scratch + parts.power);
        write_rows<V>(t, scratch + parts.power, rows);
    }
}

// Lane f computes the frames first[f], first[f] + 1, ... Where the lanes don't divide the frames evenly, the last ones
// begin earlier and compute some frames that their neighbours compute too, which gives the same bits.
//
// What float32 rounds off in a frame of 16 kHz is some 1e-8 of the root of its energy in every bin. A frame with a
// filter of less than a four-billionth of its energy, beside a loud tone for instance, is done again in float64.
template <class V>
void log_mel(const LogMelTables& t, const float* wave, std::int64_t frames, float* out, float* scratch) {
    using Float = typename V::Float;
    using Double = typename V::Double;
    constexpr float kDoubtful = 2.5e-10f;
    const int steps = static_cast<int>((frames + V::lanes - 1) / V::lanes);
    std::int32_t first[V::lanes];
    const float* in[V::lanes];
    float* rows[V::lanes];
    for (int f = 0; f < V::lanes; ++f) {
        first[f] = static_cast<std::int32_t>(f * steps < frames - steps ? f * steps : frames - steps);
        in[f] = wave + static_cast<std::ptrdiff_t>(first[f]) * t.frame_shift;
        rows[f] = out + static_cast<std::ptrdiff_t>(first[f]) * t.num_mel_bins;
    }
    const Scratch parts = scratch_of(t, V::lanes, frames);
    if (!is_16_khz(t)) return exact_frames<V>(t, in, rows, steps, 2, scratch, parts);

    auto* const doubtful = reinterpret_cast<std::int32_t*>(scratch + parts.doubtful);
    int count = 0;
    Spectrum400<V> spectrum{t, in, reinterpret_cast<Float*>(scratch + parts.signal),
                            reinterpret_cast<Double*>(scratch + parts.sums), reinterpret_cast<Float*>(scratch)};
    for (int step = 0; step < steps; ++step) {
        spectrum(step, scratch + parts.power);
        const Energies<V> energies = write_rows<V>(t, scratch + parts.power, rows);
        for (int f = 0; f < V::lanes; ++f) {
            if (energies.lowest[f] < kDoubtful * energies.total[f]) doubtful[count++] = first[f] + step;
        }
    }
    for (int i = 0; i < count; i += V::lanes) {
        const int halves = count - i <= V::lanes / 2 ? 1 : 2;
        for (int f = 0; f < V::lanes; ++f) {
            const int index = i + f % (halves * V::lanes / 2);
            const std::ptrdiff_t frame = doubtful[index < count ? index : count - 1];
            in[f] = wave + frame * t.frame_shift;
            rows[f] = out + frame * t.num_mel_bins;
        }
        exact_frames<V>(t, in, rows, 1, halves, scratch, parts);
    }
}

}  // namespace
}  // namespace astfast
