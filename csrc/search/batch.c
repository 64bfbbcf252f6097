#define _POSIX_C_SOURCE 200809L

#include "search/batch.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "search/kept_layers.h"

typedef enum asking {
    SILENT,  // it does something else, or was answered
    ASKED,   // what it asked waits for the next pass
    RUNNING, // and is in this one
} asking;

typedef struct member_lm {
    deal_lm lm; // first
    deal_batch_member *member;
    int32_t i_lm;
    bool has_kept; // the shared root's layers are those that it asked for
} member_lm;

struct deal_batch_member {
    deal_batch *batch;
    deal_batch_member *next;
    member_lm lm[DEAL_BATCH_N_LM];
    // what it asks, of lm[i_lm], and how that went
    asking state;
    int32_t i_lm, n_items;
    deal_lm_item *items;
    deal_status status;
    deal_error err;
};

// One of the LMs, and what all searches have in common there.
typedef struct shared_lm {
    deal_lm *lm;
    deal_lm_ops ops; // of the members'
    deal_node root;  // without controls, or DEAL_NODE_NONE
    deal_kept_layers kept;
    int64_t *i_pass; // (n_node,) the last pass that evaluated the node
    size_t n_node;
} shared_lm;

struct deal_batch {
    pthread_mutex_t mutex; // guards all below, and the LMs where no pass is running
    pthread_cond_t changed;
    shared_lm shared[DEAL_BATCH_N_LM];
    int32_t n_lm;
    deal_batch_member *first;   // the newest
    deal_batch_member *running; // that and the ones after it are in the pass
    int32_t n_member, n_asked;
    bool is_running; // a pass, which then has the LMs and the items to itself
    bool is_cancelled;
    int64_t i_pass;
    deal_lm_item *item; // (item_cap,) of all members
    bool *is_new;       // (item_cap,) whether there was no such node before
    size_t item_cap, new_cap;
};

static member_lm *
self_of(const deal_lm *lm)
{
    return (member_lm *)(uintptr_t)lm;
}

static shared_lm *
shared_of(const member_lm *self)
{
    return &self->member->batch->shared[self->i_lm];
}

// Waits for the end of a pass, which only one that has just joined can meet. It may not
// have the GIL then, which a pass asks for from time to time.
static deal_lm *
lock(const member_lm *self)
{
    deal_batch *batch = self->member->batch;
    pthread_mutex_lock(&batch->mutex);
    while (batch->is_running)
        pthread_cond_wait(&batch->changed, &batch->mutex);
    return shared_of(self)->lm;
}

static void
unlock(const member_lm *self)
{
    pthread_mutex_unlock(&self->member->batch->mutex);
}

// --- roots ---------------------------------------------------------------------------

static deal_status
take_root(shared_lm *shared, deal_node *root, deal_error *err)
{
    const deal_lm_ops *ops = shared->lm->ops;
    if (shared->root == DEAL_NODE_NONE)
        DEAL_TRY(ops->root(shared->lm, &shared->root, err));
    ops->retain(shared->lm, shared->root);
    *root = shared->root;
    return DEAL_OK;
}

static deal_status
lm_root(deal_lm *lm, deal_node *root, deal_error *err)
{
    member_lm *self = self_of(lm);
    lock(self);
    deal_status status = take_root(shared_of(self), root, err);
    unlock(self);
    return status;
}

static deal_status
lm_controlled_root(deal_lm *lm, const deal_controls *controls, int32_t n_prompt,
                   deal_node *root, deal_error *err)
{
    member_lm *self = self_of(lm);
    deal_lm *inner = lock(self);
    deal_status status =
        inner->ops->controlled_root(inner, controls, n_prompt, root, err);
    unlock(self);
    return status;
}

// The shared root keeps layers from the first search on that asks, before it has any
// nodes; the LM itself refuses what comes later. Others cannot have other ones, as
// states of too many layers would be written to who has room for fewer.
static deal_status
keep_shared(shared_lm *shared, const int32_t *layer, int32_t n_layer, deal_error *err)
{
    if (shared->kept.layer && !deal_kept_layers_are(&shared->kept, layer, n_layer))
        return deal_fail(
            err, DEAL_ERR_INVALID_ARG,
            "layers: expected those that other searches of the batch keep");
    return deal_kept_layers_keep(&shared->kept, shared->lm, shared->root, layer,
                                 n_layer, err);
}

static deal_status
lm_keep_layers(deal_lm *lm, deal_node root, const int32_t *layer, int32_t n_layer,
               deal_error *err)
{
    member_lm *self = self_of(lm);
    deal_lm *inner = lock(self);
    bool is_shared = root == shared_of(self)->root;
    deal_status status =
        is_shared ? keep_shared(shared_of(self), layer, n_layer, err)
                  : inner->ops->keep_layers(inner, root, layer, n_layer, err);
    self->has_kept |= is_shared && status == DEAL_OK;
    unlock(self);
    return status;
}

// --- a pass --------------------------------------------------------------------------

static bool
is_in(const deal_batch_member *member, int32_t i_lm, const deal_batch_member *only)
{
    return member->i_lm == i_lm && (!only || member == only);
}

// Whether the item asks for a node that there is not; if there is, `node` is set to it.
static bool
is_missing(deal_lm *inner, const deal_lm_item *items, int32_t i, deal_lm_item *item)
{
    bool is_inside = item->i_parent >= 0 && item->i_parent < i;
    deal_node parent = is_inside ? items[item->i_parent].node : item->parent;
    item->node = parent == DEAL_NODE_NONE
                     ? DEAL_NODE_NONE
                     : inner->ops->child(inner, parent, item->token);
    return item->node == DEAL_NODE_NONE;
}

// The items of all in the pass, or of `only`, one after the other.
static deal_status
gather(deal_batch *batch, int32_t i_lm, const deal_batch_member *only, int32_t *n_items,
       deal_error *err)
{
    deal_lm *inner = batch->shared[i_lm].lm;
    int64_t n = 0;
    for (deal_batch_member *m = batch->running; m; m = m->next)
        n += is_in(m, i_lm, only) ? m->n_items : 0;
    if (n > INT32_MAX ||
        !deal_reserve(&batch->item, &batch->item_cap, 0, (size_t)n,
                      sizeof *batch->item) ||
        !deal_reserve(&batch->is_new, &batch->new_cap, 0, (size_t)n,
                      sizeof *batch->is_new))
        return deal_fail_memory(err, "items of several searches");
    int32_t at = 0;
    for (deal_batch_member *m = batch->running; m; m = m->next) {
        int32_t first = at;
        for (int32_t i = 0; is_in(m, i_lm, only) && i < m->n_items; i++, at++) {
            deal_lm_item *item = &batch->item[at];
            *item = m->items[i];
            if ((item->want & DEAL_WANT_HIDDEN) && batch->shared[i_lm].kept.layer &&
                !m->lm[i_lm].has_kept)
                return deal_fail(err, DEAL_ERR_INVALID_ARG,
                                 "layers: expected those that other searches of the "
                                 "batch keep, got none");
            if (item->i_parent >= 0)
                item->i_parent += first;
            batch->is_new[at] = is_missing(inner, batch->item, at, item);
        }
    }
    *n_items = at;
    return DEAL_OK;
}

// Room to note the pass of every node.
static deal_status
reserve_nodes(shared_lm *shared, size_t n, deal_error *err)
{
    size_t n_old = shared->n_node;
    if (!deal_reserve(&shared->i_pass, &shared->n_node, n_old, n,
                      sizeof *shared->i_pass))
        return deal_fail_memory(err, "nodes of several searches");
    if (shared->n_node > n_old)
        memset(shared->i_pass + n_old, 0,
               (shared->n_node - n_old) * sizeof *shared->i_pass);
    return DEAL_OK;
}

// Hands the answers out; a node that several asked for counts for the first of them.
static void
scatter(deal_batch *batch, int32_t i_lm, const deal_batch_member *only, int64_t n_all,
        int64_t n_passes)
{
    shared_lm *shared = &batch->shared[i_lm];
    int32_t at = 0;
    for (deal_batch_member *m = batch->running; m; m = m->next) {
        int64_t n_new = 0;
        for (int32_t i = 0; is_in(m, i_lm, only) && i < m->n_items; i++, at++) {
            int32_t i_parent = m->items[i].i_parent;
            m->items[i] = batch->item[at];
            m->items[i].i_parent = i_parent;
            int64_t *i_pass = &shared->i_pass[m->items[i].node];
            n_new += batch->is_new[at] && *i_pass != batch->i_pass;
            *i_pass = batch->i_pass;
        }
        if (n_new == 0)
            continue;
        deal_lm *lm = &m->lm[i_lm].lm;
        lm->n_forward_tokens += n_new;
        lm->n_forward_passes += n_passes;
        lm->n_company_tokens += n_all - n_new;
    }
}

static deal_status
ask(deal_batch *batch, int32_t i_lm, const deal_batch_member *only, deal_error *err)
{
    shared_lm *shared = &batch->shared[i_lm];
    deal_lm *inner = shared->lm;
    int32_t n_items = 0;
    DEAL_TRY(gather(batch, i_lm, only, &n_items, err));
    int64_t n_tokens = inner->n_forward_tokens, n_passes = inner->n_forward_passes;
    DEAL_TRY(inner->ops->extend(inner, batch->item, n_items, err));
    deal_node last = 0;
    for (int32_t i = 0; i < n_items; i++)
        last = batch->item[i].node > last ? batch->item[i].node : last;
    deal_status status = reserve_nodes(shared, (size_t)last + 1, err);
    for (int32_t i = 0; i < n_items && status != DEAL_OK; i++)
        inner->ops->release(inner, batch->item[i].node);
    DEAL_TRY(status);
    batch->i_pass++;
    scatter(batch, i_lm, only, inner->n_forward_tokens - n_tokens,
            inner->n_forward_passes - n_passes);
    return DEAL_OK;
}

// Answers all that is in the pass. What cannot be answered together is asked one by
// one, so that each search fails by its own fault alone.
static void
answer(deal_batch *batch, int32_t i_lm)
{
    int32_t n = 0;
    deal_error err;
    for (deal_batch_member *m = batch->running; m; m = m->next)
        n += is_in(m, i_lm, NULL);
    if (n == 0)
        return;
    deal_status status = n > 1 ? ask(batch, i_lm, NULL, &err) : DEAL_OK;
    bool is_each = n == 1 || status != DEAL_OK;
    for (deal_batch_member *m = batch->running; m; m = m->next)
        if (is_in(m, i_lm, NULL))
            m->status = is_each ? ask(batch, i_lm, m, &m->err) : DEAL_OK;
}

// Runs the pass that all wait for. The mutex is held before and after.
static void
run(deal_batch *batch)
{
    batch->running = batch->first;
    for (deal_batch_member *m = batch->running; m; m = m->next)
        m->state = RUNNING;
    batch->n_asked = 0;
    batch->is_running = true;
    pthread_mutex_unlock(&batch->mutex);
    for (int32_t i = 0; i < batch->n_lm; i++)
        answer(batch, i);
    pthread_mutex_lock(&batch->mutex);
    for (deal_batch_member *m = batch->running; m; m = m->next)
        m->state = SILENT;
    batch->is_running = false;
    pthread_cond_broadcast(&batch->changed);
}

static deal_status
lm_extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    member_lm *self = self_of(lm);
    deal_batch_member *m = self->member;
    deal_batch *batch = m->batch;
    pthread_mutex_lock(&batch->mutex);
    m->items = items;
    m->n_items = n_items;
    m->i_lm = self->i_lm;
    m->state = ASKED;
    batch->n_asked++;
    while (m->state != SILENT) {
        if (m->state == ASKED && batch->is_cancelled) {
            m->state = SILENT;
            batch->n_asked--;
            m->status = deal_fail(&m->err, DEAL_ERR_INTERRUPTED, "interrupted");
        } else if (batch->n_asked == batch->n_member && !batch->is_running) {
            run(batch);
        } else {
            pthread_cond_wait(&batch->changed, &batch->mutex);
        }
    }
    pthread_mutex_unlock(&batch->mutex);
    if (m->status != DEAL_OK && err)
        *err = m->err;
    return m->status;
}

// --- the rest ------------------------------------------------------------------------

static void
lm_retain(deal_lm *lm, deal_node node)
{
    deal_lm *inner = lock(self_of(lm));
    inner->ops->retain(inner, node);
    unlock(self_of(lm));
}

// NB: a search that fails before it has asked anything is freed with the GIL, while a
// pass of others may be running; it has no nodes, and so waits for nothing.
static void
lm_release(deal_lm *lm, deal_node node)
{
    if (node == DEAL_NODE_NONE)
        return;
    deal_lm *inner = lock(self_of(lm));
    inner->ops->release(inner, node);
    unlock(self_of(lm));
}

static deal_node
lm_child(const deal_lm *lm, deal_node parent, int32_t token)
{
    deal_lm *inner = lock(self_of(lm));
    deal_node child = inner->ops->child(inner, parent, token);
    unlock(self_of(lm));
    return child;
}

static const deal_lm_ops batch_ops = {
    .root = lm_root,
    .extend = lm_extend,
    .controlled_root = lm_controlled_root,
    .keep_layers = lm_keep_layers,
    .retain = lm_retain,
    .release = lm_release,
    .child = lm_child,
};

deal_status
deal_batch_new(deal_lm *const *lm, int32_t n_lm, deal_batch **out, deal_error *err)
{
    if (n_lm < 1 || n_lm > DEAL_BATCH_N_LM)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "batch: expected 1 to %d models, got %d", DEAL_BATCH_N_LM,
                         (int)n_lm);
    deal_batch *batch = deal_alloc_zero(1, sizeof *batch);
    if (!batch)
        return deal_fail_memory(err, "batch of searches");
    pthread_mutex_init(&batch->mutex, NULL);
    pthread_cond_init(&batch->changed, NULL);
    batch->n_lm = n_lm;
    for (int32_t i = 0; i < n_lm; i++) {
        shared_lm *shared = &batch->shared[i];
        shared->lm = lm[i];
        shared->root = DEAL_NODE_NONE;
        shared->ops = batch_ops;
        if (!lm[i]->ops->controlled_root)
            shared->ops.controlled_root = NULL;
        if (!lm[i]->ops->keep_layers)
            shared->ops.keep_layers = NULL;
    }
    *out = batch;
    return DEAL_OK;
}

void
deal_batch_free(deal_batch *batch)
{
    if (!batch)
        return;
    for (int32_t i = 0; i < batch->n_lm; i++) {
        shared_lm *shared = &batch->shared[i];
        shared->lm->ops->release(shared->lm, shared->root);
        deal_free(shared->kept.layer);
        deal_free(shared->i_pass);
    }
    deal_free(batch->item);
    deal_free(batch->is_new);
    pthread_cond_destroy(&batch->changed);
    pthread_mutex_destroy(&batch->mutex);
    deal_free(batch);
}

deal_status
deal_batch_join(deal_batch *batch, deal_batch_member **out, deal_error *err)
{
    deal_batch_member *m = deal_alloc_zero(1, sizeof *m);
    if (!m)
        return deal_fail_memory(err, "batch of searches");
    m->batch = batch;
    for (int32_t i = 0; i < batch->n_lm; i++) {
        const shared_lm *shared = &batch->shared[i];
        m->lm[i] = (member_lm){.lm = {.ops = &shared->ops,
                                      .n_vocab = shared->lm->n_vocab,
                                      .n_embd = shared->lm->n_embd,
                                      .n_layer = shared->lm->n_layer,
                                      .n_ctx = shared->lm->n_ctx},
                               .member = m,
                               .i_lm = i};
    }
    pthread_mutex_lock(&batch->mutex);
    m->next = batch->first;
    batch->first = m;
    batch->n_member++;
    pthread_mutex_unlock(&batch->mutex);
    *out = m;
    return DEAL_OK;
}

deal_lm *
deal_batch_lm(deal_batch_member *member, int32_t i_lm)
{
    return &member->lm[i_lm].lm;
}

void
deal_batch_leave(deal_batch_member *member)
{
    if (!member)
        return;
    deal_batch *batch = member->batch;
    pthread_mutex_lock(&batch->mutex);
    deal_batch_member **link = &batch->first;
    while (*link != member)
        link = &(*link)->next;
    *link = member->next;
    batch->n_member--;
    pthread_cond_broadcast(&batch->changed); // the others may be all that are left
    pthread_mutex_unlock(&batch->mutex);
    deal_free(member);
}

void
deal_batch_cancel(deal_batch *batch)
{
    pthread_mutex_lock(&batch->mutex);
    batch->is_cancelled = true;
    pthread_cond_broadcast(&batch->changed);
    pthread_mutex_unlock(&batch->mutex);
}
