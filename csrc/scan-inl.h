// The selective scan of state size 1 over an image, in four directions: a recurrence of each channel by itself, so that
// vectors hold channels and nothing is transposed. A step's size, softplus(dt weight^T + bias), is computed where it is
// needed, for several positions at a time, and never stored.

namespace astfast {
namespace {

// log(1 + e^x) to 2^-22 of itself: max(x, 0) + log1p(e^-|x|), log1p(t) = t P(t), P minimax in relative error on [0, 1].
template <class Simd>
inline typename Simd::F softplus_of(typename Simd::F x) {
    const auto t = exact_exp<Simd>(Simd::min(x, -x));
    const auto p = polynomial<Simd>(t, 1.0f, -0x1.ffffbep-2f, 0x1.554c80p-2f, -0x1.ff0f88p-3f, 0x1.92f696p-3f,
                                    -0x1.397562p-3f, 0x1.b25362p-4f, -0x1.d29ccep-5f, 0x1.453f12p-6f, -0x1.a9336cp-9f);
    return Simd::fma(t, p, Simd::max(x, Simd::zero()));
}

// Positions of an image in the order of a direction: rows, columns, both reversed.
class ScanOrder {
  public:
    ScanOrder(const Grid& grid, int direction)
        : length_(direction % 2 == 0 ? grid.columns : grid.rows),
          step_(direction % 2 == 0 ? 1 : grid.columns),
          next_line_((direction % 2 == 0 ? grid.columns : 1) - length_ * step_) {
        if (direction >= 2) {
            position_ = grid.positions() - 1;
            step_ = -step_;
            next_line_ = -next_line_;
        }
    }
    std::int64_t next() {
        const std::int64_t position = position_;
        position_ += step_;
        if (++index_ == length_) {
            index_ = 0;
            position_ += next_line_;
        }
        return position;
    }

  private:
    std::int64_t length_, step_, next_line_, position_ = 0, index_ = 0;
};

// Up to kScanChannels channels from `first` on, in one direction. The first direction writes the output with the skip
// connections of all four, the others add to it.
template <class Simd, class T>
class ChannelScan {
    using F = typename Simd::F;
    static constexpr int kVectors = static_cast<int>(kScanChannels) / Simd::kLanes;
    static constexpr int kSteps = 8 / kVectors;  // positions at a time: eight sums hide the latency of a multiply-add

  public:
    ChannelScan(const Scan& scan, int direction, std::int64_t first, std::int64_t channels)
        : scan_(scan), direction_(direction), first_(first) {
        for (int v = 0; v < kVectors; ++v) {
            lanes_[v] = static_cast<int>(std::clamp<std::int64_t>(channels - v * Simd::kLanes, 0, Simd::kLanes));
            state_[v] = Simd::zero();
            bias_[v] = parameter(scan.bias + direction * scan.channels, v);
            decay_[v] = parameter(scan.decay + direction * scan.channels, v);
            skip_[v] = parameter(scan.skip, v);
        }
    }

    void run() {
        ScanOrder order(scan_.grid, direction_);
        std::int64_t position = 0;
        for (; position + kSteps <= scan_.grid.positions(); position += kSteps) advance<kSteps>(order);
        for (; position < scan_.grid.positions(); ++position) advance<1>(order);
    }

  private:
    F parameter(const float* p, int v) const { return load_as_float<Simd>(p + first_ + v * Simd::kLanes, lanes_[v]); }

    template <int kCount>
    [[gnu::always_inline]] void advance(ScanOrder& order) {
        const float* projected[kCount];
        const T* x[kCount];
        float* out[kCount];
        F steps[kCount][kVectors];
        unrolled<kCount>([&](auto i) ALWAYS_INLINE {
            const std::int64_t position = order.next();
            projected[i] = scan_.projected + position * scan_.projected_stride + direction_ * (scan_.rank + 2);
            x[i] = static_cast<const T*>(scan_.x) + position * scan_.x_stride + first_;
            out[i] = scan_.out + position * scan_.out_stride + first_;
            unrolled<kVectors>([&](auto v) ALWAYS_INLINE { steps[i][v] = bias_[v]; });
        });
        const float* weight = scan_.weight + direction_ * scan_.rank * scan_.channels;
        for (std::int64_t r = 0; r < scan_.rank; ++r, weight += scan_.channels) {
            unrolled<kVectors>([&](auto v) ALWAYS_INLINE {
                const F w = parameter(weight, v);
                unrolled<kCount>(
                    [&](auto i) ALWAYS_INLINE { steps[i][v] = Simd::fma(Simd::set(projected[i][r]), w, steps[i][v]); });
            });
        }
        unrolled<kCount>([&](auto i) ALWAYS_INLINE {
            const F b = Simd::set(projected[i][scan_.rank]), c = Simd::set(projected[i][scan_.rank + 1]);
            unrolled<kVectors>([&](auto v) ALWAYS_INLINE {
                const F step = softplus_of<Simd>(steps[i][v]);
                const F input = load_as_float<Simd>(x[i] + v * Simd::kLanes, lanes_[v]);
                state_[v] = Simd::fma(exact_exp<Simd>(decay_[v] * step), state_[v], step * b * input);
                float* const y = out[i] + v * Simd::kLanes;
                const F before = direction_ == 0 ? skip_[v] * input : load_as_float<Simd>(y, lanes_[v]);
                store_from_float<Simd>(y, Simd::fma(c, state_[v], before), lanes_[v]);
            });
        });
    }

    const Scan& scan_;
    const int direction_;
    const std::int64_t first_;
    int lanes_[kVectors];
    F state_[kVectors], bias_[kVectors], decay_[kVectors], skip_[kVectors];
};

template <class Simd, class T>
void selective_scan(const Scan& scan, std::int64_t first, std::int64_t channels) {
    for (int direction = 0; direction < 4; ++direction) ChannelScan<Simd, T>(scan, direction, first, channels).run();
}

}  // namespace
}  // namespace astfast
