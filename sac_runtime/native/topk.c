/* Exact top-k of fp32 scores. A threshold taken from a sample lets one vector pass drop nearly all scores; the k-th value is
 * then selected among the few that are left. The threshold only filters: where it leaves fewer than k, all scores become
 * candidates, and the answer is the same. */
#include "sac.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE = 4096, RADIX_BITS = 11, RADIX = 1 << RADIX_BITS };

/* Unsigned order of keys is the order of floats; -0 counts as +0. */
static uint32_t key_of(float score)
{
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

static float score_of(uint32_t key)
{
    uint32_t bits = key ^ (key >> 31 ? 0x80000000u : 0xffffffffu);
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

static int all_equal(const uint32_t *keys, int64_t n)
{
    uint32_t different = 0;
    for (int64_t i = 1; i < n; i++)
        different |= keys[i] ^ keys[0];
    return !different;
}

/* The rank-th largest of `keys` (1 is the largest), digit by digit; reorders `keys`. */
static uint32_t select_key(uint32_t *keys, int64_t n, int64_t rank)
{
    for (int shift = 32 - RADIX_BITS; !all_equal(keys, n); shift = shift > RADIX_BITS ? shift - RADIX_BITS : 0) {
        int64_t count[RADIX] = {0}, kept = 0;
        uint32_t digit = RADIX - 1;
        for (int64_t i = 0; i < n; i++)
            count[keys[i] >> shift & (RADIX - 1)]++;
        for (; count[digit] < rank; digit--)
            rank -= count[digit];
        for (int64_t i = 0; i < n; i++)
            if ((keys[i] >> shift & (RADIX - 1)) == digit)
                keys[kept++] = keys[i];
        n = kept;
    }
    return keys[0];
}

/* Positions with score >= threshold, ascending; -1 if a score is NaN. */
#define DEFINE_COLLECT(name, isa, width, at_least, unordered)                                                                  \
    __attribute__((target(isa))) static int64_t collect_##name(const float *scores, int64_t n, float threshold,               \
                                                               int32_t *positions)                                            \
    {                                                                                                                          \
        int64_t found = 0, i = 0;                                                                                              \
        for (; i + width <= n; i += width) {                                                                                   \
            if (unordered(scores + i))                                                                                         \
                return -1;                                                                                                     \
            uint32_t chosen = at_least(scores + i, threshold);                                                                 \
            for (; chosen; chosen &= chosen - 1)                                                                               \
                positions[found++] = (int32_t)i + __builtin_ctz(chosen);                                                       \
        }                                                                                                                      \
        for (; i < n; i++) {                                                                                                   \
            if (isnan(scores[i]))                                                                                              \
                return -1;                                                                                                     \
            if (scores[i] >= threshold)                                                                                        \
                positions[found++] = (int32_t)i;                                                                               \
        }                                                                                                                      \
        return found;                                                                                                          \
    }

#define AT_LEAST_4(p, t) (uint32_t) _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(p), _mm_set1_ps(t)))
#define NAN_4(p) _mm_movemask_ps(_mm_cmpunord_ps(_mm_loadu_ps(p), _mm_loadu_ps(p)))
#define AT_LEAST_8(p, t) (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_set1_ps(t), _CMP_GE_OQ))
#define NAN_8(p) _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p), _CMP_UNORD_Q))
#define AT_LEAST_16(p, t) (uint32_t) _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_set1_ps(t), _CMP_GE_OQ)
#define NAN_16(p) _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_loadu_ps(p), _CMP_UNORD_Q)

DEFINE_COLLECT(baseline, "sse2", 4, AT_LEAST_4, NAN_4)
DEFINE_COLLECT(avx2, "avx2", 8, AT_LEAST_8, NAN_8)
DEFINE_COLLECT(avx512, "avx512f", 16, AT_LEAST_16, NAN_16)

typedef int64_t collect_function(const float *, int64_t, float, int32_t *);
static collect_function *const collects[] = {collect_baseline, collect_avx2, collect_avx512};

/* A score that about 1.25 k of n reach, judged by an even sample; the lowest finite score if nearly all would. */
static float threshold_for(const float *scores, int64_t n, int64_t k)
{
    uint32_t keys[SAMPLE];
    double expected = (double)k * SAMPLE / (double)n;
    int64_t rank = (int64_t)(1.25 * expected + 3 * sqrt(expected)) + 8;
    if (n < 2 * SAMPLE || rank > SAMPLE / 2)
        return -FLT_MAX;
    for (int64_t i = 0; i < SAMPLE; i++)
        keys[i] = key_of(scores[i * n / SAMPLE]);
    float threshold = score_of(select_key(keys, SAMPLE, rank));
    return threshold > -FLT_MAX ? threshold : -FLT_MAX; /* false for NaN too */
}

/* Of `found` ascending candidates keep the k best in place; of equal scores the lower position. */
static int64_t keep_best(const float *scores, const int32_t *candidates, int64_t found, int64_t k, uint32_t *keys,
                         int64_t *positions)
{
    if (k > found)
        k = found;
    if (k == 0)
        return 0;
    for (int64_t i = 0; i < found; i++)
        keys[i] = key_of(scores[candidates[i]]);
    float kth = score_of(select_key(keys, found, k));
    int64_t equal_allowed = k, kept = 0;
    for (int64_t i = 0; i < found; i++)
        equal_allowed -= scores[candidates[i]] > kth;
    for (int64_t i = 0; i < found; i++) {
        float score = scores[candidates[i]];
        if (score > kth || (score == kth && equal_allowed-- > 0))
            positions[kept++] = candidates[i];
    }
    return kept;
}

int64_t sac_top_k(const float *scores, int64_t n, int64_t k, int64_t *positions, int32_t copy)
{
    int32_t *candidates = malloc((size_t)n * (sizeof *candidates + sizeof(uint32_t)) + 1);
    uint32_t *keys = (uint32_t *)(candidates + n);
    if (!candidates)
        return -2;
    int64_t found = collects[copy](scores, n, threshold_for(scores, n, k), candidates);
    if (found >= 0 && found < k)
        found = collects[copy](scores, n, -FLT_MAX, candidates);
    int64_t kept = found < 0 ? -1 : keep_best(scores, candidates, found, k, keys, positions);
    free(candidates);
    return kept;
}
