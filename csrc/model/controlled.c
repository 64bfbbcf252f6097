#include "model/controlled.h"

#include <string.h>

#include "common/alloc.h"

deal_status
deal_controlled_init(deal_controlled *c, const deal_trie *trie,
                     const deal_controls_shape *shape, deal_pool *pool,
                     int32_t n_row_max, deal_error *err)
{
    *c = (deal_controlled){.trie = trie, .pool = pool, .shape = *shape};
    size_t n_thread = (size_t)deal_pool_n_thread(pool);
    c->row = deal_alloc((size_t)n_row_max, sizeof *c->row);
    c->scratch = deal_alloc(n_thread, (size_t)shape->head_dim * sizeof *c->scratch);
    if (c->row && c->scratch)
        return DEAL_OK;
    deal_controlled_free(c);
    return deal_fail_memory(err, "controls of the forward pass");
}

void
deal_controlled_free(deal_controlled *c)
{
    deal_free(c->row);
    deal_free(c->scratch);
    *c = (deal_controlled){0};
}

void
deal_controlled_begin(deal_controlled *c, const deal_node *node, float *const *tap,
                      int32_t n_row)
{
    c->node = node;
    c->tap = tap;
    c->n = 0;
    if (c->trie->n_set == 0)
        return;
    for (int32_t r = 0; r < n_row; r++)
        if (c->trie->node[node[r]].i_set >= 0)
            c->row[c->n++] = r;
}

static const deal_trie_set *
set_of(const deal_controlled *c, int32_t i_row)
{
    return &c->trie->set[c->trie->node[c->node[i_row]].i_set];
}

static int32_t
depth_of(const deal_controlled *c, int32_t i_row)
{
    return c->trie->node[c->node[i_row]].depth;
}

// Copies what a row's set taps at one site from `x`.
static void
read_taps(const deal_controlled *c, int32_t i_row, deal_site site, int32_t i_layer,
          const float *x)
{
    if (!c->tap || !c->tap[i_row])
        return;
    const deal_controls *controls = set_of(c, i_row)->controls;
    float *to = c->tap[i_row];
    for (int32_t i = 0; i < controls->n_tap; i++) {
        const deal_tap *tap = &controls->tap[i];
        size_t len = deal_tap_len(&controls->shape, tap);
        if (tap->site == site && (site == DEAL_SITE_FINAL || tap->i_layer == i_layer))
            memcpy(to, x, len * sizeof *x);
        to += len;
    }
}

// x = matrix x + vector, for one head; adds up column by column.
static void
map_head(const deal_edit *edit, size_t n, float *x, float *scratch)
{
    if (edit->matrix) {
        memset(scratch, 0, n * sizeof *scratch);
        for (size_t i = 0; i < n; i++) {
            const float *column = edit->matrix + i * n;
            for (size_t o = 0; o < n; o++)
                scratch[o] += column[o] * x[i];
        }
        memcpy(x, scratch, n * sizeof *x);
    }
    for (size_t o = 0; edit->vector && o < n; o++)
        x[o] += edit->vector[o];
}

static void
edit_heads(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    const deal_controlled *c = context;
    size_t head_dim = (size_t)c->shape.head_dim;
    float *scratch = c->scratch + (size_t)i_thread * head_dim;
    for (int32_t i = i_begin; i < i_end; i++) {
        int32_t r = c->row[i], depth = depth_of(c, r);
        const deal_trie_set *set = set_of(c, r);
        const deal_controls *controls = set->controls;
        float *x = c->x + (size_t)r * (size_t)c->shape.n_head * head_dim;
        if (!controls)
            continue;
        for (int32_t e = controls->edit_begin[c->i_layer];
             e < controls->edit_begin[c->i_layer + 1]; e++) {
            const deal_edit *edit = &controls->edit[e];
            if (edit->site == DEAL_SITE_HEAD &&
                deal_edit_applies(edit, depth, set->n_prompt))
                map_head(edit, head_dim, x + (size_t)edit->i_head * head_dim, scratch);
        }
        read_taps(c, r, DEAL_SITE_HEAD, c->i_layer, x);
    }
}

static void
add_vectors(const deal_trie_set *set, int32_t i_layer, int32_t depth, size_t n_embd,
            float *x)
{
    const deal_controls *controls = set->controls;
    for (int32_t e = controls->edit_begin[i_layer];
         e < controls->edit_begin[i_layer + 1]; e++) {
        const deal_edit *edit = &controls->edit[e];
        if (edit->site == DEAL_SITE_RESIDUAL &&
            deal_edit_applies(edit, depth, set->n_prompt))
            for (size_t d = 0; d < n_embd; d++)
                x[d] += edit->vector[d];
    }
}

static void
edit_residual(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    const deal_controlled *c = context;
    size_t n_embd = (size_t)c->shape.n_embd;
    for (int32_t i = i_begin; i < i_end; i++) {
        int32_t r = c->row[i];
        const deal_trie_set *set = set_of(c, r);
        float *x = c->x + (size_t)r * n_embd;
        if (set->controls)
            add_vectors(set, c->i_layer, depth_of(c, r), n_embd, x);
        read_taps(c, r, DEAL_SITE_RESIDUAL, c->i_layer, x);
        for (int32_t k = 0; k < set->n_layer; k++)
            if (set->layer[k] == c->i_layer)
                memcpy(deal_trie_state(c->trie, c->node[r], k), x, n_embd * sizeof *x);
    }
}

static void
run(deal_controlled *c, int32_t i_layer, float *x, deal_loop_fn fn)
{
    c->i_layer = i_layer;
    c->x = x;
    deal_parallel_for(c->pool, c->n, 0, fn, c);
}

void
deal_controlled_heads(deal_controlled *c, int32_t i_layer, float *attended)
{
    if (c->n > 0)
        run(c, i_layer, attended, edit_heads);
}

void
deal_controlled_residual(deal_controlled *c, int32_t i_layer, float *x)
{
    if (c->n > 0)
        run(c, i_layer, x, edit_residual);
}

// --- the final state -----------------------------------------------------------------

static deal_status
call_control(const deal_control *control, float *states, int32_t n_state,
             int32_t n_embd, deal_error *err)
{
    char message[DEAL_CONTROL_MESSAGE_SIZE] = "";
    const char *name = control->name ? control->name : "?";
    int result = control->edit(control->self, states, n_state, n_embd, message);
    if (result == 0)
        return DEAL_OK;
    if (result == DEAL_CONTROL_RAISED)
        return deal_fail(err, DEAL_ERR_CALLBACK, "control '%s' raised", name);
    message[sizeof message - 1] = '\0';
    return deal_fail(err, DEAL_ERR_CONTROL, "control '%s': %s", name,
                     message[0] ? message : "failed without a message");
}

// One edit of one set, for all rows from the `i`-th on that have the set.
static deal_status
run_final(const deal_controlled *c, int32_t i, const deal_edit *edit, float *scratch,
          deal_error *err)
{
    const deal_controls *controls = set_of(c, c->row[i])->controls;
    size_t n_embd = (size_t)c->shape.n_embd;
    for (int is_back = 0; is_back < 2; is_back++) { // gather, then scatter
        int32_t n = 0;
        for (int32_t j = i; j < c->n; j++) {
            int32_t r = c->row[j];
            const deal_trie_set *set = set_of(c, r);
            if (set->controls != controls ||
                !deal_edit_applies(edit, depth_of(c, r), set->n_prompt))
                continue;
            float *state = deal_trie_hidden(c->trie, c->node[r]);
            float *copy = scratch + (size_t)n++ * n_embd;
            memcpy(is_back ? state : copy, is_back ? copy : state,
                   n_embd * sizeof *copy);
        }
        if (n > 0 && !is_back)
            DEAL_TRY(call_control(edit->control, scratch, n, (int32_t)n_embd, err));
    }
    return DEAL_OK;
}

// Whether a row before the `i`-th has the same set, with which it was served.
static bool
is_served(const deal_controlled *c, int32_t i)
{
    const deal_controls *controls = set_of(c, c->row[i])->controls;
    for (int32_t j = 0; j < i; j++)
        if (set_of(c, c->row[j])->controls == controls)
            return true;
    return false;
}

deal_status
deal_controlled_final(deal_controlled *c, float *scratch, deal_error *err)
{
    for (int32_t i = 0; i < c->n; i++) {
        const deal_controls *controls = set_of(c, c->row[i])->controls;
        if (!controls)
            continue;
        int32_t begin = controls->edit_begin[c->shape.n_layer];
        if (begin == controls->n_edit || is_served(c, i))
            continue;
        for (int32_t e = begin; e < controls->n_edit; e++)
            DEAL_TRY(run_final(c, i, &controls->edit[e], scratch, err));
    }
    for (int32_t i = 0; i < c->n; i++)
        read_taps(c, c->row[i], DEAL_SITE_FINAL, 0,
                  deal_trie_hidden(c->trie, c->node[c->row[i]]));
    return DEAL_OK;
}
