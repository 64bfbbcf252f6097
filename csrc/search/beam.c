/* Beam search as transformers has it (generation/utils.py, `_beam_search`, with
 * early_stopping=False and do_sample=False), and what DeAL shares with it.
 *
 * A decision ranks the best tokens of all live hypotheses. Those of the first beam_size
 * that end enter the pool, which keeps the beam_size best; the first beam_size that do
 * not end go on. It is over when the pool is full and no live hypothesis scores above
 * its worst, or at the most tokens, where every candidate ends.
 */
#include <math.h>
#include <string.h>

#include "search/search_internal.h"

deal_status
deal_beam_expand(deal_search *search, deal_reward_set *rewards, deal_error *err)
{
    int32_t k = search->n_expand, n = 0;
    for (int32_t i = 0; i < search->n_live; i++) {
        const deal_hypothesis *live = &search->live[i];
        size_t i_row = (size_t)search->i_row[i];
        double log_z = (double)search->log_z[i_row];
        for (int32_t j = 0; j < k; j++, n++) {
            size_t i_top = i_row * (size_t)k + (size_t)j;
            int32_t token = search->top_token[i_top];
            if (search->masks && search->top_logit[i_top] == -INFINITY)
                break; // so are all that follow: forbidden
            deal_hypothesis *slot = &search->slot[n];
            DEAL_TRY(deal_hypothesis_copy(slot, live, rewards, err));
            DEAL_TRY(deal_hypothesis_push(slot, token, &search->ending, rewards, err));
            slot->logprob += (double)search->top_logit[i_top] - log_z;
            search->candidate[n] = (deal_candidate){
                .i_live = i,
                .token = token,
                .logprob = slot->logprob,
                .is_final = slot->finish != DEAL_FINISH_NONE,
                .i_next = -1,
            };
        }
    }
    search->n_candidate = n;
    return DEAL_OK;
}

static bool
is_before(const deal_search *search, int32_t i, int32_t j)
{
    const deal_candidate *a = &search->candidate[i], *b = &search->candidate[j];
    if (a->score != b->score)
        return a->score > b->score;
    return a->token != b->token ? a->token < b->token : a->i_live < b->i_live;
}

void
deal_beam_range(const deal_search *search, int32_t i_live, int32_t *first, int32_t *n)
{
    int32_t i = 0, end;
    while (i < search->n_candidate && search->candidate[i].i_live < i_live)
        i++;
    for (end = i; end < search->n_candidate; end++)
        if (search->candidate[end].i_live != i_live)
            break;
    *first = i;
    *n = end - i;
}

// Heap with the last in rank on top.
static void
sift_down(const deal_search *search, int32_t *heap, int32_t n, int32_t i)
{
    int32_t moved = heap[i];
    while (i < n / 2) {
        int32_t child = 2 * i + 1;
        if (child + 1 < n && is_before(search, heap[child], heap[child + 1]))
            child++;
        if (!is_before(search, moved, heap[child]))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

void
deal_beam_rank(deal_search *search)
{
    int32_t *rank = search->rank, n = search->n_candidate;
    for (int32_t i = 0; i < n; i++)
        rank[i] = i;
    for (int32_t i = n / 2; i-- > 0;)
        sift_down(search, rank, n, i);
    for (int32_t last = n - 1; last > 0; last--) {
        int32_t swapped = rank[0];
        rank[0] = rank[last];
        rank[last] = swapped;
        sift_down(search, rank, last, 0);
    }
}

deal_status
deal_beam_pool(deal_search *search, int32_t i_candidate, deal_error *err)
{
    const deal_hypothesis *slot = &search->slot[i_candidate];
    deal_hypothesis *pool = search->pool;
    int32_t i = search->n_pool;
    if (i == search->n_live_max && !(slot->score > pool[i - 1].score))
        return DEAL_OK;
    if (i == search->n_live_max)
        i--;
    deal_hypothesis added = pool[i]; // its buffers serve again
    deal_status status = deal_hypothesis_copy(&added, slot, NULL, err);
    pool[i] = added;
    DEAL_TRY(status);
    if (search->request.params.mode == DEAL_SEARCH_BEAM)
        deal_observe_hold(search, &added,
                          search->live[search->candidate[i_candidate].i_live].node);
    if (slot->reward)
        memcpy(added.reward, slot->reward,
               (size_t)search->rewards.n_reward * sizeof *added.reward);
    for (; i > 0 && pool[i - 1].score < added.score; i--)
        pool[i] = pool[i - 1];
    pool[i] = added;
    if (search->n_pool < search->n_live_max)
        search->n_pool++;
    search->candidate[i_candidate].is_pooled = true;
    return DEAL_OK;
}

deal_status
deal_beam_select(deal_search *search, deal_error *err)
{
    search->n_winner = 0;
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = search->rank[r];
        if (!search->candidate[i].is_final) {
            if (search->n_winner < search->n_live_max)
                search->winner[search->n_winner++] = i;
        } else if (r < search->n_live_max) {
            DEAL_TRY(deal_beam_pool(search, i, err));
        }
    }
    for (int32_t w = 1; w < search->n_winner; w++) {
        int32_t i = search->winner[w], at = w;
        for (; at > 0 && search->winner[at - 1] > i; at--)
            search->winner[at] = search->winner[at - 1];
        search->winner[at] = i;
    }
    return DEAL_OK;
}

bool
deal_beam_is_done(const deal_search *search, const deal_hypothesis *next,
                  int32_t n_next)
{
    if (n_next == 0)
        return true;
    if (search->n_pool < search->n_live_max)
        return false;
    for (int32_t i = 0; i < n_next; i++)
        if (next[i].score > search->pool[search->n_pool - 1].score)
            return false;
    return true;
}

// logprob / n_token^length_penalty, without the NaN of 0 / 0.
static double
length_score(const deal_search *search, const deal_hypothesis *hypothesis)
{
    if (hypothesis->logprob == 0.0)
        return 0.0;
    return hypothesis->logprob /
           pow(hypothesis->n_token, search->request.params.length_penalty);
}

deal_status
deal_beam_step(deal_search *search, bool *is_done, deal_error *err)
{
    const deal_lm_ops *ops = search->request.lm->ops;
    DEAL_TRY(deal_search_evaluate(search, DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
                                  search->n_expand, err));
    DEAL_TRY(deal_beam_expand(search, NULL, err));
    for (int32_t i = 0; i < search->n_candidate; i++) {
        search->candidate[i].score = search->slot[i].logprob;
        search->slot[i].score = length_score(search, &search->slot[i]);
    }
    deal_beam_rank(search);
    DEAL_TRY(deal_beam_select(search, err));
    for (int32_t i = 0; i < search->n_winner; i++) {
        int32_t i_candidate = search->winner[i];
        deal_node node = search->live[search->candidate[i_candidate].i_live].node;
        DEAL_TRY(deal_hypothesis_copy(&search->next[i], &search->slot[i_candidate],
                                      NULL, err));
        ops->retain(search->request.lm, node);
        search->next[i].node = node;
    }
    *is_done = deal_beam_is_done(search, search->next, search->n_winner);
    deal_search_swap(search, search->n_winner);
    return DEAL_OK;
}
