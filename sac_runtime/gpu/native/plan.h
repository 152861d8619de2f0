/* One request's share of a step, by one block: hits, misses, victims, the new order. Moves no rows. */
#pragma once
#include "swap.h"

/* Where a token's entry stands: at its home, written without atomics, where the last writer stays; in the overflow table, by
 * atomics and open addressing, if another token's entry stayed there. Few do, since homes are eight times as many as entries. */
__device__ static inline uint32_t home_of(int32_t token) { return ((uint32_t)token * 2654435769u) >> (32 - HOME_BITS); }
__device__ static inline uint32_t overflow_of(int32_t token) { return ((uint32_t)token * 2246822519u) >> (32 - OVERFLOW_BITS); }

__device__ static void overflow(Shared *sh, int32_t token, int entry)
{
    uint32_t place = overflow_of(token);
    while (atomicCAS(&sh->overflow[place], EMPTY, entry) != EMPTY)
        place = (place + 1) % OVERFLOW;
}

__device__ static int overflow_entry(const Shared *sh, int32_t token)
{
    for (uint32_t place = overflow_of(token);; place = (place + 1) % OVERFLOW)
        if (sh->overflow[place] == EMPTY || sh->topk[sh->overflow[place]] == token)
            return sh->overflow[place];
}

/* One thread's share of a step. token, slot: of its positions of the order; entry_token, row: of its entries. */
struct Share {
    int32_t token[POSITIONS], slot[POSITIONS];
    int32_t entry_token[ENTRIES];
    int64_t row[ENTRIES];
    Ballot hits[POSITIONS], missing[ENTRIES]; /* of the thread's whole tile */
};

__device__ static inline int position_of(int p) { return p * THREADS + threadIdx.x; }
__device__ static inline int tile_of(int p) { return (p * THREADS + threadIdx.x) / WARP; }

__device__ static void load_order(const Swap *s, int r, Share *t)
{
    UNROLL
    for (int p = 0; p < POSITIONS; p++) {
        int position = position_of(p);
        int inside = position < CAPACITY;
        t->token[p] = inside ? s->tokens[(int64_t)r * CAPACITY + position] : EMPTY;
        t->slot[p] = inside ? s->order[(int64_t)r * CAPACITY + position] : NO_SLOT;
    }
}

/* Entries into shared memory, tables that are empty, and the page table on its way to the L2. */
__device__ static void load_entries(const Swap *s, Shared *sh, int r, int count, Share *t)
{
    for (int i = threadIdx.x; i < (int)(sizeof sh->home / 16); i += THREADS)
        ((Chunk16 *)sh->home)[i] = all_ones();
    for (int i = threadIdx.x; i < (int)(sizeof sh->overflow / 16); i += THREADS)
        ((Chunk16 *)sh->overflow)[i] = all_ones();
    for (int i = threadIdx.x * 16; i < s->pages_per_request; i += THREADS * 16)
        prefetch(s->pages + (int64_t)r * s->pages_per_request + i);
    UNROLL
    for (int e = 0; e < ENTRIES; e++) {
        int entry = position_of(e);
        t->entry_token[e] = entry < TOP_K ? s->topk[(int64_t)r * TOP_K + entry] : EMPTY;
    }
    UNROLL
    for (int e = 0; e < ENTRIES; e++) {
        int entry = position_of(e);
        t->entry_token[e] = entry < count ? t->entry_token[e] : EMPTY;
        if (entry < TOP_K) {
            sh->topk[entry] = t->entry_token[e];
            sh->slot_of_entry[entry] = NO_SLOT;
        }
    }
    if (threadIdx.x == 0) {
        sh->first_bad = FINE;
        sh->named_twice = 0;
        sh->compulsory = 0;
    }
}

/* Every entry into the tables, and whether one may not be there into first_bad. */
__device__ static void enter(Shared *sh, int count, int num_tokens, const Share *t)
{
    UNROLL
    for (int e = 0; e < ENTRIES; e++)
        if (position_of(e) < count && (uint32_t)t->entry_token[e] < (uint32_t)num_tokens)
            sh->home[home_of(t->entry_token[e])] = position_of(e);
        else if (position_of(e) < count)
            atomicMin(&sh->first_bad, position_of(e));
    __syncthreads();
    if (sh->first_bad != FINE)
        return;
    UNROLL
    for (int e = 0; e < ENTRIES; e++) {
        if (position_of(e) >= count)
            continue;
        int token = t->entry_token[e], stayed = sh->home[home_of(token)];
        if (stayed != position_of(e) && sh->topk[stayed] == token)
            sh->named_twice = 1;
        else if (stayed != position_of(e))
            overflow(sh, token, position_of(e));
    }
}

/* The first entry whose token stands before it, or lies outside; for a refusal, so it may take its time. */
__device__ static void find_first_bad(Shared *sh, int count, int num_tokens)
{
    __syncthreads();
    for (int entry = threadIdx.x; entry < count; entry += THREADS) {
        int is_bad = (uint32_t)sh->topk[entry] >= (uint32_t)num_tokens;
        for (int before = 0; before < entry && !is_bad; before++)
            is_bad = sh->topk[before] == sh->topk[entry];
        if (is_bad)
            atomicMin(&sh->first_bad, entry);
    }
    __syncthreads();
}

/* Slots that hold nothing become the oldest of all, in the order of their numbers. */
__device__ static void leave_direct_path(const Swap *s, Shared *sh, int r, Share *t)
{
    UNROLL
    for (int p = 0; p < POSITIONS; p++) {
        t->hits[p] = votes(position_of(p) < CAPACITY && t->token[p] != EMPTY);
        if (lane_of(threadIdx.x) == 0)
            sh->hit_tiles[tile_of(p)] = ones(t->hits[p]);
    }
    __syncthreads();
    if (threadIdx.x < WARP)
        sh->num_hits = scan(sh->hit_tiles, POSITION_TILES);
    __syncthreads();
    int lane = lane_of(threadIdx.x), num_empty = CAPACITY - sh->num_hits;
    UNROLL
    for (int p = 0; p < POSITIONS; p++) {
        int position = position_of(p), held_before = sh->hit_tiles[tile_of(p)] + ones(t->hits[p] & below(lane));
        int is_held = t->hits[p] >> lane & 1;
        int place = is_held ? num_empty + held_before : position - held_before;
        if (position < CAPACITY) {
            s->tokens[(int64_t)r * CAPACITY + place] = t->token[p];
            s->order[(int64_t)r * CAPACITY + place] = position;
        }
    }
    __syncthreads();
    load_order(s, r, t);
}

/* Which positions of the order are hit, by tile; and the slot of each entry that one of them holds. */
__device__ static void find_hits(Shared *sh, Share *t)
{
    int entries[POSITIONS];
    UNROLL
    for (int p = 0; p < POSITIONS; p++)
        entries[p] = t->token[p] == EMPTY ? NO_ENTRY : sh->home[home_of(t->token[p])];
    UNROLL
    for (int p = 0; p < POSITIONS; p++)
        if (entries[p] != NO_ENTRY && sh->topk[entries[p]] != t->token[p])
            entries[p] = overflow_entry(sh, t->token[p]) & NO_ENTRY; /* EMPTY becomes NO_ENTRY */
    UNROLL
    for (int p = 0; p < POSITIONS; p++) {
        if (entries[p] != NO_ENTRY)
            sh->slot_of_entry[entries[p]] = t->slot[p];
        t->hits[p] = votes(entries[p] != NO_ENTRY);
        if (lane_of(threadIdx.x) == 0)
            sh->hit_tiles[tile_of(p)] = ones(t->hits[p]);
    }
    __syncthreads();
}

/* Where the row of a token lies. */
__device__ static inline int64_t row_of(const Swap *s, int r, int token)
{
    return s->pages[(int64_t)r * s->pages_per_request + token / s->page_tokens] + token % s->page_tokens + s->first_row;
}

/* Which entries are misses, by tile; the newest token is none. */
__device__ static void find_misses(const Swap *s, Shared *sh, int r, int count, int newest, Share *t)
{
    UNROLL
    for (int e = 0; e < ENTRIES; e++) {
        int entry = position_of(e);
        int is_miss = entry < count && t->entry_token[e] != newest && sh->slot_of_entry[entry] == NO_SLOT;
        t->row[e] = is_miss ? row_of(s, r, t->entry_token[e]) : 0;
        if ((uint64_t)t->row[e] >= (uint64_t)s->num_rows)
            atomicMin(&sh->first_bad, STATUS_ROW);
        t->missing[e] = votes(is_miss);
        if (lane_of(threadIdx.x) == 0)
            sh->miss_tiles[tile_of(e)] = ones(t->missing[e]);
    }
    __syncthreads();
    if (threadIdx.x < WARP)
        sh->num_hits = scan(sh->hit_tiles, POSITION_TILES);
    if (threadIdx.x / WARP == (THREADS > WARP))
        sh->num_misses = scan(sh->miss_tiles, ENTRY_TILES);
    __syncthreads();
}

__device__ static inline int miss_rank(const Shared *sh, const Share *t, int e)
{
    return sh->miss_tiles[tile_of(e)] + ones(t->missing[e] & below(lane_of(threadIdx.x)));
}

__device__ static inline int is_missing(const Share *t, int e) { return t->missing[e] >> lane_of(threadIdx.x) & 1; }

__device__ static inline int hits_before(const Shared *sh, const Share *t, int p)
{
    return sh->hit_tiles[tile_of(p)] + ones(t->hits[p] & below(lane_of(threadIdx.x)));
}

__device__ static inline int is_hit(const Share *t, int p) { return t->hits[p] >> lane_of(threadIdx.x) & 1; }

/* The least recently used slots that are no hits, one for each miss. */
__device__ static void find_victims(Shared *sh, const Share *t)
{
    UNROLL
    for (int p = 0; p < POSITIONS; p++) {
        int unused_before = position_of(p) - hits_before(sh, t, p);
        if (position_of(p) < CAPACITY && !is_hit(t, p) && unused_before < sh->num_misses)
            sh->victims[unused_before] = t->slot[p];
    }
    __syncthreads();
}

/* What the gathering blocks follow, and the slots of the entries that are misses. */
__device__ static void list_misses(const Swap *s, Shared *sh, int r, int direct, const Share *t)
{
    UNROLL
    for (int e = 0; e < ENTRIES; e++) {
        if (!is_missing(t, e))
            continue;
        int rank = miss_rank(sh, t, e), slot = direct ? t->entry_token[e] : sh->victims[rank];
        s->misses[(int64_t)r * TOP_K + rank] = Miss{(uint32_t)t->row[e], (uint32_t)slot};
        sh->slot_of_entry[position_of(e)] = slot;
    }
}

/* Unused slots in their old order, those filled in the order they were, those hit in their old order. */
__device__ static void renew_order(const Swap *s, Shared *sh, int r, const Share *t)
{
    int64_t first = (int64_t)r * CAPACITY;
    int num_misses = sh->num_misses, num_unused = CAPACITY - sh->num_hits;
    UNROLL
    for (int p = 0; p < POSITIONS; p++) {
        int before = hits_before(sh, t, p), unused_before = position_of(p) - before;
        int place = is_hit(t, p) ? num_unused + before : unused_before - num_misses;
        if (position_of(p) < CAPACITY && place >= 0) {
            s->tokens[first + place] = t->token[p];
            s->order[first + place] = t->slot[p];
        }
    }
    UNROLL
    for (int e = 0; e < ENTRIES; e++)
        if (is_missing(t, e)) {
            int place = num_unused - num_misses + miss_rank(sh, t, e);
            s->tokens[first + place] = t->entry_token[e];
            s->order[first + place] = sh->slot_of_entry[position_of(e)];
        }
}

/* On the direct path a slot's position is its number, and the newest token gets one as well. */
__device__ static void fill_slots(const Swap *s, int r, int newest, const Share *t)
{
    int32_t *tokens = s->tokens + (int64_t)r * CAPACITY;
    UNROLL
    for (int e = 0; e < ENTRIES; e++)
        if (is_missing(t, e))
            tokens[t->entry_token[e]] = t->entry_token[e];
    if (newest >= 0 && threadIdx.x == 0)
        tokens[newest] = newest;
}

/* Results, for whoever comes after this launch. */
__device__ static void give_slots(const Swap *s, const Shared *sh, int r, int count, int newest, int newest_slot,
                                  const Share *t)
{
    int64_t first = (int64_t)r * TOP_K;
    UNROLL
    for (int e = 0; e < ENTRIES; e++) {
        int entry = position_of(e), is_newest = t->entry_token[e] == newest;
        if (is_missing(t, e)) {
            s->miss_tokens[first + miss_rank(sh, t, e)] = t->entry_token[e];
            s->victim_slots[first + miss_rank(sh, t, e)] = sh->slot_of_entry[entry];
        }
        if (entry < TOP_K)
            s->slots[first + entry] = entry >= count ? NO_SLOT : is_newest ? newest_slot : sh->slot_of_entry[entry];
    }
    if (threadIdx.x == 0) {
        s->status[r] = STATUS_FINE;
        s->num_misses[r] = sh->num_misses;
    }
}

/* Let the gathering blocks see what this block wrote before. */
__device__ static void publish(const Swap *s, int r, uint32_t epoch, int num_misses)
{
    if (num_misses == 0) { /* nothing to be seen */
        if (threadIdx.x == 0)
            *(volatile uint32_t *)&s->ready[r] = epoch << 16;
        return;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        store_release(&s->ready[r], epoch << 16 | (uint32_t)num_misses);
}

/* Nothing is planned: status says why, and nothing else has changed. */
__device__ static void refuse(const Swap *s, int r, uint32_t epoch, int status)
{
    for (int entry = threadIdx.x; entry < TOP_K; entry += THREADS)
        s->slots[(int64_t)r * TOP_K + entry] = NO_SLOT;
    if (threadIdx.x == 0) {
        s->status[r] = status;
        s->num_misses[r] = 0;
    }
    publish(s, r, epoch, 0);
}

/* Behind the loads, which need not wait for it: counters, and which tokens never had a slot. */
__device__ static void count_step(const Swap *s, Shared *sh, int r, int count, int newest, int direct, const Share *t)
{
    if (s->seen) {
        uint32_t *seen = s->seen + r * s->seen_words;
        UNROLL
        for (int e = 0; e < ENTRIES; e++) {
            int token = t->entry_token[e];
            if (is_missing(t, e) && !(atomicOr(&seen[token / 32], 1u << token % 32) >> token % 32 & 1))
                atomicAdd(&sh->compulsory, 1);
        }
        if (direct && newest >= 0 && threadIdx.x == 0)
            atomicOr(&seen[newest / 32], 1u << newest % 32);
        __syncthreads();
    }
    if (threadIdx.x)
        return;
    /* Added to without waiting for what was there; nobody else does meanwhile. */
    unsigned long long *counters = (unsigned long long *)s->counters + (int64_t)r * COUNTERS;
    unsigned long long misses = sh->num_misses, hits = count - misses, compulsory = sh->compulsory;
    atomicAdd(&counters[STEPS], 1ull);
    atomicAdd(&counters[HITS], hits);
    atomicAdd(&counters[MISSES], misses);
    if (s->seen)
        atomicAdd(&counters[COMPULSORY], compulsory);
}

__device__ static void plan(const Swap *s, Shared *sh, int r)
{
    int length = s->lengths[r], count = s->num_topk[r];
    Held held = s->held[r];
    uint32_t epoch = (s->ready[r] >> 16) + 1;
    Share t;
    int newest = length < 0 ? -1 : length - 1, limit = s->page_tokens * s->pages_per_request;
    int num_tokens = length < 0 || length > limit ? limit : length;
    int direct = !held.left_direct_path && length >= 0 && length <= CAPACITY;
    load_order(s, r, &t);
    load_entries(s, sh, r, count, &t);
    __syncthreads();
    if (length == 0 || count < 0 || count > TOP_K || length > limit || (length > 0 && length < held.length)) {
        refuse(s, r, epoch, length == 0 ? STATUS_FINE : STATUS_LENGTH);
        return;
    }
    enter(sh, count, num_tokens, &t);
    __syncthreads();
    if (sh->first_bad != FINE || sh->named_twice) {
        find_first_bad(sh, count, num_tokens);
        refuse(s, r, epoch, 1 + sh->first_bad);
        return;
    }
    if (!held.left_direct_path && !direct)
        leave_direct_path(s, sh, r, &t);
    find_hits(sh, &t);
    find_misses(s, sh, r, count, newest, &t);
    if (sh->first_bad != FINE) {
        if (threadIdx.x == 0)
            s->held[r] = Held{held.left_direct_path || !direct, held.length};
        refuse(s, r, epoch, STATUS_ROW);
        return;
    }
    if (!direct && sh->num_misses)
        find_victims(sh, &t);
    list_misses(s, sh, r, direct, &t);
    publish(s, r, epoch, sh->num_misses);
    if (threadIdx.x == 0)
        s->held[r] = Held{held.left_direct_path || !direct, newest + 1};
    if (direct)
        fill_slots(s, r, newest, &t);
    else
        renew_order(s, sh, r, &t);
    give_slots(s, sh, r, count, newest, direct ? newest : CAPACITY, &t);
    count_step(s, sh, r, count, newest, direct, &t);
}
