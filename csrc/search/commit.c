/* What the winners of a DeAL decision take: the candidate, and with commit = s the
 * first s - 1 tokens of its rollout. Whichever model has rolled out, the log-probs of
 * those tokens are the search's own model's, which evaluates them where it has not yet.
 */
#include "search/search_internal.h"

int32_t
deal_commit_n_base(const deal_search *search, int32_t i_candidate)
{
    return search->live[search->candidate[i_candidate].i_live].n_token;
}

int32_t
deal_commit_n(const deal_search *search, int32_t i_candidate)
{
    int32_t n =
        search->slot[i_candidate].n_token - deal_commit_n_base(search, i_candidate);
    int32_t commit = search->request.params.commit;
    return n < commit ? n : commit;
}

// A chain of nodes for the committed tokens of every winner but their last. With one
// model all are in the trie, and this asks for log-probs without a forward pass.
static deal_status
make_chains(deal_search *search, int32_t *n_items, deal_error *err)
{
    size_t n_max = 0;
    for (int32_t w = 0; w < search->n_winner; w++)
        n_max += (size_t)deal_commit_n(search, search->winner[w]);
    DEAL_TRY(deal_search_reserve_items(search, n_max, err));
    int32_t n = 0;
    for (int32_t w = 0; w < search->n_winner; w++) {
        int32_t i = search->winner[w];
        const int32_t *token = search->slot[i].token + deal_commit_n_base(search, i);
        for (int32_t j = 0; j + 1 < deal_commit_n(search, i); j++, n++)
            search->item[n] = (deal_lm_item){
                .parent = search->live[search->candidate[i].i_live].node,
                .i_parent = j == 0 ? -1 : n - 1,
                .token = token[j],
                .want = DEAL_WANT_TARGET | DEAL_WANT_LOG_Z,
                .target = token[j + 1],
            };
    }
    *n_items = n;
    return DEAL_OK;
}

deal_status
deal_commit_logprobs(deal_search *search, deal_error *err)
{
    deal_lm *lm = search->request.lm;
    int32_t n_items, n = 0;
    DEAL_TRY(make_chains(search, &n_items, err));
    if (n_items > 0)
        DEAL_TRY(deal_search_extend(search, n_items, err));
    for (int32_t w = 0; w < search->n_winner; w++) {
        int32_t i = search->winner[w];
        deal_hypothesis *slot = &search->slot[i];
        deal_node node = search->live[search->candidate[i].i_live].node;
        lm->ops->retain(lm, node);
        for (int32_t j = 0; j + 1 < deal_commit_n(search, i); j++, n++) {
            const deal_lm_item *item = &search->item[n];
            lm->ops->release(lm, node);
            node = item->node;
            slot->logprob += (double)item->target_logit - (double)item->log_z;
        }
        slot->tip = node;
        slot->score = slot->logprob + search->request.params.reward_weight * slot->h;
    }
    return DEAL_OK;
}

void
deal_commit_move(deal_search *search, deal_hypothesis *next, int32_t i_candidate)
{
    deal_lm *lm = search->request.lm;
    deal_hypothesis *slot = &search->slot[i_candidate];
    next->node = slot->tip;
    slot->tip = DEAL_NODE_NONE;
    next->tip = lm->ops->child(lm, next->node, next->token[next->n_token - 1]);
    if (next->tip != DEAL_NODE_NONE)
        lm->ops->retain(lm, next->tip);
}
