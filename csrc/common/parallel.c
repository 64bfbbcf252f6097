#define _POSIX_C_SOURCE 200809L

#include "common/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "common/alloc.h"
#include "common/compiler.h"

// About 50 microseconds, longer than the serial stretches of a forward pass.
#define N_SPIN 20000

// `ticket` is (number of the loop) << 32 | first item that no thread has taken. A
// thread takes items by changing the ticket that it has read, so that one that comes
// late, to a loop that is over, takes nothing. The loop is over when all items are
// done, whichever threads did them: one that the system holds up before it took any is
// not waited for.
#define CLOSED 0x7fffffffu // in place of the item, while the next loop is written down

struct deal_pool {
    int32_t n_thread;
    pid_t pid; // of the process that started the workers
    int32_t n_started;
    pthread_t *worker; // (n_thread - 1,)

    // the loop at hand, written while the ticket is closed
    _Atomic(deal_loop_fn) fn;
    _Atomic(void *) context;
    atomic_int n_item, grain;

    _Alignas(64) atomic_ullong ticket;
    _Alignas(64) atomic_int n_done; // items of the loop
    _Alignas(64) atomic_bool is_stopping;
    atomic_int n_asleep;
    pthread_mutex_t mutex; // with `wake`, guards sleeping only
    pthread_cond_t wake;
};

typedef struct worker_args {
    deal_pool *pool;
    int32_t i_thread;
} worker_args;

static uint32_t
loop_of(unsigned long long ticket)
{
    return (uint32_t)(ticket >> 32);
}

// Takes runs of items of loop `i_loop` until there are none.
static void
run_items(deal_pool *pool, uint32_t i_loop, int32_t i_thread)
{
    unsigned long long ticket = atomic_load(&pool->ticket);
    while (loop_of(ticket) == i_loop && (uint32_t)ticket != CLOSED) {
        deal_loop_fn fn = atomic_load_explicit(&pool->fn, memory_order_relaxed);
        void *context = atomic_load_explicit(&pool->context, memory_order_relaxed);
        int32_t n = atomic_load_explicit(&pool->n_item, memory_order_relaxed);
        int32_t grain = atomic_load_explicit(&pool->grain, memory_order_relaxed);
        int32_t i = (int32_t)(uint32_t)ticket;
        if (i >= n)
            return;
        int32_t n_run = n - i < grain ? n - i : grain;
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket,
                                          ticket + (uint32_t)n_run))
            continue;
        fn(context, i, i + n_run, i_thread);
        atomic_fetch_add_explicit(&pool->n_done, n_run, memory_order_release);
        ticket = atomic_load(&pool->ticket);
    }
}

// Waits for another loop than `i_seen`, or for the end; returns the loop.
static uint32_t
wait_loop(deal_pool *pool, uint32_t i_seen)
{
    uint32_t i_loop;
    for (int i = 0; i < N_SPIN; i++) {
        i_loop = loop_of(atomic_load(&pool->ticket));
        if (i_loop != i_seen)
            return i_loop;
        DEAL_PAUSE();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_asleep, 1);
    while ((i_loop = loop_of(atomic_load(&pool->ticket))) == i_seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_asleep, 1);
    pthread_mutex_unlock(&pool->mutex);
    return i_loop;
}

static void *
worker_main(void *arg)
{
    worker_args args = *(worker_args *)arg;
    deal_free(arg);
    deal_pool *pool = args.pool;
    uint32_t i_loop = 0;
    for (;;) {
        i_loop = wait_loop(pool, i_loop);
        if (atomic_load(&pool->is_stopping))
            return NULL;
        run_items(pool, i_loop, args.i_thread);
    }
}

// Opens the next loop to the workers and returns its number.
static uint32_t
open_loop(deal_pool *pool)
{
    uint32_t i_loop = loop_of(atomic_load(&pool->ticket)) + 1;
    atomic_store(&pool->ticket, (unsigned long long)i_loop << 32);
    if (atomic_load(&pool->n_asleep) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    return i_loop;
}

deal_status
deal_pool_new(int32_t n_thread, deal_pool **out, deal_error *err)
{
    if (n_thread < 1 || n_thread > 1024)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "threads: expected 1 to 1024, got %d", n_thread);
    deal_pool *pool = deal_alloc_zero(1, sizeof *pool);
    if (!pool)
        return deal_fail_memory(err, "thread pool");
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->n_thread = n_thread;
    pool->pid = getpid();
    pool->worker = deal_alloc((size_t)n_thread, sizeof *pool->worker);
    deal_status status = DEAL_OK;
    if (!pool->worker)
        status = deal_fail_memory(err, "thread pool");
    for (int32_t i = 1; status == DEAL_OK && i < n_thread; i++) {
        worker_args *args = deal_alloc(1, sizeof *args);
        if (!args) {
            status = deal_fail_memory(err, "thread pool");
            break;
        }
        *args = (worker_args){pool, i};
        if (pthread_create(&pool->worker[i - 1], NULL, worker_main, args) != 0) {
            deal_free(args);
            status = deal_fail(err, DEAL_ERR_NO_MEMORY,
                               "threads: the system refused thread %d of %d", i + 1,
                               n_thread);
            break;
        }
        pool->n_started++;
    }
    if (status != DEAL_OK) {
        deal_pool_free(pool);
        return status;
    }
    *out = pool;
    return DEAL_OK;
}

void
deal_pool_free(deal_pool *pool)
{
    if (!pool)
        return;
    if (pool->pid == getpid()) {
        atomic_store(&pool->is_stopping, true);
        open_loop(pool);
        for (int32_t i = 0; i < pool->n_started; i++)
            pthread_join(pool->worker[i], NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->mutex);
    }
    deal_free(pool->worker);
    deal_free(pool);
}

int32_t
deal_pool_n_thread(const deal_pool *pool)
{
    return pool->n_thread;
}

void
deal_parallel_for(deal_pool *pool, int32_t n, int32_t grain, deal_loop_fn fn,
                  void *context)
{
    if (n <= 0)
        return;
    int32_t n_run = 4 * pool->n_thread;
    if (grain <= 0)
        grain = n / n_run + (n % n_run != 0);
    if (pool->n_thread == 1 || n <= grain || pool->pid != getpid()) {
        fn(context, 0, n, 0);
        return;
    }
    unsigned long long ticket = atomic_load(&pool->ticket);
    atomic_store(&pool->ticket, (ticket >> 32 << 32) | CLOSED);
    atomic_store_explicit(&pool->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&pool->context, context, memory_order_relaxed);
    atomic_store_explicit(&pool->n_item, n, memory_order_relaxed);
    atomic_store_explicit(&pool->grain, grain, memory_order_relaxed);
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    run_items(pool, open_loop(pool), 0);
    // NB: yield after a while, or a waiting caller starves the worker on a busy
    // machine.
    for (int i = 0; atomic_load_explicit(&pool->n_done, memory_order_acquire) < n;
         i++) {
        if (i < N_SPIN)
            DEAL_PAUSE();
        else
            sched_yield();
    }
}
