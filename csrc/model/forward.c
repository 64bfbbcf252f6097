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

deal_status
deal_forward_init(deal_forward *f, const deal_model *model, deal_trie *trie,
                  deal_matmul *matmul, deal_error *err)
{
    const deal_hparams *hp = &model->hparams;
    int32_t q_dim = hp->n_head * hp->head_dim, kv_dim = hp->n_head_kv * hp->head_dim;
    *f = (deal_forward){.model = model,
                        .pool = matmul->pool,
                        .kernels = matmul->kernels,
                        .matmul = matmul,
                        .trie = trie};
    DEAL_TRY(
        deal_attention_init(&f->attention, hp, trie, f->pool, DEAL_FORWARD_ROWS, err));
    const deal_controls_shape shape = {hp->n_layer, hp->n_head, hp->head_dim,
                                       hp->n_embd};
    DEAL_TRY(deal_controlled_init(&f->controlled, trie, &shape, f->pool,
                                  DEAL_FORWARD_ROWS, err));
    f->x = scratch(f, DEAL_FORWARD_ROWS, hp->n_embd);
    f->h = scratch(f, DEAL_FORWARD_ROWS, hp->n_embd);
    f->q = scratch(f, DEAL_FORWARD_ROWS, q_dim);
    f->attended = scratch(f, DEAL_FORWARD_ROWS, q_dim);
    f->k = scratch(f, DEAL_FORWARD_ROWS, kv_dim);
    f->v = scratch(f, DEAL_FORWARD_ROWS, kv_dim);
    f->gate = scratch(f, DEAL_FORWARD_ROWS, hp->n_ff);
    f->up = scratch(f, DEAL_FORWARD_ROWS, hp->n_ff);
    f->cosine = scratch(f, DEAL_FORWARD_ROWS, deal_hparams_n_freq(hp));
    f->sine = scratch(f, DEAL_FORWARD_ROWS, deal_hparams_n_freq(hp));
    f->i_overflow = deal_alloc(DEAL_FORWARD_ROWS, sizeof *f->i_overflow);
    if (f->x && f->h && f->q && f->attended && f->k && f->v && f->gate && f->up &&
        f->cosine && f->sine && f->i_overflow)
        return DEAL_OK;
    deal_forward_free(f);
    return deal_fail_memory(err, "activations of the forward pass");
}

void
deal_forward_free(deal_forward *f)
{
    deal_attention_free(&f->attention);
    deal_controlled_free(&f->controlled);
    float *block[] = {f->x, f->h,    f->q,  f->attended, f->k,
                      f->v, f->gate, f->up, f->cosine,   f->sine};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
    deal_free(f->i_overflow);
    *f = (deal_forward){0};
}

// Embeddings and the rotations of every row's position.
static void
begin_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    const deal_hparams *hp = &f->model->hparams;
    const deal_weights *w = &f->model->weights;
    size_t n_embd = (size_t)hp->n_embd, n_freq = (size_t)deal_hparams_n_freq(hp);
    size_t row_size = deal_type_row_size(w->embedding.type, hp->n_embd);
    for (size_t r = (size_t)i_begin; r < (size_t)i_end; r++) {
        const deal_trie_node *node = &f->trie->node[f->node[r]];
        const uint8_t *row = (const uint8_t *)w->embedding.data;
        f->i_overflow[r] = -1;
        deal_type_dequantize(w->embedding.type, row + (size_t)node->token * row_size,
                             hp->n_embd, f->x + r * n_embd);
        for (size_t i = 0; hp->embd_scale > 0.0f && i < n_embd; i++)
            f->x[r * n_embd + i] *= hp->embd_scale;
        for (size_t i = 0; i < n_freq; i++) {
            float angle = (float)(node->depth - 1) * w->inv_freq[i];
            f->cosine[r * n_freq + i] = (float)cos((double)angle);
            f->sine[r * n_freq + i] = (float)sin((double)angle);
        }
    }
}

// h = rms_norm(x), ready for the product that follows.
static void
norm_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    size_t n_embd = (size_t)f->model->hparams.n_embd;
    for (int32_t r = i_begin; r < i_end; r++) {
        size_t at = (size_t)r * n_embd;
        f->kernels->rms_norm((int32_t)n_embd, f->x + at, f->norm,
                             f->model->hparams.norm_eps, f->h + at);
        deal_matmul_put_row(f->matmul, &f->inputs, r);
    }
}

// One head's key or value into a row's cell, `offset` numbers from its start.
static void
store_head(deal_forward *f, size_t i_row, const float *x, size_t offset)
{
    int32_t n = f->model->hparams.head_dim;
    void *cell = deal_trie_cell(f->trie, f->node[i_row]);
    if (f->trie->kv_type == DEAL_KV_F32) {
        memcpy((float *)cell + offset, x, (size_t)n * sizeof *x);
        return;
    }
    float largest = f->kernels->narrow(n, x, (uint16_t *)cell + offset);
    if (largest >= 65520.0f && largest < INFINITY) // what is infinite was so before
        f->i_overflow[i_row] = f->i_layer;
}

// Norms and rotates queries and keys, and stores keys and values in the rows' cells.
static void
store_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    const deal_hparams *hp = &f->model->hparams;
    size_t head_dim = (size_t)hp->head_dim, n_freq = (size_t)deal_hparams_n_freq(hp);
    size_t q_dim = (size_t)hp->n_head * head_dim;
    size_t kv_dim = (size_t)hp->n_head_kv * head_dim;
    const deal_layer_weights *w = &f->model->weights.layer[f->i_layer];
    int has_halves = hp->rope_pairing == DEAL_ROPE_HALVES;
    for (size_t r = (size_t)i_begin; r < (size_t)i_end; r++) {
        const float *cosine = f->cosine + r * n_freq, *sine = f->sine + r * n_freq;
        if (hp->rope_base_local > 0.0f && deal_hparams_is_local(hp, f->i_layer)) {
            cosine += hp->rope_dim / 2;
            sine += hp->rope_dim / 2;
        }
        for (size_t d = 0; d < q_dim; d += head_dim) {
            float *q = f->q + r * q_dim + d;
            if (hp->has_qk_norm)
                f->kernels->rms_norm(hp->head_dim, q, w->q_norm, hp->norm_eps, q);
            f->kernels->rope(hp->rope_dim, has_halves, cosine, sine, q);
        }
        for (int32_t h = 0; h < hp->n_head_kv; h++) {
            size_t at = r * kv_dim + (size_t)h * head_dim;
            float *k = f->k + at;
            if (hp->has_qk_norm)
                f->kernels->rms_norm(hp->head_dim, k, w->k_norm, hp->norm_eps, k);
            f->kernels->rope(hp->rope_dim, has_halves, cosine, sine, k);
            store_head(f, r, k, deal_trie_key_offset(f->trie, f->i_layer, h));
            store_head(f, r, f->v + at, deal_trie_value_offset(f->trie, f->i_layer, h));
        }
    }
}

static void
activate_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    const deal_hparams *hp = &f->model->hparams;
    for (int32_t r = i_begin; r < i_end; r++) {
        size_t at = (size_t)r * (size_t)hp->n_ff;
        if (hp->activation == DEAL_ACTIVATION_GELU)
            f->kernels->gelu_mul(hp->n_ff, f->up + at, f->gate + at);
        else
            f->kernels->silu_mul(hp->n_ff, f->up + at, f->gate + at);
        deal_matmul_put_row(f->matmul, &f->inputs, r);
    }
}

// Runs `fn` over the rows, which end up as the inputs of the next product.
static void
make_inputs(deal_forward *f, int32_t n_in, float *x, deal_loop_fn fn)
{
    f->inputs = deal_matmul_begin(f->matmul, f->n_row, n_in, x);
    deal_parallel_for(f->pool, f->n_row, 0, fn, f);
}

// x += rms_norm(h)
static void
add_normed_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_forward *f = context;
    int32_t n_embd = f->model->hparams.n_embd;
    for (int32_t r = i_begin; r < i_end; r++) {
        float *h = f->h + (size_t)r * (size_t)n_embd;
        f->kernels->rms_norm(n_embd, h, f->norm, f->model->hparams.norm_eps, h);
        f->kernels->add(n_embd, h, f->x + (size_t)r * (size_t)n_embd);
    }
}

// x += W inputs, or its norm where `post_norm` is given.
static void
add_product(deal_forward *f, const deal_matrix *w, const float *bias,
            const float *post_norm)
{
    const deal_product product = {w, bias, post_norm ? f->h : f->x, !post_norm};
    deal_matmul_run(f->matmul, &f->inputs, &product, 1);
    f->norm = post_norm;
    if (post_norm)
        deal_parallel_for(f->pool, f->n_row, 0, add_normed_rows, f);
}

static void
run_layer(deal_forward *f)
{
    const deal_hparams *hp = &f->model->hparams;
    const deal_layer_weights *w = &f->model->weights.layer[f->i_layer];

    f->norm = w->attn_norm;
    make_inputs(f, hp->n_embd, f->h, norm_rows);
    const deal_product qkv[] = {{&w->q, w->q_bias, f->q, false},
                                {&w->k, w->k_bias, f->k, false},
                                {&w->v, w->v_bias, f->v, false}};
    deal_matmul_run(f->matmul, &f->inputs, qkv, 3);
    deal_parallel_for(f->pool, f->n_row, 0, store_rows, f);
    deal_attention_run(&f->attention, f->i_layer, f->q, f->attended);
    deal_controlled_heads(&f->controlled, f->i_layer, f->attended);
    f->inputs =
        deal_matmul_begin(f->matmul, f->n_row, hp->n_head * hp->head_dim, f->attended);
    deal_matmul_put_rows(f->matmul, &f->inputs);
    add_product(f, &w->o, w->o_bias, w->attn_post_norm);

    f->norm = w->ffn_norm;
    make_inputs(f, hp->n_embd, f->h, norm_rows);
    const deal_product gate_up[] = {{&w->gate, w->gate_bias, f->gate, false},
                                    {&w->up, w->up_bias, f->up, false}};
    deal_matmul_run(f->matmul, &f->inputs, gate_up, 2);
    make_inputs(f, hp->n_ff, f->gate, activate_rows);
    add_product(f, &w->down, w->down_bias, w->ffn_post_norm);
}

static deal_status
check_row(const deal_forward *f, int32_t i_row, deal_error *err)
{
    const float *hidden = deal_trie_hidden(f->trie, f->node[i_row]);
    const deal_trie_node *node = &f->trie->node[f->node[i_row]];
    const deal_trie_set *set = deal_trie_set_of(f->trie, f->node[i_row]);
    bool is_edited = set && set->controls;
    if (f->i_overflow[i_row] >= 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "kv_type: expected 'f32', as f16 has no numbers beyond 65504 "
                         "and a key or value of token %d at position %d in layer %d "
                         "is larger, got 'f16'",
                         node->token, node->depth - 1, f->i_overflow[i_row]);
    for (int32_t i = 0; i < f->model->hparams.n_embd; i++)
        if (!isfinite(hidden[i]))
            return deal_fail(err, is_edited ? DEAL_ERR_CONTROL : DEAL_ERR_FORMAT,
                             "%s: hidden state of token %d at position %d is not "
                             "finite; %s",
                             is_edited ? "controls" : "model", node->token,
                             node->depth - 1,
                             is_edited ? "an edit is too large or returns NaN"
                                       : "the weights are broken or overflow");
    return DEAL_OK;
}

// The final norm of every row, into its cell.
static deal_status
finish_rows(deal_forward *f, deal_error *err)
{
    size_t n_embd = (size_t)f->model->hparams.n_embd;
    for (int32_t r = 0; r < f->n_row; r++) {
        float *hidden = deal_trie_hidden(f->trie, f->node[r]);
        f->kernels->rms_norm((int32_t)n_embd, f->x + (size_t)r * n_embd,
                             f->model->weights.output_norm, f->model->hparams.norm_eps,
                             hidden);
    }
    DEAL_TRY(deal_controlled_final(&f->controlled, f->h, err));
    for (int32_t r = 0; r < f->n_row; r++)
        DEAL_TRY(check_row(f, r, err));
    return DEAL_OK;
}

deal_status
deal_forward_run(deal_forward *f, const deal_node *node, float *const *tap,
                 int32_t n_row, deal_error *err)
{
    f->node = node;
    f->n_row = n_row;
    DEAL_TRY(deal_attention_begin(&f->attention, node, n_row, err));
    deal_controlled_begin(&f->controlled, node, tap, n_row);
    deal_parallel_for(f->pool, n_row, 0, begin_rows, f);
    for (f->i_layer = 0; f->i_layer < f->model->hparams.n_layer; f->i_layer++) {
        run_layer(f);
        deal_controlled_residual(&f->controlled, f->i_layer, f->x);
    }
    return finish_rows(f, err);
}
