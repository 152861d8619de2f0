/* A layer of a decode step of a whole batch in one launch: which top-k tokens have a slot, which rows are loaded into which slots,
 * and the loads. The rule is that of sac_runtime/fetch/hot_buffer.py.
 *
 * The first blocks plan, one request each; the others gather. A planning block publishes its misses in its `ready` word and never
 * waits; a gathering warp waits for words, then walks the misses request after request: few rows of one request's extent after the
 * other stay within what the address translation reaches, where a warp or block per request leaves it (docs/gpu.md). No block waits
 * for one that need not be running: whoever launches sees to it that gathering blocks alone do not fill the device.
 *
 * Compiled at run time with -D: THREADS per block, TOP_K, CAPACITY, CHUNK (bytes of a load: 16, 8 or 4), ROW_CHUNKS, STRIDE_CHUNKS,
 * ROWS (that a warp has in flight). On a CPU, for tests, threads are one and a warp has one lane (tests/support/cuda_on_cpu.h). */
#include "gather.h"
#include "plan.h"

extern "C" __global__ void __launch_bounds__(THREADS) swap_in(const __grid_constant__ Swap s)
{
    SHARED_MEMORY(sh);
    if (blockIdx.x < s.num_requests)
        plan(&s, sh, blockIdx.x);
    else
        gather(&s, blockIdx.x - s.num_requests, gridDim.x - s.num_requests);
}
