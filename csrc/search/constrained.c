/* A search under a constraint: the models that it sees lie behind the masks. */
#include "search/masked_lm.h"
#include "search/search_internal.h"

deal_status
deal_search_constrain(deal_search *search, deal_error *err)
{
    deal_search_request *request = &search->request;
    if (!request->constraint)
        return DEAL_OK;
    DEAL_TRY(deal_masks_new(request->constraint, request->lm->n_vocab,
                            request->end_token, request->n_end, &search->masks, err));
    DEAL_TRY(deal_masked_lm_new(request->lm, search->masks, request->n_prompt,
                                &search->masked_lm, err));
    request->lm = search->masked_lm;
    if (!request->rollout_lm)
        return DEAL_OK;
    DEAL_TRY(deal_masked_lm_new(request->rollout_lm, search->masks, request->n_prompt,
                                &search->masked_rollout_lm, err));
    request->rollout_lm = search->masked_rollout_lm;
    return DEAL_OK;
}

void
deal_search_unconstrain(deal_search *search)
{
    deal_masked_lm_free(search->masked_lm);
    deal_masked_lm_free(search->masked_rollout_lm);
    deal_masks_free(search->masks);
}

deal_status
deal_search_check_end(deal_search *search, deal_hypothesis *result, deal_error *err)
{
    bool is_accepting;
    if (result->finish != DEAL_FINISH_END)
        return DEAL_OK;
    DEAL_TRY(deal_masks_accept(search->masks, result->token, result->n_token - 1,
                               &is_accepting, err));
    if (!is_accepting)
        result->finish = DEAL_FINISH_DEAD_END;
    return DEAL_OK;
}
