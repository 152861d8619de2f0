/* sac_runtime/gpu/native on a CPU: one thread per block, a warp of one lane, blocks one after another. What is tested so are indices
 * and the rule, in the very source that a GPU runs; what is not are races, which need a GPU. */
#include <stdint.h>
#include <time.h>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __syncthreads()
#define __syncwarp()
#define __shfl_sync(mask, value, lane) (value)
#define __shfl_up_sync(mask, value, distance) (value)
#define UNROLL
#define SHARED_MEMORY(name)                                                                                                    \
    static Shared shared;                                                                                                      \
    Shared *name = &shared

enum { WARP = 1 };
typedef uint32_t Ballot;
struct Chunk16 {
    uint64_t words[2];
};
typedef uint64_t Chunk8;
typedef uint32_t Chunk4;

struct Index {
    int x;
};
static Index threadIdx, blockIdx, gridDim;

static inline int lane_of(int) { return 0; }
static inline Ballot votes(int flag) { return flag != 0; }
static inline int ones(Ballot mask) { return __builtin_popcount(mask); }
static inline uint32_t load_acquire(const uint32_t *word) { return *word; }
static inline void store_release(uint32_t *word, uint32_t value) { *word = value; }
template <typename T> static inline T load_once(const T *from) { return *from; }

static inline Chunk16 all_ones() { return Chunk16{{~UINT64_C(0), ~UINT64_C(0)}}; }
static inline void prefetch(const void *) {}

static inline int64_t now_ns(void)
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

template <typename T, typename U> static inline T atomicCAS(T *word, U expected, T wanted)
{
    T before = *word;
    *word = before == expected ? wanted : before;
    return before;
}
template <typename T, typename U> static inline T atomicMin(T *word, U other)
{
    T before = *word;
    *word = other < before ? other : before;
    return before;
}
template <typename T, typename U> static inline T atomicAdd(T *word, U more)
{
    T before = *word;
    *word = before + more;
    return before;
}
template <typename T, typename U> static inline T atomicOr(T *word, U bits)
{
    T before = *word;
    *word = before | bits;
    return before;
}

struct Swap;
extern "C" void swap_in(const Swap s);

/* A launch of `blocks` blocks. argument: a Swap. */
#define LAUNCH_ON_CPU                                                                                                          \
    extern "C" void launch(const Swap *argument, int blocks)                                                                   \
    {                                                                                                                          \
        gridDim.x = blocks;                                                                                                    \
        for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)                                                                \
            swap_in(*argument);                                                                                                \
    }                                                                                                                          \
    extern "C" int argument_bytes(void) { return sizeof(Swap); }
