// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Records: see record.h.
 */
#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "lease.h"
#include "returned.h"
#include "slab.h"
#include "transfer.h"
#include "windows.h"

/* Makes a record of a message to be sent. */
int record_make(struct evpl_pool *pool, const struct evpl_message *message,
		struct evpl_record *record)
{
	if (message->flags & ~(EVPL_MESSAGE_WRITE | EVPL_MESSAGE_DEVICE))
		return -EOPNOTSUPP;
	*record = (struct evpl_record){
		.length = message->iovec.length,
		.cookie = message->cookie,
	};
	if (message->flags & EVPL_MESSAGE_WRITE)
		record->flags |= EVPL_RECORD_WRITE;
	if (message->flags & EVPL_MESSAGE_DEVICE)
		record->flags |= EVPL_RECORD_DEVICE;
	return transfer_offset(pool, &message->iovec, (uint64_t *)&record->offset);
}

/*
 * Ends what transfer_prepare() began, whether or not the records were @sent. Goes by the offsets
 * and doesn't look at the entries: the buffers may have been recycled already, and their slabs be
 * gone.
 */
static void finish_send(struct evpl_pool *pool, const struct evpl_message *messages,
			const struct evpl_record *records, int n, bool sent)
{
	int i;

	for (i = 0; i < n; i++) {
		if (records[i].offset >= pool->backing.own_size)
			transfer_finish(pool, &messages[i].iovec, records[i].offset, sent);
		else if (sent)
			returned_note_sent(pool, records[i].offset);
	}
}

/* Makes and writes the records of @messages. If this fails, none of them has been sent. */
static int send_made(struct evpl_pool *pool, int fd, const struct evpl_message *messages,
		     struct evpl_record *records, int n)
{
	ssize_t written;
	int err, i;

	for (i = 0; i < n; i++) {
		err = record_make(pool, &messages[i], &records[i]);
		if (err)
			return err;
	}
	for (i = 0; i < n; i++)
		transfer_prepare(pool, &messages[i].iovec, records[i].offset,
				 messages[i].flags & (EVPL_MESSAGE_DEVICE | EVPL_MESSAGE_WRITE));
	written = write(fd, records, (size_t)n * sizeof(*records));
	err = written < 0 ? -errno : 0;
	finish_send(pool, messages, records, n, !err);
	return err;
}

/* Sends messages as records, all of them or none. The caller has disabled cancellation. */
int records_send(struct evpl_pool *pool, int fd, const struct evpl_message *messages, int n)
{
	struct evpl_record few[FEW_RECORDS], *records = few;
	int err;

	if (n <= 0)
		return 0;
	if (n > FEW_RECORDS) {
		records = malloc((size_t)n * sizeof(*records));
		if (!records)
			return -ENOMEM;
	}
	err = send_made(pool, fd, messages, records, n);
	if (records != few)
		free(records);
	return err;
}

/* Makes a message of a record that was received. */
void record_take(struct evpl_pool *pool, const struct evpl_record *record,
		 struct evpl_message *message)
{
	struct entry *entry;
	char *data;

	*message = (struct evpl_message){
		.iovec.length = record->length,
		.cookie = record->cookie,
	};
	if (record->flags & EVPL_RECORD_WRITE)
		message->flags |= EVPL_MESSAGE_WRITE;
	if (record->flags & EVPL_RECORD_DEVICE)
		message->flags |= EVPL_MESSAGE_DEVICE;
	if (record->flags & EVPL_RECORD_HELD)
		message->flags |= EVPL_MESSAGE_HELD;
	if (record->flags & EVPL_RECORD_REVOKED) {
		message->flags = EVPL_MESSAGE_REVOKED;
		message->iovec.length = 0;
		return;
	}
	if (record->lease == EVPL_LEASE_NONE) {
		entry = pool->backing.entries + record->offset / pool->buffer_size;
		data = (char *)entry->base + record->offset % pool->buffer_size;
	} else {
		entry = lease_entry(lease_of_record(pool, record));
		data = windows_address(pool, record->offset);
	}
	message->iovec.data = data;
	message->iovec.__private1 = fork_generation;
	message->iovec.__private2 = (unsigned long)entry;
}

/*
 * Reads up to @max records. Returns how many, -EPIPE if none will come, or -errno. The caller has
 * disabled cancellation.
 */
int records_read(int fd, struct evpl_record *records, int max)
{
	ssize_t got = read(fd, records, (size_t)max * sizeof(*records));

	if (got < 0)
		return -errno;
	return got ? (int)(got / (ssize_t)sizeof(*records)) : -EPIPE;
}
