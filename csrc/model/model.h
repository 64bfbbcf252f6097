/* A loaded model: hyper-parameters and weights. Immutable after loading, so that any
 * number of sessions, on any threads, can share it.
 */
#ifndef DEAL_MODEL_MODEL_H
#define DEAL_MODEL_MODEL_H

#include "model/gguf.h"
#include "model/hparams.h"
#include "model/weights.h"

typedef struct deal_model {
    deal_hparams hparams;
    deal_compute compute;
    deal_weights weights;
    deal_mapped_file *file; // (n_file,) what the weights may point into
    int32_t n_file;
} deal_model;

// Takes ownership of `gguf`'s file (also on failure); `gguf` is closed.
// Caller frees with deal_model_free().
deal_status deal_model_from_gguf(deal_gguf *gguf, deal_compute compute,
                                 deal_model **model, deal_error *err);

// From tensors in mapped files, of which it takes ownership, also on failure: `file`
// (n_file,) was allocated with deal_alloc(). `table` is only read.
deal_status deal_model_from_tensors(const deal_hparams *hparams,
                                    const deal_tensor_table *table,
                                    deal_mapped_file *file, int32_t n_file,
                                    deal_compute compute, deal_model **model,
                                    deal_error *err);

void deal_model_free(deal_model *model);

#endif
