// A layer of each precision on the scalar tier, then log-mels, on stdout as float32: what test_arm.py compares between
// processors.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "log_mel.h"
#include "ops.h"
#include "tiers.h"

using namespace astfast;

namespace {

std::vector<float> numbers(std::size_t count, float size) {  // in [-size, size)
    static std::uint32_t state = 1;
    std::vector<float> x(count);
    for (float& value : x) {
        state = state * 1664525u + 1013904223u;
        value = size * (static_cast<float>(state >> 8) * 0x1p-23f - 1.0f);
    }
    return x;
}

void print(const std::vector<float>& x) {
    std::fwrite(x.data(), sizeof(float), x.size(), stdout);
}

// x += fc2(gelu(fc1(LN x))) after x += proj(attention(LN x)).
void layer(Precision precision) {
    constexpr std::int64_t kTokens = 37, kHidden = 96, kHeads = 3, kMlp = 200;
    const Kernels* kernels = kernels_for("scalar", precision);
    const ComputeContext context{kernels, kernels, kernels_for("scalar", Precision::kFloat32), 2};
    const auto linear = [&](std::int64_t n, std::int64_t k) {
        const auto weight = numbers(static_cast<std::size_t>(n * k), 0.2f);
        const auto bias = numbers(static_cast<std::size_t>(n), 0.3f);
        return pack_linear(context, *kernels, weight.data(), k, bias.data(), n, k);
    };
    const PackedLinear qkv_weight = linear(3 * kHidden, kHidden), proj = linear(kHidden, kHidden);
    const PackedLinear fc1 = linear(kMlp, kHidden), fc2 = linear(kHidden, kMlp);
    const auto gamma = numbers(kHidden, 2.0f), beta = numbers(kHidden, 0.5f);
    const Norm norm{gamma.data(), beta.data(), 1e-12f, kHidden};

    auto x = numbers(kTokens * kHidden, 3.0f);
    const std::size_t size = kernels->activation_bytes;
    std::vector<std::byte> qkv(3 * kTokens * kHidden * size), attended(kTokens * kHidden * size),
        hidden(kTokens * kMlp * size);
    const Rows<const float> rows{x.data(), kTokens, 0, kHidden};
    const Rows<void> residual{x.data(), kTokens, 0, kHidden};
    norm_linear(context, rows, kTokens, norm, qkv_weight, Epilogue::kActivation, {qkv.data(), kTokens, 0, 3 * kHidden});
    const Head head{qkv.data(),
                    qkv.data() + kHidden * size,
                    qkv.data() + 2 * kHidden * size,
                    attended.data(),
                    3 * kHidden,
                    3 * kHidden,
                    kHidden,
                    kTokens,
                    kTokens,
                    kHidden / kHeads};
    attention(context, head, {0, 0, 0}, 1, kHeads);
    linear_residual(context, {attended.data(), kTokens, 0, kHidden}, kTokens, proj, residual);
    norm_linear(context, rows, kTokens, norm, fc1, Epilogue::kGelu, {hidden.data(), kTokens, 0, kMlp});
    linear_residual(context, {hidden.data(), kTokens, 0, kMlp}, kTokens, fc2, residual);
    print(x);
}

void log_mels(int frame_length, int fft_length) {
    constexpr int kBins = 40;
    std::vector<double> window, filters;
    for (const float x : numbers(static_cast<std::size_t>(frame_length), 1.0f)) window.push_back(1.0 + 0.5 * x);
    for (int mel = 0; mel < kBins; ++mel) {
        for (int k = 0; k <= fft_length / 2; ++k) filters.push_back(k / 5 == mel ? 0.5 : 0.0);
    }
    const LogMel front_end({frame_length, 160, fft_length, kBins, 0.97, 1e-7, -4.0, 0.1}, window.data(),
                           filters.data());
    const auto wave = numbers(10000, 0.5f);
    const float* waves[] = {wave.data()};
    const std::int64_t lengths[] = {10000};
    std::vector<float> out(64 * kBins);
    front_end.run(log_mel_baseline, waves, lengths, 1, 64, out.data(), 2);
    print(out);
}

}  // namespace

int main() {
    for (const Precision precision : {Precision::kFloat32, Precision::kBfloat16, Precision::kInt8}) layer(precision);
    log_mels(400, 512);
    log_mels(401, 1024);
}
