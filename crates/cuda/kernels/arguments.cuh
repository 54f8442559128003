// What the kernels are called with. `src/arguments.rs` says the same in Rust, and a test holds the
// sizes against each other.
#pragma once

#include <cstdint>

// How much of a chunk there is, in device memory: a recorded graph serves chunks of any size up to
// the one it was recorded for.
struct Header {
    uint32_t tokens, sequences, tiles, unused;
};

// output[tokens, outputs] = activation(input[tokens, inputs] weight[outputs, inputs]^T + bias)
struct LinearArgs {
    const Header *header;
    const uint16_t *input;
    const uint16_t *weight;
    const float *bias;
    uint16_t *output;
    uint32_t inputs, outputs;
};

// The queries that one block takes: of one long sequence, or all of four short ones.
struct AttentionTile {
    uint32_t first[4];  // token where the sequence begins
    uint32_t length[4]; // its tokens; 0: no sequence
    uint32_t query;     // first query of a long one
    uint32_t wide;      // whether it is a long one
    uint32_t unused[2];
};

struct AttentionArgs {
    const Header *header;
    const AttentionTile *tiles;
    const uint16_t *qkv; // [tokens, 3 hidden]
    uint16_t *output;    // [tokens, hidden]
    // [heads, 2 reach - 1], the bias of a score at key - query + reach - 1; or null.
    const float *relative;
    uint32_t reach, hidden;
    float scale; // of the scores
};

struct EmbedArgs {
    const Header *header;
    const uint32_t *ids;            // [tokens]
    const uint32_t *places;         // [tokens], in its sequence
    const uint16_t *words;          // [vocabulary, hidden]
    const uint16_t *positions;      // [positions, hidden]
    const float *weight, *bias;     // [hidden]
    uint16_t *output;               // [tokens, hidden]
    uint32_t hidden;
    float epsilon;
};

// rows = norm(rows + change), in place
struct NormArgs {
    const Header *header;
    uint16_t *rows;                 // [tokens, hidden]
    const uint16_t *change;         // [tokens, hidden]
    const float *weight, *bias;     // [hidden]
    uint32_t hidden;
    float epsilon;
};

struct PoolArgs {
    const Header *header;
    const uint16_t *rows;    // [tokens, hidden]
    const uint32_t *offsets; // [sequences + 1]
    float *output;           // [sequences, hidden]
    uint32_t hidden;
    uint32_t first_row;      // whether the first row is taken instead of the mean
};
