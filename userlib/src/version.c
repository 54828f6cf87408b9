// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The version of the library. EVPLMEM_VERSION in a program is that of its header.
 */
#include "evplmem.h"

unsigned int evplmem_version(void)
{
	return EVPLMEM_VERSION;
}
