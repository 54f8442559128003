// The linear layers: a product of 16-bit matrices with sums in f32, bias and activation in the same
// pass.
//
// Every tile size adds up the products of a sum in the same order, so a row comes out the same to the
// last bit whichever is used, and that may follow the number of rows.
#pragma once

#include "arguments.cuh"
#include "device.cuh"

enum class Activation { None, GeluErf, GeluTanh, Relu };

// Inputs that are in shared memory at a time: a row of them is 128 bytes, all banks once.
constexpr int DEPTH = 64;
constexpr int LINE_ELEMENTS = 8;
constexpr int DEPTH_LINES = DEPTH / LINE_ELEMENTS;
constexpr int DEPTH_BYTES = DEPTH * 2;

// x times the share of a normal distribution below x. The error function is Abramowitz and Stegun's
// 7.1.26, whose error is below 1.5e-7.
DEVICE float gelu_erf(float x) {
    const float z = fabsf(x) * 0.70710678f;
    const float t = divide_fast(1.0f, fmaf(0.3275911f, z, 1.0f));
    float sum = fmaf(t, 1.061405429f, -1.453152027f);
    sum = fmaf(t, sum, 1.421413741f);
    sum = fmaf(t, sum, -0.284496736f);
    sum = fmaf(t, sum, 0.254829592f);
    const float beyond = 0.5f * t * sum * exp2_fast(z * z * -1.44269504f);
    return x >= 0.0f ? x - x * beyond : x * beyond;
}

// The approximation of Hendrycks and Gimpel 2016 by a tanh, which is x sigmoid(2 y).
DEVICE float gelu_tanh(float x) {
    const float y = 0.79788456f * fmaf(0.044715f * x * x, x, x);
    return divide_fast(x, 1.0f + exp2_fast(y * -2.88539008f));
}

template <Activation ACTIVATION> DEVICE float activate(float x) {
    if (ACTIVATION == Activation::GeluErf)
        return gelu_erf(x);
    if (ACTIVATION == Activation::GeluTanh)
        return gelu_tanh(x);
    if (ACTIVATION == Activation::Relu)
        return x > 0.0f ? x : 0.0f;
    return x;
}

// Where line `line` of row `row` lies in a stage: eight rows of the same line are in eight different
// groups of banks.
DEVICE uint32_t staged(uint32_t row, uint32_t line) { return row * DEPTH_BYTES + ((line ^ (row & 7)) << 4); }

// Begins to copy ROWS rows, from `row0` on, of DEPTH numbers, from number `from` on.
template <int ROWS, int THREADS>
DEVICE void stage_rows(unsigned char *to, const uint16_t *matrix, uint32_t rows, uint32_t stride,
                       uint32_t row0, uint32_t from) {
    static_assert(ROWS * DEPTH_LINES % THREADS == 0, "threads share the lines evenly");
    const uint32_t line = thread_index() % DEPTH_LINES;
#pragma unroll
    for (int i = 0; i < ROWS * DEPTH_LINES / THREADS; ++i) {
        const uint32_t row = thread_index() / DEPTH_LINES + i * (THREADS / DEPTH_LINES);
        const bool inside = row0 + row < rows;
        const uint32_t place = inside ? row0 + row : 0;
        copy_begin(to + staged(row, line), matrix + size_t(place) * stride + from + line * LINE_ELEMENTS,
                   inside);
    }
}

// Adds the biases, activates and writes a tile, from the fragments of its warps: a warp has 16 TALL rows
// and 8 BROAD columns from (warp_row, warp_column) on. Goes through shared memory, where nobody reads any
// more, so that whole lines are written: a lane's numbers are two by two.
template <class T, Activation ACTIVATION, int ROWS, int COLUMNS, int THREADS, int TALL, int BROAD>
DEVICE void write_tile(const LinearArgs &args, unsigned char *shared, const float (&sums)[TALL][BROAD][4],
                       uint32_t warp_row, uint32_t warp_column, uint32_t row0, uint32_t column0,
                       uint32_t rows) {
    constexpr int OUT_BYTES = COLUMNS * 2 + 16;
    const uint32_t lane = thread_index() % 32;
#pragma unroll
    for (int j = 0; j < BROAD; ++j) {
        const uint32_t column = warp_column + j * 8 + lane % 4 * 2;
        const bool inside = column0 + column < args.outputs;
        const float bias0 = inside ? args.bias[column0 + column] : 0.0f;
        const float bias1 = inside ? args.bias[column0 + column + 1] : 0.0f;
#pragma unroll
        for (int i = 0; i < TALL; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t row = warp_row + i * 16 + half * 8 + lane / 4;
                const float low = activate<ACTIVATION>(sums[i][j][half * 2] + bias0);
                const float high = activate<ACTIVATION>(sums[i][j][half * 2 + 1] + bias1);
                *reinterpret_cast<uint32_t *>(shared + row * OUT_BYTES + column * 2) = pack(T(), low, high);
            }
        }
    }
    block_sync();
    constexpr int ROW_LINES = COLUMNS / LINE_ELEMENTS;
#pragma unroll 4
    for (uint32_t i = thread_index(); i < ROWS * ROW_LINES; i += THREADS) {
        const uint32_t row = i / ROW_LINES, column = i % ROW_LINES * LINE_ELEMENTS;
        if (row0 + row < rows && column0 + column < args.outputs)
            *reinterpret_cast<Line *>(args.output + size_t(row0 + row) * args.outputs + column0 + column) =
                *reinterpret_cast<const Line *>(shared + row * OUT_BYTES + column * 2);
    }
}

// A block computes ROWS x COLUMNS of the output, a warp WARP_ROWS x WARP_COLUMNS of them.
template <class T, Activation ACTIVATION, int ROWS, int COLUMNS, int WARP_ROWS, int WARP_COLUMNS, int STAGES>
DEVICE void linear(const LinearArgs &args) {
    constexpr int WARPS_DOWN = ROWS / WARP_ROWS, WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
    constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * 32;
    constexpr int STAGE_BYTES = (ROWS + COLUMNS) * DEPTH_BYTES;
    constexpr int TALL = WARP_ROWS / 16, BROAD = WARP_COLUMNS / 16;

    const uint32_t rows = args.header->tokens;
    const uint32_t row0 = block_y() * ROWS, column0 = block_x() * COLUMNS;
    if (row0 >= rows)
        return;
    unsigned char *shared = shared_memory();
    const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
    const uint32_t warp_row = warp / WARPS_ACROSS * WARP_ROWS, warp_column = warp % WARPS_ACROSS * WARP_COLUMNS;

    const uint32_t steps = args.inputs / DEPTH;
    const auto begin_stage = [&](uint32_t step) {
        if (step < steps) {
            unsigned char *to = shared + step % STAGES * STAGE_BYTES;
            stage_rows<ROWS, THREADS>(to, args.input, rows, args.inputs, row0, step * DEPTH);
            stage_rows<COLUMNS, THREADS>(to + ROWS * DEPTH_BYTES, args.weight, args.outputs, args.inputs,
                                         column0, step * DEPTH);
        }
        copy_group();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step)
        begin_stage(step);

    float sums[TALL][2 * BROAD][4] = {};
    // Rows of the fragments this lane fetches for its warp, and which half of 16 inputs.
    const uint32_t input_row = warp_row + lane % 16, input_half = lane / 16;
    const uint32_t weight_row = warp_column + lane % 8 + lane / 16 * 8, weight_half = lane / 8 % 2;
    for (uint32_t step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        // All have the new stage, and nobody reads the one that is overwritten next.
        block_sync();
        begin_stage(step + STAGES - 1);
        const unsigned char *inputs = shared + step % STAGES * STAGE_BYTES;
        const unsigned char *weights = inputs + ROWS * DEPTH_BYTES;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k) {
            uint32_t a[TALL][4], b[BROAD][4];
#pragma unroll
            for (int i = 0; i < TALL; ++i)
                load_matrices(a[i], inputs + staged(input_row + i * 16, k * 2 + input_half));
#pragma unroll
            for (int j = 0; j < BROAD; ++j)
                load_matrices(b[j], weights + staged(weight_row + j * 16, k * 2 + weight_half));
#pragma unroll
            for (int i = 0; i < TALL; ++i) {
#pragma unroll
                for (int j = 0; j < BROAD; ++j) {
                    multiply_add(T(), sums[i][2 * j], a[i], b[j][0], b[j][1]);
                    multiply_add(T(), sums[i][2 * j + 1], a[i], b[j][2], b[j][3]);
                }
            }
        }
    }

    static_assert(ROWS * (COLUMNS * 2 + 16) <= STAGES * STAGE_BYTES, "the tile fits where the stages were");
    copy_wait<0>();
    block_sync();
    write_tile<T, ACTIVATION, ROWS, COLUMNS, THREADS>(args, shared, sums, warp_row, warp_column, row0, column0,
                                                      rows);
}

// The same on devices whose tensor cores read shared memory themselves (Hopper's wgmma): groups of four
// warps, each with 64 rows of the tile.
template <class T, Activation ACTIVATION, int ROWS, int COLUMNS, int STAGES>
DEVICE void linear_by_groups(const LinearArgs &args) {
    constexpr int THREADS = ROWS / 64 * 128;
    constexpr int STAGE_BYTES = (ROWS + COLUMNS) * DEPTH_BYTES;

    const uint32_t rows = args.header->tokens;
    const uint32_t row0 = block_y() * ROWS, column0 = block_x() * COLUMNS;
    if (row0 >= rows)
        return;
    unsigned char *shared = shared_memory();
    const uint32_t warp = thread_index() / 32;

    const uint32_t steps = args.inputs / DEPTH;
    const auto begin_stage = [&](uint32_t step) {
        if (step < steps) {
            unsigned char *to = shared + step % STAGES * STAGE_BYTES;
            stage_rows<ROWS, THREADS>(to, args.input, rows, args.inputs, row0, step * DEPTH);
            stage_rows<COLUMNS, THREADS>(to + ROWS * DEPTH_BYTES, args.weight, args.outputs, args.inputs,
                                         column0, step * DEPTH);
        }
        copy_group();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step)
        begin_stage(step);

    float sums[1][COLUMNS / 8][4] = {};
    for (uint32_t step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        // What this thread has copied, the tensor cores see.
        group_sees_copies();
        // All have the new stage, and nobody reads the one that is overwritten next.
        block_sync();
        const unsigned char *inputs = shared + step % STAGES * STAGE_BYTES;
        const unsigned char *weights = inputs + ROWS * DEPTH_BYTES;
        group_begin();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k)
            group_multiply_add(T(), sums[0], inputs + warp / 4 * (64 * DEPTH_BYTES), weights, k);
        group_commit();
        begin_stage(step + STAGES - 1);
        group_wait(sums[0]);
    }

    static_assert(ROWS * (COLUMNS * 2 + 16) <= STAGES * STAGE_BYTES, "the tile fits where the stages were");
    copy_wait<0>();
    block_sync();
    write_tile<T, ACTIVATION, ROWS, COLUMNS, THREADS>(args, shared, sums, warp * 16, 0, row0, column0, rows);
}
