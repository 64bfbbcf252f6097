/* The layers that a root keeps for several searches, of LMs that share one. */
#ifndef DEAL_SEARCH_KEPT_LAYERS_H
#define DEAL_SEARCH_KEPT_LAYERS_H

#include <stdbool.h>

#include "common/lm.h"

// Zero-initialise; free `layer` with deal_free().
typedef struct deal_kept_layers {
    int32_t *layer; // (n_layer,) as in keep_layers of lm.h; NULL: none were asked for
    int32_t n_layer;
} deal_kept_layers;

bool deal_kept_layers_are(const deal_kept_layers *kept, const int32_t *layer,
                          int32_t n_layer);

// Has the root of `lm` keep them, where it does not already.
deal_status deal_kept_layers_keep(deal_kept_layers *kept, deal_lm *lm, deal_node root,
                                  const int32_t *layer, int32_t n_layer,
                                  deal_error *err);

#endif
