/* The native library of sac_runtime: what numpy cannot do fast enough, or not at all.
 * Knows addresses, rows and cache lines; knows no Python. All functions are free of locks and may run in several threads,
 * except those of one sac_team, which one thread at a time may drive. */
#ifndef SAC_H
#define SAC_H

#include <stdint.h>

#if !defined(__x86_64__)
#error "the native library is written for x86-64 (cache-line instructions, SIMD dispatch)"
#endif

#define SAC_EXPORT __attribute__((visibility("default")))
#define SAC_LINE 64

/* How rows are copied. SAC_NARROW moves 8 bytes at a time with plain integer instructions and never prefetches: memory
 * behind emulated MMIO (CXL memory of QEMU) splits wide accesses, and KVM cannot emulate AVX on such pages. */
enum sac_copy { SAC_BASELINE = 0, SAC_AVX2 = 1, SAC_AVX512 = 2, SAC_NARROW = 3 };

enum sac_flush { SAC_CLFLUSH = 0, SAC_CLFLUSHOPT = 1, SAC_CLWB = 2 };

/* Rows of a store and the place where they go to or come from. Row rows[i] of the store is row (slots ? slots[i] : i) of
 * the packed side, whose rows lie row_bytes apart. */
struct sac_rows {
    uint8_t *store;
    int64_t num_rows, stride, row_bytes;
    const int64_t *rows;
    int64_t n;
    uint8_t *packed;
    const int64_t *slots; /* or NULL */
    int64_t num_slots;
    int32_t prefetch; /* rows that the software prefetch runs ahead; 0: none */
    int32_t copy;     /* enum sac_copy */
};

/* layout.c: where the fields of the structs below lie, for callers in another language that repeat them. field NULL: the whole
 * struct. The last entry has no structure. */
struct sac_field {
    const char *structure, *field;
    int64_t offset, size;
};
SAC_EXPORT const struct sac_field *sac_layout(void);

/* cpu.c */
SAC_EXPORT int32_t sac_best_copy(void);
SAC_EXPORT int32_t sac_best_flush(void);
SAC_EXPORT int32_t sac_best_invalidate(void);

/* rows.c: 0, or 1 + the index of the first entry whose row or slot lies outside (then nothing was moved). */
SAC_EXPORT int64_t sac_gather(const struct sac_rows *rows);
SAC_EXPORT int64_t sac_scatter(const struct sac_rows *rows);
/* `device`: which of the two lies behind emulated MMIO and is to be accessed as SAC_NARROW does; NULL: neither. */
SAC_EXPORT void sac_copy_bytes(uint8_t *to, const uint8_t *from, int64_t size, const uint8_t *device);
int64_t sac_check_rows(const struct sac_rows *rows);
void sac_gather_unchecked(const struct sac_rows *rows);

/* lines.c */
SAC_EXPORT void sac_flush(const uint8_t *from, int64_t size, int32_t flush);
SAC_EXPORT void sac_fence(void);

/* pages.c: 0 or -errno. */
SAC_EXPORT int32_t sac_bind_node(void *from, uint64_t size, int32_t node);
SAC_EXPORT int32_t sac_page_nodes(void **pages, uint64_t n, int32_t *nodes);

/* topk.c: positions of the k best scores, ascending; of equal scores the lower position; -inf is never chosen. Returns how
 * many, -1 if a score is NaN, -2 without memory. copy: the instruction set, at most SAC_AVX512. */
SAC_EXPORT int64_t sac_top_k(const float *scores, int64_t n, int64_t k, int64_t *positions, int32_t copy);

/* plan.c. A hot buffer: `capacity` slots under LRU and one more for the newest token. */
struct sac_buffer {
    int32_t *slot_of_token; /* (num_tokens,): the last slot it had, or -1: never had one; its own while token_of_slot agrees */
    int64_t num_tokens;
    int32_t *token_of_slot; /* (capacity,): token or -1 */
    int32_t *order;         /* (capacity,): slots, least recently used first */
    int64_t capacity;
};

/* One step: tokens in, slots and misses out. direct: token t has slot t, and nothing is ever evicted. */
struct sac_step {
    const int64_t *tokens;
    int64_t n;
    int64_t newest, newest_slot; /* -1: none */
    int64_t direct;
    int64_t *slots, *miss_tokens, *victim_slots; /* (n,) each */
    int64_t *miss_rows;                          /* (n,) where the misses lie in a store, for sac_fetch; or NULL */
    const int64_t *row_of_token;                 /* token t lies at row row_of_token[t] + first_row, NULL: t + first_row */
    int64_t first_row;
    int64_t compulsory;         /* out: misses of tokens that never had a slot */
    int64_t outside, gather_ns; /* out, by sac_fetch: what sac_gather returned, and how long it took */
};

/* Number of misses; or -1 - i for the first entry i that is outside or named twice, INT64_MIN without memory (then nothing has
 * changed). */
SAC_EXPORT int64_t sac_plan(struct sac_buffer *buffer, struct sac_step *step);

/* fetch.c: sac_plan, then its misses gathered into their slots. gather: rows, n and slots are filled in here. */
SAC_EXPORT int64_t sac_fetch(struct sac_buffer *buffer, struct sac_step *step, struct sac_rows *gather);

/* index.c. Open addressing over block numbers: table[place] is block + 1, SAC_EMPTY or SAC_REMOVED; hashes of two words each. */
enum { SAC_EMPTY = 0, SAC_REMOVED = -1 };
struct sac_index {
    int32_t *table; /* (mask + 1,), a power of two; some place is always SAC_EMPTY */
    int64_t mask;
    const uint64_t *hashes; /* (blocks, 2) */
    int32_t *places;        /* (blocks,): where each block lies in the table */
};

/* Puts in blocks; those that are in already stay where they are. Returns how many places are no longer SAC_EMPTY. */
SAC_EXPORT int64_t sac_index_add(const struct sac_index *index, const int64_t *blocks, int64_t n);
SAC_EXPORT void sac_index_remove(const struct sac_index *index, const int64_t *blocks, int64_t n);
/* wanted: (n, 2) hashes; found: (n,) block of each, or -1. */
SAC_EXPORT void sac_index_find(const struct sac_index *index, const uint64_t *wanted, int64_t n, int64_t *found);
/* Checksums of n lines of `stride` words, the last of which is left out. salts: (n,), or one with salt_step 0. */
SAC_EXPORT void sac_checksums(const uint64_t *words, int64_t n, int64_t stride, const uint64_t *multipliers,
                              const uint64_t *salts, int64_t salt_step, uint64_t *sums);

/* What a journal's slot holds that should hold the entry of a given sequence. SAC_OTHER: a whole entry of another sequence.
 * SAC_TORN: a wrong checksum; or a right one over what no entry of this host says, which is worth as little. */
enum sac_verdict { SAC_THERE = 0, SAC_OTHER = 1, SAC_TORN = 2 };
struct sac_journal {
    const uint64_t *multipliers; /* as sac_checksums */
    uint64_t salt, first_block, num_blocks, block_tokens;
};
/* entries: n lines, of which the first should have sequence `first`, and so on. verdicts: (n,). Returns how many are not SAC_THERE. */
SAC_EXPORT int64_t sac_check_entries(const struct sac_journal *journal, const uint64_t *entries, int64_t n, uint64_t first,
                                     uint8_t *verdicts);

/* crc.c: row checks, of SAC_CHECK bytes behind each row: CRC32C of its quarters, seeded with its number. plain: without the
 * CPU's instruction. rows: n of them, size + SAC_CHECK apart; numbers: (n,). */
#define SAC_CHECK 16
SAC_EXPORT uint32_t sac_crc32c(const uint8_t *from, int64_t size, int32_t plain);
SAC_EXPORT void sac_seal_rows(uint8_t *rows, int64_t n, int64_t size, const int64_t *numbers, int32_t plain);
/* Copies each row to packed, `size` apart, at slots[i] or, without slots, at i. is_wrong: (n,). Returns how many are. */
SAC_EXPORT int64_t sac_open_rows(const uint8_t *rows, int64_t n, int64_t size, const int64_t *numbers, uint8_t *packed,
                                 const int64_t *slots, uint8_t *is_wrong, int32_t plain);

/* team.c: threads pinned to CPUs that share a gather with the caller. NULL when they cannot be started. */
struct sac_team;
SAC_EXPORT struct sac_team *sac_team_start(const int32_t *cpus, int32_t n);
SAC_EXPORT int64_t sac_team_gather(struct sac_team *team, const struct sac_rows *rows);
SAC_EXPORT void sac_team_stop(struct sac_team *team);

#endif
