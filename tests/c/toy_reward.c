#include "toy_reward.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct toy_state {
    uint32_t text_hash, token_hash;
    int32_t n_token, n_told; // TOY_STATES
} toy_state;

static bool
is_owning(const toy_reward *toy)
{
    return toy->form == TOY_OWNING || toy->form == TOY_STATES;
}

static uint32_t
hash_byte(uint32_t hash, uint8_t byte)
{
    return (hash ^ byte) * 16777619u;
}

static uint32_t
hash_word(uint32_t hash, uint32_t word)
{
    for (int i = 0; i < 4; i++)
        hash = hash_byte(hash, (uint8_t)(word >> 8 * i));
    return hash;
}

static uint32_t
hash_text(uint32_t hash, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = hash_byte(hash, (uint8_t)text[i]);
    return hash;
}

static double
score_of(uint32_t text_hash, uint32_t other, int32_t is_finished)
{
    uint32_t hash = hash_word(hash_word(text_hash, other), (uint32_t)is_finished);
    return (double)((hash >> 13) % 17) / 8.0 - 1.0;
}

// What an impure toy hashes besides: how many it has scored before.
static uint32_t
stir(toy_reward *toy, uint32_t text_hash)
{
    uint32_t n = (uint32_t)toy->n_texts++;
    return toy->reward.is_impure ? hash_word(text_hash, n) : text_hash;
}

static bool
is_faulty(int32_t *fault_in)
{
    return *fault_in > 0 && --*fault_in == 0;
}

static int
fail(char *message)
{
    strcpy(message, "told to fail");
    return 1;
}

// Spoils one score; the code to return.
static int
spoil(const toy_reward *toy, double *score, char *message)
{
    switch (toy->fault) {
    case TOY_FAILS:
        return fail(message);
    case TOY_BAD_CODE:
        return 7;
    case TOY_NAN:
    case TOY_FORGETS:
        *score = NAN;
        break;
    case TOY_INFINITE:
        *score = INFINITY;
        break;
    case TOY_OUT_OF_RANGE:
        *score = toy->reward.high + 1.0;
        break;
    }
    return 0;
}

// Faults of score come at a score; those of a function that cannot spoil one wait.
static bool
fails_now(toy_reward *toy, bool has_score)
{
    toy->n_calls++;
    if (!has_score && toy->fault != TOY_FAILS && toy->fault != TOY_BAD_CODE)
        return false;
    return is_faulty(&toy->fault_in);
}

static toy_state *
state_in(const toy_reward *toy, void *state)
{
    return is_owning(toy) ? *(toy_state **)state : state;
}

static int
make_state(toy_reward *toy, void *state, char *message)
{
    if (is_faulty(&toy->fork_fault_in))
        return fail(message);
    if (is_owning(toy)) {
        toy_state *owned = malloc(sizeof *owned);
        if (!owned)
            return fail(message);
        *(toy_state **)state = owned;
    }
    toy->n_state += toy->form != TOY_PLAIN;
    return 0;
}

static int
toy_init(void *self, void *state, const deal_reward_prompt *prompt, char *message)
{
    toy_reward *toy = self;
    if (make_state(toy, state, message) != 0)
        return 1;
    if (toy->form == TOY_WRAP)
        return toy->inner->init(toy->inner->self, state, prompt, message);
    uint32_t basis = hash_text(2166136261u ^ toy->salt, prompt->text, prompt->size);
    *state_in(toy, state) = (toy_state){.text_hash = basis, .token_hash = 2166136261u};
    return 0;
}

static int
toy_fork(void *self, void *to, const void *from, char *message)
{
    toy_reward *toy = self;
    if (make_state(toy, to, message) != 0)
        return 1;
    if (toy->form == TOY_WRAP)
        memcpy(to, from, toy->inner->state_size);
    else
        *state_in(toy, to) = **(toy_state *const *)from;
    return 0;
}

static void
toy_drop(void *self, void *state)
{
    toy_reward *toy = self;
    if (is_owning(toy))
        free(*(toy_state **)state);
    toy->n_state--;
}

static int
toy_advance(void *self, void *state, int32_t token, const char *bytes, size_t size,
            char *message)
{
    toy_reward *toy = self;
    double unused;
    if (fails_now(toy, false))
        return spoil(toy, &unused, message);
    if (toy->form == TOY_WRAP)
        return toy->inner->advance(toy->inner->self, state, token, bytes, size,
                                   message);
    toy_state *s = state_in(toy, state);
    s->text_hash = hash_text(s->text_hash, bytes, size);
    if (token < 0)
        return 0;
    s->n_token++;
    if (toy->form != TOY_STATES) // there the order with the states would matter
        s->token_hash = hash_word(s->token_hash, (uint32_t)token);
    return 0;
}

static int
toy_observe(void *self, void *state, int32_t n_tokens, const float *hidden,
            char *message)
{
    toy_reward *toy = self;
    double unused;
    if (fails_now(toy, false))
        return spoil(toy, &unused, message);
    if (toy->form == TOY_WRAP)
        return toy->inner->observe(toy->inner->self, state, n_tokens, hidden, message);
    toy_state *s = state_in(toy, state);
    if (n_tokens != s->n_told || n_tokens > s->n_token) {
        strcpy(message, "states out of order");
        return 1;
    }
    s->n_told++;
    size_t n = (size_t)toy->reward.n_hidden_layers * (size_t)toy->reward.n_embd;
    for (size_t i = 0; i < n; i++)
        s->token_hash = hash_word(s->token_hash, (uint32_t)(int32_t)(4.0f * hidden[i]));
    return 0;
}

static int
toy_score(void *self, const void *state, int32_t is_finished, double *score,
          char *message)
{
    toy_reward *toy = self;
    if (fails_now(toy, true))
        return toy->fault == TOY_FORGETS ? 0 : spoil(toy, score, message);
    if (toy->form == TOY_WRAP)
        return toy->inner->score(toy->inner->self, state, is_finished, score, message);
    toy_state s;
    if (is_owning(toy))
        s = **(toy_state *const *)state;
    else
        s = *(const toy_state *)state;
    if (toy->form == TOY_STATES && s.n_told != s.n_token + 1) {
        strcpy(message, "states are lacking");
        return 1;
    }
    *score = score_of(stir(toy, s.text_hash), s.token_hash, is_finished);
    return 0;
}

static int
toy_bounds(void *self, const void *state, int32_t n_tokens_left, double *low,
           double *high, char *message)
{
    toy_reward *toy = self;
    double unused;
    if (fails_now(toy, false))
        return spoil(toy, &unused, message);
    toy->n_bounds++;
    return toy->inner->bounds(toy->inner->self, state, n_tokens_left, low, high,
                              message);
}

static int
toy_score_texts(void *self, const char *prompt, size_t prompt_size,
                const deal_reward_text *texts, int32_t n_texts, double *scores,
                char *message)
{
    toy_reward *toy = self;
    bool is_spoiled = fails_now(toy, true);
    uint32_t basis = hash_text(2166136261u ^ toy->salt, prompt, prompt_size);
    int32_t n_written = n_texts - (is_spoiled && toy->fault == TOY_FORGETS);
    for (int32_t i = 0; i < n_written; i++)
        scores[i] = score_of(stir(toy, hash_text(basis, texts[i].text, texts[i].size)),
                             (uint32_t)texts[i].n_tokens, texts[i].is_finished);
    if (is_spoiled && toy->fault != TOY_FORGETS)
        return spoil(toy, &scores[n_texts - 1], message);
    return 0;
}

// --- marks ---------------------------------------------------------------------------

static double
share(const toy_reward *toy, const deal_reward_text *text, int64_t n_more)
{
    int64_t n = n_more;
    for (size_t i = 0; i < text->size; i++)
        n += (uint8_t)text->text[i] == toy->salt;
    return (double)(n < toy->n_max ? n : toy->n_max) / toy->n_max;
}

static int
marks_score_texts(void *self, const char *prompt, size_t prompt_size,
                  const deal_reward_text *texts, int32_t n_texts, double *scores,
                  char *message)
{
    (void)prompt;
    (void)prompt_size;
    toy_reward *toy = self;
    bool is_spoiled = fails_now(toy, true);
    toy->n_texts += n_texts;
    for (int32_t i = 0; i < n_texts; i++)
        scores[i] = share(toy, &texts[i], 0);
    return is_spoiled ? spoil(toy, &scores[n_texts - 1], message) : 0;
}

static int
marks_bounds_texts(void *self, const char *prompt, size_t prompt_size,
                   const deal_reward_text *texts, const int32_t *n_tokens_left,
                   int32_t n_texts, double *low, double *high, char *message)
{
    (void)prompt;
    (void)prompt_size;
    toy_reward *toy = self;
    double unused;
    if (fails_now(toy, false))
        return spoil(toy, &unused, message);
    toy->n_bounds += n_texts;
    for (int32_t i = 0; i < n_texts; i++) {
        low[i] = share(toy, &texts[i], 0);
        high[i] = share(toy, &texts[i], (int64_t)toy->n_token * n_tokens_left[i]);
    }
    return 0;
}

void
toy_reward_init_marks(toy_reward *toy, char mark, int32_t n_max, int32_t n_token)
{
    *toy = (toy_reward){
        .form = TOY_MARKS, .salt = (uint8_t)mark, .n_max = n_max, .n_token = n_token};
    toy->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = toy,
        .name = "toy marks",
        .low = 0.0,
        .high = 1.0,
        .score_texts = marks_score_texts,
        .bounds_texts = marks_bounds_texts,
        .is_text_alone = 1,
    };
}

// --- public --------------------------------------------------------------------------

void
toy_reward_init(toy_reward *toy, toy_form form, uint32_t salt)
{
    *toy = (toy_reward){.form = form, .salt = salt};
    toy->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = toy,
        .name = form == TOY_TEXTS ? "toy texts" : "toy",
        .low = -1.0,
        .high = 1.0,
    };
    if (form == TOY_TEXTS) {
        toy->reward.score_texts = toy_score_texts;
        return;
    }
    toy->reward.state_size = is_owning(toy) ? sizeof(toy_state *) : sizeof(toy_state);
    toy->reward.init = toy_init;
    toy->reward.advance = toy_advance;
    toy->reward.score = toy_score;
    if (form != TOY_PLAIN) {
        toy->reward.fork = toy_fork;
        toy->reward.drop = toy_drop;
    }
}

// `inner` has a state of plain bytes, as the native rewards have.
void
toy_reward_wrap(toy_reward *toy, deal_reward *inner)
{
    toy_reward_init(toy, TOY_WRAP, 0);
    toy->inner = inner;
    toy->reward.name = inner->name;
    toy->reward.low = inner->low;
    toy->reward.high = inner->high;
    toy->reward.state_size = inner->state_size;
    if (inner->bounds)
        toy->reward.bounds = toy_bounds;
    if (inner->observe)
        toy_reward_ask(toy, inner->hidden_layers, inner->n_hidden_layers,
                       inner->n_embd);
}

void
toy_reward_ask(toy_reward *toy, const int32_t *layer, int32_t n_layer, int32_t n_embd)
{
    toy->reward.n_hidden_layers = n_layer;
    toy->reward.hidden_layers = layer;
    toy->reward.n_embd = n_embd;
    toy->reward.observe = toy_observe;
}
