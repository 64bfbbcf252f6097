/* The head over hidden states: its scores against sums by hand, both poolings, faults;
 * and what a search checks of any reward that asks for hidden states.
 */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "reward/head.h"
#include "search/reward_set.h"
#include "toy_reward.h"

#define N_LAYER 2
#define N_EMBD 5
#define N_STATE (N_LAYER * N_EMBD)
#define N_TOKEN 6

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];
static const int32_t layers[] = {3, -1};
static double weight[N_STATE];
static float states[N_TOKEN + 1][N_STATE]; // the prompt's last token, and six

typedef union state_bytes {
    char bytes[128];
    long double align;
} state_bytes;

static void
make_numbers(void)
{
    for (uint64_t i = 0; i < N_STATE; i++)
        weight[i] = deal_rng_uniform(1, 0, i) - 0.5;
    for (uint64_t t = 0; t <= N_TOKEN; t++)
        for (uint64_t i = 0; i < N_STATE; i++)
            states[t][i] = (float)(4.0 * deal_rng_uniform(1, t + 1, i) - 2.0);
}

static deal_head_params
make_params(deal_pooling pooling)
{
    return (deal_head_params){.weight = weight,
                              .bias = 0.25,
                              .layer = layers,
                              .n_layer = N_LAYER,
                              .n_embd = N_EMBD,
                              .pooling = pooling};
}

static deal_reward *
make(deal_pooling pooling)
{
    deal_reward *reward = NULL;
    deal_error err;
    deal_head_params params = make_params(pooling);
    CHECK_EQ_INT(deal_reward_head_new(&params, &reward, &err), DEAL_OK);
    CHECK(reward->state_size <= sizeof(state_bytes));
    return reward;
}

static double
score_of(const deal_reward *r, const void *state)
{
    double score = -1.0;
    CHECK_EQ_INT(r->score(r->self, state, 0, &score, message), 0);
    return score;
}

// The definition: pool the states, then the linear map, then the sigmoid.
static double
expected(deal_pooling pooling, int n_token)
{
    double z = 0.25;
    for (int i = 0; i < N_STATE; i++) {
        double pooled = (double)states[n_token][i];
        if (pooling == DEAL_POOLING_MEAN && n_token > 0) {
            pooled = 0.0;
            for (int t = 1; t <= n_token; t++)
                pooled += (double)states[t][i] / n_token;
        }
        z += weight[i] * pooled;
    }
    return 1.0 / (1.0 + exp(-z));
}

static void
test_scores(deal_pooling pooling)
{
    deal_reward *r = make(pooling);
    const deal_reward_prompt prompt = {.text = "p", .size = 1, .n_new_max = N_TOKEN};
    state_bytes state, fork;
    CHECK_EQ_INT(r->init(r->self, &state, &prompt, message), 0);
    for (int32_t t = 0; t <= N_TOKEN; t++) {
        if (t > 0)
            CHECK_EQ_INT(r->advance(r->self, &state, t, "a", 1, message), 0);
        CHECK_EQ_INT(r->observe(r->self, &state, t, states[t], message), 0);
        CHECK_NEAR(score_of(r, &state), expected(pooling, t), 1e-14);
        fork = state; // a state is plain bytes
        if (t < N_TOKEN) {
            CHECK_EQ_INT(r->observe(r->self, &fork, t + 1, states[t + 1], message), 0);
            CHECK_NEAR(score_of(r, &fork), expected(pooling, t + 1), 1e-14);
            CHECK_NEAR(score_of(r, &state), expected(pooling, t), 1e-14);
        }
    }
    CHECK(fabs(expected(DEAL_POOLING_LAST, 4) - expected(DEAL_POOLING_MEAN, 4)) > 0.01);
    deal_reward_head_free(r);
}

// Far out, the sigmoid is rounded to its ends, which lie in the range.
static void
test_ends(void)
{
    deal_reward *r = make(DEAL_POOLING_LAST);
    state_bytes state;
    float far[N_STATE];
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int i = 0; i < N_STATE; i++)
            far[i] = (float)(sign * (weight[i] > 0.0 ? 1e30 : -1e30));
        CHECK_EQ_INT(r->init(r->self, &state, NULL, message), 0);
        CHECK_EQ_INT(r->observe(r->self, &state, 0, far, message), 0);
        double score = score_of(r, &state);
        CHECK(score == (sign > 0 ? 1.0 : 0.0));
        CHECK(score >= r->low && score <= r->high);
    }
    deal_reward_head_free(r);
    deal_reward_head_free(NULL);
}

// A hidden layer: its state grows with the features, which `state_bytes` has room for.
static void
test_hidden_layer(deal_activation activation, deal_pooling pooling)
{
    enum { N_HIDDEN = 3, N_SEEN = 4 };
    double first[N_HIDDEN * N_STATE], shift[N_HIDDEN], last[N_HIDDEN];
    for (uint64_t k = 0; k < N_HIDDEN; k++) {
        shift[k] = deal_rng_uniform(2, 0, k) - 0.5;
        last[k] = 2.0 * deal_rng_uniform(2, 1, k) - 1.0;
        for (uint64_t i = 0; i < N_STATE; i++)
            first[k * N_STATE + i] = deal_rng_uniform(2, 2, k * N_STATE + i) - 0.5;
    }
    deal_head_params params = make_params(pooling);
    params.weight = last;
    params.n_hidden = N_HIDDEN;
    params.hidden_weight = first;
    params.hidden_bias = shift;
    params.activation = activation;
    deal_reward *r = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_head_new(&params, &r, &err), DEAL_OK);
    CHECK(r->state_size <= sizeof(state_bytes));
    state_bytes state;
    CHECK_EQ_INT(r->init(r->self, &state, NULL, message), 0);
    for (int32_t t = 0; t <= N_SEEN; t++)
        CHECK_EQ_INT(r->observe(r->self, &state, t, states[t], message), 0);
    double decision = 0.25;
    float pooled[N_STATE];
    for (int i = 0; i < N_STATE; i++) {
        double sum = 0.0;
        for (int t = 1; t <= N_SEEN; t++)
            sum += (double)states[t][i] / N_SEEN;
        pooled[i] = pooling == DEAL_POOLING_MEAN ? (float)sum : states[N_SEEN][i];
    }
    for (int k = 0; k < N_HIDDEN; k++) {
        double z = shift[k];
        for (int i = 0; i < N_STATE; i++)
            z += first[k * N_STATE + i] * (double)pooled[i];
        double unit = activation == DEAL_ACTIVATION_TANH ? tanh(z)
                      : activation == DEAL_ACTIVATION_RELU
                          ? fmax(z, 0.0)
                          : z * (1 + erf(z / sqrt(2))) / 2;
        decision += last[k] * unit;
    }
    CHECK_NEAR(score_of(r, &state), 1.0 / (1.0 + exp(-decision)), 1e-6);
    double found;
    CHECK_EQ_INT(deal_reward_head_decide(r, pooled, 1, &found, &err), DEAL_OK);
    CHECK_NEAR(found, decision, 1e-12);
    deal_alloc_fail_at(1);
    CHECK_EQ_INT(deal_reward_head_decide(r, pooled, 1, &found, &err),
                 DEAL_ERR_NO_MEMORY);
    deal_alloc_fail_at(0);
    deal_reward_head_free(r);
}

static void
expect_bad(const deal_head_params *params, const char *part)
{
    deal_error err = {.message = ""};
    deal_reward *reward = NULL;
    CHECK_EQ_INT(deal_reward_head_new(params, &reward, &err), DEAL_ERR_INVALID_ARG);
    CHECK(reward == NULL);
    CHECK_HAS(err.message, part);
}

#define BAD(field, value, part)                                                        \
    do {                                                                               \
        deal_head_params bad_ = make_params(DEAL_POOLING_MEAN);                        \
        bad_.field = (value);                                                          \
        expect_bad(&bad_, part);                                                       \
    } while (0)

static void
test_bad_params(void)
{
    static const int32_t low[] = {0, -2};
    double bad[N_STATE];
    memcpy(bad, weight, sizeof bad);
    bad[7] = NAN;
    BAD(weight, bad, "weight[7]: expected a finite number");
    bad[7] = -INFINITY;
    BAD(weight, bad, "weight[7]: expected a finite number, got -inf");
    BAD(bias, NAN, "bias: expected a finite number");
    BAD(n_layer, 0, "layers: expected at least one, got 0");
    BAD(layer, low, "layers[1]: expected at least -1, got -2");
    BAD(n_embd, 0, "n_embd: expected at least 1, got 0");
    BAD(pooling, (deal_pooling)2, "pooling: expected 0 to 1, got 2");
    BAD(activation, (deal_activation)3, "activation: expected 0 to 2, got 3");
    BAD(n_hidden, -1, "n_hidden: expected 0 to 1024, got -1");
    BAD(n_hidden, 1025, "n_hidden: expected 0 to 1024, got 1025");
    BAD(n_embd, INT32_MAX, "n_embd: expected at least 1");
    bad[7] = 0.0;
    deal_head_params params = make_params(DEAL_POOLING_LAST);
    params.n_hidden = 1;
    params.hidden_weight = bad;
    params.hidden_bias = &bad[7];
    bad[3] = NAN;
    expect_bad(&params, "hidden_weight[3]: expected a finite number");
    bad[7] = INFINITY;
    expect_bad(&params, "hidden_bias[0]: expected a finite number, got inf");
}

static void
test_out_of_memory(void)
{
    deal_head_params params = make_params(DEAL_POOLING_LAST);
    deal_error err;
    for (size_t n = 1; n <= 5; n++) {
        deal_reward *reward = NULL;
        deal_alloc_fail_at(n);
        CHECK_EQ_INT(deal_reward_head_new(&params, &reward, &err), DEAL_ERR_NO_MEMORY);
        deal_alloc_fail_at(0);
        CHECK(reward == NULL);
        CHECK_HAS(err.message, "memory");
    }
}

// --- what is checked of a reward that asks for states --------------------------------

static toy_reward toy;

// Offers the toy to a model of 2 features and 3 layers.
static void
expect_refused(int32_t n_embd, deal_status expected_status, const char *part)
{
    deal_reward *const reward[] = {&toy.reward};
    const double one = 1.0;
    const deal_reward_prompt prompt = {.text = ""};
    deal_error err = {.message = ""};
    deal_reward_set set;
    deal_status status =
        deal_reward_set_init(&set, reward, &one, 1, NULL, &prompt, &err);
    if (status == DEAL_OK)
        status = deal_reward_hidden_init(&set, n_embd, 3, &err);
    CHECK_EQ_INT(status, expected_status);
    CHECK_HAS(err.message, part);
    deal_reward_set_free(&set);
}

static void
test_bad_hidden(void)
{
    static const int32_t sound[] = {-1, 2}, high[] = {0, 3}, low[] = {-1, -2};
    const char *form = "reward \"toy\": hidden states: expected";
    toy_reward_init(&toy, TOY_STATES, 1);
    toy_reward_ask(&toy, sound, 2, 2);
    expect_refused(2, DEAL_OK, "");
    expect_refused(0, DEAL_ERR_UNSUPPORTED,
                   "reward \"toy\" (0): it scores hidden states, and this language "
                   "model has none");
    expect_refused(4, DEAL_ERR_INVALID_ARG,
                   "reward \"toy\" (0): expected hidden states of 4 features (the "
                   "model's n_embd), got 2");
    toy_reward_ask(&toy, high, 2, 2);
    expect_refused(2, DEAL_ERR_INVALID_ARG,
                   "layers: expected -1 to 2 (the model's), got 3");
    toy_reward_ask(&toy, low, 2, 2);
    expect_refused(2, DEAL_ERR_INVALID_ARG, "layers: expected -1 to 2");
    toy_reward_ask(&toy, NULL, 2, 2);
    expect_refused(2, DEAL_ERR_INVALID_ARG, form);
    toy_reward_ask(&toy, sound, -1, 2);
    expect_refused(2, DEAL_ERR_INVALID_ARG, form);
    toy_reward_ask(&toy, sound, 0, 2);
    expect_refused(2, DEAL_ERR_INVALID_ARG, form);
    toy_reward_ask(&toy, sound, 2, 0);
    expect_refused(2, DEAL_ERR_INVALID_ARG, form);
    toy_reward_ask(&toy, sound, 2, 2);
    toy.reward.observe = NULL;
    expect_refused(2, DEAL_ERR_INVALID_ARG, form);
    toy_reward_init(&toy, TOY_TEXTS, 1);
    toy.reward.name = "toy";
    toy_reward_ask(&toy, sound, 2, 2);
    expect_refused(2, DEAL_ERR_INVALID_ARG, form);
}

int
main(void)
{
    make_numbers();
    test_scores(DEAL_POOLING_LAST);
    test_scores(DEAL_POOLING_MEAN);
    for (int a = DEAL_ACTIVATION_TANH; a <= DEAL_ACTIVATION_GELU; a++)
        for (int p = DEAL_POOLING_LAST; p <= DEAL_POOLING_MEAN; p++)
            test_hidden_layer((deal_activation)a, (deal_pooling)p);
    test_ends();
    test_bad_params();
    test_out_of_memory();
    test_bad_hidden();
    return check_report("test_head");
}
