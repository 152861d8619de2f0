/* Cache lines: written back, dropped, ordered. */
#include "sac.h"

#define FOR_EACH_LINE(instruction)                                                                                             \
    for (; line < end; line += SAC_LINE)                                                                                       \
    __asm__ volatile(instruction " %0" : "+m"(*(volatile uint8_t *)line))

void sac_flush(const uint8_t *from, int64_t size, int32_t flush)
{
    uintptr_t line = (uintptr_t)from & ~(uintptr_t)(SAC_LINE - 1), end = (uintptr_t)from + (uintptr_t)size;
    if (flush == SAC_CLWB)
        FOR_EACH_LINE("clwb");
    else if (flush == SAC_CLFLUSHOPT)
        FOR_EACH_LINE("clflushopt");
    else
        FOR_EACH_LINE("clflush");
}

void sac_fence(void)
{
    /* A store fence would order the write-backs; loads after an invalidation need the full one. */
    __asm__ volatile("mfence" ::: "memory");
}
