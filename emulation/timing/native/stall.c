/* A chain of dependent reads, each stalled to a latency. What Python is too slow for: one access is 100 to 1000 ns.
 * The stall spins on the time stamp counter; the whole is measured by the system's clock, so one can judge the other. */
#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

#define TIMING_EXPORT __attribute__((visibility("default")))
#define CALIBRATION_NS 20000000

/* Read from the file by sac_runtime/native/library.py, which thus knows the sources that a library was built from. */
TIMING_EXPORT const char timing_stamp[] = SOURCE_STAMP;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Ticks of the time stamp counter in one ns, over 20 ms. */
TIMING_EXPORT double timing_ticks_per_ns(void)
{
    int64_t begin_ns = now_ns(), end_ns;
    uint64_t begin = __rdtsc(), end;
    do {
        end_ns = now_ns();
        end = __rdtsc();
    } while (end_ns - begin_ns < CALIBRATION_NS);
    return (double)(end - begin) / (double)(end_ns - begin_ns);
}

/* Follow `reads` links from row `*row`: the first 8 bytes of a row are the number of the next. Each read takes no less than
 * stall_ticks; 0: as fast as memory gives. What one spin runs past its end is taken off the next. *late: reads whose memory
 * was slower than the stall. *row: where the chain stands in the end. Returns elapsed ns, or -1 when the chain leads to
 * *row outside [0, num_rows). */
TIMING_EXPORT int64_t timing_chase(const uint8_t *rows, int64_t num_rows, int64_t stride, int64_t *row, int64_t reads,
                                   uint64_t stall_ticks, int64_t *late)
{
    int64_t begin_ns = now_ns(), at = *row, num_late = 0;
    unsigned int core;
    uint64_t due = __rdtsc();
    for (int64_t i = 0; i < reads; i++) {
        at = *(const volatile int64_t *)(rows + at * stride);
        if ((uint64_t)at >= (uint64_t)num_rows) {
            *row = at;
            return -1;
        }
        if (!stall_ticks)
            continue;
        due += stall_ticks;
        uint64_t now = __rdtscp(&core); /* waits until the read is there */
        if (now > due) {
            num_late++;
            due = now;
        }
        while (__rdtsc() < due)
            ;
    }
    *row = at;
    *late = num_late;
    return now_ns() - begin_ns;
}
