/* What the files of the exact search share: exact.c, ranks.c,
 * outlook.c, rows.c and ahead.c.
 *
 * A candidate's slot holds its rollout as far as it is known; its outlook, the range
 * that its score can still take. A decision widens what is known, row by row, until the
 * ranges leave one outcome: the one that mode naive comes to.
 */
#ifndef DEAL_SEARCH_EXACT_INTERNAL_H
#define DEAL_SEARCH_EXACT_INTERNAL_H

#include "search/cost.h"
#include "search/draft.h"
#include "search/known.h"
#include "search/search_internal.h"

// What becomes of a candidate in a decision: it goes on, or it enters the pool where it
// ends with its first token.
typedef enum deal_fate {
    DEAL_FATE_OPEN = 0,
    DEAL_FATE_IN = 1,
    DEAL_FATE_OUT = 2,
} deal_fate;

typedef struct deal_outlook {
    deal_fate fate;
    double low, high;                 // of the score; no score is outside
    double h_low, h_high;             // of the weighted sum of rewards
    double *reward_low, *reward_high; // (n_reward,)
    bool *is_scored;                  // (n_reward,) both ends are the score
    bool is_complete;                 // the rollout is at its end, and its states known
    bool has_grown;                   // rewards on texts have not bounded it yet
    bool is_exact;                    // low == high
    bool is_needed;                   // the decision hangs on it
    bool has_rows;                    // rows were evaluated for it
    double reach;                     // `high` when the decision began
    double hope;                      // `high` before anything of the rollout is known
    int32_t cursor; // entry of all the slot's tokens but the last one, or none while
                    // rollout_lm is behind
} deal_outlook;

// One row of a batch: a token to evaluate, below an entry or below an earlier row.
typedef struct deal_row {
    int32_t at;       // entry, or DEAL_KNOWN_NONE where i_parent >= 0
    int32_t i_parent; // row, or -1: it is kept only where `token` is its arg-max
    int32_t token;
    int32_t n_top;
    int32_t order; // of the guess that `token` is; 0: it is none
    int32_t entry; // out; DEAL_KNOWN_NONE where it was not kept
    deal_ahead ahead;
    float chance; // see deal_known_entry
} deal_row;

struct deal_exact {
    deal_known known;
    int32_t n_top;    // tokens known after an entry: n_expand; of rollout_lm only 1
    int32_t *at;      // (n_live_max,) entry of a live hypothesis: of all its tokens
    int32_t *next_at; // but the last n_behind, of which there is one at most. With
                      // rollout_lm more, or none while its prompt is not evaluated
    int32_t *next_candidate; // (n_live_max,) that `next` comes from
    int32_t n_next;
    deal_outlook *outlook;            // (n_candidate,)
    double *ends;                     // (n_slot, 2, n_reward)
    bool *flags;                      // (n_slot, n_reward)
    double *lows;                     // (n_live_max,) see bar_of() in ranks.c
    int32_t *order;                   // (n_candidate,) those of certain rank first
    bool has_pooled;                  // the finished candidates of this decision
    int32_t *asked;                   // (n_slot,) candidates of one call of a reward
    deal_reward_beginning *beginning; // (n_slot,) what they are asked
    double *seconds;                  // (n_reward,) seconds that a text takes
    double bar;                       // that candidates had to reach last time
    double win_rate;                  // of likeliest candidates that go on
    deal_cost cost;
    deal_draft draft;
    int32_t n_lane;     // rows of the batch before any are added ahead
    int32_t *path;      // (n_live_max,) entries, see ahead.c
    double *slack;      // (n_live_max,)
    bool is_whole;      // nothing is pruned: every score is asked for, as naive does
    bool bounds_texts;  // a reward on texts bounds them
    bool is_tight;      // rows ahead have met the KV budget: no more of them
    deal_row *row;      // (row_cap,)
    int32_t *row_token; // (row_cap, n_top)
    float *row_logit;   // (row_cap, n_top)
    size_t row_cap;
    int32_t n_row;
};

// --- outlook.c -----------------------------------------------------------------------

// Tokens that candidate i has been rolled out for so far.
int32_t deal_exact_n_rolled(const deal_search *search, int32_t i);

// Tokens that may still follow in it; 0 where it has ended, and lacks states alone.
int32_t deal_exact_n_left(const deal_search *search, int32_t i);

// Whether the text of candidate i's rollout is at its end.
bool deal_exact_is_rolled(const deal_search *search, int32_t i);

// Whether the last of its tokens is evaluated, for its hidden states; or has none.
bool deal_exact_has_last(const deal_search *search, int32_t i);

bool deal_exact_is_end(const deal_search *search, int32_t token);

// At the start of a decision: nothing is known of candidate i but its token.
void deal_outlook_begin(deal_search *search, int32_t i);

// What candidate i can score, from its slot.
deal_status deal_outlook_update(deal_search *search, int32_t i, deal_error *err);

// Asks the rewards on texts that have bounds about the rollouts that have grown.
deal_status deal_outlook_bound(deal_search *search, deal_error *err);

// Asks a reward on texts, the cheapest first, about the complete candidates that are
// needed; `is_asked` tells whether there was any to ask about. Where nothing is pruned:
// all rewards about all candidates, once all are complete.
deal_status deal_outlook_ask(deal_search *search, bool *is_asked, deal_error *err);

// Leaves in slot[i] all scores of a complete candidate.
deal_status deal_outlook_score(deal_search *search, int32_t i, deal_error *err);

// --- ranks.c -------------------------------------------------------------------------

// Sorts x->order by falling upper end, equal ones as naive breaks ties.
void deal_ranks_sort(deal_search *search);

// Fills `winner`, and the pool with what ends now, where that is certain.
deal_status deal_ranks_settle(deal_search *search, bool *is_decided, deal_error *err);

// Marks the candidates whose scores the outcome hangs on.
void deal_ranks_need(deal_search *search);

// Of those, leaves the foremost ones whose rollouts are almost complete, if there are
// any and their scores may spare the others theirs.
void deal_ranks_lead(deal_search *search);

// --- rows.c --------------------------------------------------------------------------

// Makes room for a batch of `n` rows.
deal_status deal_rows_reserve(deal_search *search, size_t n, deal_error *err);

// Adds a row, unless it is known or in the batch; its index there, or -1.
deal_status deal_rows_add(deal_search *search, const deal_row *row, int32_t *i_row,
                          deal_error *err);

// Evaluates the rows in one pass and takes up what they tell.
deal_status deal_rows_run(deal_search *search, deal_error *err);

// Evaluates the last token of candidate i, whose text is at its end, for its states.
deal_status deal_rows_last(deal_search *search, int32_t i, deal_error *err);

// Lengthens the rollout of candidate i by what is known, and updates its outlook.
deal_status deal_rows_follow(deal_search *search, int32_t i, deal_error *err);

// One pass for the needed candidates whose rollouts are not complete.
deal_status deal_rows_roll(deal_search *search, deal_error *err);

// --- ahead.c -------------------------------------------------------------------------

// Fills the batch up with rows that later decisions will probably ask for.
deal_status deal_ahead_fill(deal_search *search, deal_error *err);

#endif
