/* DeAL as the paper writes it (Huang et al., arXiv:2402.06147, action selection):
 *
 *     c(y_t) = log P(y_1:t | prompt) + reward_weight * h(y_1:t+l, prompt)
 *
 * Every candidate is rolled out greedily for l tokens, all in lockstep, one batch for
 * each position. Nothing is pruned and no rollout outlives its decision: this is the
 * reference that a faster search is checked against.
 *
 * With commit = s a winner also takes the first s - 1 tokens of its rollout, and their
 * log-probs. Without rewards rollouts go no further than that.
 *
 * With a second model, rollout_lm, the rollouts are that one's (figure 1 there), and
 * everything else stays as it is: candidates and log-probs, also of the tokens that a
 * winner takes along, are of `lm`.
 */
#include <math.h>

#include "search/search_internal.h"

// Where the rollouts of a candidate's hypothesis begin.
static deal_node
base_of(const deal_search *search, int32_t i_candidate)
{
    const deal_hypothesis *live = &search->live[search->candidate[i_candidate].i_live];
    return search->request.rollout_lm ? live->roll : live->node;
}

// --- rollouts ------------------------------------------------------------------------

// One item for each slot that goes on; their number.
static deal_status
make_items(deal_search *search, int32_t *n_items, deal_error *err)
{
    int32_t n = 0;
    DEAL_TRY(deal_search_reserve_items(search, (size_t)search->n_candidate, err));
    for (int32_t i = 0; i < search->n_candidate; i++) {
        const deal_hypothesis *slot = &search->slot[i];
        if (slot->finish != DEAL_FINISH_NONE)
            continue;
        search->item[n] = (deal_lm_item){
            .parent = slot->roll == DEAL_NODE_NONE ? base_of(search, i) : slot->roll,
            .i_parent = -1,
            .token = slot->token[slot->n_token - 1],
            .want = DEAL_WANT_TOP_K | DEAL_WANT_IDS,
            .top_k = 1,
            .top_token = &search->roll_token[n],
            .top_logit = &search->roll_logit[n],
        };
        n++;
    }
    *n_items = n;
    return DEAL_OK;
}

static deal_status
roll_one_token(deal_search *search, int32_t n_items, deal_error *err)
{
    deal_lm *lm = search->roll_lm;
    DEAL_TRY(deal_search_extend_rollouts(search, n_items, err));
    int32_t n = 0;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        deal_hypothesis *slot = &search->slot[i];
        if (slot->finish != DEAL_FINISH_NONE)
            continue;
        lm->ops->release(lm, slot->roll);
        slot->roll = search->item[n++].node;
    }
    n = 0;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        deal_hypothesis *slot = &search->slot[i];
        if (slot->finish != DEAL_FINISH_NONE)
            continue;
        search->stats.n_rollouts += slot->n_token == deal_commit_n_base(search, i) + 1;
        search->stats.n_rollout_tokens++;
        DEAL_TRY(deal_hypothesis_push(slot, search->roll_token[n++], &search->ending,
                                      &search->rewards, err));
    }
    return DEAL_OK;
}

static deal_status
roll_out(deal_search *search, deal_error *err)
{
    bool is_any = false;
    for (int32_t i = 0; i < search->n_candidate; i++)
        is_any = is_any || search->slot[i].finish == DEAL_FINISH_NONE;
    if (search->request.rollout_lm && is_any && deal_search_rollout_len(search) > 0)
        DEAL_TRY(deal_search_catch_up(search, err));
    for (int32_t i = deal_search_rollout_len(search); i > 0; i--) {
        int32_t n_items;
        DEAL_TRY(make_items(search, &n_items, err));
        if (n_items == 0)
            break;
        DEAL_TRY(roll_one_token(search, n_items, err));
    }
    return DEAL_OK;
}

// --- scores --------------------------------------------------------------------------

// Tells the rewards the states of all rollouts. Their last nodes are now in the trie,
// and stay there until the next hypotheses are made.
static deal_status
observe(deal_search *search, deal_error *err)
{
    deal_lm *lm = search->request.lm;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        const deal_hypothesis *live = &search->live[search->candidate[i].i_live];
        DEAL_TRY(
            deal_observe_add(search, &search->slot[i], live->node, live->n_token, err));
    }
    DEAL_TRY(deal_observe_run(search, err));
    for (int32_t i = 0; i < search->n_candidate; i++) {
        deal_hypothesis *slot = &search->slot[i];
        if (slot->tip == DEAL_NODE_NONE)
            continue;
        lm->ops->release(lm, slot->node);
        slot->node = slot->tip;
        slot->tip = DEAL_NODE_NONE;
    }
    return DEAL_OK;
}

static deal_status
score_candidates(deal_search *search, deal_error *err)
{
    size_t n = (size_t)search->n_candidate;
    if (deal_skip_is_blind(search))
        return DEAL_OK;
    if (search->rewards.n_reward > 0) {
        DEAL_TRY(observe(search, err));
        DEAL_TRY(deal_search_reserve_cases(search, n, err));
        for (size_t i = 0; i < n; i++)
            DEAL_TRY(deal_hypothesis_case(&search->slot[i], &search->rewards,
                                          &search->cases[i], err));
        DEAL_TRY(deal_reward_set_score(&search->rewards, search->cases, n, err));
    }
    double weight = search->request.params.reward_weight;
    for (size_t i = 0; i < n; i++) {
        deal_hypothesis *slot = &search->slot[i];
        if (!isfinite(weight * slot->h))
            return deal_fail(
                err, DEAL_ERR_REWARD,
                "reward_weight: %g times the rewards' sum %g is not finite", weight,
                slot->h);
        slot->score = slot->logprob + weight * slot->h;
        search->candidate[i].score = slot->score;
    }
    return DEAL_OK;
}

// --- commit --------------------------------------------------------------------------

// With a second model: what it has evaluated of the tokens that go on stays in its
// trie.
static void
keep_rollout(deal_search *search, deal_hypothesis *next, int32_t i_candidate)
{
    deal_lm *lm = search->request.rollout_lm;
    const deal_hypothesis *live = &search->live[search->candidate[i_candidate].i_live];
    if (!lm)
        return;
    next->roll = live->roll;
    next->n_behind = live->n_behind;
    for (int32_t j = live->n_token; j < next->n_token; j++) {
        deal_node child = DEAL_NODE_NONE;
        if (next->roll != DEAL_NODE_NONE && next->n_behind == 0)
            child = lm->ops->child(lm, next->roll, next->token[j]);
        if (child != DEAL_NODE_NONE)
            next->roll = child;
        else
            next->n_behind++;
    }
    if (next->roll != DEAL_NODE_NONE)
        lm->ops->retain(lm, next->roll);
}

// The live hypothesis that winner `i_candidate` becomes. Its node, and its last one
// where the rollout has evaluated it, stay in the trie.
static deal_status
make_next(deal_search *search, deal_hypothesis *next, int32_t i_candidate,
          deal_error *err)
{
    deal_hypothesis *slot = &search->slot[i_candidate];
    int32_t first = deal_commit_n_base(search, i_candidate);
    int32_t n = deal_commit_n(search, i_candidate);
    DEAL_TRY(deal_hypothesis_copy(next,
                                  &search->live[search->candidate[i_candidate].i_live],
                                  &search->rewards, err));
    for (int32_t j = first; j < first + n; j++)
        DEAL_TRY(deal_hypothesis_push(next, slot->token[j], &search->ending,
                                      &search->rewards, err));
    next->logprob = slot->logprob;
    next->h = slot->h;
    next->score = slot->score;
    deal_commit_move(search, next, i_candidate);
    keep_rollout(search, next, i_candidate);
    return DEAL_OK;
}

static deal_status
commit(deal_search *search, deal_error *err)
{
    DEAL_TRY(deal_commit_logprobs(search, err));
    int32_t n_next = 0;
    for (int32_t w = 0; w < search->n_winner; w++) {
        int32_t i = search->winner[w];
        const deal_hypothesis *slot = &search->slot[i];
        bool is_whole =
            slot->n_token - deal_commit_n_base(search, i) == deal_commit_n(search, i);
        if (slot->finish != DEAL_FINISH_NONE && is_whole) {
            DEAL_TRY(deal_beam_pool(search, i, err));
        } else {
            search->candidate[i].i_next = n_next;
            DEAL_TRY(make_next(search, &search->next[n_next++], i, err));
        }
    }
    for (int32_t i = 0; i < search->n_candidate; i++)
        deal_search_release(search, &search->slot[i]);
    return DEAL_OK;
}

// --- the decision --------------------------------------------------------------------

// `live` is still that before the decision.
static deal_status
record(deal_search *search, bool is_last, deal_error *err)
{
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = search->rank[r];
        deal_hypothesis *slot = &search->slot[i];
        deal_reward_case unused;
        if (deal_skip_is_blind(search) && search->rewards.n_reward > 0)
            DEAL_TRY(deal_hypothesis_case(slot, &search->rewards, &unused, err));
        const double score = search->candidate[i].score;
        DEAL_TRY(deal_search_record(
            search, i, is_last, &(deal_row_scores){slot->h, score, score, score}, err));
    }
    return DEAL_OK;
}

deal_status
deal_naive_step(deal_search *search, bool *is_done, deal_error *err)
{
    DEAL_TRY(deal_search_evaluate(search, DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
                                  search->n_expand, err));
    DEAL_TRY(deal_observe_all(search, search->live, search->n_live, err));
    DEAL_TRY(deal_beam_expand(search, &search->rewards, err));
    deal_skip_check(search);
    DEAL_TRY(roll_out(search, err));
    DEAL_TRY(score_candidates(search, err));
    deal_beam_rank(search);
    DEAL_TRY(deal_beam_select(search, err));
    DEAL_TRY(commit(search, err));
    int32_t n_next = 0;
    for (int32_t i = 0; i < search->n_candidate; i++)
        n_next += search->candidate[i].i_next >= 0;
    bool is_last = deal_beam_is_done(search, search->next, n_next);
    DEAL_TRY(record(search, is_last, err));
    deal_search_swap(search, n_next);
    *is_done = is_last;
    return DEAL_OK;
}
