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

struct deal_pool {
    int32_t n_thread;
    pid_t pid; // of the process that started the workers
    int32_t n_started;
    pthread_t *worker; // (n_thread - 1,)

    deal_loop_fn fn; // the loop at hand; written before `epoch` rises
    void *context;
    int32_t n_item;

    atomic_uint epoch;    // rises with every loop
    atomic_int n_running; // workers still at it
    atomic_bool is_stopping;
    atomic_int n_asleep;
    pthread_mutex_t mutex; // with `wake`, guards sleeping only
    pthread_cond_t wake;
};

typedef struct worker_args {
    deal_pool *pool;
    int32_t i_thread;
} worker_args;

static void
run_share(deal_pool *pool, int32_t i_thread)
{
    int64_t n = pool->n_item;
    int32_t i_begin = (int32_t)(n * i_thread / pool->n_thread);
    int32_t i_end = (int32_t)(n * (i_thread + 1) / pool->n_thread);
    if (i_begin < i_end)
        pool->fn(pool->context, i_begin, i_end, i_thread);
}

// Waits until the epoch differs from `seen` or the pool stops; returns the new epoch.
static unsigned
wait_epoch(deal_pool *pool, unsigned seen)
{
    for (int i = 0; i < N_SPIN; i++) {
        unsigned epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (epoch != seen)
            return epoch;
        DEAL_PAUSE();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_asleep, 1);
    unsigned epoch;
    while ((epoch = atomic_load(&pool->epoch)) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_asleep, 1);
    pthread_mutex_unlock(&pool->mutex);
    return epoch;
}

static void *
worker_main(void *arg)
{
    worker_args args = *(worker_args *)arg;
    deal_free(arg);
    deal_pool *pool = args.pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_epoch(pool, seen);
        if (atomic_load(&pool->is_stopping))
            return NULL;
        run_share(pool, args.i_thread);
        atomic_fetch_sub_explicit(&pool->n_running, 1, memory_order_release);
    }
}

static void
raise_epoch(deal_pool *pool)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->n_asleep) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
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
        raise_epoch(pool);
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
deal_parallel_for(deal_pool *pool, int32_t n, deal_loop_fn fn, void *context)
{
    if (n <= 0)
        return;
    if (pool->n_thread == 1 || n == 1 || pool->pid != getpid()) {
        fn(context, 0, n, 0);
        return;
    }
    pool->fn = fn;
    pool->context = context;
    pool->n_item = n;
    atomic_store(&pool->n_running, pool->n_thread - 1);
    raise_epoch(pool);
    run_share(pool, 0);
    // NB: yield after a while, or a waiting caller starves the worker on a busy
    // machine.
    for (int i = 0; atomic_load_explicit(&pool->n_running, memory_order_acquire) > 0;
         i++) {
        if (i < N_SPIN)
            DEAL_PAUSE();
        else
            sched_yield();
    }
}
