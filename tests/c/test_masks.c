/* Masks of a constraint and the language model behind them: what is allowed, what is
 * put off, what is given back, and every way in which a constraint can go wrong.
 */
#include <math.h>
#include <string.h>

#include "check.h"
#include "common/alloc.h"
#include "search/masked_lm.h"
#include "search/search.h"
#include "table_lm.h"
#include "toy_constraint.h"

enum { N_VOCAB = 70, N_STATE = 4, END = 69 };

static int32_t next[N_STATE * N_VOCAB];
static toy_constraint toy;
static const int32_t end_token[] = {END};

// State 0 allows all but token 5, also the end; 1 only token 7, to state 2; 2 nothing,
// and accepts; 3 nothing, and does not. Tokens lead there by their remainder.
static void
set_up(void)
{
    for (int32_t i = 0; i < N_STATE * N_VOCAB; i++)
        next[i] = -1;
    for (int32_t i = 0; i < N_VOCAB; i++)
        next[i] = i == 5 ? -1 : i % N_STATE;
    next[N_VOCAB + 7] = 2;
    toy_constraint_init(&toy, N_STATE, N_VOCAB, next);
    toy.accepts[2] = 1;
}

static deal_masks *
new_masks(void)
{
    deal_error err;
    deal_masks *masks = NULL;
    CHECK(deal_masks_new(&toy.constraint, N_VOCAB, end_token, 1, &masks, &err) ==
          DEAL_OK);
    return masks;
}

static void
test_masks(void)
{
    deal_error err;
    deal_mask mask;
    int32_t one, two, outside;
    set_up();
    deal_masks *masks = new_masks();
    CHECK(deal_masks_get(masks, DEAL_MASK_ROOT, &mask, &err) == DEAL_OK);
    CHECK(mask.bits && mask.n_token == N_VOCAB - 2); // without 5 and the end
    CHECK(deal_mask_allows(&mask, 0) && !deal_mask_allows(&mask, 5));
    CHECK(!deal_mask_allows(&mask, END)); // it does not accept
    CHECK(deal_masks_child(masks, DEAL_MASK_ROOT, 1, &one, &err) == DEAL_OK);
    CHECK(deal_masks_get(masks, one, &mask, &err) == DEAL_OK);
    CHECK(!mask.bits && mask.n_token == 1 && mask.token[0] == 7);
    CHECK(deal_masks_child(masks, one, 7, &two, &err) == DEAL_OK);
    CHECK(deal_masks_get(masks, two, &mask, &err) == DEAL_OK);
    CHECK(mask.n_token == 1 && mask.token[0] == END);
    CHECK(deal_masks_child(masks, DEAL_MASK_ROOT, 5, &outside, &err) == DEAL_OK);
    CHECK(deal_masks_get(masks, outside, &mask, &err) == DEAL_OK);
    CHECK(mask.n_token == 1 && mask.token[0] == END);
    CHECK(toy.n_masks == 3);
    deal_masks_release(masks, two); // kept all the same
    CHECK(deal_masks_child(masks, one, 7, &two, &err) == DEAL_OK);
    CHECK(deal_masks_get(masks, two, &mask, &err) == DEAL_OK && toy.n_masks == 3);
    bool accepts;
    const int32_t word[] = {1, 7};
    CHECK(deal_masks_accept(masks, word, 2, &accepts, &err) == DEAL_OK && accepts);
    CHECK(deal_masks_accept(masks, word, 1, &accepts, &err) == DEAL_OK && !accepts);
    deal_masks_release(masks, two);
    deal_masks_release(masks, one);
    deal_masks_release(masks, outside);
    deal_masks_free(masks);
    CHECK(toy.n_live == 0);
}

// Places that nobody holds are let go when there are many, and come again.
static void
test_idle_places(void)
{
    deal_error err;
    deal_mask mask;
    set_up();
    deal_masks *masks = new_masks();
    for (int32_t round = 0; round < 3; round++)
        for (int32_t i = 0; i < 40; i++)
            for (int32_t j = 0; j < 40; j++) {
                int32_t first, second;
                CHECK(deal_masks_child(masks, DEAL_MASK_ROOT, i, &first, &err) ==
                      DEAL_OK);
                CHECK(deal_masks_child(masks, first, j, &second, &err) == DEAL_OK);
                CHECK(deal_masks_get(masks, second, &mask, &err) == DEAL_OK);
                deal_masks_release(masks, first);
                deal_masks_release(masks, second);
                CHECK(toy.n_live <= 600);
            }
    deal_masks_free(masks);
    CHECK(toy.n_live == 0);
}

static void
test_masked_lm(void)
{
    deal_error err;
    set_up();
    deal_masks *masks = new_masks();
    deal_table_lm *table;
    CHECK(deal_table_lm_new(N_VOCAB, 20, 1, NULL, 3, &table, &err) == DEAL_OK);
    deal_lm *lm;
    CHECK(deal_masked_lm_new(&table->lm, masks, 1, &lm, &err) == DEAL_OK);
    deal_node root;
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    static float logits[N_VOCAB], top_logit[N_VOCAB];
    static int32_t top[N_VOCAB];
    deal_lm_item item[3] = {
        {.parent = root,
         .i_parent = -1,
         .token = 9,
         .want = DEAL_WANT_TOP_K | DEAL_WANT_LOGITS | DEAL_WANT_LOG_Z,
         .top_k = N_VOCAB,
         .top_token = top,
         .top_logit = top_logit,
         .logits = logits},
        {.i_parent = 0, .token = 1, .want = 0},
        {.i_parent = 1,
         .token = 7,
         .want = DEAL_WANT_TOP_K | DEAL_WANT_IDS,
         .top_k = 1,
         .top_token = top,
         .top_logit = top_logit},
    };
    CHECK(lm->ops->extend(lm, item, 1, &err) == DEAL_OK);
    CHECK(logits[5] == -INFINITY && logits[END] == -INFINITY && isfinite(logits[0]));
    CHECK(top[N_VOCAB - 2] == 5 && top[N_VOCAB - 1] == END);
    CHECK(isfinite(top_logit[N_VOCAB - 3]) && top_logit[N_VOCAB - 2] == -INFINITY);
    for (int32_t i = 1; i < N_VOCAB - 2; i++)
        CHECK(top_logit[i] < top_logit[i - 1] ||
              (top_logit[i] == top_logit[i - 1] && top[i] > top[i - 1]));
    deal_node first = item[0].node;
    item[1].parent = first;
    item[1].i_parent = -1;
    item[2].i_parent = 0;
    CHECK(lm->ops->extend(lm, item + 1, 2, &err) == DEAL_OK);
    CHECK(top[0] == END && table->lm.n_forward_tokens == 2); // the third is put off
    CHECK(lm->n_forward_tokens == 2 && lm->ops->child(lm, item[1].node, 7) >= 0);
    deal_lm_item last = {
        .parent = item[2].node, .i_parent = -1, .token = END, .want = DEAL_WANT_LOG_Z};
    table->fail_in = 1;
    CHECK(lm->ops->extend(lm, &last, 1, &err) == DEAL_ERR_IO);
    CHECK(lm->ops->extend(lm, &last, 1, &err) == DEAL_OK);
    CHECK(table->lm.n_forward_tokens == 4 && isfinite(last.log_z));
    const deal_node node[] = {root, first, item[1].node, item[2].node, last.node};
    for (size_t i = 0; i < sizeof node / sizeof *node; i++)
        lm->ops->release(lm, node[i]);
    CHECK(table->n_live == 0);
    deal_masked_lm_free(lm);
    deal_masks_free(masks);
    deal_table_lm_free(table);
    CHECK(toy.n_live == 0);
}

// --- whole searches ------------------------------------------------------------------

typedef struct fixture {
    deal_table_lm *table;
    deal_vocab *vocab;
    deal_search_request request;
    int32_t prompt[1];
} fixture;

static void
open_fixture(fixture *f, deal_search_mode mode)
{
    deal_error err;
    static int64_t offset[N_VOCAB + 1];
    static uint8_t kind[N_VOCAB], bytes[N_VOCAB];
    memset(bytes, 'a', sizeof bytes);
    for (int32_t i = 0; i <= N_VOCAB; i++)
        offset[i] = i;
    set_up();
    *f = (fixture){.prompt = {9}};
    CHECK(deal_table_lm_new(N_VOCAB, 30, 1, NULL, 3, &f->table, &err) == DEAL_OK);
    CHECK(deal_vocab_new(N_VOCAB, bytes, N_VOCAB, offset, kind, DEAL_BYTE_RULE_STREAM,
                         DEAL_LEADING_SPACE_KEEP, &f->vocab, &err) == DEAL_OK);
    f->request = (deal_search_request){
        .lm = &f->table->lm,
        .vocab = f->vocab,
        .prompt = f->prompt,
        .n_prompt = 1,
        .end_token = end_token,
        .n_end = 1,
        .constraint = &toy.constraint,
        .params = {.mode = mode,
                   .n_new_max = 12,
                   .n_return = 1,
                   .repetition_penalty = 1.0,
                   .top_p = 1.0,
                   .beam_size = 2,
                   .length_penalty = 1.0,
                   .top_k = mode == DEAL_SEARCH_SAMPLE ? 0 : 3,
                   .lookahead_len = 4,
                   .commit = 2,
                   .tricks = 15},
    };
}

static void
close_fixture(fixture *f)
{
    CHECK(f->table->n_live == 0 && toy.n_live == 0);
    deal_table_lm_free(f->table);
    deal_vocab_free(f->vocab);
}

static deal_status
run(const fixture *f, deal_error *err)
{
    deal_search *search;
    DEAL_TRY(deal_search_new(&f->request, &search, err));
    deal_status status = DEAL_OK;
    for (bool is_done = false; status == DEAL_OK && !is_done;)
        status = deal_search_step(search, &is_done, err);
    deal_search_free(search);
    return status;
}

static void
test_bad_constraints(void)
{
    deal_error err;
    fixture f;
    open_fixture(&f, DEAL_SEARCH_EXACT);
    toy.constraint.abi_version = 2;
    CHECK(run(&f, &err) == DEAL_ERR_INVALID_ARG && strstr(err.message, "version 2"));
    set_up();
    toy.constraint.mask = NULL;
    CHECK(run(&f, &err) == DEAL_ERR_INVALID_ARG && strstr(err.message, "mask"));
    set_up();
    toy.constraint.n_vocab = 0;
    CHECK(run(&f, &err) == DEAL_ERR_INVALID_ARG && strstr(err.message, "n_vocab 0"));
    set_up();
    f.request.n_end = 0;
    CHECK(run(&f, &err) == DEAL_ERR_INVALID_ARG && strstr(err.message, "end token"));
    close_fixture(&f);
}

// Every call of the constraint goes wrong once, in every mode; nothing is lost.
static void
test_faults(void)
{
    static const deal_search_mode mode[] = {DEAL_SEARCH_SAMPLE, DEAL_SEARCH_BEAM,
                                            DEAL_SEARCH_NAIVE, DEAL_SEARCH_EXACT};
    for (size_t m = 0; m < sizeof mode / sizeof *mode; m++) {
        int32_t n_failed = 0;
        for (int32_t n = 1;; n++) {
            deal_error err;
            fixture f;
            open_fixture(&f, mode[m]);
            toy.fault = n % 2 ? TOY_MASK_FAILS : TOY_MASK_BAD_CODE;
            toy.fault_in = n;
            deal_status status = run(&f, &err);
            bool is_over = toy.fault_in > 0; // it was not called so often
            CHECK(status == (is_over ? DEAL_OK : DEAL_ERR_CONSTRAINT));
            if (!is_over)
                CHECK(strstr(err.message, "constraint toy: ") &&
                      strstr(err.message, n % 2 ? "told to fail" : "it failed"));
            n_failed += !is_over;
            close_fixture(&f);
            if (is_over)
                break;
        }
        CHECK(n_failed > 5);
    }
}

static void
test_odd_masks(void)
{
    deal_error err;
    deal_mask mask;
    set_up();
    deal_masks *masks = new_masks();
    toy.fault = TOY_MASK_ACCEPTS_TWICE;
    toy.fault_in = 2; // after init
    CHECK(deal_masks_get(masks, DEAL_MASK_ROOT, &mask, &err) == DEAL_ERR_CONSTRAINT);
    CHECK(strstr(err.message, "expected 0 or 1, got 2") != NULL);
    deal_masks_free(masks);
    masks = new_masks();
    toy.fault = TOY_MASK_ALL_BITS; // ids that there are not, too
    toy.fault_in = 2;
    CHECK(deal_masks_get(masks, DEAL_MASK_ROOT, &mask, &err) == DEAL_OK);
    CHECK(mask.n_token == N_VOCAB - 1 && toy.fault_in == 0);
    deal_masks_free(masks);
}

// A constraint that knows fewer tokens allows no others, whatever its mask says.
static void
test_smaller_vocabulary(void)
{
    deal_error err;
    deal_mask mask;
    set_up();
    toy.constraint.n_vocab = 40;
    deal_masks *masks = new_masks();
    CHECK(deal_masks_get(masks, DEAL_MASK_ROOT, &mask, &err) == DEAL_OK);
    CHECK(mask.n_token == 39 && !deal_mask_allows(&mask, 40));
    deal_masks_free(masks);
    toy.constraint.n_vocab = 500; // and one that knows more says nothing of them
    static int32_t wide[N_STATE * 500];
    toy.next = wide;
    masks = new_masks();
    CHECK(deal_masks_get(masks, DEAL_MASK_ROOT, &mask, &err) == DEAL_OK);
    CHECK(mask.n_token == N_VOCAB - 1);
    deal_masks_free(masks);
}

static void
test_no_memory(void)
{
    for (size_t n = 1;; n++) {
        deal_error err;
        fixture f;
        open_fixture(&f, DEAL_SEARCH_EXACT);
        deal_alloc_fail_at(n);
        deal_status status = run(&f, &err);
        deal_alloc_fail_at(0);
        CHECK(status == DEAL_OK || status == DEAL_ERR_NO_MEMORY ||
              status == DEAL_ERR_CONSTRAINT); // the toy's own memory
        close_fixture(&f);
        if (status == DEAL_OK)
            break;
    }
}

int
main(void)
{
    test_masks();
    test_idle_places();
    test_masked_lm();
    test_bad_constraints();
    test_faults();
    test_odd_masks();
    test_smaller_vocabulary();
    test_no_memory();
    return check_report("masks");
}
