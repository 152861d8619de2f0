/* Row checks: CRC32C (Castagnoli, RFC 3720) of the four quarters of a row, by the CPU's own instruction where it has one.
 * Four streams, since one crc32 waits three cycles for the one before it. Knows bytes; knows no stores. */
#include "sac.h"

#include <nmmintrin.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u

/* by_byte[i][b]: what byte b does to a checksum after i bytes more. */
static uint32_t by_byte[8][256];

__attribute__((constructor)) static void fill_tables(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        by_byte[0][b] = crc;
    }
    for (int i = 1; i < 8; i++)
        for (int b = 0; b < 256; b++)
            by_byte[i][b] = by_byte[i - 1][b] >> 8 ^ by_byte[0][by_byte[i - 1][b] & 0xFF];
}

static uint32_t portable(uint32_t crc, const uint8_t *from, int64_t size)
{
    for (; size >= 8; size -= 8, from += 8) {
        uint64_t word;
        memcpy(&word, from, 8);
        word ^= crc;
        crc = 0;
        for (int i = 0; i < 8; i++)
            crc ^= by_byte[7 - i][word >> 8 * i & 0xFF];
    }
    for (; size > 0; size--)
        crc = crc >> 8 ^ by_byte[0][(crc ^ *from++) & 0xFF];
    return crc;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *from, int64_t size)
{
    uint64_t wide = crc, word;
    for (; size >= 8; size -= 8, from += 8) {
        memcpy(&word, from, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size > 0; size--)
        crc = _mm_crc32_u8(crc, *from++);
    return crc;
}

static uint32_t seed(int64_t row, int quarter) { return ~((uint32_t)row * 0x9E3779B1u + (uint32_t)quarter * 0x85EBCA77u); }

__attribute__((target("sse4.2"))) static void quarters_by_instruction(const uint8_t *row, int64_t size, int64_t number,
                                                                      uint32_t *crcs)
{
    int64_t quarter = size / 32 * 8;
    uint64_t a = seed(number, 0), b = seed(number, 1), c = seed(number, 2), d = seed(number, 3), words[4];
    const uint8_t *from = row;
    for (const uint8_t *end = row + quarter; from < end; from += 8) {
        for (int i = 0; i < 4; i++)
            memcpy(words + i, from + i * quarter, 8);
        a = _mm_crc32_u64(a, words[0]);
        b = _mm_crc32_u64(b, words[1]);
        c = _mm_crc32_u64(c, words[2]);
        d = _mm_crc32_u64(d, words[3]);
    }
    crcs[0] = (uint32_t)a, crcs[1] = (uint32_t)b, crcs[2] = (uint32_t)c;
    crcs[3] = by_instruction((uint32_t)d, row + 4 * quarter, size - 4 * quarter);
}

static void quarters_portable(const uint8_t *row, int64_t size, int64_t number, uint32_t *crcs)
{
    int64_t quarter = size / 32 * 8;
    for (int i = 0; i < 4; i++)
        crcs[i] = portable(seed(number, i), row + i * quarter, i < 3 ? quarter : size - 3 * quarter);
}

uint32_t sac_crc32c(const uint8_t *from, int64_t size, int32_t plain)
{
    return ~(plain || !__builtin_cpu_supports("sse4.2") ? portable(~0u, from, size) : by_instruction(~0u, from, size));
}

void sac_seal_rows(uint8_t *rows, int64_t n, int64_t size, const int64_t *numbers, int32_t plain)
{
    int instruction = !plain && __builtin_cpu_supports("sse4.2");
    for (int64_t i = 0; i < n; i++) {
        uint32_t crcs[4];
        uint8_t *row = rows + i * (size + SAC_CHECK);
        (instruction ? quarters_by_instruction : quarters_portable)(row, size, numbers[i], crcs);
        memcpy(row + size, crcs, SAC_CHECK);
    }
}

int64_t sac_open_rows(const uint8_t *rows, int64_t n, int64_t size, const int64_t *numbers, uint8_t *packed,
                      const int64_t *slots, uint8_t *is_wrong, int32_t plain)
{
    int instruction = !plain && __builtin_cpu_supports("sse4.2");
    int64_t num_wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t crcs[4];
        const uint8_t *row = rows + i * (size + SAC_CHECK);
        (instruction ? quarters_by_instruction : quarters_portable)(row, size, numbers[i], crcs);
        is_wrong[i] = memcmp(row + size, crcs, SAC_CHECK) != 0;
        num_wrong += is_wrong[i];
        memcpy(packed + (slots ? slots[i] : i) * size, row, (size_t)size);
    }
    return num_wrong;
}
