// Jobs on the pool with more threads than cores, for test_thread_sanitizer.py: each part and each task once, tasks
// after what they need.
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "parallel.h"

namespace {

std::mt19937 random_bits(1);

std::int64_t up_to(int most) {
    return static_cast<std::int64_t>(random_bits() % static_cast<unsigned>(most + 1));
}

// How many tasks were not run once, or before all parts were prepared.
std::int64_t wrong_shares(int threads, std::int64_t parts, std::int64_t tasks) {
    std::vector<int> prepared(static_cast<std::size_t>(parts)), run(static_cast<std::size_t>(tasks));
    std::int64_t wrong = 0;
    astfast::parallel_shares(
        threads, parts, tasks, [&](std::int64_t part) { ++prepared[static_cast<std::size_t>(part)]; },
        [&](std::int64_t first, std::int64_t end) {
            for (std::int64_t task = first; task < end; ++task) {
                ++run[static_cast<std::size_t>(task)];
                for (const int times : prepared) run[static_cast<std::size_t>(task)] += times != 1;
            }
        });
    for (const int times : run) wrong += times != 1;
    return wrong;
}

// How many tiles of blocks were not run once, or with what another block had prepared.
std::int64_t wrong_blocks(int threads, std::int64_t blocks, std::int64_t tiles) {
    std::vector<int> run(static_cast<std::size_t>(blocks * tiles));
    std::int64_t wrong = 0;
    astfast::parallel_blocks(
        threads, blocks, tiles, sizeof(std::int64_t),
        [](std::int64_t block, int worker) { *reinterpret_cast<std::int64_t*>(astfast::scratch(worker)) = block; },
        [&](std::int64_t block, int owner, std::int64_t first, std::int64_t end, int) {
            for (std::int64_t tile = first; tile < end; ++tile) {
                int& times = run[static_cast<std::size_t>(block * tiles + tile)];
                times += *reinterpret_cast<const std::int64_t*>(astfast::scratch(owner)) == block ? 1 : 2;
            }
        });
    for (const int times : run) wrong += times != 1;
    return wrong;
}

}  // namespace

int main() {
    std::int64_t wrong = 0;
    for (int i = 0; i < 1000; ++i) {
        const int threads = static_cast<int>(1 + up_to(8));
        wrong += wrong_shares(threads, 1 + up_to(6), up_to(70));
        wrong += wrong_blocks(threads, 1 + up_to(6), 1 + up_to(20));
    }
    std::printf("wrong: %lld\n", static_cast<long long>(wrong));
    return wrong == 0 ? 0 : 1;
}
