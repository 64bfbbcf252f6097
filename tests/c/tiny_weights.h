/* A random Llama in memory, for tests of the model: tensors in f32, seeded. */
#ifndef DEAL_TESTS_TINY_WEIGHTS_H
#define DEAL_TESTS_TINY_WEIGHTS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "model/model.h"
#include "model/session.h"

#define TINY_N_LAYER 2
#define TINY_N_TENSOR (3 + 13 * TINY_N_LAYER) // at most

typedef struct tiny_weights {
    deal_hparams hparams;
    deal_tensor tensor[TINY_N_TENSOR];
    deal_tensor_table table;
    float *data;
    size_t n_used;
} tiny_weights;

static inline void
tiny_add(tiny_weights *tiny, const char *name, int64_t n_row, int64_t n_column)
{
    deal_tensor *tensor = &tiny->tensor[tiny->table.n_tensor];
    int32_t i_tensor = tiny->table.n_tensor++;
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    int64_t n = (n_row ? n_row : 1) * n_column;
    float *data = tiny->data + tiny->n_used;
    for (int64_t i = 0; i < n; i++) {
        double u = deal_rng_uniform(7, (uint64_t)i_tensor, (uint64_t)i);
        data[i] = n_row ? (float)((u - 0.5) * 0.3) : (float)(0.8 + 0.4 * u);
    }
    tiny->n_used += (size_t)n;
    *tensor =
        (deal_tensor){.type = DEAL_TYPE_F32,
                      .n_dim = n_row ? 2 : 1,
                      .dim = {n_row ? n_row : n_column, n_row ? n_column : 1, 1, 1},
                      .data = data,
                      .size = (size_t)n * sizeof *data};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
}

// A session over `n_ctx` tokens without a budget.
static inline deal_status
tiny_session(const deal_model *model, int32_t n_ctx, int32_t n_thread,
             deal_kv_type kv_type, deal_session **session, deal_error *err)
{
    const deal_session_params params = {n_ctx, n_thread, kv_type, 0};
    return deal_session_new(model, &params, session, err);
}

// With `n_swa` > 0 the first layer has a sliding window, heads are normed, and so on:
// all that architectures have beside Llama.
static inline void
tiny_weights_make(tiny_weights *tiny, int32_t n_swa)
{
    memset(tiny, 0, sizeof *tiny);
    tiny->hparams = (deal_hparams){.n_vocab = 50,
                                   .n_embd = 64,
                                   .n_layer = TINY_N_LAYER,
                                   .n_head = 4,
                                   .n_head_kv = 2,
                                   .head_dim = 12,
                                   .n_ff = 100,
                                   .n_ctx_train = 600,
                                   .norm_eps = 1e-5f,
                                   .is_tied = false,
                                   .rope_dim = 12,
                                   .rope_base = 10000.0f,
                                   .rope_pairing = DEAL_ROPE_ADJACENT};
    if (n_swa > 0) {
        tiny->hparams.n_swa = n_swa;
        tiny->hparams.swa_period = 2;
        tiny->hparams.has_qk_norm = true;
        tiny->hparams.has_post_norm = true;
        tiny->hparams.activation = DEAL_ACTIVATION_GELU;
        tiny->hparams.embd_scale = 8.0f;
        tiny->hparams.attn_softcap = 5.0f;
        tiny->hparams.final_softcap = 3.0f;
        tiny->hparams.rope_base_local = 100.0f;
    }
    const deal_hparams *hp = &tiny->hparams;
    int64_t q_dim = hp->n_head * hp->head_dim, kv_dim = hp->n_head_kv * hp->head_dim;
    tiny->data = malloc(sizeof(float) * 200000);
    tiny->table.tensor = tiny->tensor;
    tiny_add(tiny, "token_embd.weight", hp->n_vocab, hp->n_embd);
    tiny_add(tiny, "output.weight", hp->n_vocab, hp->n_embd);
    tiny_add(tiny, "output_norm.weight", 0, hp->n_embd);
    for (int i = 0; i < hp->n_layer; i++) {
        const struct {
            const char *name;
            int64_t n_row, n_column;
        } part[] = {
            {"attn_norm", 0, hp->n_embd},       {"ffn_norm", 0, hp->n_embd},
            {"attn_q", q_dim, hp->n_embd},      {"attn_k", kv_dim, hp->n_embd},
            {"attn_v", kv_dim, hp->n_embd},     {"attn_output", hp->n_embd, q_dim},
            {"ffn_gate", hp->n_ff, hp->n_embd}, {"ffn_up", hp->n_ff, hp->n_embd},
            {"ffn_down", hp->n_embd, hp->n_ff}, {"attn_q_norm", 0, hp->head_dim},
            {"attn_k_norm", 0, hp->head_dim},   {"post_attention_norm", 0, hp->n_embd},
            {"post_ffw_norm", 0, hp->n_embd},
        };
        size_t n_part = sizeof part / sizeof *part - (n_swa > 0 ? 0 : 4);
        for (size_t p = 0; p < n_part; p++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, part[p].name);
            tiny_add(tiny, name, part[p].n_row, part[p].n_column);
        }
    }
}

// Rounds every matrix whose rows are whole groups of 32 to Q4_0, in place; returns how
// many.
static inline int
tiny_quantize(tiny_weights *tiny)
{
    int n_matrix = 0;
    for (int32_t t = 0; t < tiny->table.n_tensor; t++) {
        deal_tensor *tensor = &tiny->tensor[t];
        size_t n_group = tensor->size / sizeof(float) / 32;
        if (tensor->n_dim != 2 || tensor->dim[1] % 32 != 0)
            continue;
        const float *from = tensor->data;
        unsigned char *to =
            (unsigned char *)tiny->data + ((const char *)from - (char *)tiny->data);
        for (size_t g = 0; g < n_group; g++) {
            float x[32];
            memcpy(x, from + 32 * g, sizeof x); // `to` never passes it
            unsigned char *block = to + 18 * g;
            block[0] = 0x1f; // 0.02 as f16
            block[1] = 0x25;
            for (int i = 0; i < 16; i++) {
                int low = (int)(x[i] / 0.02f + 8.5f);
                int high = (int)(x[i + 16] / 0.02f + 8.5f);
                low = low > 15 ? 15 : low;
                high = high > 15 ? 15 : high;
                block[2 + i] = (unsigned char)(low | high << 4);
            }
        }
        tensor->type = DEAL_TYPE_Q4_0;
        tensor->size = 18 * n_group;
        n_matrix++;
    }
    return n_matrix;
}

#endif
