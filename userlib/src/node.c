// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * NUMA nodes, by system calls, so that the library doesn't depend on libnuma.
 */
#include "node.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX	1024
#define LONG_BITS	(8 * sizeof(unsigned long))

struct node_mask {
	unsigned long bits[NODES_MAX / LONG_BITS];
};

/*
 * Whether this process may have memory of @node. A kernel without NUMA has node 0
 * alone.
 */
bool node_exists(int node)
{
	struct node_mask mask = { 0 };

	if (node < 0 || node >= NODES_MAX)
		return false;
	if (syscall(SYS_get_mempolicy, NULL, mask.bits, (unsigned long)NODES_MAX, NULL,
		    (unsigned long)MPOL_F_MEMS_ALLOWED))
		return !node;
	return mask.bits[node / LONG_BITS] >> (node % LONG_BITS) & 1;
}

/* Binds a mapping that wasn't touched yet to @node: its memory comes from that node alone. */
int node_bind(void *base, size_t length, int node)
{
	struct node_mask mask = { 0 };

	if (!node_exists(node))
		return -EINVAL;
	mask.bits[node / LONG_BITS] = 1UL << (node % LONG_BITS);
	/* The kernel reads one bit less than maxnode says. */
	if (syscall(SYS_mbind, base, length, (unsigned long)MPOL_BIND, mask.bits,
		    (unsigned long)NODES_MAX + 1, 0UL) && errno != ENOSYS)
		return -errno;
	return 0;
}
