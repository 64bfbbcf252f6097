/* A state is one number: pooling and the dot product are both linear, so that the mean
 * of the states need not be kept, only that of what the weights make of each.
 */
#include "reward/head.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

typedef struct head {
    deal_reward reward; // first: the public part
    deal_pooling pooling;
    double bias;
    double *weight; // (n_weight,)
    int32_t *layer; // (n_layer,)
    size_t n_weight;
} head;

typedef struct state {
    double sum;      // of weight . state: over the completion's tokens, or of the last
    int32_t n_token; // in the sum; 0: it is that of the prompt's last token
} state;

static int
head_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
          char *message)
{
    (void)self;
    (void)prompt;
    (void)message;
    memset(state_bytes, 0, sizeof(state));
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

static int
head_observe(void *self, void *state_bytes, int32_t n_tokens, const float *hidden,
             char *message)
{
    (void)message;
    const head *h = self;
    state *s = state_bytes;
    double dot = 0.0;
    for (size_t i = 0; i < h->n_weight; i++)
        dot += h->weight[i] * (double)hidden[i];
    if (h->pooling == DEAL_POOLING_MEAN && n_tokens > 1)
        s->sum += dot;
    else
        s->sum = dot;
    s->n_token = n_tokens;
    return 0;
}

static int
head_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
           char *message)
{
    (void)is_finished;
    (void)message;
    const head *h = self;
    const state *s = state_bytes;
    double pooled = s->sum;
    if (h->pooling == DEAL_POOLING_MEAN && s->n_token > 1)
        pooled /= (double)s->n_token;
    *score = 1.0 / (1.0 + exp(-(pooled + h->bias)));
    return 0;
}

static deal_status
check_params(const deal_head_params *params, deal_error *err)
{
    if (params->n_layer < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: layers: expected at least one, got %d",
                         (int)params->n_layer);
    if (params->n_embd < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: n_embd: expected at least 1, got %d",
                         (int)params->n_embd);
    if ((int)params->pooling < DEAL_POOLING_LAST ||
        (int)params->pooling > DEAL_POOLING_MEAN)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: pooling: expected 0 to %d, got %d",
                         (int)DEAL_POOLING_MEAN, (int)params->pooling);
    for (int32_t i = 0; i < params->n_layer; i++)
        if (params->layer[i] < -1)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "head: layers[%d]: expected at least -1, got %d", (int)i,
                             (int)params->layer[i]);
    if (!isfinite(params->bias))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head: bias: expected a finite number, got %g", params->bias);
    size_t n = (size_t)params->n_layer * (size_t)params->n_embd;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(params->weight[i]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "head: weight[%zu]: expected a finite number, got %g", i,
                             params->weight[i]);
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
    size_t n_layer = (size_t)params->n_layer;
    h->n_weight = n_layer * (size_t)params->n_embd;
    h->weight = deal_alloc(h->n_weight, sizeof *h->weight);
    h->layer = deal_alloc(n_layer, sizeof *h->layer);
    if (!h->weight || !h->layer) {
        deal_reward_head_free(&h->reward);
        return deal_fail_memory(err, "head");
    }
    memcpy(h->weight, params->weight, h->n_weight * sizeof *h->weight);
    memcpy(h->layer, params->layer, n_layer * sizeof *h->layer);
    h->pooling = params->pooling;
    h->bias = params->bias;
    h->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = h,
        .name = "reward_model",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(state),
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

void
deal_reward_head_free(deal_reward *reward)
{
    head *h = (head *)reward; // the first member of the block
    if (!h)
        return;
    deal_free(h->weight);
    deal_free(h->layer);
    deal_free(h);
}
