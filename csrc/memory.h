// Memory that kernels stream through. A large buffer lies on huge pages where the system has them: a head's keys, a row
// apart each, would touch a page each, and packed weights one every 64 cache lines.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace astfast {

struct FreeMemory {
    void operator()(std::byte* p) const { std::free(p); }
};

using Memory = std::unique_ptr<std::byte[], FreeMemory>;
using SharedMemory =
    std::shared_ptr<const std::byte>;  // of a buffer of `allocate`, or of another owner, not written to

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// `bytes` of memory, 64-byte aligned, contents undefined; std::bad_alloc if there is none.
Memory allocate(std::size_t bytes);

}  // namespace astfast
