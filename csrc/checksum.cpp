#include "checksum.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace astfast {
namespace {

constexpr std::size_t kPart = std::size_t{1} << 20;               // bytes of a task
constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;             // odd, so that multiplying loses nothing
constexpr std::size_t kLanes = 8, kWord = sizeof(std::uint64_t);  // sums side by side hide the latency of one

// One step: for either argument fixed, another value of the other gives another result.
std::uint64_t mixed(std::uint64_t sum, std::uint64_t word) {
    sum = (sum ^ word) * kFactor;
    return sum ^ sum >> 29;
}

std::uint64_t of_part(const std::byte* data, std::size_t bytes) {
    std::uint64_t lanes[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
    std::size_t i = 0;
    for (; i + kLanes * kWord <= bytes; i += kLanes * kWord) {
        std::uint64_t words[kLanes];
        std::memcpy(words, data + i, sizeof words);
        for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = mixed(lanes[lane], words[lane]);
    }
    std::uint64_t sum = bytes;
    for (; i < bytes; i += kWord) {
        std::uint64_t word = 0;
        std::memcpy(&word, data + i, std::min(kWord, bytes - i));
        sum = mixed(sum, word);
    }
    for (const std::uint64_t lane : lanes) sum = mixed(sum, lane);
    return sum;
}

}  // namespace

std::uint64_t checksum(const std::byte* data, std::size_t bytes, int threads) {
    std::vector<std::uint64_t> parts((bytes + kPart - 1) / kPart);
    parallel_for(threads, static_cast<std::int64_t>(parts.size()), [&](std::int64_t task, int) {
        const auto part = static_cast<std::size_t>(task);
        parts[part] = of_part(data + part * kPart, std::min(kPart, bytes - part * kPart));
    });
    std::uint64_t sum = bytes;
    for (const std::uint64_t part : parts) sum = mixed(sum, part);
    return sum;
}

}  // namespace astfast
