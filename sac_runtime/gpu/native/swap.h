/* The argument of a launch, and what its blocks share. sac_runtime/gpu/cuda.py has the same fields. */
#pragma once
#include "device.h"

enum {
    POSITIONS = (CAPACITY + THREADS - 1) / THREADS, /* of the order, per thread */
    ENTRIES = (TOP_K + THREADS - 1) / THREADS,      /* of the top-k, per thread */
    POSITION_TILES = POSITIONS * THREADS / WARP,
    ENTRY_TILES = ENTRIES * THREADS / WARP,
};
enum { HOMES = 1 << HOME_BITS, OVERFLOW = 1 << OVERFLOW_BITS, NO_ENTRY = 0xffff };
enum { EMPTY = -1, NO_SLOT = -1, FINE = 0x7fffffff };
enum { STATUS_FINE = 0, STATUS_LENGTH = -1, STATUS_ROW = -2 }; /* above 0: 1 + the entry that is outside or named twice */
enum { STEPS, HITS, MISSES, COMPULSORY, COUNTERS };

struct Held { /* what outlives a step beside the order */
    int32_t left_direct_path;
    int32_t length;
};

struct Miss {
    uint32_t row;
    uint32_t slot;
};

struct Swap {
    /* What is asked. topk: (R, TOP_K), num_topk: (R,). lengths: (R,) tokens of each sequence, the newest included; 0 for a request
     * that takes no part, -1 for one without newest token and direct path, as in a replayed trace. */
    const int32_t *topk, *num_topk, *lengths;
    /* Where rows lie: token t of request r at row pages[r, t / page_tokens] + t % page_tokens + first_row of `pool`. */
    const uint8_t *pool;
    const int64_t *pages;
    int64_t first_row, num_rows;
    int32_t page_tokens, pages_per_request;
    /* State of the layer, by request. tokens, order: (R, CAPACITY) token and slot from the least recently used on; on the direct path
     * position is slot. seen: (R, seen_words) bit of each token that ever had a slot, or null. counters: (R, COUNTERS). */
    int32_t *tokens, *order;
    Held *held;
    uint32_t *seen;
    int64_t seen_words;
    int64_t *counters;
    uint8_t *buffer; /* (R, CAPACITY + 1, row bytes) */
    /* Results. slots: (R, TOP_K) in the order asked; misses: (R, TOP_K) and victims (R, TOP_K) tokens and their slots, of which
     * the first num_misses[r] count; status: (R,). */
    int32_t *slots, *miss_tokens, *victim_slots, *num_misses, *status;
    /* Between the blocks: ready (R,) epoch in the upper half, misses in the lower; epochs: (gathering warps,). */
    Miss *misses;
    uint32_t *ready, *epochs;
    int32_t num_requests, gather_warps; /* warps that gather in each gathering block */
    int32_t plans_only;                 /* 1: nothing is loaded, for measuring */
    /* Pacing: the i-th row of a launch ends no sooner than first_ns + i * row_ps / 1000 after its gather began; 0: as it comes. */
    int64_t first_ns, row_ps;
};

struct Shared {
    alignas(16) uint16_t home[HOMES]; /* see plan.h */
    int32_t overflow[OVERFLOW];
    int32_t topk[TOP_K], slot_of_entry[TOP_K], victims[TOP_K];
    int32_t hit_tiles[POSITION_TILES], miss_tiles[ENTRY_TILES];
    int32_t num_hits, num_misses, first_bad, named_twice, compulsory;
};
