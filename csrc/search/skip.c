/* Decisions that take the top candidate without rollouts, for its probability.
 *
 * There is one beam, so that the pool is empty while the search goes on: a candidate
 * that does not end needs no score, as nothing is compared with it. One that ends is
 * the result, and is scored as ever.
 */
#include <math.h>

#include "search/search_internal.h"

void
deal_skip_check(deal_search *search)
{
    double least = search->request.params.skip_above;
    int32_t i_row = search->i_row[0];
    search->is_skipped = false;
    if (least <= 0.0)
        return;
    size_t i_top = (size_t)i_row * (size_t)search->n_expand;
    double logprob = (double)search->top_logit[i_top] - (double)search->log_z[i_row];
    if (!(exp(logprob) >= least))
        return;
    search->is_skipped = true;
    search->n_candidate = 1;
    search->stats.n_skipped++;
}

bool
deal_skip_is_blind(const deal_search *search)
{
    return search->is_skipped && !search->candidate[0].is_final;
}

void
deal_skip_mark(const deal_search *search, deal_trace_row *row, double *reward)
{
    row->is_skipped = search->is_skipped;
    if (!deal_skip_is_blind(search))
        return;
    row->h = row->score = NAN;
    row->low = -INFINITY;
    row->high = INFINITY;
    for (int32_t i = 0; i < search->rewards.n_reward; i++)
        reward[i] = NAN;
}
