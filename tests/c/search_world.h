/* Requests of every mode over the table LM, with a reward of each form: what the tests of
 * the search share.
 */
#ifndef DEAL_TESTS_SEARCH_WORLD_H
#define DEAL_TESTS_SEARCH_WORLD_H

#include "check.h"
#include "search/search.h"
#include "table_lm.h"
#include "toy_reward.h"

#define N_VOCAB 7
#define N_TOY 4
#define TRICKS_BY_CLOCK 15 // all; what is evaluated depends on measured times

typedef struct world {
    deal_table_lm *lm, *rollout_lm; // the second one or NULL
    deal_vocab *vocab;
    toy_reward toy[N_TOY];
    deal_reward *reward[N_TOY];
    deal_search_request request;
} world;

static const int32_t prompt[] = {0, 1, 2}, end_token[] = {6};
static const char *const stop[] = {"b.a", "zz"};
static const double weight[] = {1.0, -0.5, 2.0, 1.0};
static const int32_t layer[] = {1, -1}; // of hidden states

// Two of the pieces are halves of a character; the last is special.
static inline deal_vocab *
make_vocab(void)
{
    static const char bytes[] = "a b.\xc3\xa9zz<s>";
    static const int64_t offset[] = {0, 1, 3, 4, 5, 6, 8, 11};
    static const uint8_t kind[] = {0, 0, 0, 0, 0, 0, DEAL_PIECE_SPECIAL};
    deal_vocab *vocab = NULL;
    deal_error err;
    CHECK(deal_vocab_new(N_VOCAB, (const uint8_t *)bytes, 11, offset, kind,
                         DEAL_BYTE_RULE_STREAM, DEAL_LEADING_SPACE_KEEP, &vocab,
                         &err) == DEAL_OK);
    return vocab;
}

// A request of mode_name[i_mode] that takes every path: several hypotheses, commits,
// stops, ends and one reward of each form.
static inline deal_search_params
make_params(int i_mode)
{
    static const deal_search_mode mode[] = {
        DEAL_SEARCH_SAMPLE,  DEAL_SEARCH_SAMPLE,  DEAL_SEARCH_BEAM,  DEAL_SEARCH_NAIVE,
        DEAL_SEARCH_SEGMENT, DEAL_SEARCH_SEGMENT, DEAL_SEARCH_EXACT, DEAL_SEARCH_NAIVE,
        DEAL_SEARCH_EXACT,   DEAL_SEARCH_EXACT};
    return (deal_search_params){
        .mode = mode[i_mode],
        .n_new_max = 9,
        .n_return = i_mode == 1 ? 1 : 3,
        .repetition_penalty = i_mode == 0 ? 1.2 : 1.0,
        .temperature = i_mode == 0 || i_mode == 4 ? 1.0 : 0.0,
        .top_k = 4,
        .top_p = 0.95,
        .seed = 3,
        .beam_size = 3,
        .length_penalty = 1.0,
        .lookahead_len = 3,
        .reward_weight = 2.0,
        .commit = 2,
        .n_proposal = 2,
        .tricks = i_mode == 9 ? TRICKS_BY_CLOCK : DEAL_TRICK_REUSE | DEAL_TRICK_BOUNDS,
    };
}

// Hidden states are those of one model.
static inline int
n_toy_of(int i_mode)
{
    return i_mode == 7 || i_mode == 8 ? N_TOY - 1 : N_TOY;
}

static inline void
world_init(world *w, int i_mode)
{
    static const toy_form toy[] = {TOY_TEXTS, TOY_PLAIN, TOY_OWNING, TOY_STATES};
    deal_error err;
    CHECK(deal_table_lm_new(N_VOCAB, 1000, 2, NULL, 16, &w->lm, &err) == DEAL_OK);
    deal_table_lm_set_states(w->lm, 2);
    w->rollout_lm = NULL;
    if (i_mode == 7 || i_mode == 8)
        CHECK(deal_table_lm_new(N_VOCAB, 1000, 2, NULL, 17, &w->rollout_lm, &err) ==
              DEAL_OK);
    w->vocab = make_vocab();
    for (int i = 0; i < N_TOY; i++) {
        toy_reward_init(&w->toy[i], toy[i], 5);
        if (toy[i] == TOY_STATES)
            toy_reward_ask(&w->toy[i], layer, 2, 2);
        w->reward[i] = &w->toy[i].reward;
    }
    w->request = (deal_search_request){
        .lm = &w->lm->lm,
        .vocab = w->vocab,
        .prompt = prompt,
        .n_prompt = 3,
        .prompt_text = "p",
        .prompt_text_size = 1,
        .end_token = end_token,
        .n_end = 1,
        .stop = stop,
        .n_stop = 2,
        .reward = w->reward,
        .weight = weight,
        .n_reward = n_toy_of(i_mode),
        .params = make_params(i_mode),
    };
    if (w->rollout_lm)
        w->request.rollout_lm = &w->rollout_lm->lm;
}

// Everything that the search took must have been given back.
static inline void
world_free(world *w)
{
    CHECK_EQ_INT(w->lm->n_live, 0);
    for (int i = 0; i < N_TOY; i++)
        CHECK_EQ_INT(w->toy[i].n_state, 0);
    if (w->rollout_lm)
        CHECK_EQ_INT(w->rollout_lm->n_live, 0);
    deal_table_lm_free(w->lm);
    deal_table_lm_free(w->rollout_lm);
    deal_vocab_free(w->vocab);
}

#endif
