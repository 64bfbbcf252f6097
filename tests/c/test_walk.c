/* Log-probs of many texts at once, over a table LM: against one text at a time, with
 * every prefix evaluated once; faults at every point.
 */
#include <string.h>

#include "check.h"
#include "common/alloc.h"
#include "common/controls.h"
#include "common/rng.h"
#include "search/walk.h"
#include "table_lm.h"

#define N_VOCAB 6
#define N_TEXT 700
#define LEN_MAX 12

typedef struct cases {
    int32_t token[N_TEXT][LEN_MAX];
    double logprob[N_TEXT][LEN_MAX], expected[N_TEXT][LEN_MAX];
    bool is_greedy[N_TEXT];
    deal_walk_text text[N_TEXT];
    int32_t n_distinct; // prefixes that must be evaluated
} cases;

static cases *
all_cases(void)
{
    static cases c;
    for (int i = 0; i < N_TEXT; i++) {
        deal_walk_text *text = &c.text[i];
        uint64_t u = (uint64_t)i;
        *text = (deal_walk_text){
            .token = c.token[i], .logprob = c.logprob[i], .is_greedy = &c.is_greedy[i]};
        c.is_greedy[i] = true;
        text->n_token = 1 + (int32_t)(deal_rng_uniform(1, 1, u) * LEN_MAX);
        text->n_prompt = 1 + (int32_t)(deal_rng_uniform(1, 2, u) * text->n_token);
        for (int t = 0; t < text->n_token; t++) // half the texts continue another
            c.token[i][t] =
                i % 2 && t < 6
                    ? c.token[i / 2][t]
                    : (int32_t)(deal_rng_uniform(2, u, (uint64_t)t) * N_VOCAB);
    }
    return &c;
}

// Prefixes of texts with something to score, their last token left out, each once.
static int32_t
count_distinct(const cases *c)
{
    int32_t n = 0;
    for (int i = 0; i < N_TEXT; i++) {
        const deal_walk_text *a = &c->text[i];
        for (int t = 0; a->n_token > a->n_prompt && t < a->n_token - 1; t++) {
            int is_new = 1;
            for (int j = 0; j < i && is_new; j++) {
                const deal_walk_text *b = &c->text[j];
                if (b->n_token > b->n_prompt && t < b->n_token - 1 &&
                    memcmp(a->token, b->token, ((size_t)t + 1) * sizeof *a->token) == 0)
                    is_new = 0;
            }
            n += is_new;
        }
    }
    return n;
}

static deal_status
run(deal_lm *lm, const deal_walk_text *text, int32_t n_text, deal_error *err)
{
    deal_walk *walk;
    bool is_done = false;
    DEAL_TRY(deal_walk_new(lm, NULL, text, n_text, &walk, err));
    deal_status status = DEAL_OK;
    while (status == DEAL_OK && !is_done)
        status = deal_walk_step(walk, &is_done, err);
    deal_walk_free(walk);
    return status;
}

static deal_table_lm *
make_lm(void)
{
    deal_table_lm *table;
    deal_error err;
    CHECK(deal_table_lm_new(N_VOCAB, LEN_MAX, 2, NULL, 9, &table, &err) == DEAL_OK);
    return table;
}

static void
test_against_single(cases *c)
{
    deal_error err;
    deal_table_lm *table = make_lm();
    for (int i = 0; i < N_TEXT; i++)
        CHECK(run(&table->lm, &c->text[i], 1, &err) == DEAL_OK);
    memcpy(c->expected, c->logprob, sizeof c->expected);
    memset(c->logprob, 0, sizeof c->logprob);
    int64_t n_before = table->lm.n_forward_tokens;
    CHECK(run(&table->lm, c->text, N_TEXT, &err) == DEAL_OK);
    for (int i = 0; i < N_TEXT; i++)
        for (int t = 0; t < c->text[i].n_token - c->text[i].n_prompt; t++)
            CHECK(c->logprob[i][t] == c->expected[i][t] && c->logprob[i][t] < 0);
    CHECK_EQ_INT(table->lm.n_forward_tokens - n_before, count_distinct(c));
    CHECK_EQ_INT(table->n_live, 0);
    CHECK(run(&table->lm, c->text, 0, &err) == DEAL_OK);
    deal_table_lm_free(table);
}

// The likeliest token after every prefix of a text, one node at a time, and from
// n_prompt on in the text's place where `is_written`.
static bool
is_likeliest(deal_lm *lm, deal_walk_text *text, int32_t *token, bool is_written)
{
    deal_error err;
    deal_node node, root;
    bool is_greedy = true;
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    node = root;
    for (int t = 0; t < text->n_token - 1; t++) {
        int32_t top;
        float logit;
        deal_lm_item item = {.parent = node, .i_parent = -1, .token = token[t]};
        item.want = DEAL_WANT_TOP_K;
        item.top_k = 1;
        item.top_token = &top;
        item.top_logit = &logit;
        CHECK(lm->ops->extend(lm, &item, 1, &err) == DEAL_OK);
        lm->ops->release(lm, node);
        node = item.node;
        if (t + 1 < text->n_prompt)
            continue;
        if (is_written)
            token[t + 1] = top;
        is_greedy &= token[t + 1] == top;
    }
    lm->ops->release(lm, node);
    return is_greedy;
}

// Every third text is what greedy decoding writes; results come once each, in time.
static void
test_greedy(cases *c)
{
    deal_error err;
    deal_table_lm *table = make_lm();
    bool expected[N_TEXT], is_told[N_TEXT] = {false};
    int n_greedy = 0, n_told = 0;
    for (int i = 0; i < N_TEXT; i++) {
        if (i % 3 == 0)
            is_likeliest(&table->lm, &c->text[i], c->token[i], true);
        expected[i] = is_likeliest(&table->lm, &c->text[i], c->token[i], false);
        CHECK(expected[i] || i % 3 != 0);
        n_greedy += expected[i];
        c->is_greedy[i] = true;
    }
    CHECK(n_greedy > N_TEXT / 3 && n_greedy < N_TEXT);
    deal_walk *walk;
    bool is_done = false;
    CHECK(deal_walk_new(&table->lm, NULL, c->text, N_TEXT, &walk, &err) == DEAL_OK);
    while (!is_done) {
        CHECK(deal_walk_step(walk, &is_done, &err) == DEAL_OK);
        CHECK(is_done == (deal_walk_n_done(walk) == N_TEXT));
        for (; n_told < deal_walk_n_done(walk); n_told++) {
            int32_t i = deal_walk_done_at(walk, n_told);
            CHECK(!is_told[i] && c->is_greedy[i] == expected[i]);
            is_told[i] = true;
        }
    }
    deal_walk_free(walk);
    CHECK_EQ_INT(n_told, N_TEXT);
    CHECK_EQ_INT(table->n_live, 0);
    deal_table_lm_free(table);
}

static void
test_faults(cases *c)
{
    deal_error err;
    deal_table_lm *table = make_lm();
    for (int i = 1; i <= 3; i++) { // in the i-th batch
        table->fail_in = i;
        CHECK(run(&table->lm, c->text, N_TEXT, &err) == DEAL_ERR_IO);
        CHECK_EQ_INT(table->n_live, 0);
    }
    deal_status status = DEAL_ERR_NO_MEMORY;
    for (size_t n = 1; status != DEAL_OK; n++) {
        deal_alloc_fail_at(n);
        status = run(&table->lm, c->text, N_TEXT, &err);
        deal_alloc_fail_at(0);
        CHECK(status == DEAL_OK || status == DEAL_ERR_NO_MEMORY);
        CHECK_EQ_INT(table->n_live, 0);
    }
    deal_walk_text bad[2] = {c->text[0], c->text[1]};
    bad[1].n_prompt = 0;
    CHECK(run(&table->lm, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "text 1: expected a prompt of 1 to");
    bad[1] = c->text[1];
    bad[1].logprob = NULL;
    CHECK(run(&table->lm, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "is_greedy is asked for without log-probs");
    bad[1].is_greedy = NULL;
    CHECK(run(&table->lm, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "without a tap");
    const int32_t token[LEN_MAX + 2] = {0};
    bad[1] = (deal_walk_text){.token = token,
                              .n_token = LEN_MAX + 2,
                              .n_prompt = 1,
                              .logprob = c->logprob[0]};
    CHECK(run(&table->lm, bad, 2, &err) == DEAL_ERR_CONTEXT_FULL);
    const deal_controls none = {0};
    deal_walk *walk;
    CHECK(deal_walk_new(&table->lm, &none, c->text, 1, &walk, &err) ==
          DEAL_ERR_UNSUPPORTED);
    const int32_t unknown[] = {0, N_VOCAB};
    bad[1] = (deal_walk_text){
        .token = unknown, .n_token = 2, .n_prompt = 1, .logprob = c->logprob[0]};
    CHECK(run(&table->lm, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    deal_table_lm_free(table);
}

int
main(void)
{
    test_against_single(all_cases());
    test_greedy(all_cases());
    test_faults(all_cases());
    return check_report("test_walk");
}
