/* Rows through the registers of a warp: every load before the first store, the stores no sooner than a pace says.
 * Knows addresses alone. Compiled with CHUNK, ROW_CHUNKS, STRIDE_CHUNKS and ROWS: see swap.cu. */
#pragma once
#include "device.h"

#define CHUNK_OF(bytes) CHUNK_OF_(bytes)
#define CHUNK_OF_(bytes) Chunk##bytes
typedef CHUNK_OF(CHUNK) Chunk;

enum { ROW_LOADS = (ROW_CHUNKS + WARP - 1) / WARP }; /* per lane and row */

/* Waits until a moment of the global timer. */
__device__ static inline void wait_until(int64_t due_ns)
{
    while (now_ns() < due_ns)
        ;
}

/* Where a row comes from and goes to; null for none. */
struct Move {
    const Chunk *from;
    Chunk *to;
};

/* ROWS rows on their way through one warp. */
struct Rows {
    Chunk chunks[ROWS][ROW_LOADS];
};

__device__ static inline void load_rows(const Move *moves, Rows *rows)
{
    int lane = lane_of(threadIdx.x);
    UNROLL
    for (int row = 0; row < ROWS; row++)
        UNROLL
    for (int i = 0; i < ROW_LOADS; i++)
        if (moves[row].from && i * WARP + lane < ROW_CHUNKS)
            rows->chunks[row][i] = load_once(moves[row].from + i * WARP + lane);
}

__device__ static inline void store_rows(const Move *moves, const Rows *rows)
{
    int lane = lane_of(threadIdx.x);
    UNROLL
    for (int row = 0; row < ROWS; row++)
        UNROLL
    for (int i = 0; i < ROW_LOADS; i++)
        if (moves[row].from && i * WARP + lane < ROW_CHUNKS)
            moves[row].to[i * WARP + lane] = rows->chunks[row][i];
}

/* The last of the ROWS misses that a warp moves at once, as a number within the group. */
__device__ static inline int last_of(int i, int total, int num_warps)
{
    int rows = (total - 1 - i) / num_warps;
    return i + (rows < ROWS ? rows : ROWS - 1) * num_warps;
}
