#include "search/branches.h"

#include "common/alloc.h"
#include "common/clock.h"

static deal_status
extend_prefix(deal_lm *lm, const int32_t *prefix, int32_t n_prefix, deal_node *last,
              deal_error *err)
{
    deal_node root;
    deal_lm_item *item = deal_alloc_zero((size_t)n_prefix, sizeof *item);
    if (!item)
        return deal_fail_memory(err, "items of the prefix");
    deal_status status = lm->ops->root(lm, &root, err);
    if (status == DEAL_OK) {
        for (int32_t i = 0; i < n_prefix; i++)
            item[i] =
                (deal_lm_item){.parent = root, .i_parent = i - 1, .token = prefix[i]};
        status = lm->ops->extend(lm, item, n_prefix, err);
        lm->ops->release(lm, root);
    }
    for (int32_t i = 0; status == DEAL_OK && i + 1 < n_prefix; i++)
        lm->ops->release(lm, item[i].node);
    if (status == DEAL_OK)
        *last = item[n_prefix - 1].node;
    deal_free(item);
    return status;
}

deal_status
deal_branches_run(deal_lm *lm, const int32_t *prefix, int32_t n_prefix,
                  const int32_t *first, int32_t n_branch, int32_t n_step,
                  int32_t *token, deal_branches_times *times, deal_error *err)
{
    deal_status status;
    deal_node last = DEAL_NODE_NONE;
    size_t n = (size_t)n_branch;
    double start = deal_clock_seconds();
    DEAL_TRY(extend_prefix(lm, prefix, n_prefix, &last, err));
    double begun = deal_clock_seconds();
    deal_lm_item *item = deal_alloc_zero(n, sizeof *item);
    float *logit = deal_alloc(n, sizeof *logit);
    deal_node *node = deal_alloc(n, sizeof *node);
    if (!item || !logit || !node) {
        status = deal_fail_memory(err, "branches");
        goto done;
    }
    for (size_t b = 0; b < n; b++) {
        node[b] = last;
        lm->ops->retain(lm, last);
    }
    status = DEAL_OK;
    for (int32_t i = 0; status == DEAL_OK && i < n_step; i++) {
        for (size_t b = 0; b < n; b++) {
            int32_t *to = &token[b * (size_t)n_step + (size_t)i];
            item[b] = (deal_lm_item){.parent = node[b],
                                     .i_parent = -1,
                                     .token = i == 0 ? first[b] : to[-1],
                                     .want = DEAL_WANT_TOP_K,
                                     .top_k = 1,
                                     .top_token = to,
                                     .top_logit = &logit[b]};
        }
        status = lm->ops->extend(lm, item, n_branch, err);
        for (size_t b = 0; status == DEAL_OK && b < n; b++) {
            lm->ops->release(lm, node[b]);
            node[b] = item[b].node;
        }
    }
    for (size_t b = 0; b < n; b++)
        lm->ops->release(lm, node[b]);
    *times = (deal_branches_times){begun - start, deal_clock_seconds() - begun};
done:
    lm->ops->release(lm, last);
    deal_free(item);
    deal_free(logit);
    deal_free(node);
    return status;
}
