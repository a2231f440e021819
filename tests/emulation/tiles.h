// AMX: tile registers of each thread, which fault where the processor does.
#pragma once

// GCC's are assembly, which every target accepts.
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#undef _tile_dpfp16ps

namespace astfast {

struct Tile {
    alignas(64) unsigned char bytes[16][64];
    int rows, row_bytes;  // as configured
};

struct TileRegisters {
    static constexpr int kTiles = 8;
    bool configured = false;
    Tile tiles[kTiles];

    static TileRegisters& of_this_thread() {
        static thread_local TileRegisters registers;
        return registers;
    }

    static Tile& tile(int index) {
        TileRegisters& all = of_this_thread();
        if (!all.configured) processor_fault("a tile without a configuration");
        if (index < 0 || index >= kTiles || all.tiles[index].rows == 0) processor_fault("a tile of no size");
        return all.tiles[index];
    }

    void configure(const unsigned char* config) {  // palette, start row, 14 reserved; row_bytes [16]; rows [16]
        if (config[0] != 1) processor_fault("a tile configuration of an unknown palette");
        for (int i = 1; i < 16; ++i) {
            if (config[i] != 0) processor_fault("a tile configuration with a start row or reserved bytes");
        }
        for (int i = 0; i < 16; ++i) {
            const int row_bytes = config[16 + 2 * i] | config[17 + 2 * i] << 8, rows = config[48 + i];
            if (row_bytes > 64 || rows > 16 || (rows == 0) != (row_bytes == 0) || (i >= kTiles && rows != 0))
                processor_fault("a tile configuration of an impossible size");
            if (i < kTiles) tiles[i] = {{}, rows, row_bytes};
        }
        configured = true;
    }
};

inline void _tile_loadconfig(const void* config) {
    TileRegisters::of_this_thread().configure(static_cast<const unsigned char*>(config));
}

inline void _tile_release() {
    TileRegisters::of_this_thread().configured = false;
}

inline void _tile_zero(int index) {
    std::memset(TileRegisters::tile(index).bytes, 0, sizeof Tile::bytes);
}

inline void _tile_loadd(int index, const void* base, long stride) {
    Tile& tile = TileRegisters::tile(index);
    std::memset(tile.bytes, 0, sizeof tile.bytes);
    for (int r = 0; r < tile.rows; ++r) {
        std::memcpy(tile.bytes[r], static_cast<const char*>(base) + r * stride,
                    static_cast<std::size_t>(tile.row_bytes));
    }
}

inline void _tile_stream_loadd(int index, const void* base, long stride) {
    _tile_loadd(index, base, stride);
}

inline void _tile_stored(int index, void* base, long stride) {
    const Tile& tile = TileRegisters::tile(index);
    for (int r = 0; r < tile.rows; ++r) {
        std::memcpy(static_cast<char*>(base) + r * stride, tile.bytes[r], static_cast<std::size_t>(tile.row_bytes));
    }
}

// c += a b: add(row of c, row of a, row k of b), for each row and k. Bytes beyond a row stay zero.
template <class Row>
inline void multiply_tiles(int to, int left, int right, const Row& row) {
    Tile &c = TileRegisters::tile(to), &a = TileRegisters::tile(left), &b = TileRegisters::tile(right);
    if (to == left || to == right || left == right) processor_fault("a tile twice in a product");
    if (c.rows != a.rows || c.row_bytes != b.row_bytes || a.row_bytes != b.rows * 4 || b.row_bytes % 4 != 0)
        processor_fault("tiles that don't match in a product");
    for (int r = 0; r < c.rows; ++r) {
        alignas(64) unsigned char sums[64];
        std::memcpy(sums, c.bytes[r], sizeof sums);
        row(sums, a.bytes[r], b);
        std::memcpy(c.bytes[r], sums, static_cast<std::size_t>(c.row_bytes));
    }
}

// Sums of even and of odd products apart, then together, then to c, as the manual has it.
inline void _tile_dpbf16ps(int to, int left, int right) {
    multiply_tiles(to, left, right, [](unsigned char* c, const unsigned char* a, const Tile& b) {
        for (int half = 0; half < 64; half += 32) {
            __m256 even = {}, odd = {};
            for (int k = 0; k < b.rows; ++k) {
                int pair;
                std::memcpy(&pair, a + 4 * k, sizeof pair);
                const __m256i x = _mm256_set1_epi32(pair);
                const __m256i y = _mm256_load_si256(reinterpret_cast<const __m256i*>(b.bytes[k] + half));
                even = bf16::fma(bf16::even(x), bf16::even(y), even);
                odd = bf16::fma(bf16::odd(x), bf16::odd(y), odd);
            }
            auto* const sums = reinterpret_cast<float*>(c + half);
            _mm256_store_ps(sums, bf16::flushed(bf16::flushed(_mm256_load_ps(sums)) + bf16::flushed(even + odd)));
        }
    });
}

template <class T>
inline __m256i widened(const unsigned char* bytes) {  // sixteen
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return std::is_signed_v<T> ? _mm256_cvtepi8_epi16(x) : _mm256_cvtepu8_epi16(x);
}

template <class A, class B>
inline void multiply_byte_tiles(int to, int left, int right) {
    multiply_tiles(to, left, right, [](unsigned char* c, const unsigned char* a, const Tile& b) {
        for (int k = 0; k < b.rows; ++k, a += 4) {
            unsigned char quads[16];
            for (int i = 0; i < 16; ++i) quads[i] = a[i % 4];
            const __m256i x = widened<A>(quads);
            for (int i = 0; i < 64; i += 32) {  // eight columns
                const __m256i low = _mm256_madd_epi16(x, widened<B>(b.bytes[k] + i));
                const __m256i high = _mm256_madd_epi16(x, widened<B>(b.bytes[k] + i + 16));
                const __m256i products = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8);
                auto* const sums = reinterpret_cast<__m256i*>(c + i);
                *sums = _mm256_add_epi32(*sums, products);
            }
        }
    });
}

inline void _tile_dpbssd(int to, int left, int right) {
    multiply_byte_tiles<std::int8_t, std::int8_t>(to, left, right);
}
inline void _tile_dpbsud(int to, int left, int right) {
    multiply_byte_tiles<std::int8_t, std::uint8_t>(to, left, right);
}
inline void _tile_dpbusd(int to, int left, int right) {
    multiply_byte_tiles<std::uint8_t, std::int8_t>(to, left, right);
}
inline void _tile_dpbuud(int to, int left, int right) {
    multiply_byte_tiles<std::uint8_t, std::uint8_t>(to, left, right);
}

}  // namespace astfast
