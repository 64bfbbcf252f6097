/* What the files of the exact search share: exact.c, outlook.c and rows.c.
 *
 * A candidate's slot holds its rollout as far as it is known; its outlook, the range
 * that its score can still take. A decision widens what is known, row by row, until the
 * ranges leave one outcome: the one that mode naive comes to.
 */
#ifndef DEAL_SEARCH_EXACT_INTERNAL_H
#define DEAL_SEARCH_EXACT_INTERNAL_H

#include "search/known.h"
#include "search/search_internal.h"

typedef struct deal_outlook {
    double low, high;                 // of the score; no score is outside
    double h_low, h_high;             // of the weighted sum of rewards
    double *reward_low, *reward_high; // (n_reward,)
    bool *is_scored;                  // (n_reward,) both ends are the score
    bool is_complete;                 // the rollout is at its end
    bool is_exact;                    // low == high
    bool is_needed;                   // the decision hangs on it
    bool has_rows;                    // rows were evaluated for it
    int32_t cursor;                   // entry of all the slot's tokens but the last one
} deal_outlook;

// One row of a batch: a token to evaluate, below an entry or below an earlier row.
typedef struct deal_row {
    int32_t at;       // entry, or DEAL_KNOWN_NONE where i_parent >= 0
    int32_t i_parent; // row, or -1: it is kept only where `token` is its arg-max
    int32_t token;
    int32_t n_top;
    int32_t entry; // out; DEAL_KNOWN_NONE where it was not kept
    bool is_ahead;
} deal_row;

struct deal_exact {
    deal_known known;
    int32_t *at;    // (n_live_max,) entry of a live hypothesis: of all its tokens,
    bool *has_last; // (n_live_max,) or of all but the last
    int32_t *next_at;
    bool *next_has_last;
    int32_t *next_candidate;      // (n_live_max,) that `next` comes from
    double *next_low, *next_high; // (n_live_max,) ranges of their scores
    int32_t n_next;
    deal_outlook *outlook; // (n_candidate,)
    double *ends;          // (n_slot, 2, n_reward)
    bool *flags;           // (n_slot, n_reward)
    double *lows;          // (n_live_max,) see need() in exact.c
    int32_t *order;        // (n_candidate,) those of certain rank first
    int32_t n_taken;       // of certain rank
    int32_t *asked;        // (n_slot,) candidates of one call of a reward
    double *cost;          // (n_reward,) seconds that a text takes
    bool is_whole;         // nothing is pruned: every score is asked for
    deal_row *row;         // (row_cap,)
    int32_t *row_token;    // (row_cap, n_expand)
    float *row_logit;      // (row_cap, n_expand)
    size_t row_cap;
    int32_t n_row;
};

// --- outlook.c -----------------------------------------------------------------------

// Tokens that a rollout can have.
int32_t deal_exact_rollout_len(const deal_search *search);

// Tokens that candidate i has been rolled out for so far.
int32_t deal_exact_n_rolled(const deal_search *search, int32_t i);

// What candidate i can score, from its slot.
deal_status deal_outlook_update(deal_search *search, int32_t i, deal_error *err);

// Asks a reward on texts, the cheapest first, about the complete candidates that are
// needed; `is_asked` tells whether there was any to ask about.
deal_status deal_outlook_ask(deal_search *search, bool *is_asked, deal_error *err);

// Leaves in slot[i] all scores of a complete candidate.
deal_status deal_outlook_score(deal_search *search, int32_t i, deal_error *err);

// --- rows.c --------------------------------------------------------------------------

// Adds a row, unless it is known or in the batch; its index there, or -1.
deal_status deal_rows_add(deal_search *search, const deal_row *row, int32_t *i_row,
                          deal_error *err);

// Evaluates the rows in one pass and takes up what they tell.
deal_status deal_rows_run(deal_search *search, deal_error *err);

// Lengthens the rollout of candidate i by what is known, and updates its outlook.
deal_status deal_rows_follow(deal_search *search, int32_t i, deal_error *err);

// One pass for the needed candidates whose rollouts are not complete.
deal_status deal_rows_roll(deal_search *search, deal_error *err);

#endif
