/* Attention of a batch of trie nodes over their paths.
 *
 * A path is cut into blocks of DEAL_BLOCK_LEN positions, counted from the root. A block
 * that several rows share is listed once, its keys are transposed once, and all rows
 * that see it are served while it is in the cache. Every row adds up its blocks in
 * order, whatever the batch, so that its result depends on its path alone. In a layer
 * with a sliding window it sees the part of its path in the window. Cells in f16 are
 * widened a block at a time, once for all rows that see it; sums are in f32 always.
 */
#ifndef DEAL_MODEL_ATTENTION_H
#define DEAL_MODEL_ATTENTION_H

#include "common/parallel.h"
#include "kernels/kernels.h"
#include "model/hparams.h"
#include "model/trie.h"

typedef struct deal_attention_block {
    union {
        const float *f32[DEAL_BLOCK_LEN]; // as the trie has them
        const uint16_t *f16[DEAL_BLOCK_LEN];
    } cell;           // of its positions
    int32_t n_key;    // positions that it has
    int32_t i_before; // block before it on the path, or -1
} deal_attention_block;

typedef struct deal_attention {
    const deal_hparams *hparams;
    const deal_kernels *kernels;
    deal_pool *pool;
    deal_trie *trie;
    uint32_t i_pass;

    deal_attention_block *block; // (n_block,) of the batch at hand
    size_t n_block, block_cap;
    const deal_node *node;      // (n_row,)
    int32_t n_row, n_block_max; // blocks of the longest path
    int32_t *row_block;         // blocks of every row, root first, row after row
    size_t row_block_cap;
    size_t *row_begin; // (n_row_max + 1,) a row's first in `row_block`

    // the layer at hand
    int32_t i_layer, n_chunk_row;
    int32_t n_window; // positions that a row sees; INT32_MAX without a window
    const float *q;   // (n_row, n_head * head_dim) after RoPE
    float *out;       // (n_row, n_head * head_dim)
    float *scratch;   // (n_thread, scratch_len) attention.c's workspaces
    size_t scratch_len;
    size_t size; // bytes of all this
} deal_attention;

#define DEAL_ATTENTION_ROWS 32 // most rows that one thread serves together

deal_status deal_attention_init(deal_attention *attention, const deal_hparams *hparams,
                                deal_trie *trie, deal_pool *pool, int32_t n_row_max,
                                deal_error *err);
void deal_attention_free(deal_attention *attention); // also of a zeroed one

// Lists the blocks of a batch's paths; parents come before children.
deal_status deal_attention_begin(deal_attention *attention, const deal_node *node,
                                 int32_t n_row, deal_error *err);

// One layer, once its keys and values are stored in the cells.
void deal_attention_run(deal_attention *attention, int32_t i_layer, const float *q,
                        float *out);

#endif
