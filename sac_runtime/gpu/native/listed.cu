/* Rows that the host lists, into consecutive places, at a pace: for measuring a tier. Knows no buffers.
 *
 * Compiled as swap.cu is, without what concerns planning. */
#include "copy.h"

struct Listed {
    const uint8_t *pool;
    const int64_t *rows; /* (n,) */
    uint8_t *out;        /* (n, row bytes) */
    int64_t n;
    int64_t first_ns, row_ps; /* as struct Swap has them */
};

__device__ static inline void listed_moves(const Listed *l, int64_t i, int num_warps, Move *moves)
{
    UNROLL
    for (int row = 0; row < ROWS; row++, i += num_warps)
        moves[row] =
            i < l->n ? Move{(const Chunk *)l->pool + l->rows[i] * STRIDE_CHUNKS, (Chunk *)l->out + i * ROW_CHUNKS} : Move{0, 0};
}

extern "C" __global__ void __launch_bounds__(THREADS) gather_listed(const __grid_constant__ Listed listed)
{
    int num_warps = gridDim.x * (THREADS / WARP), warp = threadIdx.x / WARP * gridDim.x + blockIdx.x;
    int64_t start_ns = now_ns();
    for (int64_t i = warp; i < listed.n; i += ROWS * num_warps) {
        Move moves[ROWS];
        Rows rows;
        listed_moves(&listed, i, num_warps, moves);
        load_rows(moves, &rows);
        if (listed.first_ns)
            wait_until(start_ns + listed.first_ns + last_of(i, listed.n, num_warps) * listed.row_ps / 1000);
        store_rows(moves, &rows);
    }
}
