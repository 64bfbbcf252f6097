/* Hyper-parameters: what the checkpoint fixes. Names as in ggml and transformers. */
#ifndef DEAL_MODEL_HPARAMS_H
#define DEAL_MODEL_HPARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

typedef enum deal_rope_pairing {
    DEAL_ROPE_ADJACENT = 0, // pairs (2i, 2i + 1): GGUF's "llama" rows are permuted so
    DEAL_ROPE_HALVES = 1,   // pairs (i, i + rope_dim / 2): Hugging Face checkpoints
} deal_rope_pairing;

typedef enum deal_rope_scaling {
    DEAL_ROPE_SCALING_NONE = 0,
    DEAL_ROPE_SCALING_LINEAR = 1,
    DEAL_ROPE_SCALING_LLAMA3 = 2,
} deal_rope_scaling;

typedef enum deal_activation {
    DEAL_ACTIVATION_SILU = 0,
    DEAL_ACTIVATION_GELU = 1, // by its tanh approximation
} deal_activation;

typedef struct deal_hparams {
    int32_t n_vocab; // rows of the embedding
    int32_t n_embd;
    int32_t n_layer;
    int32_t n_head;
    int32_t n_head_kv; // divides n_head
    int32_t head_dim;  // even; need not be n_embd / n_head
    int32_t n_ff;
    int32_t n_ctx_train; // longest context the model was trained for
    float norm_eps;      // of RMSNorm
    bool is_tied;        // the head is the embedding
    bool has_qk_norm;    // RMSNorm of each head's query and key, before RoPE
    bool has_post_norm;  // RMSNorm of what attention and feed-forward add
    float norm_base;     // added to the weights of norms as they are loaded
    deal_activation activation;

    float embd_scale;    // of embeddings; 0: as they are
    float attn_scale;    // of query times key; 0: 1 / sqrt(head_dim)
    float attn_softcap;  // c tanh(x / c) of scaled scores; 0: none
    float final_softcap; // the same of logits

    // Sliding window: layers that deal_hparams_is_local() tells see the last n_swa
    // positions, their own included.
    int32_t n_swa;      // 0: no layer has a window
    int32_t swa_begin;  // first layer with one
    int32_t swa_period; // every swa_period-th layer has none; 0: all have one

    int32_t rope_dim; // rotated dimensions of a head: even, <= head_dim
    float rope_base;
    float rope_base_local; // of layers with a window, unscaled; 0: as in all others
    deal_rope_pairing rope_pairing;
    deal_rope_scaling rope_scaling;
    float rope_factor;           // LINEAR, LLAMA3
    float rope_low_freq_factor;  // LLAMA3
    float rope_high_freq_factor; // LLAMA3
    int32_t rope_n_ctx_orig;     // LLAMA3: original_max_position_embeddings
} deal_hparams;

// Refuses values that no model has or that later arithmetic could not hold, with FORMAT
// and the field's name. Sizes are bounded so that products fit in int64_t.
deal_status deal_hparams_check(const deal_hparams *hparams, deal_error *err);

// Whether a layer has a sliding window.
bool deal_hparams_is_local(const deal_hparams *hparams, int32_t i_layer);

// inv_freq (deal_hparams_n_freq,): base^(-2i / rope_dim) for i < rope_dim / 2, after
// scaling; where rope_base_local is given, those of layers with a window come second.
// LLAMA3: as in transformers' `_compute_llama3_parameters`.
int32_t deal_hparams_n_freq(const deal_hparams *hparams);
void deal_hparams_inv_freq(const deal_hparams *hparams, float *inv_freq);

#endif
