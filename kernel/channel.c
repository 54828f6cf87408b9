// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels. A channel is a pair of ends, a file each, which carry records between the clients
 * that they are bound to. Records in flight to an end are in the end's ring. Each has a
 * reference on the share of its buffer. An end is closed when its file goes, or its client. A
 * closed end receives no record any more.
 *
 * The other end sees that an end is closed when nothing is left of the records in flight to it,
 * nor of the client's leases if the client goes. So an owner that is told of a dead peer has its
 * buffers back already, but for the exceptions in the header. A lease that another task is just
 * ending is one of them: nobody waits for that task.
 *
 * A write reserves room for its records, takes over the references that they give up, then
 * commits the records to the ring; if it fails, it returns the references and the room. A read
 * has the first record to itself. It copies that record out and counts its reference, and only
 * then removes it from the ring: if anything fails before, the record stays there.
 */
#include <linux/anon_inodes.h>
#include <linux/compat.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uio.h>

#include "account.h"
#include "channel.h"
#include "client.h"
#include "evpl.h"
#include "ioctl.h"
#include "lease.h"
#include "record.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"

#define RECORD_SIZE	sizeof(struct evpl_record)

/**
 * struct evpl_end - one end of a channel
 * @channel: the channel; the end's file owns a reference on it
 * @peer: the other end
 * @node: in evpl_client.ends while the end is bound; ends_lock guards it
 * @client: the client that the end is bound to, with a reference; NULL before, and once the
 *	end is closed and no read is in progress
 * @closed: nothing can be read from the end or written to it any more
 * @drained: it is closed, and no record in flight to it is left. From here on the other end sees
 *	that it is closed. Until then it looks like an end without room.
 * @left: the end's file has gone, and left the end with the file's reference on the channel to
 *	the release of the client; ends_lock guards it
 * @adopted: evpl_client.adopted when the end was bound
 * @lane: the end was bound with EVPL_BIND_LANE
 * @rung: the other end has rung EVPL_DOORBELL_IN since this end was last quiet
 * @full: the client waits until the other end rings EVPL_DOORBELL_OUT
 * @reading: a read is in progress, one at a time, and has the first record. If the end is
 *	closed meanwhile, that record leaves @ring, and the reader owns it and the reference
 *	in @client.
 * @turned_away: a second read, or a poll, found @reading set. Its task is woken when the read
 *	in progress is done.
 * @crowded: a write, or a poll, found too little room in the peer's ring
 * @ring: the records in flight to this end
 * @first: place of the first record in @ring
 * @nr: how many records there are in @ring
 * @reserved: room in @ring that is reserved for writes in progress
 * @wait: tasks that wait for a record in @ring, or for room in the peer's ring
 *
 * evpl_channel.lock guards @client to @reserved. A task that waits adds itself to @wait before it
 * reads them under the lock. So a task that has changed them under the lock can check @wait
 * there, without a barrier.
 */
struct evpl_end {
	struct evpl_channel *channel;
	struct evpl_end *peer;
	struct list_head node;
	struct evpl_client *client;
	bool closed;
	bool drained;
	bool left;
	unsigned int adopted;
	bool lane;
	bool rung;
	bool full;
	bool reading;
	bool turned_away;
	bool crowded;
	struct evpl_inflight *ring;
	u32 first;
	u32 nr;
	u32 reserved;
	wait_queue_head_t wait;
};

/**
 * struct evpl_channel - a pair of ends
 * @id: shown in fdinfo; no two channels have the same one as long as the module is loaded
 * @kref: one for each end's file, or for the client that it has left the end to, and one for a
 *	client that closes an end as it goes
 * @lock: guards the fields of both ends that struct evpl_end names
 * @user: the user that is charged; the channel owns a reference
 * @bytes: how much the user is charged
 * @capacity: records in each ring
 * @ends: the two ends
 */
struct evpl_channel {
	u64 id;
	struct kref kref;
	spinlock_t lock; /* see above */
	struct evpl_user *user;
	u64 bytes;
	u32 capacity;
	struct evpl_end ends[2];
};

atomic_long_t evpl_nr_channels, evpl_nr_records;

/* Guards evpl_client.ends of all clients, and evpl_end.node. */
static DEFINE_SPINLOCK(ends_lock);

/* The last evpl_channel.id that was given. */
static atomic64_t last_id;

static void channel_free(struct kref *kref)
{
	struct evpl_channel *channel = container_of(kref, struct evpl_channel, kref);
	int i;

	for (i = 0; i < 2; i++)
		kvfree(channel->ends[i].ring);
	evpl_uncharge(channel->user, channel->bytes);
	evpl_user_put(channel->user);
	kfree(channel);
	atomic_long_dec(&evpl_nr_channels);
}

static void channel_put(struct evpl_channel *channel)
{
	kref_put(&channel->kref, channel_free);
}

static void end_wake(struct evpl_end *end, __poll_t events)
{
	wake_up_interruptible_poll(&end->wait, events);
}

/* Whether a task waits that may not have seen what the caller has changed. */
static bool end_has_waiters(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	/* No barrier is needed under the lock: see struct evpl_end. */
	return waitqueue_active(&end->wait);
}

/* Take the first record out of an end's ring. The caller owns its reference on the share. */
static struct evpl_share *end_pop(struct evpl_end *end)
{
	struct evpl_share *share = end->ring[end->first].share;

	lockdep_assert_held(&end->channel->lock);
	end->first = (end->first + 1) % end->channel->capacity;
	end->nr--;
	return share;
}

/* Drop the reference of a record that has left its ring. */
static void record_put(struct evpl_share *share)
{
	atomic_long_dec(&evpl_nr_records);
	evpl_share_put(share);
}

/* Whether an end has a client that hasn't gone: its header is there as long as the lock is held. */
static bool end_has_client(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	return end->client && !end->closed;
}

/* An end was bound or closed: have the client of the other end see that in its header. */
static void end_count_for_peer(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	if (end_has_client(end->peer))
		evpl_refs_count_ends(end->peer->client);
}

/*
 * Tell a client that memory may have come back, as EVPL_DOORBELL_MEMORY says. Return the client,
 * with a reference: client_wake() follows, without the lock.
 */
static struct evpl_client *end_report_memory(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	evpl_client_get(end->client);
	evpl_refs_report_unshared(end->client, 0);
	return end->client;
}

static void client_wake(struct evpl_client *client)
{
	evpl_refs_wake_returned(client);
	evpl_client_put(client);
}

/*
 * Close an end, and drop the records in flight to it; but a record that is being read is left
 * to the reader. Then the other end may see it. Records that this end has sent stay in flight. If
 * the end is closed already, do nothing. The caller holds ends_lock; this function releases it.
 */
static void end_close(struct evpl_end *end)
	__releases(&ends_lock)
{
	struct evpl_channel *channel = end->channel;
	struct evpl_client *client = NULL, *waiting = NULL;
	struct evpl_share *share;

	/*
	 * Both under ends_lock: an end that has left evpl_client.ends is closed, so the entries of
	 * its client may go.
	 */
	list_del_init(&end->node);
	spin_lock(&channel->lock);
	spin_unlock(&ends_lock);
	if (end->closed) {
		spin_unlock(&channel->lock);
		return;
	}
	if (!end->reading)
		swap(client, end->client);
	else
		end_pop(end);	/* the reader owns it now */
	end->closed = true;
	while (end->nr) {
		share = end_pop(end);
		spin_unlock(&channel->lock);
		record_put(share);
		evpl_syncpoint(EVPL_SYNCPOINT_DRAIN);
		cond_resched();
		spin_lock(&channel->lock);
	}
	end->drained = true;
	end_count_for_peer(end);
	/* The messages of a lane that this client hadn't returned come back to the other now. */
	if (end->lane && end_has_client(end->peer))
		waiting = end_report_memory(end->peer);
	spin_unlock(&channel->lock);

	end_wake(end, EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR);
	end_wake(end->peer, EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR);
	if (waiting)
		client_wake(waiting);
	if (client)
		evpl_client_put(client);
}

/*
 * Whether the release of the end's client is certain, and has yet to come to the end. Nobody gets a
 * reference on a file that has none left; at most, a look-up that comes too late has one for a
 * moment. The file is still there, because its release takes the end off evpl_client.ends.
 */
static bool end_client_is_going(struct evpl_end *end)
{
	lockdep_assert_held(&ends_lock);
	return !list_empty(&end->node) && !file_count(end->client->file);
}

static int end_release(struct inode *inode, struct file *file)
{
	struct evpl_end *end = file->private_data;

	spin_lock(&ends_lock);
	/*
	 * The task of a process that dies may release the end's file before the client's. But the
	 * client's leases must end before the other end is told.
	 */
	if (end_client_is_going(end)) {
		end->left = true;
		spin_unlock(&ends_lock);
		return 0;
	}
	end_close(end);
	channel_put(end->channel);
	return 0;
}

/**
 * evpl_channel_client_gone() - close the ends that are bound to a client
 * @client: the client, whose file has gone
 */
void evpl_channel_client_gone(struct evpl_client *client)
{
	struct evpl_end *end;

	spin_lock(&ends_lock);
	while ((end = list_first_entry_or_null(&client->ends, struct evpl_end, node))) {
		/*
		 * The end's file keeps its reference until the end is off the list, or it has left
		 * the reference to this function.
		 */
		if (!end->left)
			kref_get(&end->channel->kref);
		end_close(end);
		channel_put(end->channel);
		cond_resched();
		spin_lock(&ends_lock);
	}
	spin_unlock(&ends_lock);
}

/*
 * Whether the caller doesn't want to wait for a record or for room. It waits for locks, memory
 * and its own pages all the same, so an end has no FMODE_NOWAIT. io_uring sets IOCB_NOWAIT
 * without FMODE_NOWAIT too, if poll says that the end is ready.
 */
static bool iocb_is_nonblocking(struct kiocb *iocb)
{
	return iocb->ki_flags & IOCB_NOWAIT ||
	       iocb->ki_filp->f_flags & O_NONBLOCK;
}

/* Writing. */

/**
 * struct sending - a record that is being written
 * @record: as user space wrote it
 * @inflight: as it is put into the ring
 * @lease: the lease that had the reference, whose transfer is to be finished; NULL if the writer
 *	owns the buffer
 */
struct sending {
	struct evpl_record record;
	struct evpl_inflight inflight;
	struct evpl_lease *lease;
};

static int sending_transfer(struct evpl_client *client, struct sending *sending)
{
	const struct evpl_record *record = &sending->record;
	struct evpl_share *share;

	/* EVPL_RECORD_LANE says for whom the record is, not what the receiver may do. */
	share = evpl_ref_transfer(client, record->offset, record->length,
				  record->flags & ~EVPL_RECORD_LANE, &sending->lease);
	if (IS_ERR(share))
		return PTR_ERR(share);

	sending->inflight = (struct evpl_inflight){
		.share = share,
		.offset = record->offset &
			  ((PAGE_SIZE << share->slab->buffer_order) - 1),
		.length = record->length,
		.flags = record->flags,
		.cookie = record->cookie,
	};
	return 0;
}

/* How many more records fit into the ring of an end: none if it is closed. */
static u32 end_free_slots(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	return end->closed ? 0 : end->channel->capacity - end->nr - end->reserved;
}

/* Return 0 if an end can be written to, with EVPL_RECORD_LANE if @lane, or why not. */
static int end_check_writable(struct evpl_end *end, bool lane)
{
	struct evpl_end *peer = end->peer;

	lockdep_assert_held(&end->channel->lock);
	if (!end_has_client(end))
		return -ENOTCONN;
	if (peer->drained)
		return -EPIPE;
	return lane && !(end->lane && peer->lane) ? -EOPNOTSUPP : 0;
}

/*
 * Reserve room for @nr records in the peer's ring, of which one has EVPL_RECORD_LANE if @lane.
 * Return 0, with *@client set to the end's client and a reference on it that the caller owns;
 * -EAGAIN if the records don't fit now; another error if they never will.
 */
static int end_reserve(struct evpl_end *end, u32 nr, bool lane, struct evpl_client **client)
{
	struct evpl_channel *channel = end->channel;
	int ret;

	spin_lock(&channel->lock);
	ret = end_check_writable(end, lane);
	if (!ret && end_free_slots(end->peer) < nr) {
		end->crowded = true;
		ret = -EAGAIN;
	}
	if (!ret) {
		end->peer->reserved += nr;
		*client = end->client;
		evpl_client_get(*client);
	}
	spin_unlock(&channel->lock);
	return ret;
}

static int end_wait_for_room(struct evpl_end *end, u32 nr, bool lane,
			     struct evpl_client **client, struct kiocb *iocb)
{
	int ret;

	if (iocb_is_nonblocking(iocb))
		return end_reserve(end, nr, lane, client);
	return wait_event_interruptible(end->wait, (ret = end_reserve(end, nr, lane, client)) !=
						   -EAGAIN) ?: ret;
}

/* Return the room that end_reserve() reserved, and wake writers that found too little of it. */
static void end_cancel_reserve(struct evpl_end *end, u32 nr)
{
	struct evpl_channel *channel = end->channel;
	bool crowded = false;

	spin_lock(&channel->lock);
	end->peer->reserved -= nr;
	swap(crowded, end->crowded);
	spin_unlock(&channel->lock);
	if (crowded)
		end_wake(end, EPOLLOUT | EPOLLWRNORM);
}

/*
 * Commit records to the room that was reserved. On failure the room stays reserved. If the peer has
 * been closed meanwhile, but isn't drained yet, end_close() finds the records and drops them.
 */
static int end_commit(struct evpl_end *end, const struct sending *sendings, u32 nr)
{
	struct evpl_channel *channel = end->channel;
	struct evpl_end *peer = end->peer;
	bool waiters = false;
	int ret;
	u32 i;

	spin_lock(&channel->lock);
	/* Ends are bound for good, so what end_reserve() found of lanes still holds. */
	ret = end_check_writable(end, false);
	if (!ret) {
		for (i = 0; i < nr; i++)
			peer->ring[(peer->first + peer->nr++) % channel->capacity] =
				sendings[i].inflight;
		peer->reserved -= nr;
		atomic_long_add(nr, &evpl_nr_records);
		waiters = end_has_waiters(peer);
	}
	spin_unlock(&channel->lock);
	if (waiters)
		end_wake(peer, EPOLLIN | EPOLLRDNORM);
	return ret;
}

/* Take over the references and commit the records, or undo all. The reserved room is consumed. */
static int end_send(struct evpl_end *end, struct evpl_client *client,
		    struct sending *sendings, u32 nr)
{
	u32 transferred = 0, i;
	int ret = 0;

	down_read(&client->send_sem);
	while (!ret && transferred < nr) {
		if (transferred)
			cond_resched();
		ret = sending_transfer(client, &sendings[transferred]);
		transferred += !ret;
	}
	if (!ret)
		ret = end_commit(end, sendings, nr);
	for (i = 0; ret && i < transferred; i++) {
		evpl_ref_cancel_transfer(sendings[i].inflight.share, sendings[i].lease);
		cond_resched();
	}
	up_read(&client->send_sem);
	if (ret) {
		end_cancel_reserve(end, nr);
		return ret;
	}

	evpl_syncpoint(EVPL_SYNCPOINT_SENT);
	for (i = 0; i < nr; i++) {
		if (!sendings[i].lease)
			continue;
		evpl_lease_finish_transfer(sendings[i].lease);
		cond_resched();
	}
	return 0;
}

static ssize_t end_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct evpl_end *end = iocb->ki_filp->private_data;
	size_t size = iov_iter_count(from), nr = size / RECORD_SIZE, i;
	struct sending one, *sendings = &one;
	struct evpl_client *client;
	bool lane = false;
	int ret = 0;

	if (!size)
		return 0;
	if (size % RECORD_SIZE)
		return -EINVAL;
	if (nr > end->channel->capacity)
		return -EMSGSIZE;

	if (nr > 1) {
		sendings = kvmalloc_array(nr, sizeof(*sendings), EVPL_GFP);
		if (!sendings)
			return -ENOMEM;
	}
	for (i = 0; !ret && i < nr; i++) {
		ret = evpl_record_copy_in(&sendings[i].record, from);
		lane |= !ret && sendings[i].record.flags & EVPL_RECORD_LANE;
	}
	if (ret)
		goto free;
	ret = end_wait_for_room(end, nr, lane, &client, iocb);
	if (ret)
		goto free;
	ret = end_send(end, client, sendings, nr);
	evpl_client_put(client);
free:
	if (sendings != &one)
		kvfree(sendings);
	return ret ?: size;
}

/* Reading. */

/*
 * Begin to read the first record of an end's ring. Return 0; -EAGAIN if there is none, or if
 * another read is in progress; -EPIPE if no record will come any more; -ENOTCONN.
 */
static int end_begin_read(struct evpl_end *end, struct evpl_inflight *inflight)
{
	struct evpl_channel *channel = end->channel;
	int ret = 0;

	spin_lock(&channel->lock);
	if (!end_has_client(end)) {
		ret = -ENOTCONN;
	} else if (end->reading) {
		end->turned_away = true;
		ret = -EAGAIN;
	} else if (end->nr) {
		end->reading = true;
		*inflight = end->ring[end->first];
	} else {
		ret = end->peer->drained ? -EPIPE : -EAGAIN;
	}
	spin_unlock(&channel->lock);
	return ret;
}

static int end_wait_for_record(struct evpl_end *end, struct evpl_inflight *inflight,
			       struct kiocb *iocb)
{
	int ret;

	if (iocb_is_nonblocking(iocb))
		return end_begin_read(end, inflight);
	return wait_event_interruptible(end->wait, (ret = end_begin_read(end, inflight)) !=
						   -EAGAIN) ?: ret;
}

/*
 * Stop reading. Return whether the caller must wake the tasks that were turned away, once it has
 * dropped the lock. Nothing else wakes them: neither a record that was left in the ring, nor the
 * end of all records, is news to anybody else.
 */
static bool end_stop_reading(struct evpl_end *end)
{
	bool turned_away = false;

	lockdep_assert_held(&end->channel->lock);
	end->reading = false;
	swap(turned_away, end->turned_away);
	return turned_away;
}

/*
 * The end was closed during a read. end_close() has left the record and the reference on the
 * client to the reader. The caller holds the lock; this function releases it.
 */
static void end_finish_closed(struct evpl_end *end, struct evpl_share *share)
	__releases(&end->channel->lock)
{
	struct evpl_client *client = NULL;
	bool turned_away;

	swap(client, end->client);
	turned_away = end_stop_reading(end);
	spin_unlock(&end->channel->lock);

	record_put(share);
	if (turned_away)
		end_wake(end, EPOLLIN | EPOLLRDNORM);
	evpl_client_put(client);
}

/*
 * Finish reading a record. If it was @delivered it leaves the ring, else it stays the first. If
 * the caller wants @more and the ring has another record, begin to read that and return 0.
 * Otherwise return -EAGAIN; or -ENOTCONN if the client has gone, so that nothing was delivered
 * to anybody.
 */
static int end_finish_read(struct evpl_end *end, struct evpl_inflight *inflight, bool delivered,
			   bool more)
{
	struct evpl_channel *channel = end->channel;
	bool room_wanted = false, turned_away = false;
	struct evpl_share *share = NULL;
	int ret = -EAGAIN;

	spin_lock(&channel->lock);
	if (end->closed) {
		end_finish_closed(end, inflight->share);
		return -ENOTCONN;
	}
	if (delivered) {
		share = end_pop(end);
		room_wanted = end_has_waiters(end->peer);
		if (more && end->nr) {
			*inflight = end->ring[end->first];
			ret = 0;
		}
	}
	if (ret)
		turned_away = end_stop_reading(end);
	spin_unlock(&channel->lock);

	if (share)
		record_put(share);
	if (room_wanted)
		end_wake(end->peer, EPOLLOUT | EPOLLWRNORM);
	if (turned_away)
		end_wake(end, EPOLLIN | EPOLLRDNORM);
	return ret;
}

/*
 * record_deliver_own() and record_deliver_lease() return -ECANCELED if the buffer has been
 * revoked. The iterator is unchanged then.
 */

static int record_deliver_own(const struct evpl_inflight *inflight, struct iov_iter *to)
{
	u64 start = evpl_share_offset(inflight->share);
	/* Check before the owner gets the reference: after that it may reuse the buffer. */
	bool held = evpl_share_is_held(inflight->share);
	int ret;

	ret = evpl_record_copy_out(to, inflight, start + inflight->offset, EVPL_LEASE_NONE,
				   held ? EVPL_RECORD_HELD : 0);
	if (ret)
		return ret;
	if (evpl_share_add_owner_ref(inflight->share))
		return 0;
	iov_iter_revert(to, RECORD_SIZE);
	return -ECANCELED;
}

static int record_deliver_lease(struct evpl_client *client, const struct evpl_inflight *inflight,
				struct iov_iter *to)
{
	int ret;

	for (;;) {
		ret = evpl_lease_deliver(client, inflight, to);
		if (ret != -EFAULT)
			return ret;
		/*
		 * The copy ran with page faults disabled. Fault the page in with a record that
		 * names no buffer, then retry. If that fails, the page can't be written to.
		 */
		ret = evpl_record_copy_out(to, inflight, 0, EVPL_LEASE_NONE, EVPL_RECORD_REVOKED);
		if (ret)
			return ret;
		iov_iter_revert(to, RECORD_SIZE);
		/* The page may have gone again by the retry. A fatal signal ends the loop. */
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
}

static int record_deliver(struct evpl_client *client, const struct evpl_inflight *inflight,
			  struct iov_iter *to)
{
	int ret;

	if (inflight->share->slab->client == client)
		ret = record_deliver_own(inflight, to);
	else
		ret = record_deliver_lease(client, inflight, to);
	if (ret == -ECANCELED)
		ret = evpl_record_copy_out(to, inflight, 0, EVPL_LEASE_NONE, EVPL_RECORD_REVOKED);
	return ret;
}

static ssize_t end_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct evpl_end *end = iocb->ki_filp->private_data;
	struct evpl_inflight inflight;
	ssize_t done = 0;
	int ret, finished;
	bool more;

	if (!iov_iter_count(to))
		return 0;
	if (iov_iter_count(to) < RECORD_SIZE)
		return -EINVAL;
	ret = end_wait_for_record(end, &inflight, iocb);
	if (ret)
		return ret == -EPIPE ? 0 : ret;

	for (;;) {
		ret = record_deliver(end->client, &inflight, to);
		more = !ret && iov_iter_count(to) >= RECORD_SIZE &&
		       !signal_pending(current);
		finished = end_finish_read(end, &inflight, !ret, more);
		if (finished == -ENOTCONN)
			ret = finished;
		if (!ret)
			done += RECORD_SIZE;
		if (finished)
			return done ?: ret;
		cond_resched();
	}
}

static __poll_t end_poll(struct file *file, struct poll_table_struct *table)
{
	struct evpl_end *end = file->private_data;
	__poll_t events = 0;

	poll_wait(file, &end->wait, table);
	spin_lock(&end->channel->lock);
	if (end->rung)
		events |= EPOLLIN | EPOLLRDNORM;
	/* A read would be turned away while another one is in progress. */
	if (end->reading)
		end->turned_away = true;
	else if (end->nr || end->peer->drained)
		events |= EPOLLIN | EPOLLRDNORM;
	if (end->peer->drained || end->closed)
		events |= EPOLLHUP;
	else if (!end_free_slots(end->peer))
		end->crowded = true;
	else if (!end->full)
		events |= EPOLLOUT | EPOLLWRNORM;
	spin_unlock(&end->channel->lock);
	return events;
}

static void end_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct evpl_end *end = file->private_data;
	struct evpl_channel *channel = end->channel;
	u64 client = 0, peer = 0;
	u32 arriving, leaving;
	bool bound, lane;

	spin_lock(&channel->lock);
	arriving = end->nr;
	leaving = end->peer->nr;
	bound = end_has_client(end);
	lane = end->lane;
	if (bound)
		client = end->client->id;
	if (end_has_client(end->peer))
		peer = end->peer->client->id;
	spin_unlock(&channel->lock);

	seq_printf(m, "evpl-channel-id:\t%llu\n", channel->id);
	seq_printf(m, "evpl-end:\t%d\n", end == &channel->ends[1]);
	seq_printf(m, "evpl-client-id:\t%llu\n", client);
	seq_printf(m, "evpl-peer-client-id:\t%llu\n", peer);
	seq_printf(m, "evpl-capacity:\t%u\n", channel->capacity);
	seq_printf(m, "evpl-bound:\t%d\n", bound);
	seq_printf(m, "evpl-lane:\t%d\n", lane);
	seq_printf(m, "evpl-records-to-read:\t%u\n", arriving);
	seq_printf(m, "evpl-records-written:\t%u\n", leaving);
}

/* Carry out evpl_doorbell.quiet on the end that the call is made on. */
static void end_quiet(struct evpl_end *end, u32 quiet)
{
	lockdep_assert_held(&end->channel->lock);
	if (quiet & EVPL_DOORBELL_IN)
		end->rung = false;
	if (quiet & EVPL_DOORBELL_OUT)
		end->full = true;
}

/*
 * Carry out evpl_doorbell.ring on the other end. Return the events that its pollers are to be woken
 * for.
 */
static __poll_t end_ring(struct evpl_end *end, u32 ring)
{
	__poll_t events = 0;

	lockdep_assert_held(&end->channel->lock);
	if (ring & EVPL_DOORBELL_IN) {
		end->rung = true;
		events |= EPOLLIN | EPOLLRDNORM;
	}
	if (ring & EVPL_DOORBELL_OUT && end->full) {
		end->full = false;
		events |= EPOLLOUT | EPOLLWRNORM;
	}
	return end_has_waiters(end) ? events : 0;
}

/**
 * evpl_channel_doorbell() - ring the other end of a lane, or this one
 * @file: of this end
 * @self: ring this end
 * @ring: EVPL_DOORBELL_*: for the end that is rung
 * @quiet: EVPL_DOORBELL_*: for this end, done first
 *
 * Return: 0, -EOPNOTSUPP, -ENOTCONN or -EPIPE.
 */
int evpl_channel_doorbell(struct file *file, bool self, u32 ring, u32 quiet)
{
	struct evpl_end *end = file->private_data, *peer = end->peer;
	struct evpl_end *to = self ? end : peer;
	struct evpl_channel *channel = end->channel;
	struct evpl_client *client = NULL;
	__poll_t events = 0;
	int ret = 0;

	if (ring & ~(EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT | EVPL_DOORBELL_MEMORY) ||
	    quiet & ~(EVPL_DOORBELL_IN | EVPL_DOORBELL_OUT))
		return -EOPNOTSUPP;

	spin_lock(&channel->lock);
	if (!end_has_client(end)) {
		ret = -ENOTCONN;
		goto unlock;
	}
	if (!end->lane || (end_has_client(peer) && !peer->lane)) {
		ret = -EOPNOTSUPP;
		goto unlock;
	}
	end_quiet(end, quiet);
	if (ring && to->drained) {
		ret = -EPIPE;
	} else if (ring && !to->client && !to->closed) {
		ret = -ENOTCONN;
	} else if (ring && !to->closed) {
		events = end_ring(to, ring);
		if (ring & EVPL_DOORBELL_MEMORY)
			client = end_report_memory(to);
	}
unlock:
	spin_unlock(&channel->lock);
	if (events)
		end_wake(to, events);
	if (client)
		client_wake(client);
	return ret;
}

const struct file_operations evpl_end_fops = {
	.owner = THIS_MODULE,
	.release = end_release,
	.read_iter = end_read_iter,
	.write_iter = end_write_iter,
	.unlocked_ioctl = evpl_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = end_poll,
	.show_fdinfo = end_show_fdinfo,
};

/* Learn the capacity of the channel of an end. Return 0, or -EBADF if @file isn't an end. */
int evpl_channel_capacity(struct file *file, u32 *capacity)
{
	struct evpl_end *end = file->private_data;

	if (file->f_op != &evpl_end_fops)
		return -EBADF;
	*capacity = end->channel->capacity;
	return 0;
}

/*
 * Whether an end is bound to the client, but has been so since before the client was adopted, so
 * that the successor may bind it again. It knows nothing of a lane's rings.
 */
static bool end_can_be_taken_over(struct evpl_end *end, struct evpl_client *client, bool lane,
				  unsigned int adopted)
{
	lockdep_assert_held(&end->channel->lock);
	return end_has_client(end) && end->client == client && end->adopted != adopted &&
	       !end->lane && !lane;
}

/**
 * evpl_channel_bind() - bind an end to a client
 * @client: the client
 * @file: the end's file, of which evpl_channel_capacity() has made sure
 * @lane: the end is one of a lane
 *
 * Return: 0; -EBUSY if the end is bound already, or its client has gone.
 */
int evpl_channel_bind(struct evpl_client *client, struct file *file, bool lane)
{
	struct evpl_end *end = file->private_data;
	unsigned int adopted = READ_ONCE(client->adopted);
	struct evpl_channel *channel = end->channel;
	bool waiters = false;
	int ret = 0;

	spin_lock(&ends_lock);
	spin_lock(&channel->lock);
	if (end_can_be_taken_over(end, client, lane, adopted)) {
		end->adopted = adopted;
	} else if (end->client || end->closed) {
		ret = -EBUSY;
	} else {
		end->lane = lane;
		end->adopted = adopted;
		end_count_for_peer(end);
		evpl_client_get(client);
		end->client = client;
		list_add_tail(&end->node, &client->ends);
		waiters = end_has_waiters(end);
	}
	spin_unlock(&channel->lock);
	spin_unlock(&ends_lock);
	/*
	 * Until now a read or a write gave ENOTCONN, whatever poll said. So tell pollers again.
	 * For pollers of the other end nothing has changed: its records could wait here before.
	 */
	if (waiters)
		end_wake(end, EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM);
	return ret;
}

static void end_init(struct evpl_channel *channel, int nr)
{
	struct evpl_end *end = &channel->ends[nr];

	end->channel = channel;
	end->peer = &channel->ends[!nr];
	INIT_LIST_HEAD(&end->node);
	init_waitqueue_head(&end->wait);
}

/* Make a file for an end. The file takes over a reference on the channel from the caller. */
static struct file *end_file(struct evpl_end *end)
{
	struct file *file;

	file = anon_inode_getfile("[evpl-channel]", &evpl_end_fops, end,
				  O_RDWR | O_CLOEXEC);
	if (IS_ERR(file))
		return file;
	stream_open(file_inode(file), file);
	return file;
}

/**
 * evpl_channel_create() - make a channel
 * @user: the user that is charged
 * @capacity: records in each direction
 * @ends: out: the files of the two ends, with a reference each that the caller owns
 *
 * Return: 0, or -errno.
 */
int evpl_channel_create(struct evpl_user *user, u32 capacity,
			struct file *ends[2])
{
	struct evpl_channel *channel;
	u64 bytes;
	int i, ret;

	bytes = sizeof(*channel) + 2ULL * capacity * sizeof(struct evpl_inflight);
	ret = evpl_charge(user, bytes);
	if (ret)
		return ret;
	channel = kzalloc(sizeof(*channel), EVPL_GFP);
	if (!channel) {
		evpl_uncharge(user, bytes);
		return -ENOMEM;
	}
	kref_init(&channel->kref);
	spin_lock_init(&channel->lock);
	evpl_user_get(user);
	channel->user = user;
	channel->bytes = bytes;
	channel->capacity = capacity;
	channel->id = atomic64_inc_return(&last_id);
	atomic_long_inc(&evpl_nr_channels);
	for (i = 0; i < 2; i++)
		end_init(channel, i);
	ret = -ENOMEM;
	for (i = 0; i < 2; i++) {
		channel->ends[i].ring = kvcalloc(capacity, sizeof(struct evpl_inflight),
						 EVPL_GFP);
		if (!channel->ends[i].ring)
			goto put_channel;
	}

	ends[0] = end_file(&channel->ends[0]);
	if (IS_ERR(ends[0])) {
		ret = PTR_ERR(ends[0]);
		goto put_channel;
	}
	kref_get(&channel->kref);
	ends[1] = end_file(&channel->ends[1]);
	if (IS_ERR(ends[1])) {
		ret = PTR_ERR(ends[1]);
		fput(ends[0]);
		goto put_channel;
	}
	return 0;

put_channel:
	channel_put(channel);
	return ret;
}

