// Attention within each sequence: scores, softmax and their product with the values in one pass, 64
// keys at a time (Milakov and Gimelshein 2018; Dao et al. 2022), so that no matrix of scores exists.
//
// A warp has 16 queries. What it computes depends on its own sequence alone.
#pragma once

#include "arguments.cuh"
#include "device.cuh"

constexpr int KEYS = 64;
constexpr int ATTENTION_WARPS = 4;
constexpr float LOG2_E = 1.44269504f;

// Keys or values in shared memory, [KEYS, D]: lines are exchanged within a row so that eight rows of
// the same line are in different banks.
template <int D> DEVICE uint32_t kept(uint32_t row, uint32_t line) {
    const uint32_t turn = D == 32 ? row / 2 & 3 : row & 7;
    return row * (D * 2) + ((line ^ turn) << 4);
}

template <int D> constexpr int KEPT_BYTES = KEYS * D * 2;

// Begins to copy `count` rows to `to`, and zeros up to a multiple of 16: what is multiplied by a weight
// of 0 must be a number. The copying threads are `threads`, this one is number `thread` of them.
template <int D>
DEVICE void keep_rows(unsigned char *to, const uint16_t *from, uint32_t stride, uint32_t count, uint32_t thread,
                      uint32_t threads) {
    constexpr uint32_t LINES = D / 8;
    const uint32_t rows = (count + 15) / 16 * 16;
    for (uint32_t i = thread; i < rows * LINES; i += threads) {
        const uint32_t row = i / LINES, line = i % LINES;
        const bool inside = row < count;
        copy_begin(to + kept<D>(row, line), from + size_t(inside ? row : 0) * stride + line * 8, inside);
    }
}

// 16 queries of a warp and what they have gathered so far.
template <class T, int D> struct Queries {
    uint32_t query[D / 16][4];
    float gathered[D / 8][4] = {};
    // Of the rows of this lane, lane / 4 and 8 below: the largest score (times log2 e) and the sum of
    // the weights.
    float top[2] = {-INFINITY, -INFINITY};
    float sum[2] = {};

    // `from` is the first query's, `count` how many there are.
    DEVICE void load(const uint16_t *from, uint32_t stride, uint32_t count) {
        const uint32_t lane = thread_index() % 32;
#pragma unroll
        for (int step = 0; step < D / 16; ++step) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const uint32_t row = lane / 4 + part % 2 * 8;
                const uint32_t column = step * 16 + part / 2 * 8 + lane % 4 * 2;
                query[step][part] =
                    row < count ? *reinterpret_cast<const uint32_t *>(from + size_t(row) * stride + column) : 0;
            }
        }
    }

    // Takes in keys 0..count of those in shared memory, 1 <= count <= KEYS. `relative` are the biases
    // of the warp's first query from key 0 on (the next query's begin one place before), or null.
    // `usable` is how many queries there are: the others have no biases.
    DEVICE void take(const unsigned char *keys, const unsigned char *values, uint32_t count, float scale,
                     const float *relative, uint32_t usable) {
        const uint32_t lane = thread_index() % 32;
        float scores[KEYS / 8][4];
#pragma unroll
        for (int pair = 0; pair < KEYS / 16; ++pair) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                scores[2 * pair][i] = scores[2 * pair + 1][i] = 0.0f;
            if (pair * 16u < count) {
#pragma unroll
                for (int step = 0; step < D / 16; ++step) {
                    uint32_t key[4];
                    load_matrices(
                        key, keys + kept<D>(pair * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
                    multiply_add(T(), scores[2 * pair], query[step], key[0], key[1]);
                    multiply_add(T(), scores[2 * pair + 1], query[step], key[2], key[3]);
                }
            }
        }
        float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int tile = 0; tile < KEYS / 8; ++tile) {
            // The same for the whole warp: a short text costs what it holds.
            if (tile * 8u < count) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const uint32_t key = tile * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
                    float score = scores[tile][i] * (scale * LOG2_E);
                    if (relative != nullptr && key < count && row < usable)
                        score = fmaf(relative[int(key) - int(row)], LOG2_E, score);
                    scores[tile][i] = key < count ? score : -INFINITY;
                    best[i / 2] = fmaxf(best[i / 2], scores[tile][i]);
                }
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    scores[tile][i] = -INFINITY;
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            best[half] = fmaxf(best[half], shuffle_xor(best[half], 1));
            best[half] = fmaxf(best[half], shuffle_xor(best[half], 2));
            best[half] = fmaxf(best[half], top[half]);
            const float shrink = exp2_fast(top[half] - best[half]);
            top[half] = best[half];
            sum[half] *= shrink;
#pragma unroll
            for (int tile = 0; tile < D / 8; ++tile) {
                gathered[tile][half * 2] *= shrink;
                gathered[tile][half * 2 + 1] *= shrink;
            }
        }
#pragma unroll
        for (int pair = 0; pair < KEYS / 16; ++pair) {
            if (pair * 16u < count) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    scores[2 * pair][i] = exp2_fast(scores[2 * pair][i] - top[i / 2]);
                    scores[2 * pair + 1][i] = exp2_fast(scores[2 * pair + 1][i] - top[i / 2]);
                    sum[i / 2] += scores[2 * pair][i] + scores[2 * pair + 1][i];
                }
                const uint32_t weight[4] = {
                    pack(T(), scores[2 * pair][0], scores[2 * pair][1]),
                    pack(T(), scores[2 * pair][2], scores[2 * pair][3]),
                    pack(T(), scores[2 * pair + 1][0], scores[2 * pair + 1][1]),
                    pack(T(), scores[2 * pair + 1][2], scores[2 * pair + 1][3]),
                };
#pragma unroll
                for (int tile = 0; tile < D / 16; ++tile) {
                    uint32_t value[4];
                    load_matrices_transposed(
                        value, values + kept<D>(pair * 16 + lane % 8 + lane / 8 % 2 * 8, tile * 2 + lane / 16));
                    multiply_add(T(), gathered[2 * tile], weight, value[0], value[1]);
                    multiply_add(T(), gathered[2 * tile + 1], weight, value[2], value[3]);
                }
            }
        }
    }

    // Writes the rows of `count` queries.
    DEVICE void store(uint16_t *to, uint32_t stride, uint32_t count) {
        const uint32_t lane = thread_index() % 32;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float all = sum[half];
            all += shuffle_xor(all, 1);
            all += shuffle_xor(all, 2);
            const float share = divide_fast(1.0f, all);
            const uint32_t row = lane / 4 + half * 8;
            if (row < count) {
#pragma unroll
                for (int tile = 0; tile < D / 8; ++tile)
                    *reinterpret_cast<uint32_t *>(to + size_t(row) * stride + tile * 8 + lane % 4 * 2) =
                        pack(T(), gathered[tile][half * 2] * share, gathered[tile][half * 2 + 1] * share);
            }
        }
    }
};

// The biases of query `query` from key `key` on, or null.
DEVICE const float *biases(const AttentionArgs &args, uint32_t query, uint32_t key) {
    if (args.relative == nullptr)
        return nullptr;
    const float *head = args.relative + size_t(block_y()) * (2 * args.reach - 1);
    return head + (args.reach - 1 + key) - query;
}

// All of up to four sequences of at most KEYS tokens, a warp each.
template <class T, int D> DEVICE void attend_short(const AttentionArgs &args, const AttentionTile &tile) {
    const uint32_t warp = thread_index() / 32, count = tile.length[warp];
    if (count == 0)
        return;
    const uint32_t stride = 3 * args.hidden;
    const uint16_t *from = args.qkv + size_t(tile.first[warp]) * stride + block_y() * D;
    uint16_t *to = args.output + size_t(tile.first[warp]) * args.hidden + block_y() * D;
    unsigned char *keys = shared_memory() + warp * 2 * KEPT_BYTES<D>;
    unsigned char *values = keys + KEPT_BYTES<D>;
    keep_rows<D>(keys, from + args.hidden, stride, count, thread_index() % 32, 32);
    keep_rows<D>(values, from + 2 * args.hidden, stride, count, thread_index() % 32, 32);
    copy_group();
    for (uint32_t query = 0; query < count; query += 16) {
        const uint32_t usable = count - query < 16 ? count - query : 16;
        Queries<T, D> queries;
        queries.load(from + size_t(query) * stride, stride, usable);
        if (query == 0) {
            copy_wait<0>();
            warp_sync();
        }
        queries.take(keys, values, count, args.scale, biases(args, query, 0), usable);
        queries.store(to + size_t(query) * args.hidden, args.hidden, usable);
    }
}

// 16 queries a warp of one longer sequence; the block fetches keys and values for all, one step ahead.
template <class T, int D> DEVICE void attend_long(const AttentionArgs &args, const AttentionTile &tile) {
    const uint32_t warp = thread_index() / 32, length = tile.length[0];
    const uint32_t stride = 3 * args.hidden;
    const uint16_t *from = args.qkv + size_t(tile.first[0]) * stride + block_y() * D;
    uint16_t *to = args.output + size_t(tile.first[0]) * args.hidden + block_y() * D;
    const uint32_t query = tile.query + warp * 16;
    const uint32_t usable = query >= length ? 0 : length - query < 16 ? length - query : 16;
    const uint32_t steps = (length + KEYS - 1) / KEYS;
    const auto keys_of = [&](uint32_t step) { return shared_memory() + step % 2 * 2 * KEPT_BYTES<D>; };
    const auto count_of = [&](uint32_t step) {
        const uint32_t left = length - step * KEYS;
        return left < KEYS ? left : KEYS;
    };
    const auto begin = [&](uint32_t step) {
        if (step < steps) {
            const uint16_t *keys = from + size_t(step) * KEYS * stride + args.hidden;
            constexpr uint32_t THREADS = ATTENTION_WARPS * 32;
            keep_rows<D>(keys_of(step), keys, stride, count_of(step), thread_index(), THREADS);
            keep_rows<D>(keys_of(step) + KEPT_BYTES<D>, keys + args.hidden, stride, count_of(step),
                         thread_index(), THREADS);
        }
        copy_group();
    };
    Queries<T, D> queries;
    queries.load(from + size_t(usable == 0 ? 0 : query) * stride, stride, usable);
    begin(0);
    for (uint32_t step = 0; step < steps; ++step) {
        // Nobody reads any more what is overwritten now.
        block_sync();
        begin(step + 1);
        copy_wait<1>();
        block_sync();
        if (usable > 0)
            queries.take(keys_of(step), keys_of(step) + KEPT_BYTES<D>, count_of(step), args.scale,
                         biases(args, query, step * KEYS), usable);
    }
    if (usable > 0)
        queries.store(to + size_t(query) * args.hidden, args.hidden, usable);
}

template <class T, int D> DEVICE void attention(const AttentionArgs &args) {
    if (block_x() >= args.header->tiles)
        return;
    const AttentionTile &tile = args.tiles[block_x()];
    if (tile.wide)
        attend_long<T, D>(args, tile);
    else
        attend_short<T, D>(args, tile);
}
