/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_CONFIG_H
#define EVPLMEM_CONFIG_H

#include <stddef.h>

int config_copy(void *dst, size_t size, const void *src);
void config_copy_out(void *dst, const void *src, size_t size);

#endif /* EVPLMEM_CONFIG_H */
