#include "log_mel.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace astfast {
namespace {

// 10 s of audio make four tasks. An odd multiple of 16: the rows that lanes write to would lie in one set of the L1
// cache if they were a power of two apart.
constexpr std::int64_t kFramesPerTask = 17 * 16;

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument("log_mel: " + message);
}

// Where an in-place decimation-in-frequency FFT of radix 4, with a last stage of radix 2 if need be, leaves output k:
// a stage puts the outputs k = q (mod radix) into the q-th part.
std::int32_t digit_reversed(int k, int length) {
    if (length == 1) return 0;
    const int radix = length >= 4 ? 4 : 2;
    return k % radix * (length / radix) + digit_reversed(k / radix, length / radix);
}

// exp(-2 pi i k / n) as (re, im).
template <class Real>
void push_root(std::vector<Real>& roots, int k, int n) {
    const double angle = -6.283185307179586476925286766559 * k / n;
    roots.push_back(static_cast<Real>(std::cos(angle)));
    roots.push_back(static_cast<Real>(std::sin(angle)));
}

}  // namespace

Edges edges_named(const std::string& name) {
    if (name == "whole_frames") return Edges::kWholeFrames;
    require(name == "reflect" || name == "constant", "edges " + name + " are unknown");
    return name == "reflect" ? Edges::kMirrored : Edges::kZeros;
}

LogMel::LogMel(const LogMelOptions& options, const double* window, const double* filters)
    : edges_(options.edges), signal_emphasis_(static_cast<float>(options.signal_emphasis)) {
    const int points = options.fft_length / 2;
    require(options.frame_length >= 1 && options.frame_shift >= 1 && options.num_mel_bins >= 1,
            "empty frame or filters");
    require(points >= 1 && (points & (points - 1)) == 0 && options.fft_length == 2 * points,
            "the FFT length must be a power of two");
    require(options.frame_length <= options.fft_length, "the frame is longer than the FFT");

    for (int i = 0; i < options.frame_length; ++i) window_.push_back(0.5 * window[i]);
    for (int length = points; length >= 4; length /= 4) {
        for (int j = 0; j < length / 4; ++j) {
            for (int power = 1; power <= 3; ++power) push_root(twiddles_, j * power, length);
        }
    }
    for (int k = 0; k <= points / 2; ++k) push_root(split_, k, options.fft_length);
    for (int k = 0; k < points; ++k) position_.push_back(digit_reversed(k, points));
    const std::vector<double> none(static_cast<std::size_t>(points + 1));
    for (int mel = 0; mel < options.num_mel_bins; mel += 4) {
        const double* rows[4];
        for (int k = 0; k < 4; ++k) {
            rows[k] = mel + k < options.num_mel_bins ? filters + static_cast<std::ptrdiff_t>(mel + k) * (points + 1)
                                                     : none.data();
            require(rows[k][points] == 0.0, "a filter reads the Nyquist bin");
        }
        add_filters(rows, points);
    }

    for (int i = 0; i < options.frame_length; ++i) float_window_.push_back(static_cast<float>(window[i]));
    for (int c = 1; c < 16; ++c) {
        for (const int k : {4 * c, c, c + 32, c + 64, c + 96}) {
            for (const int power : {1, 2}) push_root(outer_twiddles_, k * power, 512);
        }
    }

    tables_ = {options.frame_length,
               options.frame_shift,
               points,
               options.num_mel_bins,
               options.edges == Edges::kWholeFrames,
               options.pre_emphasis,
               static_cast<float>(options.floor),
               static_cast<float>(options.addend),
               static_cast<float>(options.shift),
               static_cast<float>(options.scale),
               window_.data(),
               twiddles_.data(),
               split_.data(),
               position_.data(),
               filters_.data(),
               weights_.data(),
               float_window_.data(),
               outer_twiddles_.data()};
}

void LogMel::add_filters(const double* const* rows, int points) {
    MelFilters filters{};
    for (int k = 0; k < 4; ++k) {
        int first = 0, end = points;
        while (end > 0 && rows[k][end - 1] == 0.0) --end;
        while (first < end && rows[k][first] == 0.0) ++first;
        filters.first_bin[k] = first;
        filters.empty[k] = first == end;
        filters.any_empty |= filters.empty[k];
        filters.bins = std::max(filters.bins, end - first);
    }
    for (int k = 0; k < 4; ++k) filters.first_bin[k] = std::min(filters.first_bin[k], points - filters.bins);
    for (int i = 0; i < filters.bins; ++i) {
        for (int k = 0; k < 4; ++k) weights_.push_back(static_cast<float>(rows[k][filters.first_bin[k] + i]));
    }
    filters_.push_back(filters);
}

// Samples of the signal that frames are centred in.
std::int64_t LogMel::signal_length(std::int64_t samples) const {
    return signal_emphasis_ == 0.0f ? samples : samples - 1;
}

std::int64_t LogMel::frames(std::int64_t samples) const {
    const LogMelTables& t = tables_;
    if (edges_ == Edges::kWholeFrames) return 1 + std::max<std::int64_t>(0, samples - t.frame_length) / t.frame_shift;
    return 1 + signal_length(samples) / t.frame_shift;
}

// `count` samples of the signal from `first` on, which may lie before its beginning, as the last may behind its end.
void LogMel::copy_signal(const float* wave, std::int64_t samples, std::int64_t first, std::int64_t count,
                         float* to) const {
    const std::int64_t length = signal_length(samples);
    const float emphasis = signal_emphasis_;
    const auto at = [&](std::int64_t i) {
        if (i < 0) i = -i;
        if (i >= length) i = 2 * (length - 1) - i;
        return emphasis == 0.0f ? wave[i] : wave[i + 1] - emphasis * wave[i];
    };
    const std::int64_t end = first + count;
    const std::int64_t inside = std::clamp<std::int64_t>(0, first, end), outside = std::clamp(length, inside, end);
    float* y = to;
    if (edges_ == Edges::kZeros) {
        y = std::fill_n(y, inside - first, 0.0f);
    } else {
        for (std::int64_t i = first; i < inside; ++i) *y++ = at(i);
    }
    if (emphasis == 0.0f) {
        y = std::copy(wave + inside, wave + outside, y);
    } else {
        for (std::int64_t i = inside; i < outside; ++i) *y++ = wave[i + 1] - emphasis * wave[i];
    }
    if (edges_ == Edges::kZeros) {
        std::fill(y, to + count, 0.0f);
    } else {
        for (std::int64_t i = outside; i < end; ++i) *y++ = at(i);
    }
}

void LogMel::run(const LogMelKernel& kernel, const float* const* waves, const std::int64_t* lengths, std::int64_t clips,
                 std::int64_t max_length, float* out, int threads) const {
    const LogMelTables& t = tables_;
    const std::int64_t tasks_per_clip = (max_length + kFramesPerTask - 1) / kFramesPerTask;
    const std::size_t row = static_cast<std::size_t>(t.num_mel_bins);
    const float padding = (0.0f - t.shift) * t.scale;

    const std::int64_t half = t.frame_length / 2;
    for (std::int64_t clip = 0; edges_ == Edges::kMirrored && clip < clips; ++clip) {
        require(signal_length(lengths[clip]) > half,
                "a clip of " + std::to_string(lengths[clip]) + " samples is too short to be mirrored");
    }

    const PoolLock lock(threads);
    const std::size_t floats = scratch_of(t, kernel.lanes, kFramesPerTask).floats;
    const std::int64_t copied = edges_ == Edges::kWholeFrames ? 0 : (kFramesPerTask - 1) * t.frame_shift;
    reserve_scratch(workers_of(threads, clips * tasks_per_clip),
                    (floats + static_cast<std::size_t>(copied + t.frame_length)) * sizeof(float));

    parallel_for(threads, clips * tasks_per_clip, [&](std::int64_t task, int worker) {
        const std::int64_t clip = task / tasks_per_clip;
        const std::int64_t first = task % tasks_per_clip * kFramesPerTask;
        const std::int64_t end = std::min(first + kFramesPerTask, max_length);
        float* const rows = out + static_cast<std::size_t>(clip * max_length) * row;
        float* const workspace = reinterpret_cast<float*>(scratch(worker));

        const float* wave = waves[clip];
        const std::int64_t length = lengths[clip];
        const std::int64_t count = std::max<std::int64_t>(0, std::min(end, frames(length)) - first);
        if (count > 0) {
            const float* start = wave + first * t.frame_shift;
            float* const copy = workspace + floats;
            if (edges_ != Edges::kWholeFrames) {
                const std::int64_t samples = (count - 1) * t.frame_shift + t.frame_length;
                copy_signal(wave, length, first * t.frame_shift - half, samples, copy);
                start = copy;
            } else if (length < t.frame_length) {
                std::fill(std::copy(wave, wave + length, copy), copy + t.frame_length, 0.0f);
                start = copy;
            }
            kernel.run(t, start, count, rows + first * row, workspace);
        }
        std::fill(rows + (first + count) * row, rows + end * row, padding);
    });
}

}  // namespace astfast
