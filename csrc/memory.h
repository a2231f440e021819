// Memory that kernels stream through. A large buffer lies on huge pages where the system has them: a head's keys, a row
// apart each, would touch a page each, and packed weights one every 64 cache lines.
#pragma once

#include <cstddef>
#include <memory>

namespace astfast {

struct FreeMemory {
    std::size_t mapped = 0;  // bytes of a mapping of its own, or 0 for memory of the heap

    void operator()(const std::byte* p) const;
};

using Memory = std::unique_ptr<std::byte[], FreeMemory>;
using SharedMemory =
    std::shared_ptr<const std::byte>;  // of a buffer of `allocate`, or of another owner, not written to

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// `bytes` of memory, 64-byte aligned, contents undefined; std::bad_alloc if there is none. A large buffer has a mapping
// of its own, which the system gets back at once: on the heap, the next one would not fit its gap.
Memory allocate(std::size_t bytes);

// Gives memory that was freed back to the system, where its allocator keeps it for the next one.
void release_freed_memory();

}  // namespace astfast
