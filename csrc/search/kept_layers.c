#include "search/kept_layers.h"

#include <string.h>

#include "common/alloc.h"

bool
deal_kept_layers_are(const deal_kept_layers *kept, const int32_t *layer,
                     int32_t n_layer)
{
    return kept->layer && n_layer == kept->n_layer &&
           memcmp(layer, kept->layer, (size_t)n_layer * sizeof *layer) == 0;
}

deal_status
deal_kept_layers_keep(deal_kept_layers *kept, deal_lm *lm, deal_node root,
                      const int32_t *layer, int32_t n_layer, deal_error *err)
{
    if (deal_kept_layers_are(kept, layer, n_layer))
        return DEAL_OK;
    int32_t *copy = deal_alloc((size_t)n_layer, sizeof *copy);
    if (!copy)
        return deal_fail_memory(err, "layers");
    deal_status status = lm->ops->keep_layers(lm, root, layer, n_layer, err);
    if (status != DEAL_OK) {
        deal_free(copy);
        return status;
    }
    memcpy(copy, layer, (size_t)n_layer * sizeof *layer);
    deal_free(kept->layer);
    *kept = (deal_kept_layers){copy, n_layer};
    return DEAL_OK;
}
