/* Pooling comes first and is linear. Without a hidden layer so is what follows: a state
 * is one number, what the weights make of the states so far. With one, it is the sum of
 * the states, and the layer is evaluated once a score.
 */
#include "reward/head.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"

typedef struct head {
    deal_reward reward; // first: the public part
    deal_pooling pooling;
    deal_activation activation;
    double bias;
    double *weight;        // (n_in,), or (n_hidden,)
    double *hidden_weight; // (n_in, n_hidden): turned over, a row an input
    double *hidden_bias;   // (n_hidden,)
    int32_t *layer;        // (n_layer,)
    int32_t n_in, n_hidden;
} head;

typedef struct state {
    int64_t n_token; // in the sum; 0: it is that of the prompt's last token
    double sum[];    // (1,) of weight . state, or (n_in,) of states: over the
                     // completion's tokens, or of the last
} state;

static size_t
n_sum(const head *h)
{
    return h->n_hidden ? (size_t)h->n_in : 1;
}

static int
head_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
          char *message)
{
    const head *h = self;
    (void)prompt;
    (void)message;
    memset(state_bytes, 0, h->reward.state_size);
    return 0;
}

// Texts say nothing to a head.
static int
head_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
             size_t size, char *message)
{
    (void)self;
    (void)state_bytes;
    (void)token;
    (void)bytes;
    (void)size;
    (void)message;
    return 0;
}

static double
dot(const head *h, const float *hidden)
{
    double sum = 0.0;
    for (int32_t i = 0; i < h->n_in; i++)
        sum += h->weight[i] * (double)hidden[i];
    return sum;
}

static int
head_observe(void *self, void *state_bytes, int32_t n_tokens, const float *hidden,
             char *message)
{
    (void)message;
    const head *h = self;
    state *s = state_bytes;
    bool is_added = h->pooling == DEAL_POOLING_MEAN && n_tokens > 1;
    if (!is_added)
        memset(s->sum, 0, n_sum(h) * sizeof *s->sum);
    if (!h->n_hidden)
        s->sum[0] += dot(h, hidden);
    for (int32_t i = 0; h->n_hidden && i < h->n_in; i++)
        s->sum[i] += (double)hidden[i];
    s->n_token = n_tokens;
    return 0;
}

// What follows the pooled states, scale * x (n_in,).
static double
evaluate_hidden(const head *h, const double *x, double scale)
{
    double z[DEAL_LAYER_MAX], sum = h->bias;
    deal_layer_forward(h->hidden_weight, h->hidden_bias, h->n_in, h->n_hidden, x, scale,
                       z);
    for (int32_t k = 0; k < h->n_hidden; k++)
        sum += h->weight[k] * deal_activation_value(h->activation, z[k]);
    return sum;
}

static int
head_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
           char *message)
{
    (void)is_finished;
    (void)message;
    const head *h = self;
    const state *s = state_bytes;
    bool is_mean = h->pooling == DEAL_POOLING_MEAN && s->n_token > 1;
    double n = is_mean ? (double)s->n_token : 1.0;
    double decision =
        h->n_hidden ? evaluate_hidden(h, s->sum, 1.0 / n) : s->sum[0] / n + h->bias;
    *score = 1.0 / (1.0 + exp(-decision));
    return 0;
}

// ---- Checks -------------------------------------------------------------------------

static deal_status
check_numbers(const char *name, const double *value, size_t n, deal_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(value[i]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "head: %s[%zu]: expected a finite number, got %g", name, i,
                             value[i]);
    return DEAL_OK;
}

static deal_status
check_sizes(const deal_head_params *params, deal_error *err)
{
    if (params->n_layer < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: layers: expected at least one, got %d",
                         (int)params->n_layer);
    if (params->n_embd < 1 || params->n_embd > INT32_MAX / params->n_layer)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: n_embd: expected at least 1, got %d",
                         (int)params->n_embd);
    if (params->n_hidden < 0 || params->n_hidden > DEAL_LAYER_MAX)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: n_hidden: expected 0 to %d, got %d", DEAL_LAYER_MAX,
                         (int)params->n_hidden);
    return DEAL_OK;
}

static deal_status
check_params(const deal_head_params *params, deal_error *err)
{
    DEAL_TRY(check_sizes(params, err));
    if ((int)params->pooling < DEAL_POOLING_LAST ||
        (int)params->pooling > DEAL_POOLING_MEAN)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: pooling: expected 0 to %d, got %d",
                         (int)DEAL_POOLING_MEAN, (int)params->pooling);
    if ((int)params->activation < DEAL_ACTIVATION_TANH ||
        (int)params->activation > DEAL_ACTIVATION_GELU)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: activation: expected 0 to %d, got %d",
                         (int)DEAL_ACTIVATION_GELU, (int)params->activation);
    for (int32_t i = 0; i < params->n_layer; i++)
        if (params->layer[i] < -1)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "head: layers[%d]: expected at least -1, got %d", (int)i,
                             (int)params->layer[i]);
    if (!isfinite(params->bias))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: bias: expected a finite number, got %g", params->bias);
    size_t n_in = (size_t)params->n_layer * (size_t)params->n_embd;
    size_t n_hidden = (size_t)params->n_hidden;
    DEAL_TRY(check_numbers("weight", params->weight, n_hidden ? n_hidden : n_in, err));
    DEAL_TRY(check_numbers("hidden_bias", params->hidden_bias, n_hidden, err));
    return check_numbers("hidden_weight", params->hidden_weight, n_hidden * n_in, err);
}

// ---- Public -------------------------------------------------------------------------

static deal_status
copy_weights(head *h, const deal_head_params *params, deal_error *err)
{
    size_t n_layer = (size_t)params->n_layer;
    size_t n_in = (size_t)h->n_in, n_hidden = (size_t)h->n_hidden;
    size_t n_weight = n_hidden ? n_hidden : n_in;
    h->weight = deal_alloc(n_weight, sizeof *h->weight);
    h->layer = deal_alloc(n_layer, sizeof *h->layer);
    h->hidden_weight = deal_alloc(n_hidden * n_in, sizeof *h->hidden_weight);
    h->hidden_bias = deal_alloc(n_hidden, sizeof *h->hidden_bias);
    if (!h->weight || !h->layer || !h->hidden_weight || !h->hidden_bias)
        return deal_fail_memory(err, "head");
    memcpy(h->weight, params->weight, n_weight * sizeof *h->weight);
    memcpy(h->layer, params->layer, n_layer * sizeof *h->layer);
    for (size_t k = 0; k < n_hidden; k++) {
        h->hidden_bias[k] = params->hidden_bias[k];
        for (size_t i = 0; i < n_in; i++)
            h->hidden_weight[i * n_hidden + k] = params->hidden_weight[k * n_in + i];
    }
    return DEAL_OK;
}

deal_status
deal_reward_head_new(const deal_head_params *params, deal_reward **reward,
                     deal_error *err)
{
    DEAL_TRY(check_params(params, err));
    head *h = deal_alloc_zero(1, sizeof *h);
    if (!h)
        return deal_fail_memory(err, "head");
    h->n_in = params->n_layer * params->n_embd;
    h->n_hidden = params->n_hidden;
    h->pooling = params->pooling;
    h->activation = params->activation;
    h->bias = params->bias;
    deal_status status = copy_weights(h, params, err);
    if (status != DEAL_OK) {
        deal_reward_head_free(&h->reward);
        return status;
    }
    h->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = h,
        .name = "reward_model",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(state) + n_sum(h) * sizeof(double),
        .init = head_init,
        .advance = head_advance,
        .score = head_score,
        .n_hidden_layers = params->n_layer,
        .hidden_layers = h->layer,
        .n_embd = params->n_embd,
        .observe = head_observe,
    };
    *reward = &h->reward;
    return DEAL_OK;
}

deal_status
deal_reward_head_decide(const deal_reward *reward, const float *x, int32_t n,
                        double *out, deal_error *err)
{
    const head *h = (const head *)reward; // the first member of the block
    size_t n_in = (size_t)h->n_in;
    double *row = deal_alloc(n_in, sizeof *row);
    if (!row)
        return deal_fail_memory(err, "head");
    for (int32_t r = 0; r < n; r++, x += n_in) {
        for (size_t i = 0; i < n_in; i++)
            row[i] = (double)x[i];
        out[r] = h->n_hidden ? evaluate_hidden(h, row, 1.0) : dot(h, x) + h->bias;
    }
    deal_free(row);
    return DEAL_OK;
}

void
deal_reward_head_free(deal_reward *reward)
{
    head *h = (head *)reward; // the first member of the block
    if (!h)
        return;
    deal_free(h->weight);
    deal_free(h->hidden_weight);
    deal_free(h->hidden_bias);
    deal_free(h->layer);
    deal_free(h);
}
