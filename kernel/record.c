// SPDX-License-Identifier: GPL-2.0-only
/*
 * Records, as they are copied in from a writer and out to a reader. Each is a struct evpl_record
 * there, and a struct evpl_inflight while it is in flight.
 */
#include <linux/mm.h>
#include <linux/uio.h>

#include "evpl.h"
#include "record.h"
#include "share.h"
#include "slab.h"

/**
 * evpl_record_copy_in() - copy a record in from a writer, and check it
 * @record: where to
 * @from: where from
 *
 * Return: 0, -EFAULT, -EOPNOTSUPP or -EINVAL.
 */
int evpl_record_copy_in(struct evpl_record *record, struct iov_iter *from)
{
	if (!copy_from_iter_full(record, sizeof(*record), from))
		return -EFAULT;
	if (record->flags & ~(EVPL_RECORD_WRITE | EVPL_RECORD_DEVICE | EVPL_RECORD_LANE))
		return -EOPNOTSUPP;
	if (!record->length || record->length > EVPL_BUFFER_SIZE_MAX)
		return -EINVAL;
	return 0;
}

/**
 * evpl_record_copy_out() - copy a record out to a reader
 * @to: where to
 * @inflight: the record
 * @offset: where the reader finds the first byte, as an mmap offset
 * @lease: the number of the reader's lease, or EVPL_LEASE_NONE
 * @flags: to be added to the record's own
 *
 * Return: 0; or -EFAULT, with the iterator unchanged.
 */
int evpl_record_copy_out(struct iov_iter *to, const struct evpl_inflight *inflight,
			 u64 offset, u32 lease, u32 flags)
{
	const struct evpl_record record = {
		.offset = offset,
		.length = inflight->length,
		.flags = inflight->flags | flags,
		.cookie = inflight->cookie,
		.lease = lease,
		.buffer_size = lease == EVPL_LEASE_NONE ? 0 :
			       PAGE_SIZE << inflight->share->slab->buffer_order,
	};
	size_t copied;

	copied = copy_to_iter(&record, sizeof(record), to);
	if (copied == sizeof(record))
		return 0;
	iov_iter_revert(to, copied);
	return -EFAULT;
}
