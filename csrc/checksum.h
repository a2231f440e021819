// Checksum of a file's contents, at the speed of memory: it finds damage, and is no protection against forgery.
#pragma once

#include <cstddef>
#include <cstdint>

namespace astfast {

// Depends on every byte and its place, and not on the number of threads: any single word of 8 bytes that is changed
// changes it.
std::uint64_t checksum(const std::byte* data, std::size_t bytes, int threads);

}  // namespace astfast
