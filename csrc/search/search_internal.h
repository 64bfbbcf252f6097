/* What the modes of a search share; private to csrc/search.
 *
 * sample.c, beam.c, naive.c and exact.c each take one decision over the hypotheses in
 * `live`.
 */
#ifndef DEAL_SEARCH_SEARCH_INTERNAL_H
#define DEAL_SEARCH_SEARCH_INTERNAL_H

#include "search/draw.h"
#include "search/hypothesis.h"
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
    bool is_winner; // it is to go on in the beam
} deal_candidate;

typedef struct deal_exact deal_exact; // exact_internal.h

struct deal_search {
    deal_search_request request;
    deal_ending ending;
    deal_reward_set rewards;
    deal_search_stats stats;
    deal_trace_log trace;
    bool is_started, is_done, is_failed;

    int32_t n_live_max; // n_return in SAMPLE, beam_size else
    int32_t n_expand;   // candidates per hypothesis, 0 in SAMPLE
    deal_hypothesis *live,
        *next; // (n_live_max,) in the order of their tokens, or by stream
    int32_t n_live;
    deal_hypothesis *slot; // (n_live_max * n_expand,)
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
    int32_t *roll_token; // (n_live_max * n_expand,)
    float *roll_logit;
    deal_draw draw;
    deal_exact *exact; // in EXACT
};

// One decision; `is_done` where it was the last.
deal_status deal_sample_step(deal_search *search, bool *is_done, deal_error *err);
deal_status deal_beam_step(deal_search *search, bool *is_done, deal_error *err);
deal_status deal_naive_step(deal_search *search, bool *is_done, deal_error *err);

// --- search.c ------------------------------------------------------------------------

deal_status deal_search_reserve_items(deal_search *search, size_t n, deal_error *err);
deal_status deal_search_reserve_cases(deal_search *search, size_t n, deal_error *err);

// extend() over search->item, its outputs checked. All or nothing, as extend() is.
deal_status deal_search_extend(deal_search *search, int32_t n_items, deal_error *err);

// Evaluates the last token of every unfinished live hypothesis, or first the prompt,
// and fills in row i_row[i] of what is wanted. `node` of each then holds all its
// tokens.
deal_status deal_search_evaluate(deal_search *search, uint32_t want, int32_t top_k,
                                 deal_error *err);

// Gives back both trie references.
void deal_search_release(deal_search *search, deal_hypothesis *hypothesis);

// Makes the `n_next` hypotheses in `next` the live ones; gives back the old nodes.
void deal_search_swap(deal_search *search, int32_t n_next);

// --- beam.c, for DeAL too ------------------------------------------------------------

// Fills `candidate` and `slot` with the n_expand best tokens of every live hypothesis.
deal_status deal_beam_expand(deal_search *search, deal_reward_set *rewards,
                             deal_error *err);

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
