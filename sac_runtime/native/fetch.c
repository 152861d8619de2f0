/* A layer of a decode step in one call: between two, an interpreter finds its code and objects evicted by the rows that came.
 * Knows plans and gathers, no model. */
#define _GNU_SOURCE
#include "sac.h"

#include <time.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

int64_t sac_fetch(struct sac_buffer *buffer, struct sac_step *step, struct sac_rows *gather)
{
    int64_t misses = sac_plan(buffer, step);
    int64_t start_ns = now_ns();
    gather->rows = step->miss_rows;
    gather->n = misses < 0 ? 0 : misses;
    gather->slots = step->victim_slots;
    step->outside = sac_gather(gather);
    step->gather_ns = now_ns() - start_ns;
    return misses;
}
