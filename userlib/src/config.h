/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_CONFIG_H
#define EVPLMEM_CONFIG_H

#include <stddef.h>

int config_copy(void *dst, size_t size, const void *src);

#endif /* EVPLMEM_CONFIG_H */
