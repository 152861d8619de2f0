/* A team of pinned threads that share one gather with the caller. Workers spin for a while after each job, since a decode
 * step has one gather for each layer and a futex wake costs as much as half of it; then they sleep. */
#define _GNU_SOURCE
#include "sac.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS_BEFORE_SLEEP = 4000, SPINS_BEFORE_YIELD = 20000 };

struct sac_team {
    const struct sac_rows *job;
    _Atomic uint32_t generation; /* rises with each job; the word that workers sleep on */
    _Atomic uint32_t sleepers, pending;
    _Atomic int stopping;
    int32_t n;
    struct worker {
        struct sac_team *team;
        pthread_t thread;
        int32_t share; /* 1 .. n; the caller takes share 0 */
    } workers[];
};

static void gather_share(const struct sac_rows *job, int32_t share, int32_t shares)
{
    struct sac_rows part = *job;
    int64_t from = job->n * share / shares, to = job->n * (share + 1) / shares;
    part.rows += from;
    part.n = to - from;
    if (part.slots)
        part.slots += from;
    else
        part.packed += from * part.row_bytes;
    sac_gather_unchecked(&part);
}

static void wait_for_job(struct sac_team *team, uint32_t seen)
{
    for (int spin = 0; spin < SPINS_BEFORE_SLEEP; spin++) {
        if (atomic_load_explicit(&team->generation, memory_order_acquire) != seen)
            return;
        __builtin_ia32_pause();
    }
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->generation) == seen)
        syscall(SYS_futex, &team->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void *work(void *argument)
{
    struct worker *self = argument;
    struct sac_team *team = self->team;
    for (uint32_t seen = 0;; seen++) {
        wait_for_job(team, seen);
        if (atomic_load(&team->stopping))
            return NULL;
        gather_share(team->job, self->share, team->n + 1);
        atomic_fetch_sub_explicit(&team->pending, 1, memory_order_release);
    }
}

static void announce(struct sac_team *team)
{
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->sleepers))
        syscall(SYS_futex, &team->generation, FUTEX_WAKE_PRIVATE, team->n, NULL, NULL, 0);
}

static int start_pinned(struct worker *worker, int32_t cpu)
{
    cpu_set_t cpus;
    pthread_attr_t attributes;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
    int status = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_attr_destroy(&attributes);
    return status;
}

struct sac_team *sac_team_start(const int32_t *cpus, int32_t n)
{
    struct sac_team *team = calloc(1, sizeof *team + (size_t)n * sizeof team->workers[0]);
    if (!team)
        return NULL;
    for (; team->n < n; team->n++) {
        team->workers[team->n] = (struct worker){.team = team, .share = team->n + 1};
        if (start_pinned(&team->workers[team->n], cpus[team->n])) {
            sac_team_stop(team);
            return NULL;
        }
    }
    return team;
}

int64_t sac_team_gather(struct sac_team *team, const struct sac_rows *rows)
{
    int64_t outside = sac_check_rows(rows);
    if (outside)
        return outside;
    team->job = rows;
    atomic_store(&team->pending, (uint32_t)team->n);
    announce(team);
    gather_share(rows, 0, team->n + 1);
    for (int spin = 0; atomic_load_explicit(&team->pending, memory_order_acquire); spin++) {
        if (spin < SPINS_BEFORE_YIELD)
            __builtin_ia32_pause();
        else
            sched_yield();
    }
    return 0;
}

void sac_team_stop(struct sac_team *team)
{
    atomic_store(&team->stopping, 1);
    announce(team);
    for (int32_t i = 0; i < team->n; i++)
        pthread_join(team->workers[i].thread, NULL);
    free(team);
}
