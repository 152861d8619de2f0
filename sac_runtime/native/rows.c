/* Rows between a store and packed memory. One body, built once for each instruction set that copies a row. */
#include "sac.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE uint8_t *packed_row(const struct sac_rows *r, int64_t i)
{
    return r->packed + (r->slots ? r->slots[i] : i) * r->row_bytes;
}

INLINE uint8_t *store_row(const struct sac_rows *r, int64_t i) { return r->store + r->rows[i] * r->stride; }

INLINE int64_t later_row(const struct sac_rows *r, int64_t i, int64_t distance)
{
    return i + distance < r->n ? i + distance : r->n - 1;
}

INLINE void prefetch(const uint8_t *from) { _mm_prefetch((const char *)from, _MM_HINT_T0); }

INLINE void copy_rest(uint8_t *to, const uint8_t *from, int64_t size)
{
    for (; size >= 16; size -= 16, to += 16, from += 16)
        _mm_storeu_si128((__m128i *)to, _mm_loadu_si128((const __m128i *)from));
    for (; size > 0; size--)
        *to++ = *from++;
}

/* `copy_line` moves 64 bytes, and `stream_line` does so past the caches, to a whole line. What is left of a row goes by 16 and
 * then by 1.
 *
 * A gather prefetches line by line as it copies: a core has few misses in flight at once, and drops prefetches that come in a
 * burst while all are taken (a whole row's at once gained next to nothing on Zen 3). Slots lie as far apart as the rows do, so
 * the lines that will be written are fetched ahead as well. Packed rows follow one another, which the hardware sees itself; there
 * a row's first line, which waits for its page as well, comes FIRST_LINE times as far ahead.
 *
 * Rows that start on a line are scattered by streaming: nobody reads them here soon, the lines need not be fetched
 * first (1.3 to 3.5 times as fast, measured from 16 rows on), and a flush finds nothing left to write back. */
enum { FIRST_LINE = 4 };

#define DEFINE_ROWS(name, isa, copy_line, stream_line)                                                                         \
    __attribute__((target(isa))) static void gather_##name(const struct sac_rows *r)                                           \
    {                                                                                                                          \
        for (int64_t i = 0; i < r->n; i++) {                                                                                   \
            const uint8_t *from = store_row(r, i), *ahead = store_row(r, later_row(r, i, r->prefetch));                        \
            const uint8_t *into = packed_row(r, later_row(r, i, r->prefetch));                                                 \
            uint8_t *to = packed_row(r, i);                                                                                    \
            int64_t size = r->row_bytes;                                                                                       \
            if (r->slots) {                                                                                                    \
                for (; size >= 64; size -= 64, to += 64, from += 64, ahead += 64, into += 64) {                                \
                    prefetch(ahead);                                                                                           \
                    prefetch(into);                                                                                            \
                    copy_line(to, from);                                                                                       \
                }                                                                                                              \
                prefetch(into + size - 1);                                                                                     \
            } else {                                                                                                           \
                prefetch(store_row(r, later_row(r, i, FIRST_LINE * (int64_t)r->prefetch)));                                    \
                for (; size >= 64; size -= 64, to += 64, from += 64, ahead += 64) {                                            \
                    prefetch(ahead);                                                                                           \
                    copy_line(to, from);                                                                                       \
                }                                                                                                              \
            }                                                                                                                  \
            prefetch(ahead + size - 1);                                                                                        \
            copy_rest(to, from, size);                                                                                         \
        }                                                                                                                      \
    }                                                                                                                          \
    __attribute__((target(isa))) static void scatter_##name(const struct sac_rows *r)                                          \
    {                                                                                                                          \
        for (int64_t i = 0; i < r->n; i++) {                                                                                   \
            uint8_t *to = store_row(r, i);                                                                                     \
            const uint8_t *from = packed_row(r, i);                                                                            \
            int64_t size = r->row_bytes;                                                                                       \
            if ((uintptr_t)to % SAC_LINE == 0)                                                                                 \
                for (; size >= 64; size -= 64, to += 64, from += 64)                                                           \
                    stream_line(to, from);                                                                                     \
            for (; size >= 64; size -= 64, to += 64, from += 64)                                                               \
                copy_line(to, from);                                                                                           \
            copy_rest(to, from, size);                                                                                         \
        }                                                                                                                      \
        _mm_sfence(); /* streamed lines are visible to other CPUs in order with later stores */                                \
    }

#define LINE_BY(step, move)                                                                                                    \
    for (int part = 0; part < SAC_LINE; part += step)                                                                          \
    move
#define COPY_LINE_16(to, from)                                                                                                 \
    LINE_BY(16, _mm_storeu_si128((__m128i *)((to) + part), _mm_loadu_si128((const __m128i *)((from) + part))))
#define STREAM_LINE_16(to, from)                                                                                               \
    LINE_BY(16, _mm_stream_si128((__m128i *)((to) + part), _mm_loadu_si128((const __m128i *)((from) + part))))
#define COPY_LINE_32(to, from)                                                                                                 \
    LINE_BY(32, _mm256_storeu_si256((__m256i *)((to) + part), _mm256_loadu_si256((const __m256i *)((from) + part))))
#define STREAM_LINE_32(to, from)                                                                                               \
    LINE_BY(32, _mm256_stream_si256((__m256i *)((to) + part), _mm256_loadu_si256((const __m256i *)((from) + part))))
#define COPY_LINE_64(to, from) _mm512_storeu_si512((to), _mm512_loadu_si512((from)))
#define STREAM_LINE_64(to, from) _mm512_stream_si512((__m512i *)(to), _mm512_loadu_si512((from)))

DEFINE_ROWS(baseline, "sse2", COPY_LINE_16, STREAM_LINE_16)
DEFINE_ROWS(avx2, "avx2", COPY_LINE_32, STREAM_LINE_32)
DEFINE_ROWS(avx512, "avx512f", COPY_LINE_64, STREAM_LINE_64)

/* Bytes up to the first multiple of 8 of the device's side, then words, then what is left. Volatile keeps the compiler from
 * merging accesses into wider ones. */
static void copy_narrow(uint8_t *to, const uint8_t *from, int64_t size, const uint8_t *device)
{
    volatile uint8_t *t = to;
    const volatile uint8_t *f = from;
    for (; size > 0 && ((uintptr_t)device & 7); size--, device++)
        *t++ = *f++;
    for (; size >= 8; size -= 8, t += 8, f += 8)
        *(volatile uint64_t *)t = *(const volatile uint64_t *)f;
    for (; size > 0; size--)
        *t++ = *f++;
}

static void gather_narrow(const struct sac_rows *r)
{
    for (int64_t i = 0; i < r->n; i++)
        copy_narrow(packed_row(r, i), store_row(r, i), r->row_bytes, store_row(r, i));
}

static void scatter_narrow(const struct sac_rows *r)
{
    for (int64_t i = 0; i < r->n; i++)
        copy_narrow(store_row(r, i), packed_row(r, i), r->row_bytes, store_row(r, i));
}

void sac_copy_bytes(uint8_t *to, const uint8_t *from, int64_t size, const uint8_t *device)
{
    if (device)
        copy_narrow(to, from, size, device);
    else
        memcpy(to, from, (size_t)size);
}

typedef void rows_function(const struct sac_rows *);
static rows_function *const gathers[] = {gather_baseline, gather_avx2, gather_avx512, gather_narrow};
static rows_function *const scatters[] = {scatter_baseline, scatter_avx2, scatter_avx512, scatter_narrow};

int64_t sac_check_rows(const struct sac_rows *r)
{
    for (int64_t i = 0; i < r->n; i++)
        if ((uint64_t)r->rows[i] >= (uint64_t)r->num_rows || (r->slots && (uint64_t)r->slots[i] >= (uint64_t)r->num_slots))
            return i + 1;
    return 0;
}

void sac_gather_unchecked(const struct sac_rows *r) { gathers[r->copy](r); }

int64_t sac_gather(const struct sac_rows *r)
{
    int64_t outside = sac_check_rows(r);
    if (!outside)
        gathers[r->copy](r);
    return outside;
}

int64_t sac_scatter(const struct sac_rows *r)
{
    int64_t outside = sac_check_rows(r);
    if (!outside)
        scatters[r->copy](r);
    return outside;
}
