// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels: a pair of ends, a file each, which carry records between the clients
 * that they are bound to. What is on its way to an end is in the end's ring, and
 * each record there owns a count of the share of its buffer. An end that is closed
 * gets nothing any more; it closes when its file goes, or its client.
 *
 * Writing has room kept for its records, takes over all references, then puts the
 * records into the ring or gives the references back. Reading has the first record
 * to itself, copies it out and counts it, and only then takes it out of the ring:
 * until then whatever fails leaves it there.
 */
#include <linux/anon_inodes.h>
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

#include "evpl.h"

#define RECORD_SIZE	sizeof(struct evpl_record)

/**
 * struct evpl_end - one end of a channel
 * @channel: the channel; the end's file owns a reference
 * @peer: the other end
 * @node: in evpl_client.ends while it is bound; ends_lock guards it
 * @client: whom it is bound to, with a reference; NULL before, and once it is closed and
 *	nobody reads any more
 * @closed: it isn't read from or written to any more
 * @reading: somebody reads, one at a time, and has the first record. If the end is closed
 *	meanwhile the reader owns that, which is in @ring no more, and the reference in
 *	@client.
 * @turned_away: somebody else was refused for that reason, by a read or by poll, and is
 *	woken when the reader is done
 * @crowded: somebody wanted to write more than there was room for in the peer's ring
 * @ring: what is on its way to this end
 * @first: place of the first record in @ring
 * @nr: how many there are
 * @kept: room that is kept for who has references taken over
 * @wait: who waits for a record in @ring, or for room in the peer's
 *
 * evpl_channel.lock guards @client to @kept. Whoever waits looks at them after having put
 * himself into @wait. So who has changed them under the lock can tell there whether anybody
 * waits, without a barrier.
 */
struct evpl_end {
	struct evpl_channel *channel;
	struct evpl_end *peer;
	struct list_head node;
	struct evpl_client *client;
	bool closed;
	bool reading;
	bool turned_away;
	bool crowded;
	struct evpl_item *ring;
	u32 first;
	u32 nr;
	u32 kept;
	wait_queue_head_t wait;
};

/**
 * struct evpl_channel - a pair of ends
 * @kref: one for each end's file, and one for who closes an end for its client
 * @lock: guards what the ends say it does
 * @user: who is charged; the channel owns a reference
 * @bytes: how much
 * @capacity: records in each ring
 * @ends: the two
 */
struct evpl_channel {
	struct kref kref;
	spinlock_t lock; /* see above */
	struct evpl_user *user;
	u64 bytes;
	u32 capacity;
	struct evpl_end ends[2];
};

atomic_long_t evpl_nr_channels, evpl_nr_records;

/* Guards evpl_client.ends of all clients, and the ends' places there. */
static DEFINE_SPINLOCK(ends_lock);

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

static void wake(struct evpl_end *end, __poll_t events)
{
	wake_up_interruptible_poll(&end->wait, events);
}

/* Whether anybody waits who may not have seen what the caller has changed. */
static bool has_waiters(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	/* Under the lock: see struct evpl_end. */
	return waitqueue_active(&end->wait);
}

/* Take the first record out of an end's ring. */
static struct evpl_share *pop(struct evpl_end *end)
{
	struct evpl_share *share = end->ring[end->first].share;

	lockdep_assert_held(&end->channel->lock);
	end->first = (end->first + 1) % end->channel->capacity;
	end->nr--;
	return share;
}

/* A record isn't on its way any more. */
static void drop(struct evpl_share *share)
{
	atomic_long_dec(&evpl_nr_records);
	evpl_share_drop(share);
}

/*
 * What was sent to the end is given back, save for the record that somebody is reading
 * just now: who does gives that back. What the end sent stays on its way.
 */
static void close_end(struct evpl_end *end)
{
	struct evpl_channel *channel = end->channel;
	struct evpl_client *client = NULL;
	struct evpl_share *share;

	spin_lock(&channel->lock);
	if (!end->reading)
		swap(client, end->client);
	else if (!end->closed)
		pop(end);	/* the reader's from here */
	end->closed = true;
	while (end->nr) {
		share = pop(end);
		spin_unlock(&channel->lock);
		drop(share);
		cond_resched();
		spin_lock(&channel->lock);
	}
	spin_unlock(&channel->lock);

	wake(end, EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR);
	wake(end->peer, EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR);
	if (client)
		evpl_client_put(client);
}

static int end_release(struct inode *inode, struct file *file)
{
	struct evpl_end *end = file->private_data;

	spin_lock(&ends_lock);
	list_del_init(&end->node);
	spin_unlock(&ends_lock);

	close_end(end);
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

	for (;;) {
		spin_lock(&ends_lock);
		end = list_first_entry_or_null(&client->ends, struct evpl_end, node);
		if (end) {
			/* Its file has a reference until it is off the list. */
			kref_get(&end->channel->kref);
			list_del_init(&end->node);
		}
		spin_unlock(&ends_lock);
		if (!end)
			return;
		close_end(end);
		channel_put(end->channel);
		cond_resched();
	}
}

/*
 * Whether the caller waits neither for a record nor for room. It waits for locks, memory and
 * its own pages all the same, so an end has no FMODE_NOWAIT. io_uring sets IOCB_NOWAIT
 * without that too, where poll says that there is something.
 */
static bool is_nonblocking(struct kiocb *iocb)
{
	return iocb->ki_flags & IOCB_NOWAIT ||
	       iocb->ki_filp->f_flags & O_NONBLOCK;
}

/* Writing. */

/**
 * struct sending - a record that is being written
 * @record: as user space has it
 * @item: as it goes into the ring
 * @lease: through which it was given, to be settled; or NULL: the writer owns it
 */
struct sending {
	struct evpl_record record;
	struct evpl_item item;
	struct evpl_lease *lease;
};

static int give(struct evpl_client *client, struct sending *sending)
{
	const struct evpl_record *record = &sending->record;
	struct evpl_share *share;

	share = evpl_give(client, record->offset, record->length,
			  record->flags, &sending->lease);
	if (IS_ERR(share))
		return PTR_ERR(share);

	sending->item = (struct evpl_item){
		.share = share,
		.offset = record->offset &
			  ((PAGE_SIZE << share->slab->buffer_shift) - 1),
		.length = record->length,
		.flags = record->flags,
		.cookie = record->cookie,
	};
	return 0;
}

/* How many records fit into the ring of an end. */
static u32 room(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	return end->channel->capacity - end->nr - end->kept;
}

/* Why nothing can be written to an end, or 0. */
static int is_shut(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	if (end->closed || !end->client)
		return -ENOTCONN;
	return end->peer->closed ? -EPIPE : 0;
}

/*
 * Keep room for so many records of *@client, on which the caller owns a reference then.
 * Return 0, -EAGAIN if they don't fit now, or why they never will.
 */
static int keep_room(struct evpl_end *end, u32 nr, struct evpl_client **client)
{
	struct evpl_channel *channel = end->channel;
	int ret;

	spin_lock(&channel->lock);
	ret = is_shut(end);
	if (!ret && room(end->peer) < nr) {
		end->crowded = true;
		ret = -EAGAIN;
	}
	if (!ret) {
		end->peer->kept += nr;
		*client = end->client;
		evpl_client_get(*client);
	}
	spin_unlock(&channel->lock);
	return ret;
}

static int wait_for_room(struct evpl_end *end, u32 nr, struct evpl_client **client,
			 struct kiocb *iocb)
{
	int ret;

	if (is_nonblocking(iocb))
		return keep_room(end, nr, client);
	return wait_event_interruptible(end->wait, (ret = keep_room(end, nr, client)) !=
						   -EAGAIN) ?: ret;
}

/* The inverse. Others may have found no room for that. */
static void leave_room(struct evpl_end *end, u32 nr)
{
	struct evpl_channel *channel = end->channel;
	bool crowded = false;

	spin_lock(&channel->lock);
	end->peer->kept -= nr;
	swap(crowded, end->crowded);
	spin_unlock(&channel->lock);
	if (crowded)
		wake(end, EPOLLOUT | EPOLLWRNORM);
}

/* Into the room that was kept. If it fails, that is still. */
static int put_records(struct evpl_end *end, const struct sending *sendings, u32 nr)
{
	struct evpl_channel *channel = end->channel;
	struct evpl_end *peer = end->peer;
	bool waiters = false;
	int ret;
	u32 i;

	spin_lock(&channel->lock);
	ret = is_shut(end);
	if (!ret) {
		for (i = 0; i < nr; i++)
			peer->ring[(peer->first + peer->nr++) % channel->capacity] =
				sendings[i].item;
		peer->kept -= nr;
		atomic_long_add(nr, &evpl_nr_records);
		waiters = has_waiters(peer);
	}
	spin_unlock(&channel->lock);
	if (waiters)
		wake(peer, EPOLLIN | EPOLLRDNORM);
	return ret;
}

/* The room that was kept is used, or left. */
static int send(struct evpl_end *end, struct evpl_client *client,
		struct sending *sendings, u32 nr)
{
	u32 given = 0, i;
	int ret = 0;

	down_read(&client->send_sem);
	while (!ret && given < nr) {
		if (given)
			cond_resched();
		ret = give(client, &sendings[given]);
		given += !ret;
	}
	if (!ret)
		ret = put_records(end, sendings, nr);
	for (i = 0; ret && i < given; i++) {
		evpl_take_back(sendings[i].item.share, sendings[i].lease);
		cond_resched();
	}
	up_read(&client->send_sem);
	if (ret) {
		leave_room(end, nr);
		return ret;
	}

	for (i = 0; i < nr; i++) {
		if (!sendings[i].lease)
			continue;
		evpl_lease_settle(sendings[i].lease);
		cond_resched();
	}
	return 0;
}

static int copy_in(struct evpl_record *record, struct iov_iter *from)
{
	if (!copy_from_iter_full(record, RECORD_SIZE, from))
		return -EFAULT;
	if (record->flags & ~(EVPL_RECORD_WRITE | EVPL_RECORD_DEVICE))
		return -EOPNOTSUPP;
	if (!record->length || record->length > EVPL_BUFFER_SIZE_MAX)
		return -EINVAL;
	return 0;
}

static ssize_t end_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct evpl_end *end = iocb->ki_filp->private_data;
	size_t size = iov_iter_count(from), nr = size / RECORD_SIZE, i;
	struct sending one, *sendings = &one;
	struct evpl_client *client;
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
	for (i = 0; !ret && i < nr; i++)
		ret = copy_in(&sendings[i].record, from);
	if (ret)
		goto free;
	ret = wait_for_room(end, nr, &client, iocb);
	if (ret)
		goto free;
	ret = send(end, client, sendings, nr);
	evpl_client_put(client);
free:
	if (sendings != &one)
		kvfree(sendings);
	return ret ?: size;
}

/* Reading. */

/*
 * Have the first record of an end's ring. Return 0; -EAGAIN if there is none, or
 * another has it; -EPIPE if none will come.
 */
static int begin_read(struct evpl_end *end, struct evpl_item *item)
{
	struct evpl_channel *channel = end->channel;
	int ret = 0;

	spin_lock(&channel->lock);
	if (end->closed || !end->client) {
		ret = -ENOTCONN;
	} else if (end->reading) {
		end->turned_away = true;
		ret = -EAGAIN;
	} else if (end->nr) {
		end->reading = true;
		*item = end->ring[end->first];
	} else {
		ret = end->peer->closed ? -EPIPE : -EAGAIN;
	}
	spin_unlock(&channel->lock);
	return ret;
}

static int wait_for_record(struct evpl_end *end, struct evpl_item *item,
			   struct kiocb *iocb)
{
	int ret;

	if (is_nonblocking(iocb))
		return begin_read(end, item);
	return wait_event_interruptible(end->wait, (ret = begin_read(end, item)) !=
						   -EAGAIN) ?: ret;
}

/*
 * Be done with a record: it stays the first, unless it has been delivered. If the caller
 * wants @more, and there is, have it. Return 0 then, and -EAGAIN if not; or -ENOTCONN if
 * the client has gone, so that nothing was delivered to anybody.
 */
static int end_read(struct evpl_end *end, struct evpl_item *item, bool delivered,
		    bool more)
{
	struct evpl_channel *channel = end->channel;
	bool room_wanted = false, turned_away = false;
	struct evpl_client *client = NULL;
	struct evpl_share *share = NULL;
	int ret = -EAGAIN;

	spin_lock(&channel->lock);
	if (end->closed) {
		/* Both were left to who reads. */
		share = item->share;
		swap(client, end->client);
		ret = -ENOTCONN;
	} else if (delivered) {
		share = pop(end);
		room_wanted = has_waiters(end->peer);
		if (more && end->nr) {
			*item = end->ring[end->first];
			ret = 0;
		}
	}
	if (ret) {
		end->reading = false;
		swap(turned_away, end->turned_away);
	}
	spin_unlock(&channel->lock);

	if (share)
		drop(share);
	if (room_wanted)
		wake(end->peer, EPOLLOUT | EPOLLWRNORM);
	/*
	 * They try again. Nothing else wakes them: the record that the reader has left in
	 * the ring, or the end of all records, is no news for anybody but them.
	 */
	if (turned_away)
		wake(end, EPOLLIN | EPOLLRDNORM);
	if (client)
		evpl_client_put(client);
	return ret;
}

/* Return 0; or -EFAULT, and the iterator is where it was. */
static int copy_out(struct iov_iter *to, const struct evpl_item *item,
		    u64 offset, u32 lease, u32 flags)
{
	const struct evpl_record record = {
		.offset = offset,
		.length = item->length,
		.flags = item->flags | flags,
		.cookie = item->cookie,
		.lease = lease,
		.buffer_size = lease == EVPL_LEASE_NONE ? 0 :
			       PAGE_SIZE << item->share->slab->buffer_shift,
	};
	size_t copied;

	copied = copy_to_iter(&record, RECORD_SIZE, to);
	if (copied == RECORD_SIZE)
		return 0;
	iov_iter_revert(to, copied);
	return -EFAULT;
}

/**
 * evpl_item_copy_out() - tell who reads of a lease
 * @item: the record that it is for
 * @to: where to
 * @lease: the lease
 *
 * Return: 0; or -EFAULT, and the iterator is where it was.
 */
int evpl_item_copy_out(const struct evpl_item *item, struct iov_iter *to,
		       struct evpl_lease *lease)
{
	return copy_out(to, item, evpl_lease_place(lease) + item->offset,
			lease->number, 0);
}

/* These return -ECANCELED, with nothing copied, if the buffer has been revoked. */

static int deliver_own(const struct evpl_item *item, struct iov_iter *to)
{
	u64 start = evpl_share_offset(item->share);
	/* Before the owner has the reference, lest it believe that the buffer is its own. */
	bool held = evpl_share_is_held(item->share);
	int ret;

	ret = copy_out(to, item, start + item->offset, EVPL_LEASE_NONE,
		       held ? EVPL_RECORD_HELD : 0);
	if (ret)
		return ret;
	if (evpl_share_take_home(item->share))
		return 0;
	iov_iter_revert(to, RECORD_SIZE);
	return -ECANCELED;
}

static int deliver_lease(struct evpl_client *client, const struct evpl_item *item,
			 struct iov_iter *to)
{
	int ret;

	for (;;) {
		ret = evpl_lease_deliver(client, item, to);
		if (ret != -EFAULT)
			return ret;
		/*
		 * Faults were off. Copy there with them on, what names nothing: then the
		 * page is there, or it can't be written to.
		 */
		ret = copy_out(to, item, 0, EVPL_LEASE_NONE, EVPL_RECORD_REVOKED);
		if (ret)
			return ret;
		iov_iter_revert(to, RECORD_SIZE);
		/* It may have gone again, but hardly for ever. */
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
}

static int deliver(struct evpl_client *client, const struct evpl_item *item,
		   struct iov_iter *to)
{
	int ret;

	if (item->share->slab->client == client)
		ret = deliver_own(item, to);
	else
		ret = deliver_lease(client, item, to);
	if (ret == -ECANCELED)
		ret = copy_out(to, item, 0, EVPL_LEASE_NONE, EVPL_RECORD_REVOKED);
	return ret;
}

static ssize_t end_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct evpl_end *end = iocb->ki_filp->private_data;
	struct evpl_item item;
	ssize_t done = 0;
	int ret, end_ret;
	bool more;

	if (!iov_iter_count(to))
		return 0;
	if (iov_iter_count(to) < RECORD_SIZE)
		return -EINVAL;
	ret = wait_for_record(end, &item, iocb);
	if (ret)
		return ret == -EPIPE ? 0 : ret;

	for (;;) {
		ret = deliver(end->client, &item, to);
		more = !ret && iov_iter_count(to) >= RECORD_SIZE &&
		       !signal_pending(current);
		end_ret = end_read(end, &item, !ret, more);
		if (end_ret == -ENOTCONN)
			ret = end_ret;
		if (!ret)
			done += RECORD_SIZE;
		if (end_ret)
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
	/* A read would be turned away while another one goes on. */
	if (end->reading)
		end->turned_away = true;
	else if (end->nr || end->peer->closed)
		events |= EPOLLIN | EPOLLRDNORM;
	if (end->peer->closed || end->closed)
		events |= EPOLLHUP;
	else if (room(end->peer))
		events |= EPOLLOUT | EPOLLWRNORM;
	else
		end->crowded = true;
	spin_unlock(&end->channel->lock);
	return events;
}

static void end_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct evpl_end *end = file->private_data;
	struct evpl_channel *channel = end->channel;
	u32 arriving, leaving;
	bool bound;

	spin_lock(&channel->lock);
	arriving = end->nr;
	leaving = end->peer->nr;
	bound = end->client && !end->closed;
	spin_unlock(&channel->lock);

	seq_printf(m, "evpl-capacity:\t%u\n", channel->capacity);
	seq_printf(m, "evpl-bound:\t%d\n", bound);
	seq_printf(m, "evpl-records-to-read:\t%u\n", arriving);
	seq_printf(m, "evpl-records-written:\t%u\n", leaving);
}

const struct file_operations evpl_end_fops = {
	.owner = THIS_MODULE,
	.release = end_release,
	.read_iter = end_read_iter,
	.write_iter = end_write_iter,
	.poll = end_poll,
	.show_fdinfo = end_show_fdinfo,
};

/**
 * evpl_channel_bind() - bind an end to a client
 * @client: the client
 * @file: the end
 *
 * Return: 0; -EBADF if it is no end; -EBUSY if it is bound already; what
 * evpl_refs_grow() returns.
 */
int evpl_channel_bind(struct evpl_client *client, struct file *file)
{
	struct evpl_end *end = file->private_data;
	struct evpl_channel *channel;
	bool waiters = false;
	int ret;

	if (file->f_op != &evpl_end_fops)
		return -EBADF;
	ret = evpl_refs_grow_header(client);
	if (ret)
		return ret;

	channel = end->channel;
	spin_lock(&ends_lock);
	spin_lock(&channel->lock);
	if (end->client || end->closed) {
		ret = -EBUSY;
	} else {
		evpl_client_get(client);
		end->client = client;
		list_add_tail(&end->node, &client->ends);
		waiters = has_waiters(end);
	}
	spin_unlock(&channel->lock);
	spin_unlock(&ends_lock);
	/*
	 * A read or a write gave ENOTCONN until now, whatever poll said. So whoever polls
	 * is told again. For the other end nothing has changed: its records could wait here
	 * before.
	 */
	if (waiters)
		wake(end, EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM);
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

/* A file for an end, which owns a reference on the channel that the caller gives. */
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
 * @user: who is charged
 * @capacity: records in each direction
 * @ends: out: the files of the ends, with a reference each that the caller owns
 *
 * Return: 0, or -errno.
 */
int evpl_channel_create(struct evpl_user *user, u32 capacity,
			struct file *ends[2])
{
	struct evpl_channel *channel;
	u64 bytes;
	int i, ret;

	bytes = sizeof(*channel) + 2ULL * capacity * sizeof(struct evpl_item);
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
	evpl_user_hold(user);
	channel->user = user;
	channel->bytes = bytes;
	channel->capacity = capacity;
	atomic_long_inc(&evpl_nr_channels);
	for (i = 0; i < 2; i++)
		end_init(channel, i);
	ret = -ENOMEM;
	for (i = 0; i < 2; i++) {
		channel->ends[i].ring = kvcalloc(capacity, sizeof(struct evpl_item),
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
