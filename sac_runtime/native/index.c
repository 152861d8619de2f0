/* The pool's directory: checksums of 64-byte lines, and an index from block hashes to blocks. Knows words; knows no journals. */
#include "sac.h"

#define AHEAD 12 /* probes are cache misses: start them this many blocks before their turn; 8 to 16 measure alike */

static uint64_t checksum(const uint64_t *words, int64_t n, const uint64_t *multipliers, uint64_t salt)
{
    uint64_t sum = salt;
    for (int64_t i = 0; i < n; i++)
        sum += (words[i] ^ words[i] >> 32) * multipliers[i];
    return sum ^ sum >> 32;
}

void sac_checksums(const uint64_t *words, int64_t n, int64_t stride, const uint64_t *multipliers, const uint64_t *salts,
                   int64_t salt_step, uint64_t *sums)
{
    for (int64_t i = 0; i < n; i++)
        sums[i] = checksum(words + i * stride, stride - 1, multipliers, salts[i * salt_step]);
}

/* Words of an entry: sequence, two of the hash, publication, epoch, then block, number of tokens and kind in one. */
static int is_entry(const struct sac_journal *journal, const uint64_t *entry)
{
    uint64_t block = entry[5] & 0xFFFFFFFF, num_tokens = entry[5] >> 32 & 0xFFFF, kind = entry[5] >> 48;
    if (checksum(entry, 7, journal->multipliers, journal->salt) != entry[7] ||
        block - journal->first_block >= journal->num_blocks)
        return 0;
    return kind == 2 || (kind == 1 && num_tokens - 1 < journal->block_tokens && entry[3] - 1 < entry[0]);
}

int64_t sac_check_entries(const struct sac_journal *journal, const uint64_t *entries, int64_t n, uint64_t first,
                          uint8_t *verdicts)
{
    int64_t not_there = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t *entry = entries + 8 * i;
        verdicts[i] = !is_entry(journal, entry) ? SAC_TORN : entry[0] != first + (uint64_t)i ? SAC_OTHER : SAC_THERE;
        not_there += verdicts[i] != SAC_THERE;
    }
    return not_there;
}

static int64_t first_place(const struct sac_index *index, const uint64_t *hash) { return (int64_t)hash[0] & index->mask; }

/* Odd, so that it comes to every place of a table of 2^n. */
static int64_t step(const uint64_t *hash) { return (int64_t)(hash[1] | 1); }

int64_t sac_index_add(const struct sac_index *index, const int64_t *blocks, int64_t n)
{
    int64_t newly_used = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(index->table + first_place(index, index->hashes + 2 * blocks[i + AHEAD]), 1);
        if (index->table[index->places[blocks[i]]] == blocks[i] + 1)
            continue;
        const uint64_t *hash = index->hashes + 2 * blocks[i];
        int64_t place = first_place(index, hash);
        while (index->table[place] > SAC_EMPTY)
            place = (place + step(hash)) & index->mask;
        newly_used += index->table[place] == SAC_EMPTY;
        index->table[place] = (int32_t)blocks[i] + 1;
        index->places[blocks[i]] = (int32_t)place;
    }
    return newly_used;
}

void sac_index_remove(const struct sac_index *index, const int64_t *blocks, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        index->table[index->places[blocks[i]]] = SAC_REMOVED;
}

void sac_index_find(const struct sac_index *index, const uint64_t *wanted, int64_t n, int64_t *found)
{
    for (int64_t i = 0; i < n; i++, wanted += 2) {
        if (i + 2 * AHEAD < n)
            __builtin_prefetch(index->table + first_place(index, wanted + 4 * AHEAD));
        if (i + AHEAD < n) {
            int32_t likely = index->table[first_place(index, wanted + 2 * AHEAD)];
            if (likely > SAC_EMPTY)
                __builtin_prefetch(index->hashes + 2 * (int64_t)(likely - 1));
        }
        int64_t place = first_place(index, wanted);
        found[i] = -1;
        for (; index->table[place] != SAC_EMPTY; place = (place + step(wanted)) & index->mask) {
            int64_t block = (int64_t)index->table[place] - 1;
            if (block >= 0 && index->hashes[2 * block] == wanted[0] && index->hashes[2 * block + 1] == wanted[1]) {
                found[i] = block;
                break;
            }
        }
    }
}
