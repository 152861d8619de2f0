/* Exact top-k of fp32 scores. A threshold taken from a sample lets one vector pass drop nearly all scores; the k-th value is
 * then selected among the few above it, or is the threshold itself, where fewer than k are above and many equal. The threshold
 * only filters: where it leaves fewer than k, the pass is made again with the lowest, and the answer is the same. */
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

/* Positions of scores above a threshold, all of them, and of those equal to it, no more than `most_equal`; both ascending. */
struct found {
    int32_t *above, *equal;
    int64_t num_above, num_equal, most_equal;
};

static void note(struct found *f, int32_t first, uint32_t above, uint32_t equal)
{
    for (; above; above &= above - 1)
        f->above[f->num_above++] = first + __builtin_ctz(above);
    for (; equal && f->num_equal < f->most_equal; equal &= equal - 1)
        f->equal[f->num_equal++] = first + __builtin_ctz(equal);
}

/* Returns whether all scores are numbers; if not, what was found is of no use. Negated predicates hold for NaN too. Once enough
 * equal ones are noted, they are passed over as fast as those below. */
#define DEFINE_COLLECT(name, isa, width, vector, load, splat, mask_of)                                                         \
    __attribute__((target(isa))) static int collect_##name(const float *scores, int64_t n, float threshold, struct found *f)   \
    {                                                                                                                          \
        vector least = splat(threshold);                                                                                       \
        int64_t i = 0;                                                                                                         \
        for (; i + width <= n && f->num_equal < f->most_equal; i += width) {                                                   \
            vector block = load(scores + i);                                                                                   \
            uint32_t at_least = mask_of(block, least, _CMP_NLT_UQ);                                                            \
            if (!at_least)                                                                                                     \
                continue;                                                                                                      \
            uint32_t above = mask_of(block, least, _CMP_GT_OQ), equal = mask_of(block, least, _CMP_EQ_OQ);                     \
            if (at_least != (above | equal))                                                                                   \
                return 0;                                                                                                      \
            note(f, (int32_t)i, above, equal);                                                                                 \
        }                                                                                                                      \
        for (; i + width <= n; i += width) {                                                                                   \
            vector block = load(scores + i);                                                                                   \
            uint32_t beyond = mask_of(block, least, _CMP_NLE_UQ);                                                              \
            if (!beyond)                                                                                                       \
                continue;                                                                                                      \
            uint32_t above = mask_of(block, least, _CMP_GT_OQ);                                                                \
            if (beyond != above)                                                                                               \
                return 0;                                                                                                      \
            note(f, (int32_t)i, above, 0);                                                                                     \
        }                                                                                                                      \
        for (; i < n; i++) {                                                                                                   \
            if (isnan(scores[i]))                                                                                              \
                return 0;                                                                                                      \
            note(f, (int32_t)i, scores[i] > threshold, scores[i] == threshold);                                                \
        }                                                                                                                      \
        return 1;                                                                                                              \
    }

/* SSE has no compare with a predicate given as a number. */
#define _CMP_NLT_UQ_4(a, b) _mm_cmpnlt_ps(a, b)
#define _CMP_NLE_UQ_4(a, b) _mm_cmpnle_ps(a, b)
#define _CMP_GT_OQ_4(a, b) _mm_cmpgt_ps(a, b)
#define _CMP_EQ_OQ_4(a, b) _mm_cmpeq_ps(a, b)
#define MASK_4(a, b, predicate) (uint32_t)_mm_movemask_ps(predicate##_4(a, b))
#define MASK_8(a, b, predicate) (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, predicate))
#define MASK_16(a, b, predicate) (uint32_t)_mm512_cmp_ps_mask(a, b, predicate)

DEFINE_COLLECT(baseline, "sse2", 4, __m128, _mm_loadu_ps, _mm_set1_ps, MASK_4)
DEFINE_COLLECT(avx2, "avx2", 8, __m256, _mm256_loadu_ps, _mm256_set1_ps, MASK_8)
DEFINE_COLLECT(avx512, "avx512f", 16, __m512, _mm512_loadu_ps, _mm512_set1_ps, MASK_16)

typedef int collect_function(const float *, int64_t, float, struct found *);
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

/* The k best of `n` >= k ascending candidates, ascending; of equal scores the lower position. */
static void choose(const float *scores, const int32_t *candidates, int64_t n, int64_t k, uint32_t *keys, int64_t *positions)
{
    for (int64_t i = 0; i < n; i++)
        keys[i] = key_of(scores[candidates[i]]);
    float kth = score_of(select_key(keys, n, k));
    int64_t equal_allowed = k, kept = 0;
    for (int64_t i = 0; i < n; i++)
        equal_allowed -= scores[candidates[i]] > kth;
    for (int64_t i = 0; i < n; i++) {
        float score = scores[candidates[i]];
        if (score > kth || (score == kth && equal_allowed-- > 0))
            positions[kept++] = candidates[i];
    }
}

/* All positions above and the first of those equal, k at most, ascending. Returns how many. */
static int64_t merge(const struct found *f, int64_t k, int64_t *positions)
{
    int64_t num_equal = k - f->num_above < f->num_equal ? k - f->num_above : f->num_equal, above = 0, equal = 0;
    while (above < f->num_above || equal < num_equal) {
        int take_above = equal == num_equal || (above < f->num_above && f->above[above] < f->equal[equal]);
        positions[above + equal] = take_above ? f->above[above] : f->equal[equal];
        above += take_above;
        equal += !take_above;
    }
    return above + equal;
}

static int64_t top_k(const float *scores, int64_t n, int64_t k, int64_t *positions, collect_function *collect, struct found *f,
                     uint32_t *keys)
{
    if (!collect(scores, n, threshold_for(scores, n, k), f))
        return -1;
    if (f->num_above + f->num_equal < k) {
        f->num_above = f->num_equal = 0;
        collect(scores, n, -FLT_MAX, f);
    }
    if (f->num_above <= k)
        return merge(f, k, positions);
    choose(scores, f->above, f->num_above, k, keys, positions);
    return k;
}

int64_t sac_top_k(const float *scores, int64_t n, int64_t k, int64_t *positions, int32_t copy)
{
    int32_t *memory = malloc((size_t)(2 * n + k) * sizeof *memory + 1);
    struct found found = {.above = memory, .equal = memory + n, .most_equal = k};
    if (!memory)
        return -2;
    int64_t kept = top_k(scores, n, k, positions, collects[copy], &found, (uint32_t *)(memory + n + k));
    free(memory);
    return kept;
}
