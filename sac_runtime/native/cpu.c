/* What this CPU offers, asked at run time: the library is built once and runs on machines that differ. */
#include "sac.h"

#include <cpuid.h>

/* Read from the file by library.py, which thus knows the sources that a library was built from. */
SAC_EXPORT const char sac_stamp[] = SOURCE_STAMP;

int32_t sac_best_copy(void)
{
    if (__builtin_cpu_supports("avx512f"))
        return SAC_AVX512;
    return __builtin_cpu_supports("avx2") ? SAC_AVX2 : SAC_BASELINE;
}

static uint32_t leaf7_ebx(void)
{
    uint32_t eax, ebx = 0, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ? ebx : 0;
}

int32_t sac_best_flush(void)
{
    uint32_t features = leaf7_ebx();
    if (features & bit_CLWB)
        return SAC_CLWB;
    return features & bit_CLFLUSHOPT ? SAC_CLFLUSHOPT : SAC_CLFLUSH;
}

int32_t sac_best_invalidate(void)
{
    /* clwb may keep the line, so it cannot serve here. */
    return leaf7_ebx() & bit_CLFLUSHOPT ? SAC_CLFLUSHOPT : SAC_CLFLUSH;
}
