/* Weights: the tensors of a checkpoint, found by name, checked for shape and made ready
 * for the kernels. Matrices are (n_out, n_in), rows contiguous: y = W x.
 */
#ifndef DEAL_MODEL_WEIGHTS_H
#define DEAL_MODEL_WEIGHTS_H

#include "common/arena.h"
#include "kernels/gemm_cblas.h"
#include "kernels/panels.h"
#include "model/hparams.h"
#include "model/tensor.h"

typedef enum deal_compute {
    DEAL_COMPUTE_F32 = 0,  // f32 weights, OpenBLAS; the reference
    DEAL_COMPUTE_INT8 = 1, // integer weights and activations in groups of 32
} deal_compute;

// Outputs computed by one call of a kernel: a fixed number, so that the shapes that
// OpenBLAS sees do not depend on the threads. A multiple of DEAL_PANEL_LEN.
#define DEAL_MATMUL_CHUNK 192

// A matrix ready for one kind of compute.
//   F32:  `data`, borrowed from the file where it is f32 there, else dequantised.
//   INT8: `panels`, repacked without loss from a grouped type (deal_type_is_grouped);
//         other types are quantised to Q8_0 first.
typedef struct deal_matrix {
    const float *data; // (n_out, n_in)
    deal_gemm_sizes sizes, last_sizes; // of DEAL_MATMUL_CHUNK outputs, of the rest; F32
    deal_panels panels;
    int32_t n_out, n_in;
} deal_matrix;

typedef struct deal_layer_weights {
    float *attn_norm;           // (n_embd,)
    float *ffn_norm;            // (n_embd,)
    float *attn_post_norm;      // (n_embd,) where has_post_norm, else NULL
    float *ffn_post_norm;       // likewise
    float *q_norm, *k_norm;     // (head_dim,) where has_qk_norm, else NULL
    deal_matrix q, k, v, o;     // (n_head * head_dim, n_embd), (n_head_kv * head_dim,
                                // n_embd), same, (n_embd, n_head * head_dim)
    deal_matrix gate, up, down; // (n_ff, n_embd), same, (n_embd, n_ff)
    float *q_bias, *k_bias, *v_bias, *o_bias; // (n_out,) or NULL
    float *gate_bias, *up_bias, *down_bias;   // (n_out,) or NULL
} deal_layer_weights;

typedef struct deal_weights {
    deal_layer_weights *layer; // (n_layer,)
    float *output_norm;        // (n_embd,)
    deal_tensor embedding;     // (n_vocab, n_embd) as in the file; rows read one by one
    deal_matrix head;          // (n_vocab, n_embd)
    float *inv_freq;           // (deal_hparams_n_freq,) with rope_freqs.weight applied
    deal_arena arena;          // what matrices are in that are not in the file
    size_t owned_size;         // bytes held besides the mapped file
} deal_weights;

// Tensors keep pointing into their files, which must outlive `weights`. Those that are
// mapped are in `file` (n_file,): what was repacked of them is dropped from memory
// tensor by tensor, as it is not needed twice. FORMAT names a tensor that is missing,
// has another shape, or holds NaN in its norms; UNSUPPORTED names tensors that this
// forward pass would ignore. Caller frees with deal_weights_free().
deal_status deal_weights_load(const deal_hparams *hparams,
                              const deal_tensor_table *table,
                              const deal_mapped_file *file, int32_t n_file,
                              deal_compute compute, deal_weights *weights,
                              deal_error *err);
void deal_weights_free(deal_weights *weights, int32_t n_layer);

#endif
