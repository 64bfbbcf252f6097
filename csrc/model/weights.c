#include "model/weights.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/alloc.h"
#include "kernels/kernels.h"

// What the loading functions share.
typedef struct loader {
    const deal_hparams *hp;
    const deal_tensor_table *table;
    const deal_mapped_file *file; // (n_file,)
    int32_t n_file;
    deal_compute compute;
    deal_weights *weights;
    bool *is_used; // (n_tensor,)
    deal_error *err;
} loader;

static const deal_tensor *
find(loader *l, const char *name)
{
    const deal_tensor *tensor = deal_tensor_find(l->table, name);
    if (tensor)
        l->is_used[tensor - l->table->tensor] = true;
    return tensor;
}

// The tensor called `name`, of shape (n_row, n_column), or (n_column,) where n_row is
// 0.
static deal_status
get(loader *l, const char *name, int64_t n_row, int64_t n_column,
    const deal_tensor **out)
{
    const deal_tensor *tensor = find(l, name);
    if (!tensor)
        return deal_fail(l->err, DEAL_ERR_FORMAT, "tensor %s is missing", name);
    int64_t n0 = n_row ? n_row : n_column, n1 = n_row ? n_column : 1;
    int32_t n_dim = n_row ? 2 : 1;
    if (tensor->n_dim != n_dim || tensor->dim[0] != n0 || tensor->dim[1] != n1)
        return deal_fail(l->err, DEAL_ERR_FORMAT,
                         "tensor %s: expected shape (%lld, %lld), got %d dimensions, "
                         "(%lld, %lld)",
                         name, (long long)n0, (long long)n1, tensor->n_dim,
                         (long long)tensor->dim[0], (long long)tensor->dim[1]);
    *out = tensor;
    return DEAL_OK;
}

static deal_status
load_vector(loader *l, const char *name, int64_t n, float **out)
{
    const deal_tensor *tensor = NULL;
    DEAL_TRY(get(l, name, 0, n, &tensor));
    if (n % deal_type_block_len(tensor->type) != 0)
        return deal_fail(l->err, DEAL_ERR_FORMAT,
                         "tensor %s: %lld values in blocks of %d", name, (long long)n,
                         deal_type_block_len(tensor->type));
    float *x = deal_alloc((size_t)n, sizeof *x);
    if (!x)
        return deal_fail_memory(l->err, name);
    deal_type_dequantize(tensor->type, tensor->data, n, x);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) {
            deal_free(x);
            return deal_fail(l->err, DEAL_ERR_FORMAT,
                             "tensor %s: value %lld is not finite", name, (long long)i);
        }
    l->weights->owned_size += (size_t)n * sizeof *x;
    *out = x;
    return DEAL_OK;
}

static deal_status
load_norm(loader *l, const char *name, int64_t n, float **out)
{
    DEAL_TRY(load_vector(l, name, n, out));
    for (int64_t i = 0; i < n; i++)
        (*out)[i] += l->hp->norm_base;
    return DEAL_OK;
}

static deal_status
load_optional(loader *l, const char *name, int64_t n, float **out)
{
    if (!deal_tensor_find(l->table, name))
        return DEAL_OK;
    return load_vector(l, name, n, out);
}

// One row as Q8_0 blocks: x[i] ~ d q[i] with d = max |x| / 127 in f16.
static void
quantize_q8_0(const float *x, int64_t n_group, uint8_t *block)
{
    for (int64_t g = 0; g < n_group; g++, x += DEAL_QUANT_GROUP, block += 34) {
        float max = 0.0f;
        for (int i = 0; i < DEAL_QUANT_GROUP; i++)
            max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        uint16_t bits = deal_f32_to_f16(max / 127.0f);
        float d = deal_f16_to_f32(bits);
        block[0] = (uint8_t)bits;
        block[1] = (uint8_t)(bits >> 8);
        for (int i = 0; i < DEAL_QUANT_GROUP; i++) {
            float q = d > 0.0f ? rintf(x[i] / d) : 0.0f;
            q = q > 127.0f ? 127.0f : (q < -127.0f ? -127.0f : q);
            block[2 + i] = (uint8_t)(int8_t)q;
        }
    }
}

// Rows [i_row, i_row + n_row) in a type that panels are made of; `x` and `block` are
// scratch for one row and for a panel's rows.
static const void *
grouped_rows(const deal_tensor *tensor, int32_t i_row, int32_t n_row, int64_t n_in,
             float *x, uint8_t *block)
{
    size_t row_size = deal_type_row_size(tensor->type, n_in);
    const uint8_t *rows = (const uint8_t *)tensor->data + (size_t)i_row * row_size;
    if (deal_type_is_grouped(tensor->type))
        return rows;
    int64_t n_group = (n_in + DEAL_QUANT_GROUP - 1) / DEAL_QUANT_GROUP;
    for (int32_t r = 0; r < n_row; r++) {
        deal_type_dequantize(tensor->type, rows + (size_t)r * row_size, n_in, x);
        quantize_q8_0(x, n_group, block + (size_t)r * (size_t)n_group * 34);
    }
    return block;
}

// int8 compute: panels, whatever the file has.
static deal_status
make_panels(loader *l, const deal_tensor *tensor, deal_matrix *m)
{
    bool is_grouped = deal_type_is_grouped(tensor->type);
    deal_type type = is_grouped ? tensor->type : DEAL_TYPE_Q8_0;
    m->panels =
        deal_panels_layout(type, m->n_out, m->n_in, deal_kernels_get()->is_unsigned);
    size_t n_group = (size_t)m->panels.n_group, n_panel = (size_t)m->panels.n_panel;
    size_t row_size = is_grouped ? deal_type_row_size(type, m->n_in) : n_group * 34;
    float *scratch = deal_alloc(DEAL_PACK_SCRATCH(n_group), sizeof *scratch);
    float *x = deal_alloc_zero(n_group, DEAL_QUANT_GROUP * sizeof *x);
    uint8_t *block = deal_alloc(n_group, DEAL_PANEL_LEN * 34);
    m->panels.data =
        deal_arena_alloc(&l->weights->arena, n_panel, m->panels.panel_size);
    bool has_all = scratch && x && block && m->panels.data;
    for (size_t p = 0; has_all && p < n_panel; p++) {
        int32_t i_row = (int32_t)p * DEAL_PANEL_LEN, n_row = m->n_out - i_row;
        n_row = n_row < DEAL_PANEL_LEN ? n_row : DEAL_PANEL_LEN;
        const void *rows = grouped_rows(tensor, i_row, n_row, m->n_in, x, block);
        deal_panels_pack(&m->panels, (int32_t)p, type, rows, row_size, scratch);
    }
    deal_free(scratch);
    deal_free(x);
    deal_free(block);
    if (!has_all)
        return deal_fail_memory(l->err, tensor->name);
    l->weights->owned_size += n_panel * m->panels.panel_size;
    for (int32_t i = 0; i < l->n_file; i++)
        deal_mapped_file_forget(&l->file[i], tensor->data, tensor->size);
    return DEAL_OK;
}

// f32 compute: in place where the file has it so.
static deal_status
make_f32(loader *l, const deal_tensor *tensor, deal_matrix *m)
{
    m->data = tensor->data;
    m->sizes = deal_gemm_sizes_get(DEAL_MATMUL_CHUNK, m->n_in);
    if (m->n_out % DEAL_MATMUL_CHUNK > 0)
        m->last_sizes = deal_gemm_sizes_get(m->n_out % DEAL_MATMUL_CHUNK, m->n_in);
    if (tensor->type == DEAL_TYPE_F32 && (uintptr_t)tensor->data % sizeof(float) == 0)
        return DEAL_OK;
    size_t n_out = (size_t)m->n_out, n_in = (size_t)m->n_in;
    float *x = deal_arena_alloc(&l->weights->arena, n_out, n_in * sizeof *x);
    if (!x)
        return deal_fail_memory(l->err, tensor->name);
    size_t row_size = deal_type_row_size(tensor->type, m->n_in);
    for (size_t r = 0; r < n_out; r++)
        deal_type_dequantize(tensor->type, (const uint8_t *)tensor->data + r * row_size,
                             m->n_in, x + r * n_in);
    m->data = x;
    l->weights->owned_size += n_out * n_in * sizeof *x;
    return DEAL_OK;
}

static deal_status
make_matrix(loader *l, const deal_tensor *tensor, int64_t n_out, int64_t n_in,
            deal_matrix *m)
{
    *m = (deal_matrix){.n_out = (int32_t)n_out, .n_in = (int32_t)n_in};
    return l->compute == DEAL_COMPUTE_INT8 ? make_panels(l, tensor, m)
                                           : make_f32(l, tensor, m);
}

static deal_status
load_matrix(loader *l, const char *name, int64_t n_out, int64_t n_in, deal_matrix *m)
{
    const deal_tensor *tensor;
    DEAL_TRY(get(l, name, n_out, n_in, &tensor));
    return make_matrix(l, tensor, n_out, n_in, m);
}

static deal_status
load_norms(loader *l, int32_t i_layer)
{
    const deal_hparams *hp = l->hp;
    deal_layer_weights *w = &l->weights->layer[i_layer];
    const struct {
        const char *name;
        float **norm;
        int32_t n;
        bool is_there;
    } part[] = {
        {"attn_norm", &w->attn_norm, hp->n_embd, true},
        {"ffn_norm", &w->ffn_norm, hp->n_embd, true},
        {"post_attention_norm", &w->attn_post_norm, hp->n_embd, hp->has_post_norm},
        {"post_ffw_norm", &w->ffn_post_norm, hp->n_embd, hp->has_post_norm},
        {"attn_q_norm", &w->q_norm, hp->head_dim, hp->has_qk_norm},
        {"attn_k_norm", &w->k_norm, hp->head_dim, hp->has_qk_norm},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char name[DEAL_TENSOR_NAME_SIZE];
        snprintf(name, sizeof name, "blk.%d.%s.weight", i_layer, part[i].name);
        if (part[i].is_there)
            DEAL_TRY(load_norm(l, name, part[i].n, part[i].norm));
    }
    return DEAL_OK;
}

static deal_status
load_layer(loader *l, int32_t i_layer)
{
    const deal_hparams *hp = l->hp;
    deal_layer_weights *w = &l->weights->layer[i_layer];
    int64_t q_dim = (int64_t)hp->n_head * hp->head_dim;
    int64_t kv_dim = (int64_t)hp->n_head_kv * hp->head_dim;
    const struct {
        const char *name;
        deal_matrix *matrix;
        float **bias;
        int64_t n_out, n_in;
    } part[] = {
        {"attn_q", &w->q, &w->q_bias, q_dim, hp->n_embd},
        {"attn_k", &w->k, &w->k_bias, kv_dim, hp->n_embd},
        {"attn_v", &w->v, &w->v_bias, kv_dim, hp->n_embd},
        {"attn_output", &w->o, &w->o_bias, hp->n_embd, q_dim},
        {"ffn_gate", &w->gate, &w->gate_bias, hp->n_ff, hp->n_embd},
        {"ffn_up", &w->up, &w->up_bias, hp->n_ff, hp->n_embd},
        {"ffn_down", &w->down, &w->down_bias, hp->n_embd, hp->n_ff},
    };
    char name[DEAL_TENSOR_NAME_SIZE];
    DEAL_TRY(load_norms(l, i_layer));
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", i_layer, part[i].name);
        DEAL_TRY(load_matrix(l, name, part[i].n_out, part[i].n_in, part[i].matrix));
        snprintf(name, sizeof name, "blk.%d.%s.bias", i_layer, part[i].name);
        DEAL_TRY(load_optional(l, name, part[i].n_out, part[i].bias));
    }
    return DEAL_OK;
}

// The head is the embedding itself where the checkpoint has no other.
static deal_status
load_head(loader *l)
{
    const deal_hparams *hp = l->hp;
    const deal_tensor *embedding;
    DEAL_TRY(get(l, "token_embd.weight", hp->n_vocab, hp->n_embd, &embedding));
    l->weights->embedding = *embedding;
    if (hp->is_tied)
        return make_matrix(l, embedding, hp->n_vocab, hp->n_embd, &l->weights->head);
    return load_matrix(l, "output.weight", hp->n_vocab, hp->n_embd, &l->weights->head);
}

// GGUF keeps llama3's scaling as divisors of the frequencies.
static deal_status
load_rope(loader *l)
{
    int32_t n = l->hp->rope_dim / 2;
    float *divisor = NULL;
    l->weights->inv_freq =
        deal_alloc((size_t)deal_hparams_n_freq(l->hp), sizeof(float));
    if (!l->weights->inv_freq)
        return deal_fail_memory(l->err, "RoPE frequencies");
    deal_hparams_inv_freq(l->hp, l->weights->inv_freq);
    DEAL_TRY(load_optional(l, "rope_freqs.weight", n, &divisor));
    for (int32_t i = 0; divisor && i < n; i++) {
        if (!(divisor[i] > 0.0f)) {
            float bad = divisor[i];
            deal_free(divisor);
            return deal_fail(
                l->err, DEAL_ERR_FORMAT,
                "tensor rope_freqs.weight: expected positive values, got %g",
                (double)bad);
        }
        l->weights->inv_freq[i] /= divisor[i];
    }
    deal_free(divisor);
    return DEAL_OK;
}

// A tensor that nothing reads would change the model silently.
static deal_status
check_all_used(loader *l)
{
    for (int32_t i = 0; i < l->table->n_tensor; i++)
        if (!l->is_used[i])
            return deal_fail(l->err, DEAL_ERR_UNSUPPORTED,
                             "tensor %s: this architecture has no place for it",
                             l->table->tensor[i].name);
    return DEAL_OK;
}

deal_status
deal_weights_load(const deal_hparams *hp, const deal_tensor_table *table,
                  const deal_mapped_file *file, int32_t n_file, deal_compute compute,
                  deal_weights *weights, deal_error *err)
{
    deal_status status;
    deal_weights loaded = {0};
    loader l = {.hp = hp,
                .table = table,
                .file = file,
                .n_file = n_file,
                .compute = compute,
                .weights = &loaded,
                .err = err};
    l.is_used = deal_alloc_zero((size_t)table->n_tensor, sizeof *l.is_used);
    loaded.layer = deal_alloc_zero((size_t)hp->n_layer, sizeof *loaded.layer);
    if (!l.is_used || !loaded.layer) {
        status = deal_fail_memory(err, "weights");
        goto done;
    }
    DEAL_TRY_GOTO(load_head(&l), done);
    DEAL_TRY_GOTO(load_norm(&l, "output_norm.weight", hp->n_embd, &loaded.output_norm),
                  done);
    DEAL_TRY_GOTO(load_rope(&l), done);
    for (int32_t i = 0; i < hp->n_layer; i++)
        DEAL_TRY_GOTO(load_layer(&l, i), done);
    DEAL_TRY_GOTO(check_all_used(&l), done);
    *weights = loaded;
done:
    deal_free(l.is_used);
    if (status != DEAL_OK)
        deal_weights_free(&loaded, hp->n_layer);
    return status;
}

static void
free_layer(deal_layer_weights *w)
{
    float *vector[] = {w->attn_norm, w->ffn_norm, w->attn_post_norm, w->ffn_post_norm,
                       w->q_norm,    w->k_norm,   w->q_bias,         w->k_bias,
                       w->v_bias,    w->o_bias,   w->gate_bias,      w->up_bias,
                       w->down_bias};
    for (size_t i = 0; i < sizeof vector / sizeof *vector; i++)
        deal_free(vector[i]);
}

void
deal_weights_free(deal_weights *weights, int32_t n_layer)
{
    for (int32_t i = 0; weights->layer && i < n_layer; i++)
        free_layer(&weights->layer[i]);
    deal_free(weights->layer);
    deal_arena_free(&weights->arena);
    deal_free(weights->output_norm);
    deal_free(weights->inv_freq);
    *weights = (deal_weights){0};
}
