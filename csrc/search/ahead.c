/* Rows that nobody has asked for yet.
 *
 * The candidate that a model finds likeliest wins most decisions, and its rollout is
 * known: the path on which the coming decisions will probably lie. A pass that is made
 * anyway has room for a row at the end of that path; for rollouts of this decision that
 * stand back behind a leader; and for rollouts that branch off later, which all will be
 * asked for where no reward has a bound and hardly any where there is a bar to clear. A
 * row is put in where the chance that it is needed, from the rate of such wins and from
 * what came of earlier rows ahead, pays for it by the measured costs.
 */
#include <math.h>

#include "search/exact_internal.h"

#define N_ROW_MAX 64 // of a batch with such rows

// Why a row is put in, and the chance that it is needed.
typedef struct bet {
    deal_ahead ahead;
    double chance;
} bet;

static deal_status
add_row(deal_search *search, int32_t at, int32_t token, bet on, deal_error *err)
{
    deal_row row = {.at = at,
                    .i_parent = -1,
                    .token = token,
                    .n_top = 1,
                    .ahead = on.ahead,
                    .chance = (float)on.chance};
    int32_t i_row;
    return deal_rows_add(search, &row, &i_row, err);
}

// The next row of the rollout that begins with `token` below entry `at`, if it has one.
static deal_status
add_branch(deal_search *search, int32_t at, int32_t token, int32_t n_left, bet on,
           deal_error *err)
{
    const deal_known *known = &search->exact->known;
    n_left += search->observer.is_on; // the last token is evaluated too
    for (; n_left > 0 && !deal_exact_is_end(search, token); n_left--) {
        int32_t child = deal_known_child(known, at, token);
        if (child == DEAL_KNOWN_NONE)
            return add_row(search, at, token, on, err);
        at = child;
        token = deal_known_best(known, child);
    }
    return DEAL_OK;
}

// Rollouts that branch off at entry `at` of the path of live hypothesis i, from the
// likeliest on.
static deal_status
add_branches(deal_search *search, int32_t i, int32_t at, int32_t n_left, bet on,
             deal_error *err)
{
    deal_exact *x = search->exact;
    double slack = x->slack[i];
    int32_t i_first, n_now;
    deal_beam_range(search, i, &i_first, &n_now);
    size_t first = (size_t)at * (size_t)search->n_expand;
    for (int32_t j = 1; j < x->known.entry[at].n_top; j++) {
        const float *logit = x->known.top_logit + first;
        if (x->n_row >= N_ROW_MAX || !((double)logit[0] - (double)logit[j] < slack))
            break;
        bool is_settled = on.ahead == DEAL_AHEAD_NOW &&
                          (j >= n_now || x->outlook[i_first + j].is_exact);
        if (!is_settled)
            DEAL_TRY(add_branch(search, at, x->known.top_token[first + (size_t)j],
                                n_left, on, err));
    }
    return DEAL_OK;
}

// How far a candidate of live hypothesis i may lie below its likeliest one, to matter.
static double
slack_of(const deal_search *search, int32_t i)
{
    const deal_exact *x = search->exact;
    int32_t first, n;
    deal_beam_range(search, i, &first, &n);
    double reach = -INFINITY;
    for (int32_t j = first; j < first + n; j++) {
        double gain = x->outlook[j].reach - search->candidate[j].logprob;
        reach = gain > reach ? gain : reach;
    }
    return search->candidate[first].logprob + reach - x->bar;
}

// Whether a row pays in a batch of `n_row`.
static bool
is_worth(const deal_search *search, bet on, int32_t n_row)
{
    const deal_exact *x = search->exact;
    return on.chance * deal_known_luck(&x->known, on.ahead) >
           deal_cost_chance(&x->cost, n_row);
}

// One step along every path: what branches off there, or the row at its end.
static deal_status
look(deal_search *search, int32_t i, int32_t depth, double chance, deal_error *err)
{
    deal_exact *x = search->exact;
    int32_t at = x->path[i], n = search->live[i].n_token + depth;
    x->path[i] = DEAL_KNOWN_NONE;
    if (at == DEAL_KNOWN_NONE || n >= search->ending.n_new_max)
        return DEAL_OK;
    int32_t best = deal_known_best(&x->known, at),
            len = deal_search_rollout_len(search);
    if (!deal_exact_is_end(search, best))
        x->path[i] = deal_known_child(&x->known, at, best);
    bool is_tip = x->path[i] == DEAL_KNOWN_NONE && !deal_exact_is_end(search, best);
    if (is_tip) {
        bet tip = {DEAL_AHEAD_TIP, pow(x->win_rate, depth > len ? depth - len : 1)};
        if (is_worth(search, tip, x->n_lane))
            DEAL_TRY(add_row(search, at, best, tip, err));
    }
    int32_t n_room = search->ending.n_new_max - n - 1;
    bet on = {depth == 0 ? DEAL_AHEAD_NOW : DEAL_AHEAD_LATER, chance};
    bool has_bar = depth > 0 && x->slack[i] < INFINITY;
    if (!has_bar && is_worth(search, on, x->n_row + 1))
        DEAL_TRY(add_branches(search, i, at, len < n_room ? len : n_room, on, err));
    return DEAL_OK;
}

deal_status
deal_ahead_fill(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    const uint32_t wanted = DEAL_TRICK_REUSE | DEAL_TRICK_SPECULATION;
    int64_t n_held_max = (int64_t)N_ROW_MAX * deal_search_rollout_len(search);
    if ((search->request.params.tricks & wanted) != wanted || x->n_row == 0 ||
        x->is_tight || x->known.n_live > n_held_max)
        return DEAL_OK;
    x->n_lane = x->n_row; // what a pass has without these rows
    for (int32_t i = 0; i < search->n_live; i++) {
        x->path[i] = x->at[i];
        x->slack[i] = slack_of(search, i);
    }
    double chance = 1.0;
    int32_t n_before = x->n_row;
    for (int32_t depth = 0; x->n_row < N_ROW_MAX; depth++) {
        bool is_over = true;
        for (int32_t i = 0; i < search->n_live; i++) {
            DEAL_TRY(look(search, i, depth, chance, err));
            is_over = is_over && x->path[i] == DEAL_KNOWN_NONE;
        }
        if (is_over)
            break;
        chance *= x->win_rate;
    }
    search->stats.n_ahead_tokens += x->n_row - n_before;
    return DEAL_OK;
}
