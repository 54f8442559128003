// What is done row by row: embeddings, normalisation, pooling. A row is `hidden` numbers, a multiple of
// four and at most ROW_MAX. PARTS is how many times 128 of them there are, the last time perhaps fewer.
#pragma once

#include "arguments.cuh"
#include "device.cuh"

constexpr int ROW_MAX = 1024;
constexpr int ROWS_A_BLOCK = 4;
constexpr int POOL_SHARES = 4;

// A row in the registers of a warp: lane l has elements 4 l to 4 l + 3 of every 128.
template <class T, int PARTS> struct Row {
    float numbers[PARTS][4];
    uint32_t hidden;

    DEVICE explicit Row(uint32_t hidden) : hidden(hidden) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                numbers[part][i] = 0.0f;
    }

    DEVICE uint32_t at(int part) const { return part * 128 + thread_index() % 32 * 4; }

    DEVICE void add(const uint16_t *row) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (at(part) < hidden) {
                const HalfLine line = *reinterpret_cast<const HalfLine *>(row + at(part));
                const Pair low = unpack(T(), line.words[0]), high = unpack(T(), line.words[1]);
                numbers[part][0] += low.low;
                numbers[part][1] += low.high;
                numbers[part][2] += high.low;
                numbers[part][3] += high.high;
            }
        }
    }

    // To mean 0 and variance 1, then times weight plus bias, into `to`.
    DEVICE void normalise(const float *weight, const float *bias, float epsilon, uint16_t *to) const {
        float sum = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sum += numbers[part][i];
        const float mean = sum_of_warp(sum) / float(hidden);
        float squares = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (at(part) < hidden) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    squares += (numbers[part][i] - mean) * (numbers[part][i] - mean);
            }
        }
        const float scale = rsqrt_fast(sum_of_warp(squares) / float(hidden) + epsilon);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (at(part) < hidden) {
                float out[4];
                const Line w = *reinterpret_cast<const Line *>(weight + at(part));
                const Line b = *reinterpret_cast<const Line *>(bias + at(part));
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    out[i] = fmaf((numbers[part][i] - mean) * scale, as_float(w.words[i]), as_float(b.words[i]));
                HalfLine line;
                line.words[0] = pack(T(), out[0], out[1]);
                line.words[1] = pack(T(), out[2], out[3]);
                *reinterpret_cast<HalfLine *>(to + at(part)) = line;
            }
        }
    }

  private:
    DEVICE static float as_float(uint32_t bits) {
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    DEVICE static float sum_of_warp(float value) {
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2)
            value += shuffle_xor(value, mask);
        return value;
    }
};

template <class T, int PARTS> DEVICE void embed(const EmbedArgs &args) {
    const uint32_t token = block_x() * ROWS_A_BLOCK + thread_index() / 32;
    if (token >= args.header->tokens)
        return;
    Row<T, PARTS> row(args.hidden);
    row.add(args.words + size_t(args.ids[token]) * args.hidden);
    row.add(args.positions + size_t(args.places[token]) * args.hidden);
    row.normalise(args.weight, args.bias, args.epsilon, args.output + size_t(token) * args.hidden);
}

template <class T, int PARTS> DEVICE void add_norm(const NormArgs &args) {
    const uint32_t token = block_x() * ROWS_A_BLOCK + thread_index() / 32;
    if (token >= args.header->tokens)
        return;
    const size_t place = size_t(token) * args.hidden;
    Row<T, PARTS> row(args.hidden);
    row.add(args.rows + place);
    row.add(args.change + place);
    row.normalise(args.weight, args.bias, args.epsilon, args.rows + place);
}

// One sequence a block. A thread has four columns and every POOL_SHARES-th row of them.
template <class T> DEVICE void pool(const PoolArgs &args) {
    if (block_x() >= args.header->sequences)
        return;
    const uint32_t columns = args.hidden / 4;
    const uint32_t share = thread_index() / columns, column = thread_index() % columns * 4;
    const uint32_t first = args.offsets[block_x()], last = args.offsets[block_x() + 1];
    const uint32_t end = args.first_row ? first + 1 : last;
    float sum[4] = {};
    if (share < POOL_SHARES) {
#pragma unroll 4
        for (uint32_t row = first + share; row < end; row += POOL_SHARES) {
            const HalfLine line =
                *reinterpret_cast<const HalfLine *>(args.rows + size_t(row) * args.hidden + column);
            const Pair low = unpack(T(), line.words[0]), high = unpack(T(), line.words[1]);
            sum[0] += low.low;
            sum[1] += low.high;
            sum[2] += high.low;
            sum[3] += high.high;
        }
    }
    float *sums = reinterpret_cast<float *>(shared_memory());
    if (share < POOL_SHARES) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            sums[share * args.hidden + column + i] = sum[i];
    }
    block_sync();
    if (share == 0) {
        const float count = float(end - first);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float all = 0.0f;
#pragma unroll
            for (int of = 0; of < POOL_SHARES; ++of)
                all += sums[of * args.hidden + column + i];
            args.output[size_t(block_x()) * args.hidden + column + i] = all / count;
        }
    }
}
