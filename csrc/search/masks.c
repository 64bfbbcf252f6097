#include "search/masks.h"

#include <string.h>

#include "common/alloc.h"

#define N_IDLE_MAX 512 // places that nobody holds

typedef struct place {
    int32_t parent, child, sibling; // places; `sibling` of a free one: the next free
    int32_t token;                  // that leads here
    int32_t n_ref;                  // of callers and children
    bool is_used;                   // it is no free one
    bool is_outside;                // no state: nothing but an end may follow
    bool has_mask, is_accepting;
    int32_t n_allowed;
    uint32_t *bits;   // (n_word,) or NULL
    int32_t *allowed; // (n_allowed,) or NULL
    void *state;      // NULL: not made yet
} place;

struct deal_masks {
    const deal_constraint *constraint;
    const int32_t *end_token; // (n_end,)
    int32_t n_end, n_vocab;
    size_t n_word; // of a mask, over n_vocab
    uint32_t
        *scratch; // what a constraint writes, for the larger of its n_vocab and ours
    size_t n_scratch; // words
    place *place;     // (place_cap,)
    size_t place_cap;
    int32_t n_place, free_place;
    int32_t n_idle; // that nobody holds, and that have no place below
    int32_t *path;  // (path_cap,)
    size_t path_cap;
};

// --- new and free --------------------------------------------------------------------

static deal_status
check_constraint(const deal_constraint *c, int32_t n_end, deal_error *err)
{
    if (c->abi_version != DEAL_CONSTRAINT_ABI || c->struct_size != sizeof *c)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "constraint: expected version %u of %zu bytes, got version %u "
                         "of %u bytes",
                         DEAL_CONSTRAINT_ABI, sizeof *c, (unsigned)c->abi_version,
                         (unsigned)c->struct_size);
    if (!c->name || !c->init || !c->advance || !c->mask)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "constraint: expected a name and the functions init, advance "
                         "and mask, one of them is NULL");
    if (c->n_vocab < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "constraint %s: expected at least 1 token, got n_vocab %d",
                         c->name, (int)c->n_vocab);
    if (n_end < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "constraint %s: a text that matches ends with an end token; "
                         "expected at least 1, got none (eos_token_id)",
                         c->name);
    return DEAL_OK;
}

static deal_status
add_place(deal_masks *masks, int32_t parent, int32_t token, int32_t *out,
          deal_error *err)
{
    int32_t i = masks->free_place;
    if (i == DEAL_MASK_NONE) {
        size_t n = (size_t)masks->n_place;
        if (!deal_reserve(&masks->place, &masks->place_cap, n, n + 1, sizeof(place)))
            return deal_fail_memory(err, "masks");
        i = masks->n_place++;
    } else {
        masks->free_place = masks->place[i].sibling;
    }
    masks->place[i] = (place){.parent = parent,
                              .child = DEAL_MASK_NONE,
                              .sibling = DEAL_MASK_NONE,
                              .token = token,
                              .n_ref = 1,
                              .is_used = true};
    if (parent != DEAL_MASK_NONE) {
        place *above = &masks->place[parent];
        masks->place[i].sibling = above->child;
        above->child = i;
        above->n_ref++;
    }
    *out = i;
    return DEAL_OK;
}

static deal_status
fault(const deal_masks *masks, int code, const char *message, deal_error *err)
{
    if (code == DEAL_CONSTRAINT_RAISED)
        return deal_fail(err, DEAL_ERR_CALLBACK, "constraint %s: it raised",
                         masks->constraint->name);
    return deal_fail(err, DEAL_ERR_CONSTRAINT, "constraint %s: %.*s",
                     masks->constraint->name, DEAL_CONSTRAINT_MESSAGE_SIZE - 1,
                     message[0] ? message : "it failed without a message");
}

deal_status
deal_masks_new(const deal_constraint *constraint, int32_t n_vocab,
               const int32_t *end_token, int32_t n_end, deal_masks **out,
               deal_error *err)
{
    DEAL_TRY(check_constraint(constraint, n_end, err));
    deal_masks *masks = deal_alloc_zero(1, sizeof *masks);
    if (!masks)
        return deal_fail_memory(err, "masks");
    int32_t n_most = constraint->n_vocab > n_vocab ? constraint->n_vocab : n_vocab;
    *masks = (deal_masks){.constraint = constraint,
                          .end_token = end_token,
                          .n_end = n_end,
                          .n_vocab = n_vocab,
                          .n_word = ((size_t)n_vocab + 31) / 32,
                          .n_scratch = ((size_t)n_most + 31) / 32,
                          .free_place = DEAL_MASK_NONE};
    masks->scratch = deal_alloc(masks->n_scratch, sizeof *masks->scratch);
    int32_t root;
    deal_status status = masks->scratch
                             ? add_place(masks, DEAL_MASK_NONE, -1, &root, err)
                             : deal_fail_memory(err, "masks");
    if (status != DEAL_OK) {
        deal_masks_free(masks);
        return status;
    }
    *out = masks;
    return DEAL_OK;
}

static void
drop_state(const deal_masks *masks, void *state)
{
    const deal_constraint *c = masks->constraint;
    if (state && c->drop)
        c->drop(c->self, state);
    deal_free(state);
}

static void
free_place(deal_masks *masks, place *p)
{
    drop_state(masks, p->state);
    deal_free(p->bits);
    deal_free(p->allowed);
    p->is_used = false;
}

void
deal_masks_free(deal_masks *masks)
{
    if (!masks)
        return;
    for (int32_t i = 0; i < masks->n_place; i++)
        if (masks->place[i].is_used)
            free_place(masks, &masks->place[i]);
    deal_free(masks->place);
    deal_free(masks->scratch);
    deal_free(masks->path);
    deal_free(masks);
}

// --- states --------------------------------------------------------------------------

static bool
is_end(const deal_masks *masks, int32_t token)
{
    for (int32_t i = 0; i < masks->n_end; i++)
        if (masks->end_token[i] == token)
            return true;
    return false;
}

// A new state: that of `from`, or of the empty completion.
static deal_status
new_state(const deal_masks *masks, const void *from, void **out, deal_error *err)
{
    const deal_constraint *c = masks->constraint;
    char message[DEAL_CONSTRAINT_MESSAGE_SIZE] = "";
    void *state = deal_alloc(c->state_size ? c->state_size : 1, 1);
    if (!state)
        return deal_fail_memory(err, "state of the constraint");
    int code = 0;
    if (!from)
        code = c->init(c->self, state, message);
    else if (c->fork)
        code = c->fork(c->self, state, from, message);
    else
        memcpy(state, from, c->state_size);
    if (code != 0) {
        deal_free(state);
        return fault(masks, code, message, err);
    }
    *out = state;
    return DEAL_OK;
}

static deal_status
advance(const deal_masks *masks, void *state, int32_t token, deal_error *err)
{
    const deal_constraint *c = masks->constraint;
    char message[DEAL_CONSTRAINT_MESSAGE_SIZE] = "";
    int code = c->advance(c->self, state, token, message);
    return code == 0 ? DEAL_OK : fault(masks, code, message, err);
}

static deal_status
reserve_path(deal_masks *masks, size_t n, deal_error *err)
{
    size_t n_used = masks->path_cap;
    if (!deal_reserve(&masks->path, &masks->path_cap, n_used, n, sizeof *masks->path))
        return deal_fail_memory(err, "masks");
    return DEAL_OK;
}

// Makes the state of a place from that of the nearest place above that has one.
static deal_status
make_state(deal_masks *masks, int32_t at, deal_error *err)
{
    int32_t n = 0, above = at;
    while (above != DEAL_MASK_ROOT && !masks->place[above].state) {
        DEAL_TRY(reserve_path(masks, (size_t)n + 1, err));
        masks->path[n++] = masks->place[above].token;
        above = masks->place[above].parent;
    }
    void *state;
    DEAL_TRY(new_state(masks, masks->place[above].state, &state, err));
    deal_status status = DEAL_OK;
    while (n > 0 && status == DEAL_OK)
        status = advance(masks, state, masks->path[--n], err);
    if (status != DEAL_OK) {
        drop_state(masks, state);
        return status;
    }
    masks->place[at].state = state;
    return DEAL_OK;
}

// --- masks ---------------------------------------------------------------------------

static void
set_bit(uint32_t *bits, int32_t token, bool is_set)
{
    uint32_t bit = (uint32_t)1 << (token % 32);
    if (is_set)
        bits[token / 32] |= bit;
    else
        bits[token / 32] &= ~bit;
}

// What the constraint says, in scratch.
static deal_status
ask(deal_masks *masks, place *p, deal_error *err)
{
    const deal_constraint *c = masks->constraint;
    char message[DEAL_CONSTRAINT_MESSAGE_SIZE] = "";
    uint32_t *bits = masks->scratch;
    memset(bits, 0, masks->n_scratch * sizeof *bits);
    int32_t is_accepting = 0;
    int code = c->mask(c->self, p->state, bits, &is_accepting, message);
    if (code != 0)
        return fault(masks, code, message, err);
    if (is_accepting != 0 && is_accepting != 1)
        return deal_fail(err, DEAL_ERR_CONSTRAINT,
                         "constraint %s: is_accepting: expected 0 or 1, got %d",
                         c->name, (int)is_accepting);
    int32_t n_known = c->n_vocab < masks->n_vocab ? c->n_vocab : masks->n_vocab;
    if (n_known % 32)
        bits[n_known / 32] &= ((uint32_t)1 << (n_known % 32)) - 1;
    for (size_t i = ((size_t)n_known + 31) / 32; i < masks->n_word; i++)
        bits[i] = 0;
    p->is_accepting = is_accepting == 1;
    return DEAL_OK;
}

static int32_t
count_bits(const uint32_t *bits, size_t n_word)
{
    int32_t n = 0;
    for (size_t i = 0; i < n_word; i++)
        n += __builtin_popcount(bits[i]);
    return n;
}

// Keeps what is in scratch, as a list where there are few.
static deal_status
keep_mask(const deal_masks *masks, place *p, deal_error *err)
{
    const uint32_t *bits = masks->scratch;
    int32_t n = count_bits(bits, masks->n_word);
    if (n > DEAL_MASK_FEW) {
        p->bits = deal_alloc(masks->n_word, sizeof *p->bits);
        if (!p->bits)
            return deal_fail_memory(err, "mask");
        memcpy(p->bits, bits, masks->n_word * sizeof *bits);
    } else {
        p->allowed = deal_alloc((size_t)n, sizeof *p->allowed);
        if (!p->allowed)
            return deal_fail_memory(err, "mask");
        int32_t j = 0;
        for (size_t i = 0; i < masks->n_word; i++)
            for (uint32_t word = bits[i]; word; word &= word - 1)
                p->allowed[j++] = (int32_t)(32 * i) + __builtin_ctz(word);
    }
    p->n_allowed = n;
    p->has_mask = true;
    return DEAL_OK;
}

static deal_status
make_mask(deal_masks *masks, int32_t at, deal_error *err)
{
    uint32_t *bits = masks->scratch;
    if (masks->place[at].is_outside) {
        memset(bits, 0, masks->n_word * sizeof *bits);
    } else {
        if (!masks->place[at].state)
            DEAL_TRY(make_state(masks, at, err));
        DEAL_TRY(ask(masks, &masks->place[at], err));
    }
    place *p = &masks->place[at];
    for (int32_t i = 0; i < masks->n_end; i++)
        set_bit(bits, masks->end_token[i], p->is_accepting);
    if (!p->is_accepting && count_bits(bits, masks->n_word) == 0)
        for (int32_t i = 0; i < masks->n_end; i++)
            set_bit(bits, masks->end_token[i], true);
    return keep_mask(masks, p, err);
}

deal_status
deal_masks_get(deal_masks *masks, int32_t at, deal_mask *mask, deal_error *err)
{
    if (!masks->place[at].has_mask)
        DEAL_TRY(make_mask(masks, at, err));
    const place *p = &masks->place[at];
    *mask = (deal_mask){.bits = p->bits, .token = p->allowed, .n_token = p->n_allowed};
    return DEAL_OK;
}

bool
deal_mask_allows(const deal_mask *mask, int32_t token)
{
    if (mask->bits)
        return mask->bits[token / 32] >> (token % 32) & 1u;
    for (int32_t i = 0; i < mask->n_token; i++)
        if (mask->token[i] == token)
            return true;
    return false;
}

// --- places --------------------------------------------------------------------------

deal_status
deal_masks_child(deal_masks *masks, int32_t at, int32_t token, int32_t *child,
                 deal_error *err)
{
    for (int32_t i = masks->place[at].child; i != DEAL_MASK_NONE;
         i = masks->place[i].sibling)
        if (masks->place[i].token == token) {
            masks->n_idle -= masks->place[i].n_ref++ == 0;
            *child = i;
            return DEAL_OK;
        }
    deal_mask mask;
    DEAL_TRY(deal_masks_get(masks, at, &mask, err));
    int32_t made;
    DEAL_TRY(add_place(masks, at, token, &made, err));
    masks->place[made].is_outside = masks->place[at].is_outside ||
                                    is_end(masks, token) ||
                                    !deal_mask_allows(&mask, token);
    *child = made;
    return DEAL_OK;
}

void
deal_masks_retain(deal_masks *masks, int32_t at)
{
    masks->place[at].n_ref++;
}

// Frees an idle place, and those above that are idle then.
static void
let_go(deal_masks *masks, int32_t at)
{
    while (at != DEAL_MASK_NONE && masks->place[at].n_ref == 0) {
        place *p = &masks->place[at];
        int32_t parent = p->parent;
        int32_t *link = &masks->place[parent].child; // the root is never let go
        while (*link != at)
            link = &masks->place[*link].sibling;
        *link = p->sibling;
        free_place(masks, p);
        p->sibling = masks->free_place;
        masks->free_place = at;
        masks->place[parent].n_ref--;
        at = parent;
    }
}

void
deal_masks_release(deal_masks *masks, int32_t at)
{
    if (at == DEAL_MASK_NONE || --masks->place[at].n_ref > 0)
        return;
    if (++masks->n_idle <= N_IDLE_MAX)
        return;
    for (int32_t i = 0; i < masks->n_place; i++)
        if (masks->place[i].is_used)
            let_go(masks, i);
    masks->n_idle = 0;
}

// --- guesses and ends ----------------------------------------------------------------

// How many of the guessed tokens are tokens, and no end.
static int32_t
n_sound(const deal_masks *masks, const int32_t *token, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (token[i] < 0 || token[i] >= masks->n_vocab || is_end(masks, token[i]))
            return i;
    return n;
}

deal_status
deal_masks_guess(deal_masks *masks, int32_t at, int32_t *token, int32_t n_max,
                 int32_t *n, deal_error *err)
{
    const deal_constraint *c = masks->constraint;
    deal_mask mask;
    DEAL_TRY(deal_masks_get(masks, at, &mask, err));
    int32_t n_found = 0;
    char message[DEAL_CONSTRAINT_MESSAGE_SIZE] = "";
    if (mask.n_token == 1 && n_max > 0) {
        token[0] = mask.token[0];
        n_found = 1;
    } else if (c->guess && !masks->place[at].is_outside && n_max > 0) {
        int code =
            c->guess(c->self, masks->place[at].state, token, n_max, &n_found, message);
        if (code != 0)
            return fault(masks, code, message, err);
        if (n_found < 0 || n_found > n_max)
            return deal_fail(err, DEAL_ERR_CONSTRAINT,
                             "constraint %s: guess: expected 0 to %d tokens, got %d",
                             c->name, (int)n_max, (int)n_found);
    }
    *n = n_sound(masks, token, n_found);
    return DEAL_OK;
}

deal_status
deal_masks_accept(deal_masks *masks, const int32_t *token, int32_t n_token,
                  bool *is_accepting, deal_error *err)
{
    place p = {.state = NULL};
    DEAL_TRY(new_state(masks, NULL, &p.state, err));
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < n_token && status == DEAL_OK; i++)
        status = advance(masks, p.state, token[i], err);
    if (status == DEAL_OK)
        status = ask(masks, &p, err);
    drop_state(masks, p.state);
    if (status == DEAL_OK)
        *is_accepting = p.is_accepting;
    return status;
}
