#include <ucontext.h>

#include <map>
#include <memory>
#include <string>

#include "device.cuh"

namespace emulation {

namespace {

constexpr size_t STACK = 128 * 1024;
constexpr uint32_t LANES = 32;

struct Kernel {
    Entry entry;
    uint32_t threads;
};

std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

struct Copy {
    void *to;
    Line line;
};

struct Fiber {
    ucontext_t context;
    bool done = false;
    // How often it has come to a barrier of its block and of its warp.
    uint64_t at_block = 0, at_warp = 0;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    unsigned char slots[LANES * SLOT];
};

} // namespace

struct Block {
    uint32_t x, y;
    Copies copies;
    Entry entry;
    const void *args;
    std::vector<unsigned char> shared;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    ucontext_t scheduler;
    uint32_t current = 0;
    bool moved = false;
};

namespace {
thread_local Block *running = nullptr;

void yield() {
    Block &b = block();
    swapcontext(&b.fibers[b.current].context, &b.scheduler);
}

// Waits until all of [first, last) that have not ended have come as often as the current one.
void wait_for(uint32_t first, uint32_t last, uint64_t Fiber::*count) {
    Block &b = block();
    const uint64_t mine = ++(b.fibers[b.current].*count);
    b.moved = true;
    const auto all_came = [&] {
        for (uint32_t i = first; i < last; ++i)
            if (!b.fibers[i].done && b.fibers[i].*count < mine)
                return false;
        return true;
    };
    while (!all_came())
        yield();
    b.moved = true;
}

void run_fiber() {
    Block &b = block();
    b.entry(b.args);
    b.fibers[b.current].done = true;
    b.moved = true;
    yield();
}

void finish(std::vector<Copy> &copies) {
    for (const Copy &copy : copies)
        std::memcpy(copy.to, &copy.line, sizeof copy.line);
    copies.clear();
}

// Kept from block to block: there are many, and a fresh one would be cleared each time.
unsigned char *stack_of(size_t fiber) {
    thread_local std::vector<std::unique_ptr<unsigned char[]>> stacks;
    while (stacks.size() <= fiber)
        stacks.emplace_back(new unsigned char[STACK]);
    return stacks[fiber].get();
}

void run_block(Block &b) {
    running = &b;
    for (size_t i = 0; i < b.fibers.size(); ++i) {
        Fiber &fiber = b.fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stack_of(i);
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool alive = true; alive;) {
        alive = false;
        b.moved = false;
        for (b.current = 0; b.current < b.fibers.size(); ++b.current) {
            if (b.fibers[b.current].done)
                continue;
            alive = true;
            swapcontext(&b.scheduler, &b.fibers[b.current].context);
        }
        if (alive && !b.moved) {
            std::fprintf(stderr, "the threads of a block wait for each other for ever\n");
            std::abort();
        }
    }
    running = nullptr;
}

} // namespace

Block &block() { return *running; }
uint32_t block_x() { return block().x; }
uint32_t block_y() { return block().y; }
uint32_t thread_index() { return block().current; }
unsigned char *shared_memory() {
    const auto at = reinterpret_cast<uintptr_t>(block().shared.data());
    return reinterpret_cast<unsigned char *>((at + 1023) / 1024 * 1024);
}

void block_sync() { wait_for(0, static_cast<uint32_t>(block().fibers.size()), &Fiber::at_block); }

void warp_sync() {
    const uint32_t first = thread_index() / LANES * LANES;
    wait_for(first, first + LANES, &Fiber::at_warp);
}

const unsigned char *exchange(const void *mine, size_t bytes) {
    Warp &warp = block().warps[thread_index() / LANES];
    std::memcpy(warp.slots + SLOT * (thread_index() % LANES), mine, bytes);
    warp_sync();
    return warp.slots;
}

void exchanged() { warp_sync(); }

void copy_begin(void *to, const void *from, bool inside) {
    Copy copy = {to, {}};
    if (inside)
        std::memcpy(&copy.line, from, sizeof copy.line);
    block().fibers[thread_index()].open.push_back(copy);
    if (block().copies == Copies::Early)
        std::memcpy(to, &copy.line, sizeof copy.line);
}

void copy_group() {
    Fiber &fiber = block().fibers[thread_index()];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void copy_wait(size_t pending) {
    Fiber &fiber = block().fibers[thread_index()];
    while (fiber.groups.size() > pending) {
        if (block().copies == Copies::Late)
            finish(fiber.groups.front());
        fiber.groups.erase(fiber.groups.begin());
    }
}

Registered::Registered(const char *name, Entry entry, uint32_t threads) { kernels()[name] = {entry, threads}; }

float from_f16(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
    const uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0)
        return bits_to_float(sign | float_to_bits(std::ldexp(static_cast<float>(fraction), -24)));
    if (exponent == 31)
        return bits_to_float(sign | 0x7f800000u | fraction << 13);
    return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// Rounds to nearest, ties to even.
uint16_t to_f16(float value) {
    const uint32_t bits = float_to_bits(value);
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    const float size = std::fabs(value);
    if (std::isnan(value))
        return sign | 0x7e00u;
    if (size >= 65520.0f)
        return sign | 0x7c00u;
    if (size < 6.103515625e-05f)
        return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24))));
    const uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + (bits >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

} // namespace emulation

extern "C" {

// Runs a kernel over a grid. 0: done; 1: there is no kernel of that name; 2: it wants another number
// of threads, as a launch on a GPU would say.
int emulation_launch(const char *name, uint32_t grid_x, uint32_t grid_y, uint32_t threads, size_t shared,
                     int late_copies, const void *args) {
    using namespace emulation;
    const auto found = kernels().find(name);
    if (found == kernels().end())
        return 1;
    if (found->second.threads < threads || threads % LANES != 0)
        return 2;
    for (uint32_t y = 0; y < grid_y; ++y) {
        for (uint32_t x = 0; x < grid_x; ++x) {
            Block b;
            b.x = x;
            b.y = y;
            b.copies = late_copies ? Copies::Late : Copies::Early;
            b.entry = found->second.entry;
            b.args = args;
            // Not a number in every type, so that what nobody wrote shows.
            b.shared.assign(shared + 1024, 0xff);
            b.fibers.resize(threads);
            b.warps.resize(threads / LANES);
            run_block(b);
        }
    }
    return 0;
}
}

// In the same unit, or the linker would leave the kernels out: nobody calls them by name.
#include "kernels.cu"

extern "C" {

// Bytes of the argument of each kind of kernel, to be held against those of the Rust side.
extern const size_t emulation_sizes[];
const size_t emulation_sizes[] = {sizeof(Header),    sizeof(LinearArgs), sizeof(AttentionTile), sizeof(AttentionArgs),
                                  sizeof(EmbedArgs), sizeof(NormArgs),   sizeof(PoolArgs)};
}
