// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels: a pair of ends, a file each, which carry records between the clients
 * that they are bound to. What is on its way to an end is in the end's ring, and
 * each record there owns a count of the share of its buffer. An end that is closed
 * gets nothing any more; it closes when its file goes, or its client.
 *
 * Writing takes over all references, then puts the records into the ring or gives
 * the references back. Reading looks at the first record, has a lease for it,
 * copies it out, and only then counts it in and takes it out of the ring: until
 * then whatever fails leaves it there.
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
 * struct evpl_item - a record on its way
 * @share: of the buffer; the item owns a count
 * @offset: of the first byte, in the buffer
 * @length: bytes
 * @flags: EVPL_RECORD_WRITE, EVPL_RECORD_DEVICE
 * @cookie: the writer's
 */
struct evpl_item {
	struct evpl_share *share;
	u32 offset;
	u32 length;
	u32 flags;
	u64 cookie;
};

/**
 * struct evpl_end - one end of a channel
 * @channel: the channel; the end's file owns a reference
 * @peer: the other end
 * @write_mutex: one write at a time, so that the room which it saw stays
 * @read_mutex: one read at a time, so that the record which it saw stays the first
 * @turned_away: somebody who doesn't wait has found one of the two taken
 * @client: whom it is bound to, with a reference; NULL before, and once it is closed
 * @node: in evpl_client.ends while it is bound; ends_lock guards it
 * @bound: it has been bound
 * @closed: nobody reads from it or writes to it any more
 * @ring: what is on its way to this end
 * @first: place of the first record in @ring
 * @nr: how many there are
 * @wait: who waits for a record in @ring, or for room in the peer's
 *
 * evpl_channel.lock guards @client to @nr, but @node.
 */
struct evpl_end {
	struct evpl_channel *channel;
	struct evpl_end *peer;
	struct mutex write_mutex; /* see above */
	struct mutex read_mutex; /* see above */
	atomic_t turned_away;
	struct evpl_client *client;
	struct list_head node;
	bool bound;
	bool closed;
	struct evpl_item *ring;
	u32 first;
	u32 nr;
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

	for (i = 0; i < 2; i++) {
		mutex_destroy(&channel->ends[i].write_mutex);
		mutex_destroy(&channel->ends[i].read_mutex);
		kvfree(channel->ends[i].ring);
	}
	evpl_uncharge(channel->user, channel->bytes);
	evpl_user_put(channel->user);
	kfree(channel);
	atomic_long_dec(&evpl_nr_channels);
}

static void channel_put(struct evpl_channel *channel)
{
	kref_put(&channel->kref, channel_free);
}

/* What there is to tell of was stored before, under the channel's lock or atomically. */
static void wake(struct evpl_end *end, __poll_t events)
{
	if (wq_has_sleeper(&end->wait))
		wake_up_interruptible_poll(&end->wait, events);
}

/* Take the first record out of an end's ring. */
static bool pop(struct evpl_end *end, struct evpl_item *item)
{
	struct evpl_channel *channel = end->channel;
	bool any;

	spin_lock(&channel->lock);
	any = end->nr;
	if (any) {
		*item = end->ring[end->first];
		end->first = (end->first + 1) % channel->capacity;
		end->nr--;
	}
	spin_unlock(&channel->lock);
	if (any)
		atomic_long_dec(&evpl_nr_records);
	return any;
}

/*
 * What was sent to the end is given back. What it sent stays on its way. Also who
 * reads from it just now finds, when it comes to taking the record out, that it has
 * gone.
 */
static void close_end(struct evpl_end *end)
{
	struct evpl_channel *channel = end->channel;
	struct evpl_client *client;
	struct evpl_item item;

	spin_lock(&channel->lock);
	end->closed = true;
	client = end->client;
	end->client = NULL;
	spin_unlock(&channel->lock);

	while (pop(end, &item)) {
		evpl_share_drop(item.share);
		cond_resched();
	}
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

/* The client that an end is bound to, with a reference, or NULL. */
static struct evpl_client *get_client(struct evpl_end *end)
{
	struct evpl_client *client;

	spin_lock(&end->channel->lock);
	client = end->client;
	if (client)
		evpl_client_get(client);
	spin_unlock(&end->channel->lock);
	return client;
}

static bool is_nonblocking(struct kiocb *iocb)
{
	return iocb->ki_flags & IOCB_NOWAIT ||
	       iocb->ki_filp->f_flags & O_NONBLOCK;
}

/* Who doesn't wait doesn't wait for another call to end either. */
static int lock(struct evpl_end *end, struct mutex *mutex, struct kiocb *iocb)
{
	if (!is_nonblocking(iocb))
		return mutex_lock_interruptible(mutex) ? -ERESTARTSYS : 0;
	if (mutex_trylock(mutex))
		return 0;
	atomic_set(&end->turned_away, 1);
	/* Either unlock() sees it, or the mutex is free by now. */
	smp_mb__after_atomic();
	return mutex_trylock(mutex) ? 0 : -EAGAIN;
}

/* Who was turned away tries again: poll may have nothing new to tell otherwise. */
static void unlock(struct evpl_end *end, struct mutex *mutex)
{
	mutex_unlock(mutex);
	/* Pairs with lock(). */
	smp_mb();
	if (atomic_read(&end->turned_away) && atomic_xchg(&end->turned_away, 0))
		wake(end, EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM);
}

/* Writing. */

/* Records that are written from the stack. */
#define FEW	4

/**
 * struct sending - a record that is being written
 * @item: as it goes into the ring
 * @lease: through which it was given, to be settled; or NULL: the writer owns it
 */
struct sending {
	struct evpl_item item;
	struct evpl_lease *lease;
};

static int give(struct evpl_client *client, const struct evpl_record *record,
		struct sending *sending)
{
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

/* How many records fit into the ring of an end. The caller has the lock. */
static u32 room(struct evpl_end *end)
{
	lockdep_assert_held(&end->channel->lock);
	return end->channel->capacity - end->nr;
}

/* Return 0 if so many records fit, -EAGAIN if not, or why they never will. */
static int has_room(struct evpl_end *end, u32 nr)
{
	struct evpl_channel *channel = end->channel;
	int ret = 0;

	spin_lock(&channel->lock);
	if (end->closed)
		ret = -ENOTCONN;
	else if (end->peer->closed)
		ret = -EPIPE;
	else if (room(end->peer) < nr)
		ret = -EAGAIN;
	spin_unlock(&channel->lock);
	return ret;
}

/* Return 0 with write_mutex held, and room for so many records. */
static int lock_with_room(struct evpl_end *end, u32 nr, struct kiocb *iocb)
{
	for (;;) {
		int ret = lock(end, &end->write_mutex, iocb);

		if (ret)
			return ret;
		ret = has_room(end, nr);
		if (!ret)
			return 0;
		/* Others may have fewer, for which there is room. */
		unlock(end, &end->write_mutex);
		if (ret != -EAGAIN || is_nonblocking(iocb))
			return ret;
		if (wait_event_interruptible(end->wait,
					     has_room(end, nr) != -EAGAIN))
			return -ERESTARTSYS;
	}
}

/* Only who holds write_mutex puts anything there, so what fitted still fits. */
static int put(struct evpl_end *end, const struct sending *sendings, u32 nr)
{
	struct evpl_channel *channel = end->channel;
	struct evpl_end *peer = end->peer;
	int ret = 0;
	u32 i;

	lockdep_assert_held(&end->write_mutex);
	spin_lock(&channel->lock);
	if (end->closed)
		ret = -ENOTCONN;
	else if (peer->closed)
		ret = -EPIPE;
	for (i = 0; !ret && i < nr; i++)
		peer->ring[(peer->first + peer->nr++) % channel->capacity] =
			sendings[i].item;
	if (!ret)
		atomic_long_add(nr, &evpl_nr_records);
	spin_unlock(&channel->lock);
	return ret;
}

static int send(struct evpl_end *end, struct evpl_client *client,
		const struct evpl_record *records, struct sending *sendings,
		u32 nr, struct kiocb *iocb)
{
	u32 given = 0, i;
	int ret;

	ret = lock_with_room(end, nr, iocb);
	if (ret)
		return ret;
	down_read(&client->send_sem);
	while (!ret && given < nr) {
		ret = give(client, &records[given], &sendings[given]);
		given += !ret;
		cond_resched();
	}
	if (!ret)
		ret = put(end, sendings, nr);
	for (i = 0; ret && i < given; i++) {
		evpl_take_back(sendings[i].item.share, sendings[i].lease);
		cond_resched();
	}
	up_read(&client->send_sem);
	unlock(end, &end->write_mutex);
	if (ret)
		return ret;

	wake(end->peer, EPOLLIN | EPOLLRDNORM);
	for (i = 0; i < nr; i++) {
		if (sendings[i].lease)
			evpl_lease_settle(sendings[i].lease, false);
		cond_resched();
	}
	return 0;
}

static int check_record(const struct evpl_record *record)
{
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
	struct evpl_record few_records[FEW], *records = few_records;
	struct sending few_sendings[FEW], *sendings = few_sendings;
	struct evpl_client *client;
	int ret = 0;

	if (!size)
		return 0;
	if (size % RECORD_SIZE)
		return -EINVAL;
	if (nr > end->channel->capacity)
		return -EMSGSIZE;
	client = get_client(end);
	if (!client)
		return -ENOTCONN;

	if (nr > FEW) {
		records = kvmalloc_array(nr, RECORD_SIZE, EVPL_GFP);
		sendings = kvmalloc_array(nr, sizeof(*sendings), EVPL_GFP);
	}
	if (!records || !sendings)
		ret = -ENOMEM;
	else if (!copy_from_iter_full(records, size, from))
		ret = -EFAULT;
	for (i = 0; !ret && i < nr; i++)
		ret = check_record(&records[i]);
	if (!ret)
		ret = send(end, client, records, sendings, nr, iocb);
	if (nr > FEW) {
		kvfree(sendings);
		kvfree(records);
	}
	evpl_client_put(client);
	return ret ?: size;
}

/* Reading. */

/*
 * Look at the first record of an end's ring. Return 0 with a count of its share
 * that the caller owns; -EAGAIN if there is none, -EPIPE if none will come.
 */
static int peek(struct evpl_end *end, struct evpl_item *item)
{
	struct evpl_channel *channel = end->channel;
	int ret = 0;

	lockdep_assert_held(&end->read_mutex);
	spin_lock(&channel->lock);
	if (end->closed) {
		ret = -ENOTCONN;
	} else if (end->nr) {
		*item = end->ring[end->first];
		evpl_share_hold(item->share);
	} else {
		ret = end->peer->closed ? -EPIPE : -EAGAIN;
	}
	spin_unlock(&channel->lock);
	return ret;
}

/* Whether peek() has anything to say. */
static bool has_news(struct evpl_end *end)
{
	bool news;

	spin_lock(&end->channel->lock);
	news = end->nr || end->closed || end->peer->closed;
	spin_unlock(&end->channel->lock);
	return news;
}

static int wait_for_record(struct evpl_end *end, struct evpl_item *item,
			   struct kiocb *iocb)
{
	for (;;) {
		int ret = peek(end, item);

		if (ret != -EAGAIN || is_nonblocking(iocb))
			return ret;
		if (wait_event_interruptible(end->wait, has_news(end)))
			return -ERESTARTSYS;
	}
}

/*
 * Take out the record that peek() saw. Its client may have gone, and with it the
 * record; then it isn't the caller's.
 */
static int commit(struct evpl_end *end)
{
	struct evpl_item item;

	lockdep_assert_held(&end->read_mutex);
	if (!pop(end, &item))
		return -ENOTCONN;
	evpl_share_drop(item.share);
	wake(end->peer, EPOLLOUT | EPOLLWRNORM);
	return 0;
}

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

	return copy_to_iter(&record, RECORD_SIZE, to) == RECORD_SIZE ? 0 : -EFAULT;
}

/* These return -ECANCELED, with nothing copied, if the buffer has been revoked. */

static int deliver_own(struct evpl_end *end, struct evpl_client *client,
		       const struct evpl_item *item, struct iov_iter *to)
{
	u64 buffer = evpl_share_buffer(item->share);
	u64 start = evpl_share_offset(item->share);
	int ret;

	if (!evpl_share_take_home(item->share))
		return -ECANCELED;
	ret = copy_out(to, item, start + item->offset, EVPL_LEASE_NONE, 0) ?:
	      commit(end);
	if (ret)
		evpl_refs_dec(client, EVPL_REFS_ENTRIES, buffer);
	return ret;
}

static int deliver_lease(struct evpl_end *end, struct evpl_client *client,
			 const struct evpl_item *item, struct iov_iter *to)
{
	struct evpl_lease *lease;
	int ret;

	lease = evpl_lease_take(client, item->share, item->flags);
	if (IS_ERR(lease))
		return PTR_ERR(lease);
	ret = copy_out(to, item, evpl_lease_place(lease) + item->offset,
		       lease->number, 0);
	if (ret) {
		evpl_lease_settle(lease, false);
		return ret;
	}
	ret = evpl_lease_settle(lease, true);
	if (ret == -ECANCELED)
		iov_iter_revert(to, RECORD_SIZE);
	return ret ?: commit(end);
}

static int deliver_revoked(struct evpl_end *end, const struct evpl_item *item,
			   struct iov_iter *to)
{
	int ret = copy_out(to, item, 0, EVPL_LEASE_NONE, EVPL_RECORD_REVOKED);

	return ret ?: commit(end);
}

static int deliver(struct evpl_end *end, struct evpl_client *client,
		   const struct evpl_item *item, struct iov_iter *to)
{
	int ret;

	if (item->share->slab->client == client)
		ret = deliver_own(end, client, item, to);
	else
		ret = deliver_lease(end, client, item, to);
	return ret == -ECANCELED ? deliver_revoked(end, item, to) : ret;
}

static ssize_t end_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct evpl_end *end = iocb->ki_filp->private_data;
	struct evpl_client *client;
	struct evpl_item item;
	ssize_t done = 0;
	int ret;

	if (!iov_iter_count(to))
		return 0;
	if (iov_iter_count(to) < RECORD_SIZE)
		return -EINVAL;
	client = get_client(end);
	if (!client)
		return -ENOTCONN;
	ret = lock(end, &end->read_mutex, iocb);
	if (ret)
		goto put_client;

	while (iov_iter_count(to) >= RECORD_SIZE) {
		ret = done ? peek(end, &item) : wait_for_record(end, &item, iocb);
		if (ret)
			break;
		ret = deliver(end, client, &item, to);
		evpl_share_drop(item.share);
		if (ret)
			break;
		done += RECORD_SIZE;
		if (signal_pending(current))
			break;
		cond_resched();
	}
	unlock(end, &end->read_mutex);
put_client:
	evpl_client_put(client);
	if (done)
		return done;
	return ret == -EPIPE ? 0 : ret;
}

static __poll_t end_poll(struct file *file, struct poll_table_struct *table)
{
	struct evpl_end *end = file->private_data;
	__poll_t events = 0;

	poll_wait(file, &end->wait, table);
	spin_lock(&end->channel->lock);
	if (end->nr || end->peer->closed)
		events |= EPOLLIN | EPOLLRDNORM;
	if (end->peer->closed || end->closed)
		events |= EPOLLHUP;
	else if (room(end->peer))
		events |= EPOLLOUT | EPOLLWRNORM;
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
	bound = end->client;
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
	int ret;

	if (file->f_op != &evpl_end_fops)
		return -EBADF;
	ret = evpl_refs_grow_header(client);
	if (ret)
		return ret;

	channel = end->channel;
	spin_lock(&ends_lock);
	spin_lock(&channel->lock);
	if (end->bound) {
		ret = -EBUSY;
	} else {
		end->bound = true;
		evpl_client_get(client);
		end->client = client;
		list_add_tail(&end->node, &client->ends);
	}
	spin_unlock(&channel->lock);
	spin_unlock(&ends_lock);
	return ret;
}

static void end_init(struct evpl_channel *channel, int nr)
{
	struct evpl_end *end = &channel->ends[nr];

	end->channel = channel;
	end->peer = &channel->ends[!nr];
	mutex_init(&end->write_mutex);
	mutex_init(&end->read_mutex);
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
	file->f_mode |= FMODE_NOWAIT;
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
