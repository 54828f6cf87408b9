// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * evplmem.Channel: an end of a channel to another process. The waiting of asyncio is in Python.
 */
#include "binding.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

/**
 * struct channel - evplmem.Channel
 * @pool: the pool, which the object keeps alive; NULL before __init__()
 * @channel: the channel; NULL once it is closed
 * @flags: those of evpl_channel_create()
 * @busy: threads that are in a call of the library for the channel
 */
struct channel {
	PyObject_HEAD
	struct pool *pool;
	struct evpl_channel *channel;
	unsigned int flags;
	unsigned int busy;
};

PyTypeObject *channel_type;

static PyTypeObject *message_type;
static PyTypeObject *lane_stats_type;

static int channel_enter(struct channel *self)
{
	if (!self->channel) {
		PyErr_SetString(PyExc_ValueError, "the channel is closed");
		return -1;
	}
	if (pool_enter(self->pool) < 0)
		return -1;
	self->busy++;
	return 0;
}

static void channel_leave(struct channel *self)
{
	self->busy--;
	pool_leave(self->pool);
}

/* The channel leaves the object before the GIL is given up, so no other thread uses it any more. */
static void close_channel(struct channel *self)
{
	struct evpl_channel *channel = self->channel;

	if (!channel)
		return;
	self->channel = NULL;
	Py_BEGIN_ALLOW_THREADS
	evpl_channel_close(channel);
	Py_END_ALLOW_THREADS
	self->pool->children--;
}

static void set_channel(struct channel *self, struct pool *pool, struct evpl_channel *channel,
			unsigned int flags)
{
	self->pool = (struct pool *)Py_NewRef((PyObject *)pool);
	self->channel = channel;
	self->flags = flags;
	pool->children++;
}

static unsigned int flags_of(int blocking, int lane, int polling)
{
	return (blocking ? EVPL_CHANNEL_BLOCKING : 0) | (lane ? EVPL_CHANNEL_LANE : 0) |
	       (polling ? EVPL_CHANNEL_POLLING : 0);
}

static PyObject *channel_create(PyObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "pool", "capacity", "blocking", "lane", "polling", NULL };
	int blocking = 0, lane = 0, polling = 0, peer, err;
	struct evpl_channel *channel;
	unsigned int capacity = 0;
	unsigned int flags;
	PyObject *self, *both;
	struct pool *pool;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$O&ppp", names, pool_type, &pool,
					 to_unsigned, &capacity, &blocking, &lane, &polling))
		return NULL;
	self = PyType_GenericAlloc((PyTypeObject *)type, 0);
	if (!self)
		return NULL;
	if (pool_enter(pool) < 0)
		goto drop_self;
	flags = flags_of(blocking, lane, polling);
	Py_BEGIN_ALLOW_THREADS
	err = evpl_channel_create(&channel, pool->pool, capacity, flags, &peer);
	Py_END_ALLOW_THREADS
	if (!err)
		set_channel((struct channel *)self, pool, channel, flags);
	pool_leave(pool);
	if (!err) {
		both = Py_BuildValue("(Ni)", self, peer);
		if (!both)
			close(peer);
		return both;
	}
	raise_errno(err);
drop_self:
	Py_DECREF(self);
	return NULL;
}

static int channel_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "pool", "fd", "blocking", "lane", "polling", NULL };
	struct channel *self = (struct channel *)object;
	int blocking = 0, lane = 0, polling = 0, fd, err;
	struct evpl_channel *channel;
	unsigned int flags;
	struct pool *pool;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!i|$ppp", names, pool_type, &pool, &fd,
					 &blocking, &lane, &polling))
		return -1;
	/* Nor is it opened again: close_channel() still uses its pool, without the GIL. */
	if (self->pool || self->busy) {
		PyErr_SetString(PyExc_ValueError, "the channel is or was open already");
		return -1;
	}
	if (pool_enter(pool) < 0)
		return -1;
	flags = flags_of(blocking, lane, polling);
	self->busy++;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_channel_bind(&channel, pool->pool, fd, flags);
	Py_END_ALLOW_THREADS
	self->busy--;
	if (!err)
		set_channel(self, pool, channel, flags);
	pool_leave(pool);
	if (err) {
		raise_errno(err);
		return -1;
	}
	return 0;
}

static void channel_dealloc(PyObject *object)
{
	struct channel *self = (struct channel *)object;

	PyObject_GC_UnTrack(object);
	close_channel(self);
	Py_XDECREF((PyObject *)self->pool);
	object_free(object);
}

static int channel_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT((PyObject *)((struct channel *)object)->pool);
	return 0;
}

/* Also in a child of fork(2), where the parent's threads aren't any more. */
static PyObject *channel_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct channel *self = (struct channel *)object;

	if (self->channel && self->busy && self->pool->forks == forks())
		return raise_errno(-EBUSY);
	close_channel(self);
	return Py_NewRef(Py_None);
}

static PyObject *channel_exit(PyObject *object, PyObject *Py_UNUSED(args))
{
	return PyObject_CallMethod(object, "close", NULL);
}

static PyObject *channel_fileno(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct channel *self = (struct channel *)object;
	int fd;

	if (channel_enter(self) < 0)
		return NULL;
	fd = evpl_channel_fd(self->channel);
	channel_leave(self);
	return fd < 0 ? raise_errno(fd) : PyLong_FromLong(fd);
}

/* Sends messages, and begins again after a signal. Returns 0, or -1 with an exception. */
static int send_messages(struct channel *self, const struct evpl_message *messages, int n)
{
	int err;

	do {
		if (channel_enter(self) < 0)
			return -1;
		Py_BEGIN_ALLOW_THREADS
		err = evpl_channel_send(self->channel, messages, n);
		Py_END_ALLOW_THREADS
		channel_leave(self);
	} while (err == -EINTR && PyErr_CheckSignals() == 0);
	if (!err)
		return 0;
	if (!PyErr_Occurred())
		raise_errno(err);
	return -1;
}

static PyObject *channel_send(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "iovec", "cookie", "flags", NULL };
	struct evpl_message message = { .cookie = 0 };
	struct iovec_object *iovec;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|O&O&", names, iovec_type, &iovec,
					 to_u64, &message.cookie, to_unsigned, &message.flags) ||
	    iovec_take(iovec, &message.iovec) < 0)
		return NULL;
	if (send_messages((struct channel *)object, &message, 1) < 0) {
		iovec_put_back(iovec, &message.iovec);
		return NULL;
	}
	return Py_NewRef(Py_None);
}

/* Takes a message out of its object: an iovec, or a tuple of it, its cookie and its flags. */
static struct iovec_object *take_message(PyObject *object, struct evpl_message *message)
{
	struct iovec_object *iovec = (struct iovec_object *)object;

	if (!PyObject_TypeCheck(object, iovec_type)) {
		if (!PyTuple_Check(object)) {
			PyErr_SetString(PyExc_TypeError, "a message is an iovec or a tuple");
			return NULL;
		}
		if (!PyArg_ParseTuple(object, "O!|O&O&", iovec_type, &iovec,
				      to_u64, &message->cookie, to_unsigned, &message->flags))
			return NULL;
	}
	return iovec_take(iovec, &message->iovec) < 0 ? NULL : iovec;
}

static PyObject *channel_send_many(PyObject *object, PyObject *arg)
{
	PyObject *sequence = PySequence_Tuple(arg);
	struct evpl_message *messages = NULL;
	struct iovec_object **iovecs = NULL;
	PyObject *result = NULL;
	Py_ssize_t i, n;

	if (!sequence)
		return NULL;
	n = PyTuple_Size(sequence);
	messages = PyMem_Calloc(n, sizeof(*messages));
	iovecs = PyMem_Calloc(n, sizeof(*iovecs));
	if (!messages || !iovecs) {
		PyErr_NoMemory();
		goto free_arrays;
	}
	if (n > INT_MAX) {
		raise_errno(-EMSGSIZE);
		goto free_arrays;
	}
	for (i = 0; i < n; i++) {
		iovecs[i] = take_message(PyTuple_GetItem(sequence, i), &messages[i]);
		if (!iovecs[i])
			break;
	}
	if (i == n && send_messages((struct channel *)object, messages, n) == 0)
		result = Py_NewRef(Py_None);
	while (!result && i-- > 0)
		iovec_put_back(iovecs[i], &messages[i].iovec);
free_arrays:
	PyMem_Free(messages);
	PyMem_Free(iovecs);
	Py_DECREF(sequence);
	return result;
}

static PyStructSequence_Field message_fields[] = {
	{ "iovec", "the slice, or None if it was revoked on the way" },
	{ "cookie", "the sender's number" },
	{ "flags", "MESSAGE_WRITE, MESSAGE_DEVICE, MESSAGE_REVOKED, MESSAGE_HELD" },
	{ NULL, NULL },
};

static PyStructSequence_Desc message_desc = {
	.name = "evplmem.Message",
	.doc = "A message that was received.",
	.fields = message_fields,
	.n_in_sequence = 3,
};

/* Makes the object of a message, whose reference is the object's, or released after an error. */
static PyObject *message_new(struct pool *pool, const struct evpl_message *message)
{
	PyObject *fields[3], *tuple;
	struct evpl_slab_info slab;
	bool readonly;
	int i;

	if (message->flags & EVPL_MESSAGE_REVOKED) {
		fields[0] = Py_NewRef(Py_None);
	} else {
		/* A buffer that came home is this process's own, whatever it was sent for. */
		readonly = !(message->flags & EVPL_MESSAGE_WRITE) &&
			   evpl_iovec_slab(&message->iovec, &slab);
		fields[0] = iovec_new(pool, &message->iovec, readonly);
	}
	fields[1] = PyLong_FromUnsignedLongLong(message->cookie);
	fields[2] = PyLong_FromUnsignedLong(message->flags);
	tuple = fields[0] && fields[1] && fields[2] ? PyStructSequence_New(message_type) : NULL;
	for (i = 0; i < 3; i++) {
		if (tuple)
			PyStructSequence_SetItem(tuple, i, fields[i]);
		else
			Py_XDECREF(fields[i]);
	}
	/* PyStructSequence_New() leaves that to its caller. */
	if (tuple && !PyObject_GC_IsTracked(tuple))
		PyObject_GC_Track(tuple);
	return tuple;
}

/* Receives messages, and begins again after a signal. Returns how many, or -1 with an exception. */
static int recv_messages(struct channel *self, struct evpl_message *messages, int max)
{
	int n;

	do {
		if (channel_enter(self) < 0)
			return -1;
		Py_BEGIN_ALLOW_THREADS
		n = evpl_channel_recv(self->channel, messages, max);
		Py_END_ALLOW_THREADS
		channel_leave(self);
	} while (n == -EINTR && PyErr_CheckSignals() == 0);
	if (n >= 0)
		return n;
	if (!PyErr_Occurred())
		raise_errno(n);
	return -1;
}

static PyObject *channel_recv(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct channel *self = (struct channel *)object;
	struct evpl_message message;

	return recv_messages(self, &message, 1) < 0 ? NULL : message_new(self->pool, &message);
}

static PyObject *channel_recv_many(PyObject *object, PyObject *args, PyObject *kwargs)
{
	struct channel *self = (struct channel *)object;
	static char *names[] = { "max", NULL };
	struct evpl_message *messages;
	PyObject *list, *message;
	unsigned int max = 64;
	int i, n;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O&", names, to_unsigned, &max))
		return NULL;
	/* A channel has room for no more messages. */
	if (max > 16384)
		max = 16384;
	messages = PyMem_Calloc(max, sizeof(*messages));
	if (!messages)
		return PyErr_NoMemory();
	n = recv_messages(self, messages, max);
	list = n < 0 ? NULL : PyList_New(n);
	for (i = 0; i < n; i++) {
		if (!list) {
			evpl_iovec_release(&messages[i].iovec);
			continue;
		}
		message = message_new(self->pool, &messages[i]);
		if (message)
			PyList_SetItem(list, i, message);
		else
			Py_CLEAR(list);
	}
	PyMem_Free(messages);
	return list;
}

static PyObject *channel_arm(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct channel *self = (struct channel *)object;
	int err;

	if (channel_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_channel_arm(self->channel);
	Py_END_ALLOW_THREADS
	channel_leave(self);
	return err && err != -EBUSY ? raise_errno(err) : PyBool_FromLong(!err);
}

static PyStructSequence_Field lane_stats_fields[] = {
	{ "sending", "1 if this side sends through shared memory" },
	{ "receiving", "1 if the other side does" },
	{ "grants", "buffers of this side that the other side sees" },
	{ "sent", "messages that were sent through shared memory" },
	{ "sent_as_records", "messages that the kernel carried" },
	{ "received", "messages that were received since the other side uses shared memory" },
	{ "doorbells", "system calls to wake the other side, or to sleep" },
	{ NULL, NULL },
};

static PyStructSequence_Desc lane_stats_desc = {
	.name = "evplmem.LaneStats",
	.doc = "Statistics of a lane.",
	.fields = lane_stats_fields,
	.n_in_sequence = 7,
};

static PyObject *channel_lane_stats(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct evpl_lane_stats stats = EVPL_LANE_STATS_INIT;
	struct channel *self = (struct channel *)object;
	int err;

	if (channel_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_lane_stats(self->channel, &stats);
	Py_END_ALLOW_THREADS
	channel_leave(self);
	if (err)
		return raise_errno(err);
	return tuple_of_numbers(lane_stats_type, (uint64_t []){
		stats.sending, stats.receiving, stats.grants, stats.sent, stats.sent_as_records,
		stats.received, stats.doorbells
	}, lane_stats_desc.n_in_sequence);
}

static PyObject *channel_get_closed(PyObject *object, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(!((struct channel *)object)->channel);
}

static PyObject *channel_get_flags(PyObject *object, void *Py_UNUSED(closure))
{
	return PyLong_FromUnsignedLong(((struct channel *)object)->flags);
}

static PyObject *channel_get_pool(PyObject *object, void *Py_UNUSED(closure))
{
	PyObject *pool = (PyObject *)((struct channel *)object)->pool;

	return Py_NewRef(pool ? pool : Py_None);
}

static PyMethodDef channel_methods[] = {
	METHOD("create", channel_create, METH_VARARGS | METH_KEYWORDS | METH_CLASS,
	       "create($type, /, pool, *, capacity=0, blocking=False, lane=False, polling=False)\n"
	       "--\n\n"
	       "Makes a channel. Returns it, and the descriptor of its other end."),
	METHOD("send", channel_send, METH_VARARGS | METH_KEYWORDS,
	       "send($self, /, iovec, cookie=0, flags=0)\n--\n\n"
	       "Sends an iovec, which is released then."),
	METHOD("send_many", channel_send_many, METH_O, "send_many($self, messages, /)\n--\n\n"
	       "Sends all of the messages, or none. Each is an iovec, or a tuple of an iovec, a\n"
	       "cookie and flags."),
	METHOD("recv", channel_recv, METH_NOARGS, "recv($self, /)\n--\n\nReceives a message."),
	METHOD("recv_many", channel_recv_many, METH_VARARGS | METH_KEYWORDS,
	       "recv_many($self, /, max=64)\n--\n\nReceives a list of at least one message."),
	METHOD("arm", channel_arm, METH_NOARGS, "arm($self, /)\n--\n\n"
	       "Has the next message make the descriptor readable. Returns False if there is one\n"
	       "already."),
	METHOD("lane_stats", channel_lane_stats, METH_NOARGS, "lane_stats($self, /)\n--\n\n"
	       "Returns the statistics of a lane."),
	METHOD("fileno", channel_fileno, METH_NOARGS, "fileno($self, /)\n--\n\n"
	       "Returns the descriptor to poll."),
	METHOD("close", channel_close, METH_NOARGS, "close($self, /)\n--\n\n"
	       "Closes this end. Raises OSError with EBUSY while another thread is in a call."),
	METHOD("__enter__", object_enter, METH_NOARGS, "__enter__($self, /)\n--\n\n"
	       "Returns the channel."),
	METHOD("__exit__", channel_exit, METH_VARARGS, "__exit__($self, /, *error)\n--\n\n"
	       "Closes the channel."),
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef channel_getset[] = {
	{ "closed", channel_get_closed, NULL, "Whether this end is closed.", NULL },
	{ "flags", channel_get_flags, NULL, "CHANNEL_BLOCKING, CHANNEL_LANE, CHANNEL_POLLING.",
	  NULL },
	{ "pool", channel_get_pool, NULL, "The pool.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot channel_slots[] = {
	{ Py_tp_doc, "Channel(pool, fd, *, blocking=False, lane=False, polling=False)\n--\n\n"
		     "An end of a channel to another process, of its descriptor." },
	{ Py_tp_init, channel_init },
	{ Py_tp_dealloc, channel_dealloc },
	{ Py_tp_traverse, channel_traverse },
	{ Py_tp_methods, channel_methods },
	{ Py_tp_getset, channel_getset },
	{ 0, NULL },
};

static PyType_Spec channel_spec = {
	.name = "evplmem._evplmem.Channel",
	.basicsize = sizeof(struct channel),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
		 Py_TPFLAGS_IMMUTABLETYPE,
	.slots = channel_slots,
};

int channel_add_type(PyObject *module)
{
	channel_type = add_type(module, &channel_spec);
	message_type = add_tuple(module, &message_desc);
	lane_stats_type = add_tuple(module, &lane_stats_desc);
	return channel_type && message_type && lane_stats_type ? 0 : -1;
}
