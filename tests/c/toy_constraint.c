#include "toy_constraint.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/alloc.h"

// A state owns its number, so that a lost one shows as a leak.
typedef struct toy_state {
    int32_t *at;
} toy_state;

static int
is_faulty(toy_constraint *toy, char *message)
{
    if (!toy->fault_in || --toy->fault_in > 0)
        return 0;
    if (toy->fault == TOY_MASK_FAILS)
        snprintf(message, DEAL_CONSTRAINT_MESSAGE_SIZE, "told to fail");
    return toy->fault == TOY_MASK_BAD_CODE ? 7 : 1;
}

static int
make(toy_constraint *toy, toy_state *state, int32_t at, char *message)
{
    state->at = deal_alloc(1, sizeof *state->at);
    if (!state->at) {
        snprintf(message, DEAL_CONSTRAINT_MESSAGE_SIZE, "out of memory");
        return 1;
    }
    *state->at = at;
    toy->n_live++;
    return 0;
}

static int
init(void *self, void *state, char *message)
{
    int code = is_faulty(self, message);
    return code ? code : make(self, state, 0, message);
}

static int
fork(void *self, void *to, const void *from, char *message)
{
    int code = is_faulty(self, message);
    return code ? code : make(self, to, *((const toy_state *)from)->at, message);
}

static void
drop(void *self, void *state)
{
    ((toy_constraint *)self)->n_live--;
    deal_free(((toy_state *)state)->at);
}

static int32_t
step(const toy_constraint *toy, int32_t at, int32_t token)
{
    return toy->next[at * toy->constraint.n_vocab + token];
}

static int
advance(void *self, void *state, int32_t token, char *message)
{
    toy_constraint *toy = self;
    int32_t *at = ((toy_state *)state)->at;
    int code = is_faulty(toy, message);
    if (code)
        return code;
    if (token < 0 || token >= toy->constraint.n_vocab || step(toy, *at, token) < 0) {
        snprintf(message, DEAL_CONSTRAINT_MESSAGE_SIZE, "token %d is forbidden",
                 (int)token);
        return 1;
    }
    *at = step(toy, *at, token);
    return 0;
}

static int
mask(void *self, void *state, uint32_t *bits, int32_t *is_accepting, char *message)
{
    toy_constraint *toy = self;
    int32_t at = *((toy_state *)state)->at, n_vocab = toy->constraint.n_vocab;
    bool is_odd = toy->fault_in == 1 && toy->fault >= TOY_MASK_ACCEPTS_TWICE;
    toy->n_masks++;
    if (!is_odd) {
        int code = is_faulty(toy, message);
        if (code)
            return code;
    }
    for (int32_t i = 0; i < n_vocab; i++)
        if (step(toy, at, i) >= 0)
            bits[i / 32] |= (uint32_t)1 << (i % 32);
    *is_accepting = toy->accepts[at];
    if (is_odd && toy->fault == TOY_MASK_ACCEPTS_TWICE)
        *is_accepting = 2;
    if (is_odd && toy->fault == TOY_MASK_ALL_BITS)
        memset(bits, 0xFF, ((size_t)n_vocab + 31) / 32 * sizeof *bits);
    if (is_odd)
        toy->fault_in = 0;
    return 0;
}

static int
guess(void *self, void *state, int32_t *token, int32_t n_max, int32_t *n, char *message)
{
    toy_constraint *toy = self;
    int32_t at = *((toy_state *)state)->at;
    int code = is_faulty(toy, message);
    if (code)
        return code;
    for (*n = 0; *n < n_max && toy->favourite[at] >= 0; (*n)++) {
        token[*n] = toy->favourite[at];
        at = step(toy, at, token[*n]);
        if (at < 0) // a wrong guess is allowed
            return (*n)++, 0;
    }
    return 0;
}

void
toy_constraint_init(toy_constraint *toy, int32_t n_state, int32_t n_vocab,
                    const int32_t *next)
{
    *toy = (toy_constraint){.n_state = n_state, .next = next};
    for (int32_t i = 0; i < n_state; i++)
        toy->favourite[i] = -1;
    toy->constraint = (deal_constraint){
        .abi_version = DEAL_CONSTRAINT_ABI,
        .struct_size = sizeof(deal_constraint),
        .self = toy,
        .name = "toy",
        .n_vocab = n_vocab,
        .state_size = sizeof(toy_state),
        .init = init,
        .fork = fork,
        .drop = drop,
        .advance = advance,
        .mask = mask,
        .guess = guess,
    };
}
