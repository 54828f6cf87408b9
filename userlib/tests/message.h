/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_MESSAGE_H
#define EVPLMEM_TESTS_MESSAGE_H

/* Messages with contents that a test can verify. */

#include "common.h"

static inline struct evpl_message allocate(struct evpl *evpl, unsigned int length, char byte)
{
	struct evpl_message message = { .cookie = (unsigned char)byte };

	if (evpl_iovec_alloc(evpl, length, 1, 1, &message.iovec) != 1)
		abort();
	memset(message.iovec.data, byte, length);
	return message;
}

static inline bool is_filled(const struct evpl_iovec *iovec, char byte)
{
	const char *bytes = iovec->data;

	for (unsigned int i = 0; i < iovec->length; i++)
		if (bytes[i] != byte)
			return false;
	return true;
}

#endif /* EVPLMEM_TESTS_MESSAGE_H */
