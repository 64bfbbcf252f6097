/* What the modes of a search share; private to csrc/search.
 *
 * sample.c, beam.c, naive.c, exact.c and segment.c each take one decision over the
 * hypotheses in `live`.
 */
#ifndef DEAL_SEARCH_SEARCH_INTERNAL_H
#define DEAL_SEARCH_SEARCH_INTERNAL_H

#include "search/draw.h"
#include "search/hypothesis.h"
#include "search/masks.h"
#include "search/observe.h"
#include "search/trace.h"

// One token that may follow a live hypothesis. Candidate i owns slot[i]: the hypothesis
// with the token, and with its rollout where there is one.
typedef struct deal_candidate {
    int32_t i_live;
    int32_t token;
    double logprob; // of hypothesis and candidate
    double score;   // what candidates are ranked by
    bool is_final;  // it ends without a rollout
    bool is_pooled; // it has entered the pool
    int32_t i_next; // hypothesis that it is to become, or -1
} deal_candidate;

typedef struct deal_exact deal_exact; // exact_internal.h

// A way to go on within a segment, of beams: a member of the group and its next token.
typedef struct deal_segment_option {
    int32_t i_slot;
    int32_t token;         // -1: the member has ended and stays as it is
    double logprob, total; // of the token; of all
} deal_segment_option;

struct deal_search {
    deal_search_request request;
    deal_lm *roll_lm; // request.rollout_lm, or request.lm
    deal_masks *masks; // with a constraint, behind which both models then lie
    deal_lm *masked_lm, *masked_rollout_lm;
    deal_ending ending;
    deal_reward_set rewards;
    deal_observer observer;
    deal_search_stats stats;
    deal_trace_log trace;
    bool is_started, is_done, is_failed;

    int32_t n_live_max; // n_return in SAMPLE, beam_size else
    int32_t n_expand;   // candidates per hypothesis, 0 in SAMPLE
    deal_hypothesis *live,
        *next; // (n_live_max,) in the order of their tokens, or by stream
    int32_t n_live;
    deal_hypothesis *slot; // (n_slot,)
    size_t n_slot;         // n_live_max * n_expand; n_expand where it is one round
    deal_candidate *candidate;
    int32_t *rank; // (n_candidate,) their order
    int32_t n_candidate;
    int32_t *winner; // (n_live_max,) candidates that go on, by index
    int32_t n_winner;
    deal_hypothesis *pool; // (n_live_max,) finished, by falling score
    int32_t n_pool;

    deal_lm_item *item; // (item_cap,)
    size_t item_cap;
    deal_reward_case *cases; // (case_cap,)
    size_t case_cap;
    int32_t *i_row;     // (n_live_max,) row below of each live hypothesis
    int32_t *top_token; // (n_live_max, n_expand or 1)
    float *top_logit;
    float *log_z;        // (n_live_max,)
    float *logits;       // (n_live_max, n_vocab) in SAMPLE that draws
    int32_t *roll_token; // (n_slot,)
    float *roll_logit;
    deal_draw draw;
    deal_exact *exact; // in EXACT
    bool is_skipped;   // this decision takes its only candidate without a rollout

    // SEGMENT, where the rows above are max(n_live_max, n_slot)
    int32_t *n_member;           // (n_live_max,) slots in use of each hypothesis
    int32_t *slot_row;           // (n_slot,)
    deal_hypothesis *spare;      // (n_expand,) the next members of one hypothesis
    deal_segment_option *option; // (n_expand,)
};

// One decision; `is_done` where it was the last.
deal_status deal_sample_step(deal_search *search, bool *is_done, deal_error *err);
deal_status deal_beam_step(deal_search *search, bool *is_done, deal_error *err);
deal_status deal_naive_step(deal_search *search, bool *is_done, deal_error *err);
deal_status deal_segment_step(deal_search *search, bool *is_done, deal_error *err);

// --- search.c ------------------------------------------------------------------------

// Whether rewards have a say in the decisions.
bool deal_search_is_steered(const deal_search *search);

// Gives back all trie references.
void deal_search_release(deal_search *search, deal_hypothesis *hypothesis);

// --- constrained.c -------------------------------------------------------------------

// With a constraint: puts both language models behind its masks.
deal_status deal_search_constrain(deal_search *search, deal_error *err);

// Frees masks and models behind them; all nodes were given back.
void deal_search_unconstrain(deal_search *search);

// Tells a result that the constraint accepts from one that had nowhere to go.
deal_status deal_search_check_end(deal_search *search, deal_hypothesis *result,
                                  deal_error *err);

// --- evaluate.c ----------------------------------------------------------------------

deal_status deal_search_reserve_items(deal_search *search, size_t n, deal_error *err);
deal_status deal_search_reserve_cases(deal_search *search, size_t n, deal_error *err);

// Most tokens of a rollout in this decision.
int32_t deal_search_rollout_len(const deal_search *search);

// Asks an item for what row `i_row` of the outputs has room for.
void deal_search_fill_want(deal_search *search, deal_lm_item *item, int32_t i_row,
                           uint32_t want, int32_t top_k);

// extend() over search->item, its outputs checked. All or nothing, as extend() is.
deal_status deal_search_extend(deal_search *search, int32_t n_items, deal_error *err);

// The same in search->roll_lm.
deal_status deal_search_extend_rollouts(deal_search *search, int32_t n_items,
                                        deal_error *err);

// Evaluates the last token of every unfinished live hypothesis, or first the prompt,
// and fills in row i_row[i] of what is wanted. `node` of each then holds all its
// tokens.
deal_status deal_search_evaluate(deal_search *search, uint32_t want, int32_t top_k,
                                 deal_error *err);

// With rollout_lm: evaluates there the prompt, at the first time, and what it lacks of
// the live hypotheses. `roll` of each then holds all its tokens, and roll_token[i] is
// the most likely one after those that were behind.
deal_status deal_search_catch_up(deal_search *search, deal_error *err);

// What a row of a DeAL decision's trace says of the scores; NAN where not known.
typedef struct deal_row_scores {
    double h, score, low, high;
} deal_row_scores;

// Appends a candidate and its slot's rewards and rollout to the trace. `live` is still
// that before the decision; after the last decision no candidate goes on.
deal_status deal_search_record(deal_search *search, int32_t i_candidate, bool is_last,
                               const deal_row_scores *scores, deal_error *err);

// Makes the `n_next` hypotheses in `next` the live ones; gives back the old nodes.
void deal_search_swap(deal_search *search, int32_t n_next);

// --- segment.c -----------------------------------------------------------------------

// What segments need besides beams; freed with the search, also after a failure.
deal_status deal_segment_init(deal_search *search, deal_error *err);

// --- sample.c, for segment.c too -----------------------------------------------------

// The next token of `stream`, drawn from row `i_row`, or its most likely one.
deal_status deal_sample_choose(deal_search *search, const deal_hypothesis *stream,
                               uint64_t i_stream, int32_t i_row, int32_t *token,
                               double *logprob, deal_error *err);

// --- commit.c, for DeAL --------------------------------------------------------------

// Tokens of the live hypothesis that a candidate extends.
int32_t deal_commit_n_base(const deal_search *search, int32_t i_candidate);

// Tokens that a winner takes: the candidate and the beginning of its rollout.
int32_t deal_commit_n(const deal_search *search, int32_t i_candidate);

// Adds to each winner's slot the log-probs of what it takes along of its rollout, under
// `lm`, and leaves in `tip` the node of all its tokens but the last. Its score is then
// that with slot->h.
deal_status deal_commit_logprobs(deal_search *search, deal_error *err);

// Hands that node over to the hypothesis that winner `i_candidate` becomes, and the
// last one where it is evaluated.
void deal_commit_move(deal_search *search, deal_hypothesis *next, int32_t i_candidate);

// --- skip.c, for DeAL ----------------------------------------------------------------

// After deal_beam_expand(): leaves the top candidate alone, and sets is_skipped, where
// its probability is at least skip_above.
void deal_skip_check(deal_search *search);

// Whether the only candidate goes on, so that nothing hangs on its score.
bool deal_skip_is_blind(const deal_search *search);

// What the trace tells of it: no score, and no range for one.
void deal_skip_mark(const deal_search *search, deal_trace_row *row, double *reward);

// --- beam.c, for DeAL too ------------------------------------------------------------

// Fills `candidate` and `slot` with the n_expand best tokens of every live hypothesis,
// or with as many as its constraint allows.
deal_status deal_beam_expand(deal_search *search, deal_reward_set *rewards,
                             deal_error *err);

// The candidates of live hypothesis `i_live`: the first of them and their number.
void deal_beam_range(const deal_search *search, int32_t i_live, int32_t *first,
                     int32_t *n);

// Sorts by falling score, then rising token, then beam.
void deal_beam_rank(deal_search *search);

// Puts the final ones of the first beam_size candidates into the pool, and the first
// beam_size others into `winner`. slot[i].score is what the pool ranks by.
deal_status deal_beam_select(deal_search *search, deal_error *err);

// Puts a copy of slot[i] into the pool where it is good enough.
deal_status deal_beam_pool(deal_search *search, int32_t i_candidate, deal_error *err);

// Whether none of the hypotheses that would go on can enter the pool any more.
bool deal_beam_is_done(const deal_search *search, const deal_hypothesis *next,
                       int32_t n_next);

#endif
