// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Which library this is. A program has the header's number compiled in.
 */
#include "evplmem.h"

unsigned int evplmem_version(void)
{
	return EVPLMEM_VERSION;
}
