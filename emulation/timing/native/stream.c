/* A stream over memory until told to stop, at full speed or at a pace: bandwidth, and the load under which others read. */
#include <stdint.h>
#include <string.h>
#include <time.h>

#define TIMING_EXPORT __attribute__((visibility("default")))
#define BLOCK_BYTES 65536

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t read_block(const uint64_t *block)
{
    uint64_t sum[8] = {0};
    for (int i = 0; i < BLOCK_BYTES / 8; i += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] += block[i + lane];
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

/* Pass over [from, from + size) again and again, a block of 64 KiB at a time, until *stop; no block is begun sooner than pace_ns
 * after the one before. size: whole blocks. Returns the bytes moved; *sum: what was read, so that no read is left out. */
TIMING_EXPORT int64_t timing_stream(uint8_t *from, int64_t size, int32_t write, int64_t pace_ns, const volatile int32_t *stop,
                                    uint64_t *sum)
{
    int64_t moved = 0, offset = 0, due_ns = now_ns();
    *sum = 0;
    while (!*stop) {
        if (write)
            memset(from + offset, (int)moved & 0xff, BLOCK_BYTES);
        else
            *sum += read_block((const uint64_t *)(from + offset));
        moved += BLOCK_BYTES;
        offset = offset + BLOCK_BYTES < size ? offset + BLOCK_BYTES : 0;
        due_ns += pace_ns;
        while (pace_ns && !*stop && now_ns() < due_ns)
            ;
    }
    return moved;
}
