#include "common/controls.h"

#include <string.h>

#include "common/alloc.h"

static deal_status
check_index(const char *what, int32_t i, const char *name, int32_t index, int32_t n,
            deal_error *err)
{
    if (index >= 0 && index < n)
        return DEAL_OK;
    return deal_fail(err, DEAL_ERR_INVALID_ARG, "%s %d: %s: expected 0 to %d, got %d",
                     what, i, name, n - 1, index);
}

static deal_status
check_edit(const deal_controls_shape *shape, const deal_edit *edit, int32_t i,
           deal_error *err)
{
    const deal_control *control = edit->control;
    if (edit->site == DEAL_SITE_FINAL) {
        if (!control || !control->edit || control->abi_version != DEAL_CONTROL_ABI ||
            control->struct_size < sizeof *control)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "edit %d: expected a control of ABI version %u with a "
                             "function",
                             i, DEAL_CONTROL_ABI);
        return DEAL_OK;
    }
    DEAL_TRY(check_index("edit", i, "layer", edit->i_layer, shape->n_layer, err));
    if (edit->site == DEAL_SITE_HEAD)
        DEAL_TRY(check_index("edit", i, "head", edit->i_head, shape->n_head, err));
    else if (!edit->vector)
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "edit %d: expected a vector", i);
    return DEAL_OK;
}

size_t
deal_tap_len(const deal_controls_shape *shape, const deal_tap *tap)
{
    if (tap->site == DEAL_SITE_HEAD)
        return (size_t)shape->n_head * (size_t)shape->head_dim;
    return (size_t)shape->n_embd;
}

bool
deal_edit_applies(const deal_edit *edit, int32_t depth, int32_t n_prompt)
{
    switch (edit->where) {
    case DEAL_WHERE_ALL:
        break;
    case DEAL_WHERE_PROMPT:
        return depth <= n_prompt - (edit->site == DEAL_SITE_FINAL);
    case DEAL_WHERE_COMPLETION:
        return depth > n_prompt - (edit->site == DEAL_SITE_FINAL);
    case DEAL_WHERE_LAST:
        return depth == n_prompt;
    }
    return true;
}

// The edit with copies of its matrix and vector, which move `data` on.
static deal_edit
copy_edit(const deal_controls_shape *shape, const deal_edit *from, float **data)
{
    deal_edit edit = *from;
    size_t n = (size_t)(edit.site == DEAL_SITE_HEAD ? shape->head_dim : shape->n_embd);
    if (edit.site == DEAL_SITE_HEAD && from->matrix) {
        for (size_t o = 0; o < n; o++)
            for (size_t i = 0; i < n; i++)
                (*data)[i * n + o] = from->matrix[o * n + i];
        edit.matrix = *data;
        *data += n * n;
    }
    if (edit.site != DEAL_SITE_FINAL && from->vector) {
        memcpy(*data, from->vector, n * sizeof **data);
        edit.vector = *data;
        *data += n;
    }
    return edit;
}

static void
sort_edits(deal_controls *c, const deal_edit *edit, int32_t n_edit)
{
    const deal_controls_shape *shape = &c->shape;
    float *data = c->data;
    for (int32_t l = 0; l <= shape->n_layer; l++) {
        c->edit_begin[l] = c->n_edit;
        for (int32_t i = 0; i < n_edit; i++)
            if ((edit[i].site == DEAL_SITE_FINAL ? shape->n_layer : edit[i].i_layer) ==
                l)
                c->edit[c->n_edit++] = copy_edit(shape, &edit[i], &data);
    }
    c->edit_begin[shape->n_layer + 1] = c->n_edit;
}

deal_status
deal_controls_new(const deal_controls_shape *shape, const deal_edit *edit,
                  int32_t n_edit, const deal_tap *tap, int32_t n_tap,
                  deal_controls **out, deal_error *err)
{
    size_t n_data = 0, n_head = (size_t)shape->head_dim, n_embd = (size_t)shape->n_embd;
    for (int32_t i = 0; i < n_edit; i++) {
        DEAL_TRY(check_edit(shape, &edit[i], i, err));
        n_data += edit[i].site == DEAL_SITE_HEAD ? n_head * (n_head + 1) : n_embd;
    }
    for (int32_t i = 0; i < n_tap; i++)
        if (tap[i].site != DEAL_SITE_FINAL)
            DEAL_TRY(
                check_index("tap", i, "layer", tap[i].i_layer, shape->n_layer, err));
    deal_controls *c = deal_alloc_zero(1, sizeof *c);
    if (!c)
        return deal_fail_memory(err, "controls");
    c->shape = *shape;
    c->edit = deal_alloc((size_t)n_edit, sizeof *c->edit);
    c->edit_begin = deal_alloc((size_t)shape->n_layer + 2, sizeof *c->edit_begin);
    c->tap = deal_alloc((size_t)n_tap, sizeof *c->tap);
    c->data = deal_alloc(n_data, sizeof *c->data);
    if (!c->edit || !c->edit_begin || !c->tap || !c->data) {
        deal_controls_free(c);
        return deal_fail_memory(err, "controls");
    }
    sort_edits(c, edit, n_edit);
    for (int32_t i = 0; i < n_edit; i++)
        c->is_positional = c->is_positional || edit[i].where != DEAL_WHERE_ALL;
    for (int32_t i = 0; i < n_tap; i++) {
        c->tap[c->n_tap++] = tap[i];
        c->tap_len += deal_tap_len(shape, &tap[i]);
    }
    *out = c;
    return DEAL_OK;
}

void
deal_controls_free(deal_controls *c)
{
    if (!c)
        return;
    deal_free(c->edit);
    deal_free(c->edit_begin);
    deal_free(c->tap);
    deal_free(c->data);
    deal_free(c);
}
