// The entry points: every kernel for every kind of number, tile size and activation.
// `src/lib.rs` knows them by these names.

#include "attention.cuh"
#include "linear.cuh"
#include "rows.cuh"

// Tiles of the linear layers, smallest first: rows, columns, rows and columns of a warp, stages, and
// how many blocks a multiprocessor holds at least. All have four warps.
#define LINEAR(type, suffix, activation, rows, columns, warp_rows, warp_columns, stages, blocks) \
    KERNEL(linear_##suffix##_##rows##x##columns##_##type, LinearArgs, 128, blocks, \
           (linear<Kind_##type, Activation::activation, rows, columns, warp_rows, warp_columns, stages>))

#define LINEAR_SIZES(type, suffix, activation) \
    LINEAR(type, suffix, activation, 16, 64, 16, 16, 6, 2) \
    LINEAR(type, suffix, activation, 32, 64, 16, 32, 4, 2) \
    LINEAR(type, suffix, activation, 64, 64, 32, 32, 4, 2) \
    LINEAR(type, suffix, activation, 64, 128, 32, 64, 4, 2) \
    LINEAR(type, suffix, activation, 128, 128, 64, 64, 3, 2)

// The same by groups of warps: rows, columns, stages.
#define GROUPED(type, suffix, activation, rows, columns, stages, blocks) \
    KERNEL(grouped_##suffix##_##rows##x##columns##_##type, LinearArgs, (rows) / 64 * 128, blocks, \
           (linear_by_groups<Kind_##type, Activation::activation, rows, columns, stages>))

#define GROUPED_SIZES(type, suffix, activation) \
    GROUPED(type, suffix, activation, 64, 32, 6, 2) \
    GROUPED(type, suffix, activation, 64, 64, 4, 2) \
    GROUPED(type, suffix, activation, 64, 128, 4, 2) \
    GROUPED(type, suffix, activation, 128, 128, 3, 2)

// Rows of up to 384, 768 and 1,024 numbers.
#define ROWS(type, parts) \
    KERNEL(embed_##parts##_##type, EmbedArgs, ROWS_A_BLOCK * 32, 1, (embed<Kind_##type, parts>)) \
    KERNEL(add_norm_##parts##_##type, NormArgs, ROWS_A_BLOCK * 32, 1, (add_norm<Kind_##type, parts>))

#define ALL(type) \
    LINEAR_SIZES(type, plain, None) GROUPED_SIZES(type, plain, None) \
    LINEAR_SIZES(type, gelu_erf, GeluErf) GROUPED_SIZES(type, gelu_erf, GeluErf) \
    LINEAR_SIZES(type, gelu_tanh, GeluTanh) GROUPED_SIZES(type, gelu_tanh, GeluTanh) \
    LINEAR_SIZES(type, relu, Relu) GROUPED_SIZES(type, relu, Relu) \
    KERNEL(attention_32_##type, AttentionArgs, ATTENTION_WARPS * 32, 5, (attention<Kind_##type, 32>)) \
    KERNEL(attention_64_##type, AttentionArgs, ATTENTION_WARPS * 32, 1, (attention<Kind_##type, 64>)) \
    ROWS(type, 3) ROWS(type, 6) ROWS(type, 8) \
    KERNEL(pool_##type, PoolArgs, ROW_MAX, 1, (pool<Kind_##type>))

using Kind_f16 = F16;
using Kind_bf16 = Bf16;

ALL(f16)
ALL(bf16)
