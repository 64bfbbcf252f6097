/* Hyper-parameters from the metadata of a GGUF file. */
#ifndef DEAL_MODEL_GGUF_HPARAMS_H
#define DEAL_MODEL_GGUF_HPARAMS_H

#include "model/gguf.h"
#include "model/hparams.h"

// From the keys "<general.architecture>.*". UNSUPPORTED, before any weight is read, for
// an architecture, RoPE scaling, expert count or window that the forward pass does not
// run.
deal_status deal_gguf_hparams(const deal_gguf *gguf, deal_hparams *hparams,
                              deal_error *err);

#endif
