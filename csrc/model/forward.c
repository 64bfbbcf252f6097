#include "model/forward.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

static float *
scratch(deal_forward *f, size_t n_row, int64_t n)
{
    float *block = deal_alloc_zero(n_row, (size_t)n * sizeof *block);
    if (block)
        f->size += n_row * (size_t)n * sizeof *block;
    return block;
}

static int32_t
max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

deal_status
deal_forward_init(deal_forward *f, const deal_model *model, deal_trie *trie,
                  deal_pool *pool, deal_error *err)
{
    const deal_hparams *hp = &model->hparams;
    int32_t q_dim = hp->n_head * hp->head_dim, kv_dim = hp->n_head_kv * hp->head_dim;
    *f = (deal_forward){
        .model = model, .pool = pool, .kernels = deal_kernels_get(), .trie = trie};
    int32_t n_in_max = max_i32(max_i32(hp->n_embd, q_dim), hp->n_ff);
    DEAL_TRY(deal_matmul_init(&f->matmul, pool, model->compute, DEAL_FORWARD_ROWS,
                              n_in_max, err));
    f->size = f->matmul.size;
    f->x = scratch(f, DEAL_FORWARD_ROWS, hp->n_embd);
    f->h = scratch(f, DEAL_FORWARD_ROWS, hp->n_embd);
    f->q = scratch(f, DEAL_FORWARD_ROWS, q_dim);
    f->attended = scratch(f, DEAL_FORWARD_ROWS, q_dim);
    f->k = scratch(f, DEAL_FORWARD_ROWS, kv_dim);
    f->v = scratch(f, DEAL_FORWARD_ROWS, kv_dim);
    f->gate = scratch(f, DEAL_FORWARD_ROWS, hp->n_ff);
    f->up = scratch(f, DEAL_FORWARD_ROWS, hp->n_ff);
    f->cosine = scratch(f, DEAL_FORWARD_ROWS, hp->rope_dim / 2);
    f->sine = scratch(f, DEAL_FORWARD_ROWS, hp->rope_dim / 2);
    f->logits = scratch(f, DEAL_HEAD_ROWS, hp->n_vocab);
    f->path_begin = deal_alloc(DEAL_FORWARD_ROWS + 1, sizeof *f->path_begin);
    if (f->x && f->h && f->q && f->attended && f->k && f->v && f->gate && f->up &&
        f->cosine && f->sine && f->logits && f->path_begin)
        return DEAL_OK;
    deal_forward_free(f);
    return deal_fail_memory(err, "activations of the forward pass");
}

void
deal_forward_free(deal_forward *f)
{
    deal_matmul_free(&f->matmul);
    float *block[] = {f->x,    f->h,  f->q,      f->attended, f->k,      f->v,
                      f->gate, f->up, f->cosine, f->sine,     f->logits, f->scores};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
    deal_free(f->path);
    deal_free(f->path_begin);
    *f = (deal_forward){0};
}

static deal_status
reserve_paths(deal_forward *f, size_t n_cell, size_t n_longest, deal_error *err)
{
    if (n_cell > f->path_cap) {
        size_t cap = deal_grow_cap(f->path_cap, n_cell);
        const float **path = deal_realloc(f->path, 0, cap, sizeof *path);
        if (!path)
            return deal_fail_memory(err, "paths of the batch");
        f->size += (cap - f->path_cap) * sizeof *path;
        f->path = path;
        f->path_cap = cap;
    }
    const deal_hparams *hp = &f->model->hparams;
    size_t n_score = n_longest * (size_t)(hp->n_head / hp->n_head_kv);
    if (n_score > f->scores_cap) {
        size_t cap = deal_grow_cap(f->scores_cap, n_score);
        size_t n_thread = (size_t)deal_pool_n_thread(f->pool);
        float *scores = deal_realloc(f->scores, 0, n_thread * cap, sizeof *scores);
        if (!scores)
            return deal_fail_memory(err, "attention scores");
        f->size += n_thread * (cap - f->scores_cap) * sizeof *scores;
        f->scores = scores;
        f->scores_cap = cap;
    }
    return DEAL_OK;
}

// Lists every row's cells, root first. Siblings lie next to each other as a rule, and
// so do a token and the next, so that most paths are copied from the row before.
static deal_status
list_paths(deal_forward *f, deal_error *err)
{
    const deal_trie_node *node = f->trie->node;
    size_t n_cell = 0, n_longest = 0;
    for (int32_t r = 0; r < f->n_row; r++) {
        size_t depth = (size_t)node[f->node[r]].depth;
        f->path_begin[r] = n_cell;
        n_cell += depth;
        n_longest = depth > n_longest ? depth : n_longest;
    }
    f->path_begin[f->n_row] = n_cell;
    DEAL_TRY(reserve_paths(f, n_cell, n_longest, err));
    for (int32_t r = 0; r < f->n_row; r++) {
        const float **path = f->path + f->path_begin[r];
        deal_node at = f->node[r];
        size_t depth = (size_t)node[at].depth;
        path[--depth] = deal_trie_cell(f->trie, at);
        at = node[at].parent;
        deal_node before = r > 0 ? f->node[r - 1] : DEAL_NODE_NONE;
        if (before != DEAL_NODE_NONE && (at == before || at == node[before].parent)) {
            memcpy(path, f->path + f->path_begin[r - 1], depth * sizeof *path);
            continue;
        }
        for (; depth > 0; at = node[at].parent)
            path[--depth] = deal_trie_cell(f->trie, at);
    }
    return DEAL_OK;
}

// Embeddings and the rotations of every row's position.
static void
begin_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    const deal_hparams *hp = &f->model->hparams;
    const deal_weights *w = &f->model->weights;
    size_t n_embd = (size_t)hp->n_embd, n_pair = (size_t)hp->rope_dim / 2;
    size_t row_size = deal_type_row_size(w->embedding.type, hp->n_embd);
    for (size_t r = (size_t)i_begin; r < (size_t)i_end; r++) {
        const deal_trie_node *node = &f->trie->node[f->node[r]];
        const uint8_t *row = (const uint8_t *)w->embedding.data;
        deal_type_dequantize(w->embedding.type, row + (size_t)node->token * row_size,
                             hp->n_embd, f->x + r * n_embd);
        for (size_t i = 0; i < n_pair; i++) {
            float angle = (float)(node->depth - 1) * w->inv_freq[i];
            f->cosine[r * n_pair + i] = (float)cos((double)angle);
            f->sine[r * n_pair + i] = (float)sin((double)angle);
        }
    }
}

static void
norm_rows(deal_forward *f, const float *weight)
{
    size_t n_embd = (size_t)f->model->hparams.n_embd;
    for (size_t r = 0; r < (size_t)f->n_row; r++)
        f->kernels->rms_norm((int32_t)n_embd, f->x + r * n_embd, weight,
                             f->model->hparams.norm_eps, f->h + r * n_embd);
}

// Rotates queries and keys, and stores keys and values in the rows' cells.
static void
store_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    const deal_hparams *hp = &f->model->hparams;
    size_t head_dim = (size_t)hp->head_dim, n_pair = (size_t)hp->rope_dim / 2;
    size_t q_dim = (size_t)hp->n_head * head_dim,
           kv_dim = (size_t)hp->n_head_kv * head_dim;
    int has_halves = hp->rope_pairing == DEAL_ROPE_HALVES;
    size_t key_at = deal_trie_key_offset(f->trie, f->i_layer);
    size_t value_at = deal_trie_value_offset(f->trie, f->i_layer);
    for (size_t r = (size_t)i_begin; r < (size_t)i_end; r++) {
        const float *cosine = f->cosine + r * n_pair, *sine = f->sine + r * n_pair;
        for (size_t d = 0; d < q_dim; d += head_dim)
            f->kernels->rope(hp->rope_dim, has_halves, cosine, sine,
                             f->q + r * q_dim + d);
        for (size_t d = 0; d < kv_dim; d += head_dim)
            f->kernels->rope(hp->rope_dim, has_halves, cosine, sine,
                             f->k + r * kv_dim + d);
        float *cell = deal_trie_cell(f->trie, f->node[r]);
        memcpy(cell + key_at, f->k + r * kv_dim, kv_dim * sizeof *cell);
        memcpy(cell + value_at, f->v + r * kv_dim, kv_dim * sizeof *cell);
    }
}

// Items are (row, key-value head).
static void
attend(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    deal_forward *f = context;
    const deal_hparams *hp = &f->model->hparams;
    size_t head_dim = (size_t)hp->head_dim;
    int32_t n_q = hp->n_head / hp->n_head_kv;
    float *scores = f->scores + (size_t)i_thread * f->scores_cap;
    float scale = 1.0f / sqrtf((float)hp->head_dim);
    for (int32_t i = i_begin; i < i_end; i++) {
        size_t r = (size_t)(i / hp->n_head_kv), i_kv = (size_t)(i % hp->n_head_kv);
        size_t at = (r * (size_t)hp->n_head + i_kv * (size_t)n_q) * head_dim;
        int32_t n = (int32_t)(f->path_begin[r + 1] - f->path_begin[r]);
        f->kernels->attention(
            n, n_q, hp->head_dim, scale, f->q + at, f->path + f->path_begin[r],
            deal_trie_key_offset(f->trie, f->i_layer) + i_kv * head_dim,
            deal_trie_value_offset(f->trie, f->i_layer) + i_kv * head_dim, scores,
            f->attended + at);
    }
}

static void
activate_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    int32_t n_ff = f->model->hparams.n_ff;
    for (size_t r = (size_t)i_begin; r < (size_t)i_end; r++)
        f->kernels->silu_mul(n_ff, f->up + r * (size_t)n_ff,
                             f->gate + r * (size_t)n_ff);
}

static void
run_layer(deal_forward *f)
{
    const deal_hparams *hp = &f->model->hparams;
    const deal_layer_weights *w = &f->model->weights.layer[f->i_layer];
    deal_matmul *mm = &f->matmul;
    int32_t n = f->n_row, n_x = n * hp->n_embd;

    norm_rows(f, w->attn_norm);
    deal_activations a = deal_matmul_prepare(mm, n, hp->n_embd, f->h);
    deal_matmul_run(mm, &a, &w->q, w->q_bias, f->q);
    deal_matmul_run(mm, &a, &w->k, w->k_bias, f->k);
    deal_matmul_run(mm, &a, &w->v, w->v_bias, f->v);
    deal_parallel_for(f->pool, n, store_rows, f);
    deal_parallel_for(f->pool, n * hp->n_head_kv, attend, f);
    a = deal_matmul_prepare(mm, n, hp->n_head * hp->head_dim, f->attended);
    deal_matmul_run(mm, &a, &w->o, w->o_bias, f->h);
    f->kernels->add(n_x, f->h, f->x);

    norm_rows(f, w->ffn_norm);
    a = deal_matmul_prepare(mm, n, hp->n_embd, f->h);
    deal_matmul_run(mm, &a, &w->gate, w->gate_bias, f->gate);
    deal_matmul_run(mm, &a, &w->up, w->up_bias, f->up);
    deal_parallel_for(f->pool, n, activate_rows, f);
    a = deal_matmul_prepare(mm, n, hp->n_ff, f->gate);
    deal_matmul_run(mm, &a, &w->down, w->down_bias, f->h);
    f->kernels->add(n_x, f->h, f->x);
}

deal_status
deal_forward_run(deal_forward *f, const deal_node *node, int32_t n_row, deal_error *err)
{
    size_t n_embd = (size_t)f->model->hparams.n_embd;
    f->node = node;
    f->n_row = n_row;
    DEAL_TRY(list_paths(f, err));
    deal_parallel_for(f->pool, n_row, begin_rows, f);
    for (f->i_layer = 0; f->i_layer < f->model->hparams.n_layer; f->i_layer++)
        run_layer(f);
    norm_rows(f, f->model->weights.output_norm);
    for (int32_t r = 0; r < n_row; r++) {
        const float *h = f->h + (size_t)r * n_embd;
        for (size_t i = 0; i < n_embd; i++)
            if (!isfinite(h[i]))
                return deal_fail(
                    err, DEAL_ERR_FORMAT,
                    "model: hidden state of token %d at position %d is not "
                    "finite; the weights are broken or overflow",
                    f->trie->node[node[r]].token, f->trie->node[node[r]].depth - 1);
        memcpy(deal_trie_hidden(f->trie, node[r]), h, n_embd * sizeof *h);
    }
    return DEAL_OK;
}

void
deal_forward_head(deal_forward *f, const deal_node *node, int32_t n_row)
{
    size_t n_embd = (size_t)f->model->hparams.n_embd;
    for (int32_t r = 0; r < n_row; r++)
        memcpy(f->h + (size_t)r * n_embd, deal_trie_hidden(f->trie, node[r]),
               n_embd * sizeof *f->h);
    deal_activations a = deal_matmul_prepare(&f->matmul, n_row, (int32_t)n_embd, f->h);
    deal_matmul_run(&f->matmul, &a, &f->model->weights.head, NULL, f->logits);
}
