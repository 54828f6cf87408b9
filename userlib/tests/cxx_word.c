// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The inside of the library, for tests in C++: its headers are C alone. */
#include "common.h"

unsigned long long cxx_word_of(const void *iovec)
{
	return word_of(iovec);
}
