/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_NODE_H
#define EVPLMEM_NODE_H

#include <stdbool.h>
#include <stddef.h>

bool node_exists(int node);
int node_bind(void *base, size_t length, int node);

#endif /* EVPLMEM_NODE_H */
