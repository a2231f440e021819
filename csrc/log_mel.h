// The front end: waveforms -> normalised log-mel spectrograms. Kaldi's filter banks; see astfast/front_end.py.
//
// Vector lane = frame: as many frames as a vector has lanes go through every step together, each by the same sequence
// of operations whatever the width of the vectors. A frame therefore has the same bits alone, in any batch, with any
// number of threads and in every tier.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace astfast {

// Four triangular filters over `bins` bins of the power spectrum each, from first_bin on; weights are zero beyond the
// filter. The last four of a front end may include some of no weight, that no mel bin belongs to.
struct MelFilters {
    std::int32_t first_bin[4];
    bool empty[4], any_empty;
    std::int32_t bins;
};

// Constants that the kernels read. N = fft_length / 2 points: the real FFT is a complex one of half the length.
struct LogMelTables {
    int frame_length;  // samples
    int frame_shift;   // samples
    int points;        // N, a power of two
    int num_mel_bins;
    double pre_emphasis;
    float floor;                   // of an energy, before the logarithm
    float shift, scale;            // the normalisation (x - shift) * scale
    const double* window;          // [frame_length], halved: the split into real spectra then needs no factor of 1/2
    const double* twiddles;        // [stages, quarter, 6]: w, w^2, w^3 as (re, im) for each radix-4 stage in turn
    const double* split;           // [N / 2 + 1, 2]: exp(-2 pi i k / 2N) as (re, im)
    const std::int32_t* position;  // [N]: where the in-place FFT leaves output k
    const MelFilters* filters;     // [num_mel_bins / 4, rounded up]
    const float* weights;          // [bins, 4] of all filters in turn
    // For frames of 16 kHz only.
    const float* float_window;    // [400]
    const float* outer_twiddles;  // [15, 5, 4]: w, w^2 as (re, im) for the sums of spectrum_400-inl.h
};

// Frames that have a transform of their own.
inline bool is_16_khz(const LogMelTables& t) {
    return t.frame_length == 400 && t.frame_shift == 160 && t.points == 256;
}

// Layout of a kernel's scratch memory: the offset of each part in floats. At its beginning is the transform, then
// the energies of the filters.
struct Scratch {
    std::size_t sums, doubtful, power, signal, floats;
};

inline Scratch scratch_of(const LogMelTables& t, int lanes, std::int64_t frames) {
    const auto width = static_cast<std::size_t>(lanes), points = static_cast<std::size_t>(t.points);
    const int steps = static_cast<int>((frames + lanes - 1) / lanes);
    const auto filters = static_cast<std::size_t>((t.num_mel_bins + 3) / 4 * 4);
    const std::size_t sums = width * std::max(2 * points + 16, filters);
    const std::size_t doubtful = sums + width * 4 * static_cast<std::size_t>(steps + t.frame_length / t.frame_shift);
    const std::size_t power = doubtful + width * static_cast<std::size_t>(steps);
    const std::size_t signal = power + width * points;
    return {sums, doubtful, power, signal,
            signal + width * static_cast<std::size_t>((steps - 1) * t.frame_shift + t.frame_length)};
}

// One tier: `frames` frames that start at wave, wave + frame_shift, ... -> rows of num_mel_bins at `out`.
// `scratch` holds scratch_of(tables, lanes, frames).floats floats, 64-byte aligned.
struct LogMelKernel {
    const char* name;
    int lanes;
    void (*run)(const LogMelTables& tables, const float* wave, std::int64_t frames, float* out, float* scratch);
};

extern const LogMelKernel log_mel_baseline;  // any machine: vectors of four
#if defined(__x86_64__)
extern const LogMelKernel log_mel_avx2;
extern const LogMelKernel log_mel_avx512;
#endif

struct LogMelOptions {
    int frame_length, frame_shift, fft_length, num_mel_bins;
    double pre_emphasis, floor, shift, scale;
};

class LogMel {
  public:
    // `window` [frame_length], `filters` [num_mel_bins, fft_length / 2 + 1]. Throws std::invalid_argument for sizes
    // that make no front end.
    LogMel(const LogMelOptions& options, const double* window, const double* filters);
    LogMel(const LogMel&) = delete;
    LogMel& operator=(const LogMel&) = delete;

    // waves[b] has lengths[b] samples -> out [clips, max_length, num_mel_bins], on at most `threads` threads. A clip
    // shorter than a frame is padded to one with zeros; rows past a clip's last frame are those of a zero spectrogram.
    void run(const LogMelKernel& kernel, const float* const* waves, const std::int64_t* lengths, std::int64_t clips,
             std::int64_t max_length, float* out, int threads) const;

    const LogMelTables& tables() const { return tables_; }

  private:
    void add_filters(const double* const* rows, int points);

    std::vector<double> window_, twiddles_, split_;
    std::vector<float> weights_, float_window_, outer_twiddles_;
    std::vector<std::int32_t> position_;
    std::vector<MelFilters> filters_;
    LogMelTables tables_;
};

}  // namespace astfast
