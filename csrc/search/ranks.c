/* Which candidates go on and which enter the pool, told from ranges of scores.
 *
 * Naive sorts the candidates by score and then token. Of those whose first token does
 * not end, the first n_live_max go on; of those whose token ends, the ones among the
 * first n_live_max of all are offered to the pool. What a candidate becomes is certain
 * once fewer than n_live_max others could come before it, or as many surely do; in what
 * order those that go on lie does not matter, since they are kept in that of their
 * tokens.
 */
#include <math.h>

#include "search/exact_internal.h"

// --- order ---------------------------------------------------------------------------

static bool
is_first_of_equals(const deal_search *search, int32_t i, int32_t j)
{
    const deal_candidate *a = &search->candidate[i], *b = &search->candidate[j];
    return a->token != b->token ? a->token < b->token : a->i_live < b->i_live;
}

// Whether i comes before j, whatever their scores turn out to be.
static bool
is_surely_before(const deal_search *search, int32_t i, int32_t j)
{
    const deal_outlook *a = &search->exact->outlook[i], *b = &search->exact->outlook[j];
    return a->low > b->high || (a->low == b->high && is_first_of_equals(search, i, j));
}

// The order changes little from one time to the next.
void
deal_ranks_sort(deal_search *search)
{
    deal_exact *x = search->exact;
    for (int32_t r = 1; r < search->n_candidate; r++) {
        int32_t i = x->order[r], at = r;
        for (; at > 0; at--) {
            int32_t j = x->order[at - 1];
            double high = x->outlook[i].high, other = x->outlook[j].high;
            if (high < other || (high == other && is_first_of_equals(search, j, i)))
                break;
            x->order[at] = j;
        }
        x->order[at] = i;
    }
}

// --- fates ---------------------------------------------------------------------------

// A score that n_live_max candidates that may go on surely reach. Those that cannot
// reach it are out.
static double
bar_of(deal_search *search)
{
    deal_exact *x = search->exact;
    int32_t n_room = search->n_live_max, n = 0;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        double low = x->outlook[i].low;
        if (search->candidate[i].is_final || (n == n_room && low <= x->lows[n - 1]))
            continue;
        int32_t at = n < n_room ? n++ : n - 1;
        for (; at > 0 && x->lows[at - 1] < low; at--)
            x->lows[at] = x->lows[at - 1];
        x->lows[at] = low;
    }
    return n == n_room ? x->lows[n - 1] : -INFINITY;
}

// Others than the first `n` in x->order cannot reach the bar.
static deal_fate
fate_of(const deal_search *search, int32_t i, int32_t n)
{
    const deal_exact *x = search->exact;
    bool is_final = search->candidate[i].is_final;
    int32_t n_sure = 0, n_maybe = 0;
    for (int32_t r = 0; r < n; r++) {
        int32_t j = x->order[r];
        if (j == i || (!is_final && search->candidate[j].is_final))
            continue;
        n_sure += is_surely_before(search, j, i);
        n_maybe += !is_surely_before(search, i, j);
    }
    if (n_maybe < search->n_live_max)
        return DEAL_FATE_IN;
    return n_sure >= search->n_live_max ? DEAL_FATE_OUT : DEAL_FATE_OPEN;
}

// Whether the pool could take a score of up to `high`.
static bool
is_poolable(const deal_search *search, double high)
{
    return search->n_pool < search->n_live_max ||
           high > search->pool[search->n_pool - 1].score;
}

static int32_t
find_fates(deal_search *search)
{
    deal_exact *x = search->exact;
    int32_t n = 0;
    x->bar = bar_of(search);
    while (n < search->n_candidate && !(x->outlook[x->order[n]].high < x->bar))
        n++;
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = x->order[r];
        bool is_spent = search->candidate[i].is_final &&
                        (x->has_pooled || !is_poolable(search, x->outlook[i].high));
        x->outlook[i].fate = r >= n || is_spent ? DEAL_FATE_OUT : fate_of(search, i, n);
    }
    return n;
}

static bool
has_open(const deal_search *search, bool is_final)
{
    for (int32_t i = 0; i < search->n_candidate; i++)
        if (search->exact->outlook[i].fate == DEAL_FATE_OPEN &&
            search->candidate[i].is_final == is_final)
            return true;
    return false;
}

// Offers the finished candidates that are in to the pool, in the order of their scores.
static deal_status
pool_finished(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    for (int32_t i = 0; i < search->n_candidate; i++)
        if (search->candidate[i].is_final && x->outlook[i].fate == DEAL_FATE_IN)
            DEAL_TRY(deal_outlook_score(search, i, err));
    deal_ranks_sort(search);
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = x->order[r];
        if (search->candidate[i].is_final && x->outlook[i].fate == DEAL_FATE_IN)
            DEAL_TRY(deal_beam_pool(search, i, err));
    }
    x->has_pooled = true;
    return DEAL_OK;
}

// Whether no candidate that would go on can enter the pool any more: it is over,
// whichever they are. With more tokens to commit their scores are others.
static bool
is_lost(const deal_search *search)
{
    if (search->request.params.commit > 1)
        return false;
    for (int32_t i = 0; i < search->n_candidate; i++)
        if (!search->candidate[i].is_final &&
            is_poolable(search, search->exact->outlook[i].high))
            return false;
    return true;
}

deal_status
deal_ranks_settle(deal_search *search, bool *is_decided, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_ranks_sort(search);
    find_fates(search);
    *is_decided = false;
    if (!x->has_pooled) {
        if (has_open(search, true))
            return DEAL_OK;
        DEAL_TRY(pool_finished(search, err));
    }
    search->n_winner = 0;
    *is_decided = is_lost(search);
    if (*is_decided || has_open(search, false))
        return DEAL_OK;
    for (int32_t i = 0; i < search->n_candidate; i++)
        if (!search->candidate[i].is_final && x->outlook[i].fate == DEAL_FATE_IN)
            search->winner[search->n_winner++] = i;
    *is_decided = true;
    return DEAL_OK;
}

// --- needs ---------------------------------------------------------------------------

// Marks what could come before or after an open candidate.
static void
need_around(deal_search *search, int32_t i)
{
    deal_exact *x = search->exact;
    bool is_final = search->candidate[i].is_final;
    for (int32_t j = 0; j < search->n_candidate; j++) {
        deal_outlook *other = &x->outlook[j];
        if (other->is_exact || (!is_final && search->candidate[j].is_final) ||
            other->high < x->bar)
            continue;
        if (j == i ||
            (!is_surely_before(search, i, j) && !is_surely_before(search, j, i)))
            other->is_needed = true;
    }
}

void
deal_ranks_need(deal_search *search)
{
    deal_exact *x = search->exact;
    bool is_final = !x->has_pooled && has_open(search, true), has_any = false;
    for (int32_t i = 0; i < search->n_candidate; i++)
        x->outlook[i].is_needed = false;
    for (int32_t i = 0; i < search->n_candidate && !is_final; i++) {
        deal_outlook *outlook = &x->outlook[i];
        outlook->is_needed = !search->candidate[i].is_final && !outlook->is_exact &&
                             outlook->fate == DEAL_FATE_OPEN;
        has_any = has_any || outlook->is_needed;
    }
    for (int32_t i = 0; i < search->n_candidate && !has_any; i++)
        if (x->outlook[i].fate == DEAL_FATE_OPEN &&
            search->candidate[i].is_final == is_final)
            need_around(search, i);
}

void
deal_ranks_lead(deal_search *search)
{
    deal_exact *x = search->exact;
    int32_t n_front = search->n_live_max, n_leader = 0;
    int32_t len = deal_search_rollout_len(search);
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = x->order[r];
        const deal_outlook *outlook = &x->outlook[i];
        if (!outlook->is_needed || outlook->is_complete)
            continue;
        if (outlook->high == INFINITY) // nothing bars the way of this one
            return;
        n_leader += r < n_front && len - deal_exact_n_rolled(search, i) <= 2;
    }
    for (int32_t r = 0; r < search->n_candidate && n_leader > 0; r++) {
        deal_outlook *outlook = &x->outlook[x->order[r]];
        if (r < n_front && len - deal_exact_n_rolled(search, x->order[r]) <= 2)
            continue;
        outlook->is_needed = false;
    }
}
