/* What is guessed ahead of need: drafts, what a pass costs, and how often a row that was
 * evaluated ahead turned out to be needed.
 */
#include "check.h"
#include "common/alloc.h"
#include "search/cost.h"
#include "search/draft.h"
#include "search/known.h"
#include "table_lm.h"

// --- drafts --------------------------------------------------------------------------

static void
learn(deal_draft *draft, int32_t last, int32_t second, int32_t third, int32_t next)
{
    int32_t context[DEAL_DRAFT_ORDER] = {last, second, third};
    deal_draft_learn(draft, context, next);
}

// The guess after a context, as 100 times its order and the token; 0: none.
static int32_t
guess(const deal_draft *draft, int32_t last, int32_t second, int32_t third)
{
    int32_t context[DEAL_DRAFT_ORDER] = {last, second, third}, token = 0;
    int32_t order = deal_draft_guess(draft, context, &token);
    return 100 * order + token;
}

static void
test_guesses(deal_draft *draft)
{
    deal_draft_init(draft);
    CHECK_EQ_INT(guess(draft, 5, 6, 4), 0);
    CHECK_EQ_INT(guess(draft, 5, -1, -1), 0);
    learn(draft, 5, -1, -1, 7); // at a text's beginning one token is all there is
    CHECK_EQ_INT(guess(draft, 5, 6, 4), 107);
    CHECK_EQ_INT(guess(draft, 5, -1, -1), 107);
    learn(draft, 5, 6, -1, 8);
    CHECK_EQ_INT(guess(draft, 5, 6, 4), 208);
    CHECK_EQ_INT(guess(draft, 5, 1, 4), 108); // the latest
    learn(draft, 5, 6, 4, 9);
    CHECK_EQ_INT(guess(draft, 5, 6, 4), 309); // the longest
    CHECK_EQ_INT(guess(draft, 5, 6, 1), 209);
    CHECK_EQ_INT(guess(draft, 5, 6, -1), 209);
    learn(draft, 5, 2, 4, 3);
    CHECK_EQ_INT(guess(draft, 5, 6, 4), 309); // what is longer stays
    CHECK_EQ_INT(guess(draft, 5, 1, 1), 103);
    CHECK_EQ_INT(guess(draft, 6, 5, 4), 0);
    learn(draft, 5, 6, 4, 0); // token 0 is one as well
    CHECK_EQ_INT(guess(draft, 5, 6, 4), 300);
}

// Contexts that fall on one place take it from each other, and never answer for one
// another.
static void
test_places(deal_draft *draft)
{
    deal_draft_init(draft);
    int32_t n_token = 3 * DEAL_DRAFT_SIZE, n_held = 0, n_wrong = 0;
    for (int32_t token = 0; token < n_token; token++)
        learn(draft, token, -1, -1, token % 50);
    for (int32_t token = 0; token < n_token; token++) {
        int32_t found = guess(draft, token, -1, -1);
        n_held += found != 0;
        n_wrong += found != 0 && found != 100 + token % 50;
    }
    CHECK_EQ_INT(n_wrong, 0);
    CHECK(n_held > DEAL_DRAFT_SIZE / 2 && n_held <= DEAL_DRAFT_SIZE);
    CHECK_EQ_INT(guess(draft, n_token - 1, -1, -1), 100 + (n_token - 1) % 50);
}

static void
test_rates(deal_draft *draft)
{
    deal_draft_init(draft);
    CHECK(draft->rate[0] == 0.3 && draft->rate[1] == 0.5 && draft->rate[2] == 0.7);
    deal_draft_count(draft, 3, 1);
    CHECK_NEAR(draft->rate[2], 0.715, 1e-15);
    deal_draft_count(draft, 3, 0);
    CHECK_NEAR(draft->rate[2], 0.67925, 1e-15);
    deal_draft_count(draft, 1, 0);
    CHECK_NEAR(draft->rate[0], 0.285, 1e-15);
    CHECK(draft->rate[1] == 0.5);
    for (int i = 0; i < 1000; i++)
        deal_draft_count(draft, 2, i % 4 != 0);
    CHECK_NEAR(draft->rate[1], 0.75, 0.03);
}

// --- what a pass costs ---------------------------------------------------------------

static void
test_first_cost(void)
{
    deal_cost cost = {0};
    CHECK(deal_cost_chance(&cost, 1) == 0.5 && deal_cost_chance(&cost, 64) == 0.5);
    deal_cost_add(&cost, 1, 0, 1.25); // taken for a pass of 1 and a row of 0.25
    CHECK_NEAR(cost.n, 0.98 * 4.0 + 1.0, 1e-12);
    CHECK_NEAR(cost.x, 0.98 * 34.0 + 1.0, 1e-12);
    CHECK_NEAR(cost.xx, 0.98 * 514.0 + 1.0, 1e-12);
    CHECK_NEAR(cost.t, 0.98 * 12.5 + 1.25, 1e-12);
    CHECK_NEAR(cost.xt, 0.98 * 162.5 + 1.25, 1e-12);
    CHECK_NEAR(cost.pass, 1.0, 1e-12);
    CHECK_NEAR(cost.row, 0.25, 1e-12);
    CHECK_NEAR(deal_cost_chance(&cost, 1), 0.2, 1e-12);
    CHECK_NEAR(deal_cost_chance(&cost, 4), 0.5, 1e-12);
    CHECK(deal_cost_chance(&cost, 0) == deal_cost_chance(&cost, 1));
    cost.n_company = 3; // rows of others make a pass as full as rows of one's own
    CHECK_NEAR(deal_cost_chance(&cost, 1), 0.5, 1e-12);
}

static void
test_fitted_cost(void)
{
    static const int32_t n_row[] = {1, 8, 16, 3};
    deal_cost cost = {0};
    for (int i = 0; i < 2000; i++)
        deal_cost_add(&cost, 1, n_row[i % 4] - 1, 2.0 + 0.5 * n_row[i % 4]);
    CHECK_NEAR(cost.pass, 2.0, 1e-9);
    CHECK_NEAR(cost.row, 0.5, 1e-9);
    CHECK_EQ_INT(cost.n_company, 2); // the last one's
    CHECK_NEAR(deal_cost_chance(&cost, 2), 0.5, 1e-9);
    for (int i = 0; i < 2000; i++) // what was before weighs nothing
        deal_cost_add(&cost, n_row[i % 4], 0, 0.1 + 0.2 * n_row[i % 4]);
    CHECK_NEAR(cost.pass, 0.1, 1e-9);
    CHECK_NEAR(cost.row, 0.2, 1e-9);
    CHECK_NEAR(deal_cost_chance(&cost, 2), 0.8, 1e-9);
}

// A line that no machine has is noise: a row is then a quarter of a pass.
static void
test_noisy_cost(void)
{
    static const int32_t n_row[] = {1, 8, 16, 3};
    for (int is_steep = 0; is_steep < 2; is_steep++) {
        deal_cost cost = {0};
        for (int i = 0; i < 500; i++) {
            double x = n_row[i % 4];
            deal_cost_add(&cost, n_row[i % 4], 0, is_steep ? x * x : 20.0 - x);
        }
        CHECK(cost.pass > 0.0 && cost.row == 0.25 * cost.pass);
        CHECK_NEAR(cost.n * cost.pass + cost.x * cost.row, cost.t, 1e-9 * cost.t);
    }
    deal_cost cost = {0};
    for (int i = 0; i < 200; i++)
        deal_cost_add(&cost, 8, 0, 3.0);
    CHECK_NEAR(cost.pass + 8.0 * cost.row, 3.0, 1e-6);
}

// --- what came of rows ahead ---------------------------------------------------------

// Evaluates `token` below the entry, ahead.
static int32_t
add_ahead(deal_known *known, int32_t parent, int32_t token, deal_ahead ahead,
          float chance)
{
    deal_error err;
    int32_t top_token;
    float top_logit;
    deal_lm_item item = {
        .parent = known->entry[parent].node,
        .i_parent = -1,
        .token = token,
        .want = DEAL_WANT_TOP_K,
        .top_k = 1,
        .top_token = &top_token,
        .top_logit = &top_logit,
    };
    CHECK(known->lm->ops->extend(known->lm, &item, 1, &err) == DEAL_OK);
    CHECK(deal_known_reserve(known, 1, &err) == DEAL_OK);
    int32_t i = deal_known_add(known, parent, token, item.node, 1, &top_token,
                               &top_logit, 0.0f);
    known->entry[i].ahead = ahead;
    known->entry[i].chance = chance;
    return i;
}

static void
test_luck(void)
{
    deal_error err;
    deal_table_lm *lm;
    deal_node top;
    CHECK(deal_table_lm_new(8, 50, 1, NULL, 1, &lm, &err) == DEAL_OK);
    CHECK(lm->lm.ops->root(&lm->lm, &top, &err) == DEAL_OK);
    deal_known known;
    deal_known_init(&known, &lm->lm, 1);
    CHECK(deal_known_reserve(&known, 1, &err) == DEAL_OK);
    int32_t none = 0;
    float zero = 0.0f;
    int32_t root = deal_known_add(&known, DEAL_KNOWN_NONE, 0, top, 1, &none, &zero, 0);
    CHECK(deal_known_luck(&known, DEAL_AHEAD_TIP) == 1.0);

    int32_t tip = add_ahead(&known, root, 1, DEAL_AHEAD_TIP, 0.5f);
    add_ahead(&known, tip, 2, DEAL_AHEAD_TIP, 0.5f);
    add_ahead(&known, root, 3, DEAL_AHEAD_NOW, 0.25f);
    add_ahead(&known, root, 4, DEAL_AHEAD_NOT, 0.25f); // was asked for
    CHECK_EQ_INT(known.n_live, 5);
    CHECK(deal_known_luck(&known, DEAL_AHEAD_TIP) == 1.0); // nothing came out yet
    for (int i = 0; i < 2; i++) {
        deal_known_need(&known, tip); // counts once
        CHECK_NEAR(deal_known_luck(&known, DEAL_AHEAD_TIP), 5.0 / 4.5, 1e-12);
    }
    CHECK_EQ_INT(known.n_in_vain, 0);

    deal_known_trim(&known, &tip, 1, false); // frees what lies beside it and below
    CHECK_EQ_INT(known.n_live, 1);
    CHECK_EQ_INT(known.n_in_vain, 2);
    CHECK_NEAR(deal_known_luck(&known, DEAL_AHEAD_TIP), (0.99 + 4.0) / (0.995 + 4.0),
               1e-12);
    CHECK_NEAR(deal_known_luck(&known, DEAL_AHEAD_NOW), 4.0 / 4.25, 1e-12);
    CHECK(deal_known_luck(&known, DEAL_AHEAD_LATER) == 1.0);
    deal_known_free(&known);
    CHECK_EQ_INT(lm->n_live, 0); // all nodes are given back
    deal_table_lm_free(lm);
}

int
main(void)
{
    deal_draft *draft = deal_alloc(1, sizeof *draft);
    if (CHECK(draft != NULL)) {
        test_guesses(draft);
        test_places(draft);
        test_rates(draft);
    }
    deal_free(draft);
    test_first_cost();
    test_fitted_cost();
    test_noisy_cost();
    test_luck();
    return check_report("draft");
}
