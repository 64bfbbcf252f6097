/* Texts that grow, read call after call over a table LM: against the walk, with every
 * token evaluated once; forgetting; faults at every point.
 */
#include <string.h>

#include "check.h"
#include "common/alloc.h"
#include "common/controls.h"
#include "common/rng.h"
#include "search/reader.h"
#include "search/walk.h"
#include "table_lm.h"

#define N_VOCAB 6
#define LEN_MAX 40
#define N_CALL 60
#define N_TEXT 8

typedef struct call {
    int32_t token[N_TEXT][LEN_MAX];
    double logprob[N_TEXT][LEN_MAX], expected[N_TEXT][LEN_MAX];
    deal_reader_text text[N_TEXT];
} call;

static int32_t
draw(uint64_t a, uint64_t b, int32_t n)
{
    return (int32_t)(deal_rng_uniform(7, a, b) * n);
}

// What a search asks: candidates with rollouts, after a text that grows; now and then
// another prompt.
static void
make_call(call *c, int i_call)
{
    uint64_t i = (uint64_t)i_call, prompt = i / 20;
    for (int j = 0; j < N_TEXT; j++) {
        int32_t n_text = 3 + (int32_t)(i % 20), n_more = draw(i, (uint64_t)j, 9);
        c->text[j] = (deal_reader_text){.token = c->token[j],
                                        .n_token = n_text + n_more,
                                        .n_prompt = 1 + draw(prompt, 99, 3),
                                        .logprob = c->logprob[j]};
        for (int32_t t = 0; t < n_text + n_more; t++)
            c->token[j][t] = t < n_text ? draw(1000 + prompt, (uint64_t)t, N_VOCAB)
                                        : draw(2000 + i * N_TEXT + (uint64_t)j,
                                               (uint64_t)t, N_VOCAB);
    }
}

static void
expect(deal_lm *lm, call *c)
{
    deal_error err;
    deal_walk_text text[N_TEXT];
    for (int j = 0; j < N_TEXT; j++)
        text[j] = (deal_walk_text){.token = c->token[j],
                                   .n_token = c->text[j].n_token,
                                   .n_prompt = c->text[j].n_prompt,
                                   .logprob = c->expected[j]};
    deal_walk *walk;
    CHECK(deal_walk_new(lm, NULL, text, N_TEXT, &walk, &err) == DEAL_OK);
    bool is_done = false;
    while (!is_done)
        CHECK(deal_walk_step(walk, &is_done, &err) == DEAL_OK);
    deal_walk_free(walk);
}

static int
is_as_expected(const call *c)
{
    int is_same = 1;
    for (int j = 0; j < N_TEXT; j++)
        for (int32_t t = 0; t < c->text[j].n_token - c->text[j].n_prompt; t++)
            is_same = is_same && c->logprob[j][t] == c->expected[j][t];
    return is_same;
}

static deal_table_lm *
make_lm(void)
{
    deal_table_lm *table;
    deal_error err;
    CHECK(deal_table_lm_new(N_VOCAB, LEN_MAX, 2, NULL, 9, &table, &err) == DEAL_OK);
    return table;
}

static deal_reader *
make_reader(deal_table_lm *table, int32_t n_keep)
{
    deal_reader *reader;
    deal_error err;
    CHECK(deal_reader_new(&table->lm, NULL, n_keep, &reader, &err) == DEAL_OK);
    return reader;
}

// Prefixes of all calls' texts, their last token left out, each once: by brute force.
static int64_t
count_distinct(void)
{
    static call all[N_CALL];
    int64_t n = 0;
    for (int i = 0; i < N_CALL; i++) {
        make_call(&all[i], i);
        for (int j = 0; j < N_TEXT; j++)
            for (int32_t t = 0; t + 1 < all[i].text[j].n_token; t++) {
                int is_new = 1;
                for (int k = 0; k < i * N_TEXT + j && is_new; k++) {
                    const call *other = &all[k / N_TEXT];
                    const int32_t *b = other->token[k % N_TEXT];
                    is_new = t + 1 >= other->text[k % N_TEXT].n_token ||
                             memcmp(all[i].token[j], b, (size_t)(t + 1) * sizeof *b);
                }
                n += is_new;
            }
    }
    return n;
}

static int64_t
run_all(int32_t n_keep)
{
    static call c;
    deal_error err;
    deal_table_lm *table = make_lm(), *other = make_lm();
    deal_reader *reader = make_reader(table, n_keep);
    for (int i = 0; i < N_CALL; i++) {
        make_call(&c, i);
        expect(&other->lm, &c);
        memset(c.logprob, 0, sizeof c.logprob);
        CHECK(deal_reader_read(reader, c.text, N_TEXT, &err) == DEAL_OK);
        CHECK(is_as_expected(&c));
        CHECK(deal_reader_n_kept(reader) <= n_keep);
        int64_t n_before = table->lm.n_forward_tokens;
        int32_t n_extend = table->n_extend;
        CHECK(deal_reader_read(reader, c.text, N_TEXT, &err) == DEAL_OK);
        CHECK(is_as_expected(&c));
        if (n_keep >= 1000) { // the same again asks nothing
            CHECK_EQ_INT(table->lm.n_forward_tokens, n_before);
            CHECK_EQ_INT(table->n_extend, n_extend);
        }
    }
    int64_t n = table->lm.n_forward_tokens;
    deal_reader_free(reader);
    CHECK_EQ_INT(table->n_live, 0);
    deal_table_lm_free(table);
    deal_table_lm_free(other);
    return n;
}

static void
test_every_token_once(void)
{
    int64_t n = run_all(100000);
    CHECK_EQ_INT(n, count_distinct());
    CHECK(run_all(200) < 2 * n); // keeps what the next call begins with
    CHECK(run_all(0) > 2 * n);
}

static void
test_many_texts_at_once(void)
{
    enum { N = 400 };
    static call c;
    static deal_reader_text text[N];
    static int32_t token[N][LEN_MAX];
    static double logprob[N][LEN_MAX];
    deal_error err;
    deal_table_lm *table = make_lm(), *other = make_lm();
    deal_reader *reader = make_reader(table, 100);
    for (int i = 0; i < N; i++) {
        for (int t = 0; t < LEN_MAX; t++)
            token[i][t] = draw(50 + (uint64_t)i, (uint64_t)t, N_VOCAB);
        text[i] = (deal_reader_text){.token = token[i],
                                     .n_token = 1 + i % LEN_MAX,
                                     .n_prompt = 1,
                                     .logprob = logprob[i]};
    }
    CHECK(deal_reader_read(reader, text, N, &err) == DEAL_OK);
    CHECK(deal_reader_n_kept(reader) <= 100);
    for (int i = 0; i + N_TEXT <= N; i += N_TEXT) {
        for (int j = 0; j < N_TEXT; j++) {
            memcpy(c.token[j], token[i + j], sizeof c.token[j]);
            memcpy(c.logprob[j], logprob[i + j], sizeof c.logprob[j]);
            c.text[j] = text[i + j];
        }
        expect(&other->lm, &c);
        CHECK(is_as_expected(&c));
    }
    CHECK(deal_reader_read(reader, text, 0, &err) == DEAL_OK);
    deal_reader_free(reader);
    CHECK_EQ_INT(table->n_live, 0);
    deal_table_lm_free(table);
    deal_table_lm_free(other);
}

// After a fault the reader holds what it held before, and goes on.
static void
test_faults(void)
{
    static call c;
    deal_error err;
    deal_table_lm *table = make_lm(), *other = make_lm();
    deal_reader *reader = make_reader(table, 100000);
    make_call(&c, 0);
    CHECK(deal_reader_read(reader, c.text, N_TEXT, &err) == DEAL_OK);
    for (int i = 1; i < N_CALL; i++) {
        make_call(&c, i);
        int32_t n_kept = deal_reader_n_kept(reader), n_live = table->n_live;
        table->fail_in = 1;
        deal_status status = deal_reader_read(reader, c.text, N_TEXT, &err);
        CHECK(status == DEAL_ERR_IO || table->fail_in == 1); // or nothing was asked
        table->fail_in = 0;
        if (status != DEAL_OK) {
            CHECK_EQ_INT(deal_reader_n_kept(reader), n_kept);
            CHECK_EQ_INT(table->n_live, n_live);
        }
        status = DEAL_ERR_NO_MEMORY;
        for (size_t n = 1; status != DEAL_OK; n++) {
            deal_alloc_fail_at(n);
            status = deal_reader_read(reader, c.text, N_TEXT, &err);
            deal_alloc_fail_at(0);
            CHECK(status == DEAL_OK || status == DEAL_ERR_NO_MEMORY);
        }
        expect(&other->lm, &c);
        CHECK(is_as_expected(&c));
    }
    deal_reader_free(reader);
    CHECK_EQ_INT(table->n_live, 0);
    deal_status status = DEAL_ERR_NO_MEMORY;
    for (size_t n = 1; status != DEAL_OK; n++) {
        deal_alloc_fail_at(n);
        status = deal_reader_new(&table->lm, NULL, 10, &reader, &err);
        deal_alloc_fail_at(0);
        CHECK(status == DEAL_OK || status == DEAL_ERR_NO_MEMORY);
    }
    deal_reader_free(reader);
    deal_table_lm_free(table);
    deal_table_lm_free(other);
}

static void
test_bad_texts(void)
{
    static call c;
    deal_error err;
    deal_table_lm *table = make_lm();
    deal_reader *reader = make_reader(table, 100);
    make_call(&c, 0);
    deal_reader_text bad[2] = {c.text[0], c.text[1]};
    bad[1].n_prompt = 0;
    CHECK(deal_reader_read(reader, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "text 1: expected a prompt of 1 to");
    float state[1];
    bad[1] = c.text[1];
    bad[1].logprob = NULL;
    bad[1].state = state;
    CHECK(deal_reader_read(reader, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "without a tap");
    int32_t token[LEN_MAX + 2] = {0};
    double logprob[LEN_MAX + 2];
    bad[1] = (deal_reader_text){
        .token = token, .n_token = LEN_MAX + 2, .n_prompt = 1, .logprob = logprob};
    CHECK(deal_reader_read(reader, bad, 2, &err) == DEAL_ERR_CONTEXT_FULL);
    bad[1].n_token = LEN_MAX + 1; // the last one is scored and not read
    CHECK(deal_reader_read(reader, bad, 2, &err) == DEAL_OK);
    token[1] = N_VOCAB;
    CHECK(deal_reader_read(reader, bad, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "text 1: token: expected 0 to 5");
    const deal_controls none = {0};
    deal_reader *other;
    CHECK(deal_reader_new(&table->lm, &none, 1, &other, &err) == DEAL_ERR_UNSUPPORTED);
    CHECK(deal_reader_new(&table->lm, NULL, -1, &other, &err) == DEAL_ERR_INVALID_ARG);
    deal_reader_free(reader);
    deal_reader_free(NULL);
    deal_table_lm_free(table);
}

int
main(void)
{
    test_every_token_once();
    test_many_texts_at_once();
    test_faults();
    test_bad_texts();
    return check_report("test_reader");
}
