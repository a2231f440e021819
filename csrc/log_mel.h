// The front end: waveforms -> normalised log-mel spectrograms. Kaldi's filter banks and those of centred frames; see
// astfast/front_end.py and astfast/centred_log_mel.py.
//
// Vector lane = frame: as many frames as a vector has lanes go through every step together, each by the same sequence
// of operations whatever the width of the vectors. A frame therefore has the same bits alone, in any batch, with any
// number of threads and in every tier.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
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
    bool remove_mean;              // of each frame
    double pre_emphasis;           // of each frame
    float floor, addend;           // of an energy e, before the logarithm: max(e, floor) + addend
    float shift, scale;            // the normalisation (x - shift) * scale
    const double* window;          // [frame_length], halved: the split into real spectra then needs no factor of 1/2
    const double* twiddles;        // [stages, quarter, 6]: w, w^2, w^3 as (re, im) for each radix-4 stage in turn
    const double* split;           // [N / 2 + 1, 2]: exp(-2 pi i k / 2N) as (re, im)
    const std::int32_t* position;  // [N]: where the in-place FFT leaves output k
    const MelFilters* filters;     // [num_mel_bins / 4, rounded up]
    const float* weights;          // [bins, 4] of all filters in turn
    // For transforms in float32 only.
    const float* float_window;    // [frame_length]
    const float* outer_twiddles;  // [15, 5, 4]: w, w^2 as (re, im) for the sums of transform_512-inl.h
};

// Frames that have a transform of their own, and all others.
enum class Frames { kOf400, kOf512, kAny };

inline Frames frames_of(const LogMelTables& t) {
    if (t.points != 256) return Frames::kAny;
    if (t.frame_length == 400 && t.frame_shift == 160 && t.remove_mean) return Frames::kOf400;
    return t.frame_length == 512 && t.pre_emphasis == 0.0 && !t.remove_mean ? Frames::kOf512 : Frames::kAny;
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

// Where frames lie: at 0, frame_shift, 2 frame_shift, ... as long as they are whole, or centred there, the signal
// mirrored or continued with zeros at its ends.
enum class Edges { kWholeFrames, kMirrored, kZeros };

// "whole_frames", "reflect" or "constant"; throws std::invalid_argument for another.
Edges edges_named(const std::string& name);

struct LogMelOptions {
    int frame_length, frame_shift, fft_length, num_mel_bins;
    double pre_emphasis, floor, shift, scale;
    Edges edges = Edges::kWholeFrames;
    double signal_emphasis = 0.0;  // e: centred frames are of x[i + 1] - e x[i], unless that is 0
    double addend = 0.0;
};

class LogMel {
  public:
    // `window` [frame_length], `filters` [num_mel_bins, fft_length / 2 + 1]. Throws std::invalid_argument for sizes
    // that make no front end.
    LogMel(const LogMelOptions& options, const double* window, const double* filters);
    LogMel(const LogMel&) = delete;
    LogMel& operator=(const LogMel&) = delete;

    // waves[b] has lengths[b] samples -> out [clips, max_length, num_mel_bins], on at most `threads` threads. A clip
    // shorter than a frame is padded to one with zeros where frames are whole; one of centred frames must be longer
    // than half a frame. Rows past a clip's last frame are those of a zero spectrogram.
    void run(const LogMelKernel& kernel, const float* const* waves, const std::int64_t* lengths, std::int64_t clips,
             std::int64_t max_length, float* out, int threads) const;

    const LogMelTables& tables() const { return tables_; }

  private:
    void add_filters(const double* const* rows, int points);
    std::int64_t signal_length(std::int64_t samples) const;
    std::int64_t frames(std::int64_t samples) const;
    void copy_signal(const float* wave, std::int64_t samples, std::int64_t first, std::int64_t count, float* to) const;

    std::vector<double> window_, twiddles_, split_;
    std::vector<float> weights_, float_window_, outer_twiddles_;
    std::vector<std::int32_t> position_;
    std::vector<MelFilters> filters_;
    Edges edges_;
    float signal_emphasis_;
    LogMelTables tables_;
};

}  // namespace astfast
