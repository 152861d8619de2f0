/* What a GPU gives a kernel, by the names that the files beside this one use. Knows no rows and no plans. */
#pragma once
#ifdef CUDA_ON_CPU
#include "cuda_on_cpu.h" /* of the tests */
#else
#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;
#else
#include <stdint.h>
#endif
enum { WARP = 32 }; /* lanes */
typedef uint32_t Ballot;
typedef uint4 Chunk16;
typedef uint2 Chunk8;
typedef uint32_t Chunk4;
__device__ static inline int lane_of(int thread) { return thread % WARP; }
__device__ static inline Ballot votes(int flag) { return __ballot_sync(~0u, flag); }
__device__ static inline int ones(Ballot mask) { return __popc(mask); }
__device__ static inline int64_t now_ns(void)
{
    int64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}
__device__ static inline uint32_t load_acquire(const uint32_t *word)
{
    uint32_t value;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}
__device__ static inline void store_release(uint32_t *word, uint32_t value)
{
    asm volatile("st.release.gpu.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}
__device__ static inline Chunk16 load_once(const Chunk16 *from)
{
    Chunk16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}
__device__ static inline Chunk8 load_once(const Chunk8 *from) { return __ldcs(from); }
__device__ static inline Chunk4 load_once(const Chunk4 *from) { return __ldcs(from); }
__device__ static inline Chunk16 all_ones() { return Chunk16{~0u, ~0u, ~0u, ~0u}; }
__device__ static inline void prefetch(const void *line) { asm volatile("prefetch.global.L2 [%0];" : : "l"(line)); }
#define UNROLL _Pragma("unroll")
#define SHARED_MEMORY(name)                                                                                                    \
    extern __shared__ unsigned char shared_bytes[];                                                                            \
    Shared *name = (Shared *)shared_bytes
#endif
__device__ static inline Ballot below(int lane) { return ((Ballot)1 << lane) - 1; }

/* Numbers of one warp become sums of those before them. Returns their total to every lane. */
__device__ static int scan(int32_t *numbers, int n)
{
    int lane = lane_of(threadIdx.x), per_lane = (n + WARP - 1) / WARP, sum = 0;
    for (int i = lane * per_lane; i < n && i < (lane + 1) * per_lane; i++)
        sum += numbers[i];
    int through = sum;
    for (int d = 1; d < WARP; d *= 2) {
        int before = __shfl_up_sync(~0u, through, d);
        through += lane >= d ? before : 0;
    }
    int before = through - sum;
    for (int i = lane * per_lane; i < n && i < (lane + 1) * per_lane; i++) {
        int number = numbers[i];
        numbers[i] = before;
        before += number;
    }
    return __shfl_sync(~0u, through, WARP - 1);
}
