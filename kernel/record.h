/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_RECORD_H
#define EVPL_RECORD_H

#include <linux/types.h>

struct evpl_record;
struct evpl_share;
struct iov_iter;

/**
 * struct evpl_inflight - a record in flight
 * @share: of the buffer; this owns a reference on it
 * @offset: of the first byte, in the buffer
 * @length: bytes
 * @flags: EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE, EVPL_RECORD_LANE
 * @cookie: the writer's
 */
struct evpl_inflight {
	struct evpl_share *share;
	u32 offset;
	u32 length;
	u32 flags;
	u64 cookie;
};

int evpl_record_copy_in(struct evpl_record *record, struct iov_iter *from);
int evpl_record_copy_out(struct iov_iter *to, const struct evpl_inflight *inflight,
			 u64 offset, u32 lease, u32 flags);

#endif /* EVPL_RECORD_H */
