#include "model/attention.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

deal_status
deal_attention_init(deal_attention *a, const deal_hparams *hp, deal_trie *trie,
                    deal_pool *pool, int32_t n_row_max, deal_error *err)
{
    size_t n_q = (size_t)(hp->n_head / hp->n_head_kv);
    size_t n_thread = (size_t)deal_pool_n_thread(pool);
    *a = (deal_attention){
        .hparams = hp, .kernels = deal_kernels_get(), .pool = pool, .trie = trie};
    size_t n_block = trie->kv_type == DEAL_KV_F16 ? 2 : 1;
    a->scratch_len =
        n_block * (size_t)DEAL_HEAD_PAD(hp->head_dim) * DEAL_BLOCK_LEN +
        DEAL_ATTENTION_ROWS * n_q * (size_t)DEAL_ATTENTION_LEN(hp->head_dim);
    a->scratch = deal_alloc(n_thread, a->scratch_len * sizeof *a->scratch);
    a->row_begin = deal_alloc((size_t)n_row_max + 1, sizeof *a->row_begin);
    if (!a->scratch || !a->row_begin) {
        deal_attention_free(a);
        return deal_fail_memory(err, "attention");
    }
    a->size = n_thread * a->scratch_len * sizeof *a->scratch +
              ((size_t)n_row_max + 1) * sizeof *a->row_begin;
    return DEAL_OK;
}

void
deal_attention_free(deal_attention *a)
{
    deal_free(a->block);
    deal_free(a->row_block);
    deal_free(a->row_begin);
    deal_free(a->scratch);
    *a = (deal_attention){0};
}

// --- blocks --------------------------------------------------------------------------

static deal_status
reserve_blocks(deal_attention *a, size_t n, deal_error *err)
{
    size_t old = a->block_cap;
    if (!deal_reserve(&a->block, &a->block_cap, a->n_block, n, sizeof *a->block))
        return deal_fail_memory(err, "attention blocks");
    a->size += (a->block_cap - old) * sizeof *a->block;
    return DEAL_OK;
}

static deal_status
reserve_row_blocks(deal_attention *a, size_t n, deal_error *err)
{
    size_t old = a->row_block_cap;
    if (!deal_reserve(&a->row_block, &a->row_block_cap, 0, n, sizeof *a->row_block))
        return deal_fail_memory(err, "attention blocks of the rows");
    a->size += (a->row_block_cap - old) * sizeof *a->row_block;
    return DEAL_OK;
}

// The block that ends with `node`; all its nodes are marked with it, but for those that
// another block of this pass holds already.
static deal_status
make_block(deal_attention *a, deal_node node, int32_t *out, deal_error *err)
{
    DEAL_TRY(reserve_blocks(a, a->n_block + 1, err));
    int32_t i_block = (int32_t)a->n_block++;
    deal_attention_block *block = &a->block[i_block];
    block->n_key = (a->trie->node[node].depth - 1) % DEAL_BLOCK_LEN + 1;
    block->i_before = -1;
    for (int32_t i = block->n_key; i-- > 0;) {
        deal_trie_node *at = &a->trie->node[node];
        if (a->trie->kv_type == DEAL_KV_F16)
            block->cell.f16[i] = deal_trie_cell(a->trie, node);
        else
            block->cell.f32[i] = deal_trie_cell(a->trie, node);
        if (at->i_pass != a->i_pass) {
            at->i_pass = a->i_pass;
            at->i_block = i_block;
        }
        node = at->parent;
    }
    *out = i_block;
    return DEAL_OK;
}

// The block that holds `node` on the way from the root, with all before it.
static deal_status
find_block(deal_attention *a, deal_node node, int32_t *out, deal_error *err)
{
    int32_t i_after = -1;
    while (a->trie->node[node].depth > 0) {
        const deal_trie_node *at = &a->trie->node[node];
        bool is_known = at->i_pass == a->i_pass;
        int32_t i_block = at->i_block;
        if (!is_known)
            DEAL_TRY(make_block(a, node, &i_block, err));
        if (i_after < 0)
            *out = i_block;
        else
            a->block[i_after].i_before = i_block;
        if (is_known) // and so are those before it
            return DEAL_OK;
        i_after = i_block;
        for (int32_t n = (a->trie->node[node].depth - 1) % DEAL_BLOCK_LEN; n >= 0; n--)
            node = a->trie->node[node].parent;
    }
    return DEAL_OK;
}

static int32_t
n_block_of(const deal_attention *a, int32_t i_row)
{
    int32_t depth = a->trie->node[a->node[i_row]].depth;
    return (depth + DEAL_BLOCK_LEN - 1) / DEAL_BLOCK_LEN;
}

deal_status
deal_attention_begin(deal_attention *a, const deal_node *node, int32_t n_row,
                     deal_error *err)
{
    a->node = node;
    a->n_row = n_row;
    a->n_block = 0;
    a->n_block_max = 0;
    if (++a->i_pass == 0) { // marks of the first passes would count again
        for (int32_t i = 0; i < a->trie->n_node; i++)
            a->trie->node[i].i_pass = 0;
        a->i_pass = 1;
    }
    a->row_begin[0] = 0;
    for (int32_t r = 0; r < n_row; r++) {
        int32_t n = n_block_of(a, r);
        a->row_begin[r + 1] = a->row_begin[r] + (size_t)n;
        a->n_block_max = n > a->n_block_max ? n : a->n_block_max;
    }
    DEAL_TRY(reserve_row_blocks(a, a->row_begin[n_row], err));
    // From the last row on, so that a chain's longest path is the one that is listed.
    for (int32_t r = n_row; r-- > 0;) {
        int32_t i_block = -1;
        DEAL_TRY(find_block(a, node[r], &i_block, err));
        for (size_t i = a->row_begin[r + 1]; i-- > a->row_begin[r];) {
            a->row_block[i] = i_block;
            i_block = a->block[i_block].i_before;
        }
    }
    return DEAL_OK;
}

// --- the layer -----------------------------------------------------------------------

// What one thread has at hand.
typedef struct workspace {
    float *kt;     // (head_pad, DEAL_BLOCK_LEN) transposed keys of a block
    float *states; // (n_row, n_q, DEAL_ATTENTION_LEN) running sums
    float *wide;   // (DEAL_BLOCK_LEN, head_pad) f16 as f32; NULL with cells in f32
    const float *wide_row[DEAL_BLOCK_LEN];
} workspace;

static void
workspace_init(workspace *w, const deal_attention *a, int32_t i_thread)
{
    size_t n_pad = (size_t)DEAL_HEAD_PAD(a->hparams->head_dim);
    w->kt = a->scratch + (size_t)i_thread * a->scratch_len;
    w->states = w->kt + n_pad * DEAL_BLOCK_LEN;
    w->wide = NULL;
    if (a->trie->kv_type != DEAL_KV_F16)
        return;
    w->wide = w->states;
    w->states += n_pad * DEAL_BLOCK_LEN;
    for (size_t j = 0; j < DEAL_BLOCK_LEN; j++)
        w->wide_row[j] = w->wide + j * n_pad;
}

// Makes a block's keys, and its values where they are not f32 as they lie.
static void
open_block(const deal_attention *a, const deal_attention_block *block, size_t k_offset,
           size_t v_offset, workspace *w)
{
    const deal_kernels *kernels = a->kernels;
    int32_t n = block->n_key, head_dim = a->hparams->head_dim;
    if (!w->wide) {
        kernels->transpose_keys(n, head_dim, block->cell.f32, k_offset, w->kt);
        return;
    }
    kernels->widen(n, head_dim, block->cell.f16, k_offset, w->wide);
    kernels->transpose_keys(n, head_dim, w->wide_row, 0, w->kt);
    kernels->widen(n, head_dim, block->cell.f16, v_offset, w->wide);
}

// One block for those rows of [r_begin, r_end) that see it.
static void
attend_block(const deal_attention *a, int32_t i_block, int32_t i_head_kv,
             int32_t r_begin, int32_t r_end, workspace *w)
{
    const deal_hparams *hp = a->hparams;
    int32_t n_q = hp->n_head / hp->n_head_kv, i_seen = -1;
    size_t n_state = (size_t)n_q * (size_t)DEAL_ATTENTION_LEN(hp->head_dim);
    size_t q_dim = (size_t)hp->n_head * (size_t)hp->head_dim;
    size_t k_offset = deal_trie_key_offset(a->trie, a->i_layer, i_head_kv);
    size_t v_offset = deal_trie_value_offset(a->trie, a->i_layer, i_head_kv);
    float scale =
        hp->attn_scale > 0.0f ? hp->attn_scale : 1.0f / sqrtf((float)hp->head_dim);
    for (int32_t r = r_begin; r < r_end; r++) {
        // Keys [i_first, n_key) of the block are the row's, cut to the block below.
        int32_t n_key = a->trie->node[a->node[r]].depth - i_block * DEAL_BLOCK_LEN;
        int32_t i_first = n_key > 0 ? n_key - a->n_window : 0;
        if (n_key <= 0 || i_first >= DEAL_BLOCK_LEN)
            continue;
        int32_t i = a->row_block[a->row_begin[r] + (size_t)i_block];
        const deal_attention_block *block = &a->block[i];
        if (i != i_seen)
            open_block(a, block, k_offset, v_offset, w);
        i_seen = i;
        i_first = i_first > 0 ? i_first : 0;
        n_key = n_key < DEAL_BLOCK_LEN ? n_key : DEAL_BLOCK_LEN;
        a->kernels->attend(
            i_first, n_key, n_q, hp->head_dim, scale, hp->attn_softcap,
            a->q + (size_t)r * q_dim + (size_t)(i_head_kv * n_q * hp->head_dim), w->kt,
            w->wide ? w->wide_row : block->cell.f32, w->wide ? 0 : v_offset,
            w->states + (size_t)(r - r_begin) * n_state);
    }
}

// Items are (chunk of rows, key-value head).
static void
attend_chunks(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    const deal_attention *a = context;
    const deal_hparams *hp = a->hparams;
    int32_t n_q = hp->n_head / hp->n_head_kv, head_dim = hp->head_dim;
    size_t len = (size_t)DEAL_ATTENTION_LEN(head_dim);
    size_t n_pad = (size_t)DEAL_HEAD_PAD(head_dim);
    workspace w;
    workspace_init(&w, a, i_thread);
    float *states = w.states;
    for (int32_t i = i_begin; i < i_end; i++) {
        int32_t i_head_kv = i % hp->n_head_kv;
        int32_t r_begin = i / hp->n_head_kv * a->n_chunk_row;
        int32_t r_end = r_begin + a->n_chunk_row;
        r_end = r_end < a->n_row ? r_end : a->n_row;
        size_t n_state = (size_t)(r_end - r_begin) * (size_t)n_q;
        memset(states, 0, n_state * len * sizeof *states);
        for (size_t s = 0; s < n_state; s++)
            states[s * len + n_pad] = -INFINITY;
        for (int32_t b = 0; b < a->n_block_max; b++)
            attend_block(a, b, i_head_kv, r_begin, r_end, &w);
        for (size_t s = 0; s < n_state; s++) {
            size_t r = (size_t)r_begin + s / (size_t)n_q;
            size_t h = (size_t)(i_head_kv * n_q) + s % (size_t)n_q;
            const float *state = states + s * len;
            float *out = a->out + (r * (size_t)hp->n_head + h) * (size_t)head_dim;
            float factor = 1.0f / state[n_pad + 1];
            for (int32_t d = 0; d < head_dim; d++)
                out[d] = state[d] * factor;
        }
    }
}

void
deal_attention_run(deal_attention *a, int32_t i_layer, const float *q, float *out)
{
    int32_t n_head_kv = a->hparams->n_head_kv;
    int32_t n_run = 4 * deal_pool_n_thread(a->pool);
    a->i_layer = i_layer;
    a->n_window =
        deal_hparams_is_local(a->hparams, i_layer) ? a->hparams->n_swa : INT32_MAX;
    a->q = q;
    a->out = out;
    a->n_chunk_row = (a->n_row * n_head_kv + n_run - 1) / n_run;
    if (a->n_chunk_row > DEAL_ATTENTION_ROWS)
        a->n_chunk_row = DEAL_ATTENTION_ROWS;
    int32_t n_chunk = (a->n_row + a->n_chunk_row - 1) / a->n_chunk_row;
    deal_parallel_for(a->pool, n_chunk * n_head_kv, 1, attend_chunks, a);
}
