/* NUMA placement by system call, so that no libnuma is needed in a guest. */
#define _GNU_SOURCE
#include "sac.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { POLICY_BIND = 2, FLAG_STRICT = 1, FLAG_MOVE = 2, MAX_NODES = 1024 };

int32_t sac_bind_node(void *from, uint64_t size, int32_t node)
{
    unsigned long mask[MAX_NODES / 64] = {0};
    if (node < 0 || node >= MAX_NODES)
        return -EINVAL;
    mask[node / 64] = 1UL << (node % 64);
    long status = syscall(SYS_mbind, from, size, POLICY_BIND, mask, MAX_NODES + 1L, FLAG_STRICT | FLAG_MOVE);
    return status ? -errno : 0;
}

int32_t sac_page_nodes(void **pages, uint64_t n, int32_t *nodes)
{
    return syscall(SYS_move_pages, 0, n, pages, (void *)0, nodes, 0) ? -errno : 0;
}
