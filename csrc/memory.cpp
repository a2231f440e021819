#include "memory.h"

#include <sys/mman.h>

#include <new>

namespace astfast {

Memory allocate(std::size_t bytes) {
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
    void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (bytes >= kHugePage) madvise(p, bytes, MADV_HUGEPAGE);  // a hint: refused, the pages are small ones
#endif
    return Memory(static_cast<std::byte*>(p));
}

}  // namespace astfast
