// The front end: waveforms -> normalised log-mel spectrograms. Kaldi's filter banks; see astfast/front_end.py.
//
// Vector lane = frame: a block of frames goes through every step together, each lane by the same sequence of float32
// operations whatever the width of the vectors. A frame therefore has the same bits alone, in any batch, with any number
// of threads and in every tier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace astfast {

// A triangular filter: the bins of the power spectrum that it weighs, and where its weights lie.
struct MelFilter {
    std::int32_t first_bin;
    std::int32_t bins;
    std::int32_t first_weight;
};

// Constants that the kernels read. N = fft_length / 2 points: the real FFT is a complex one of half the length.
struct LogMelTables {
    int frame_length;  // samples
    int frame_shift;   // samples
    int points;        // N, a power of two
    int num_mel_bins;
    float pre_emphasis;
    float floor;                     // of an energy, before the logarithm
    float shift, scale;              // the normalisation (x - shift) * scale
    const float* window;             // [frame_length], halved: the split into real spectra then needs no factor of 1/2
    const float* twiddles;           // [stages, quarter, 6]: w, w^2, w^3 as (re, im) for each radix-4 stage in turn
    const float* split;              // [N / 2 + 1, 2]: exp(-2 pi i k / 2N) as (re, im)
    const std::int32_t* position;    // [N]: where the in-place FFT leaves output k
    const MelFilter* filters;        // [num_mel_bins]
    const float* weights;            // weights of all filters, one after the other
};

// One tier: `frames` frames that start at wave, wave + frame_shift, ... -> rows of num_mel_bins at `out`.
// `scratch` holds scratch_floats(tables, lanes) floats, 64-byte aligned.
struct LogMelKernel {
    const char* name;
    int lanes;
    void (*run)(const LogMelTables& tables, const float* wave, std::int64_t frames, float* out, float* scratch);
};

extern const LogMelKernel log_mel_baseline;  // any machine: vectors of four
extern const LogMelKernel log_mel_avx2;      // nullptr in `run` where the compiler has no such target
extern const LogMelKernel log_mel_avx512;

inline std::size_t scratch_floats(const LogMelTables& tables, int lanes) {
    return static_cast<std::size_t>(2 * tables.points + tables.num_mel_bins + 1) * static_cast<std::size_t>(lanes);
}

struct LogMelOptions {
    int frame_length, frame_shift, fft_length, num_mel_bins;
    double pre_emphasis, floor, shift, scale;
};

class LogMel {
  public:
    // `window` [frame_length], `filters` [num_mel_bins, fft_length / 2 + 1]. Throws std::invalid_argument for sizes that
    // make no front end.
    LogMel(const LogMelOptions& options, const double* window, const double* filters);
    LogMel(const LogMel&) = delete;
    LogMel& operator=(const LogMel&) = delete;

    // waves[b] has lengths[b] samples -> out [clips, max_length, num_mel_bins], on at most `threads` threads. A clip
    // shorter than a frame is padded to one with zeros; rows past a clip's last frame are those of a zero spectrogram.
    void run(const LogMelKernel& kernel, const float* const* waves, const std::int64_t* lengths, std::int64_t clips,
             std::int64_t max_length, float* out, int threads) const;

    const LogMelTables& tables() const { return tables_; }

  private:
    std::vector<float> window_, twiddles_, split_, weights_;
    std::vector<std::int32_t> position_;
    std::vector<MelFilter> filters_;
    LogMelTables tables_;
};

}  // namespace astfast
