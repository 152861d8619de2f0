/* Loading what the planning blocks list, by a few warps that walk request after request. Knows no rule of a buffer. */
#pragma once
#include "copy.h"
#include "swap.h"

/* Misses of up to a warp's width of requests: how many each has, and which number its first has. */
struct Group {
    int first_request, excluded, included; /* sums of this lane's request */
    int total;
};

__device__ static Group wait_for_group(const Swap *s, int first, uint32_t epoch)
{
    int lane = lane_of(threadIdx.x), r = first + lane;
    uint32_t word = epoch << 16;
    if (r < s->num_requests)
        while ((word = load_acquire(&s->ready[r])) >> 16 != (epoch & 0xffff))
            ;
    __syncwarp();
    int count = word & 0xffff, included = count;
    for (int d = 1; d < WARP; d *= 2) {
        int before = __shfl_up_sync(~0u, included, d);
        included += lane >= d ? before : 0;
    }
    return Group{first, included - count, included, __shfl_sync(~0u, included, WARP - 1)};
}

/* The i-th miss of a group, or none. */
__device__ static Move move_of(const Swap *s, const Group *g, int i)
{
    if (i >= g->total) /* the same in every lane of the warp */
        return Move{0, 0};
    int lane = ones(votes(g->included <= i));
    int r = g->first_request + lane;
    Miss miss = s->misses[(int64_t)r * TOP_K + i - __shfl_sync(~0u, g->excluded, lane)];
    return Move{(const Chunk *)s->pool + (int64_t)miss.row * STRIDE_CHUNKS,
                (Chunk *)s->buffer + ((int64_t)r * (CAPACITY + 1) + miss.slot) * ROW_CHUNKS};
}

__device__ static inline void moves_of(const Swap *s, const Group *g, int i, int num_warps, Move *moves)
{
    UNROLL
    for (int row = 0; row < ROWS; row++)
        moves[row] = move_of(s, g, i + row * num_warps);
}

__device__ static void gather(const Swap *s, int block, int num_blocks)
{
    int warp_in_block = threadIdx.x / WARP;
    if (warp_in_block >= s->gather_warps)
        return;
    int num_warps = num_blocks * s->gather_warps, warp = warp_in_block * num_blocks + block;
    uint32_t epoch = s->epochs[warp] + 1;
    int64_t start_ns = 0, moved = 0;
    for (int first = 0; first < s->num_requests && !s->plans_only; first += WARP) {
        Group group = wait_for_group(s, first, epoch);
        if (!start_ns && s->first_ns)
            start_ns = now_ns();
        Move moves[ROWS];
        moves_of(s, &group, warp, num_warps, moves);
        for (int i = warp; i < group.total; i += ROWS * num_warps) {
            Move next[ROWS];
            Rows rows;
            load_rows(moves, &rows);
            moves_of(s, &group, i + ROWS * num_warps, num_warps, next);
            if (s->first_ns)
                wait_until(start_ns + s->first_ns + (moved + last_of(i, group.total, num_warps)) * s->row_ps / 1000);
            store_rows(moves, &rows);
            UNROLL
            for (int row = 0; row < ROWS; row++)
                moves[row] = next[row];
        }
        moved += group.total;
    }
    if (lane_of(threadIdx.x) == 0)
        s->epochs[warp] = epoch;
}
