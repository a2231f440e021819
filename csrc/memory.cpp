#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <new>

namespace astfast {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kOwnMapping = SIZE_MAX;  // never: the sanitizer guards buffers of the heap
#else
constexpr std::size_t kOwnMapping = kHugePage;
#endif

}  // namespace

void FreeMemory::operator()(const std::byte* p) const {
    auto* const memory = const_cast<std::byte*>(p);
    if (mapped == 0) return std::free(memory);
    munmap(memory, mapped);
}

Memory allocate(std::size_t bytes) {
    if (bytes < kOwnMapping) {
        void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (!p) throw std::bad_alloc();
        return Memory(static_cast<std::byte*>(p));
    }
    static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t size = (bytes + page - 1) / page * page, reserved = size + kHugePage;
    void* p = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    auto* const first = static_cast<std::byte*>(p);
    const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(p) % kHugePage) % kHugePage;
    if (before > 0) munmap(first, before);
    munmap(first + before + size, reserved - before - size);
#if defined(MADV_HUGEPAGE)
    madvise(first + before, size, MADV_HUGEPAGE);  // a hint: refused, the pages are small ones
#endif
    return Memory(first + before, FreeMemory{size});
}

void release_freed_memory() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

}  // namespace astfast
