/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_RECORD_H
#define EVPLMEM_RECORD_H

/*
 * Records, in which the kernel carries messages (linux/evpl.h, DOC: channels): making them from
 * messages, and messages from them.
 */

#include <linux/evpl.h>

#include "pool.h"

struct evpl_message;

/* How many records fit an array on the stack. */
#define FEW_RECORDS	64

int record_make(struct evpl_pool *pool, const struct evpl_message *message,
		struct evpl_record *record);
void record_take(struct evpl_pool *pool, const struct evpl_record *record,
		 struct evpl_message *message);
int records_send(struct evpl_pool *pool, int fd, const struct evpl_message *messages, int n);
int records_read(int fd, struct evpl_record *records, int max);

#endif /* EVPLMEM_RECORD_H */
