// A device in ordinary C++: every thread of a block is a fiber, and whatever threads do together
// (barriers, shuffles, matrix products) waits until all of them have come.
//
// Copies to shared memory are done when they are begun, or at the last moment that is allowed (see
// `Copies`): a kernel that reads too early or overwrites too soon is wrong in one of the two.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define DEVICE inline

namespace emulation {

enum class Copies { Early, Late };

struct Block;
Block &block();

uint32_t block_x();
uint32_t block_y();
uint32_t thread_index();
unsigned char *shared_memory();
void block_sync();
void warp_sync();

// Gives `bytes` bytes of each lane of the warp to all of them: lane i's begin at 64 i.
constexpr size_t SLOT = 64;
const unsigned char *exchange(const void *mine, size_t bytes);
// To be called when the result of `exchange` has been read.
void exchanged();

void copy_begin(void *to, const void *from, bool inside);
void copy_group();
void copy_wait(size_t pending);

using Entry = void (*)(const void *args);
struct Registered {
    Registered(const char *name, Entry entry, uint32_t threads);
};

float from_f16(uint16_t bits);
uint16_t to_f16(float value);

} // namespace emulation

using emulation::block_sync;
using emulation::block_x;
using emulation::block_y;
using emulation::copy_begin;
using emulation::copy_group;
using emulation::shared_memory;
using emulation::thread_index;
using emulation::warp_sync;

template <int PENDING> inline void copy_wait() { emulation::copy_wait(PENDING); }

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float to_float(F16, uint16_t bits) { return emulation::from_f16(bits); }
inline float to_float(Bf16, uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }
inline uint16_t to_bits(F16, float value) { return emulation::to_f16(value); }
inline uint16_t to_bits(Bf16, float value) {
    uint32_t bits = float_to_bits(value);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <class T> uint32_t pack(T kind, float low, float high) {
    return to_bits(kind, low) | uint32_t(to_bits(kind, high)) << 16;
}
template <class T> Pair unpack(T kind, uint32_t word) {
    return {to_float(kind, static_cast<uint16_t>(word)), to_float(kind, static_cast<uint16_t>(word >> 16))};
}

inline float exp2_fast(float x) { return std::exp2(x); }
inline float divide_fast(float a, float b) { return a / b; }
inline float rsqrt_fast(float x) { return 1.0f / std::sqrt(x); }

inline float shuffle_xor(float value, int mask) {
    const unsigned char *all = emulation::exchange(&value, sizeof value);
    float other;
    std::memcpy(&other, all + emulation::SLOT * ((thread_index() % 32) ^ uint32_t(mask)), sizeof other);
    emulation::exchanged();
    return other;
}

inline void load_matrices_as(uint32_t (&to)[4], const void *row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        std::fprintf(stderr, "a row of a matrix is not aligned\n");
        std::abort();
    }
    const unsigned char *all = emulation::exchange(&row, sizeof row);
    const uint32_t lane = thread_index() % 32;
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
        uint16_t half[2];
        for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t r = transposed ? lane % 4 * 2 + i : lane / 4;
            const uint32_t c = transposed ? lane / 4 : lane % 4 * 2 + i;
            const unsigned char *address;
            std::memcpy(&address, all + emulation::SLOT * (matrix * 8 + r), sizeof address);
            std::memcpy(&half[i], address + 2 * c, 2);
        }
        to[matrix] = half[0] | uint32_t(half[1]) << 16;
    }
    emulation::exchanged();
}
inline void load_matrices(uint32_t (&to)[4], const void *row) { load_matrices_as(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void *row) { load_matrices_as(to, row, true); }

template <class T>
void multiply_add(T kind, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const unsigned char *all = emulation::exchange(mine, sizeof mine);
    const auto word = [&](uint32_t lane, uint32_t index) {
        uint32_t value;
        std::memcpy(&value, all + emulation::SLOT * lane + 4 * index, sizeof value);
        return value;
    };
    const auto half = [&](uint32_t value, uint32_t index) {
        const Pair pair = unpack(kind, value);
        return index == 0 ? pair.low : pair.high;
    };
    // Element [m, k] of a and [k, n] of b, where the PTX manual says that lanes hold them.
    const auto a_at = [&](uint32_t m, uint32_t k) {
        return half(word(m % 8 * 4 + k % 8 / 2, m / 8 + k / 8 * 2), k % 2);
    };
    const auto b_at = [&](uint32_t k, uint32_t n) { return half(word(n * 4 + k % 8 / 2, 4 + k / 8), k % 2); };
    const uint32_t lane = thread_index() % 32;
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t m = lane / 4 + i / 2 * 8, n = lane % 4 * 2 + i % 2;
        for (uint32_t k = 0; k < 16; ++k)
            sum[i] += a_at(m, k) * b_at(k, n);
    }
    emulation::exchanged();
}

inline void group_sees_copies() {}
inline void group_begin() {}
inline void group_commit() {}
template <int TILES> void group_wait(float (&)[TILES][4]) { warp_sync(); }

// As late as is allowed or at once makes no difference here: the sums are not read before `group_wait`,
// and the operands must not change until then.
template <class T, int TILES>
void group_multiply_add(T kind, float (&sum)[TILES][4], const void *a, const void *b, int k) {
    const auto number = [&](const void *rows, uint32_t row, uint32_t column) {
        const uint32_t line = (uint32_t(k) * 2 + column / 8) ^ (row & 7);
        uint16_t bits;
        std::memcpy(&bits, static_cast<const unsigned char *>(rows) + row * 128 + line * 16 + column % 8 * 2, 2);
        return to_float(kind, bits);
    };
    if (reinterpret_cast<uintptr_t>(a) % 1024 != 0 || reinterpret_cast<uintptr_t>(b) % 1024 != 0) {
        std::fprintf(stderr, "an operand of a group is not aligned\n");
        std::abort();
    }
    const uint32_t lane = thread_index() % 32, row0 = thread_index() / 32 % 4 * 16;
    for (uint32_t tile = 0; tile < TILES; ++tile)
        for (uint32_t i = 0; i < 4; ++i)
            for (uint32_t column = 0; column < 16; ++column)
                sum[tile][i] += number(a, row0 + lane / 4 + i / 2 * 8, column) *
                                number(b, tile * 8 + lane % 4 * 2 + i % 2, column);
}

#define KERNEL(name, Args, threads, blocks, call)                                                        \
    static const emulation::Registered registered_##name(                                                \
        #name, [](const void *args) { call(*static_cast<const Args *>(args)); }, threads);
