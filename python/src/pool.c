// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * evplmem.Pool: a pool with one context, which the threads of Python use in turn.
 */
#include "binding.h"

#include <errno.h>
#include <string.h>

PyTypeObject *pool_type;

static PyTypeObject *stats_type;
static PyTypeObject *pressure_type;

int pool_enter(struct pool *self)
{
	if (!self->pool) {
		PyErr_SetString(PyExc_ValueError, "the pool is closed");
		return -1;
	}
	/* The child's copy of @lock may be a lock that no thread of the child will ever unlock. */
	if (self->forks != forks()) {
		raise_errno(-EPERM);
		return -1;
	}
	self->busy++;
	return 0;
}

void pool_leave(struct pool *self)
{
	self->busy--;
}

/* The context of the pool. The caller has @lock. Returns 0 or -errno. */
static int pool_context(struct pool *self)
{
	return self->evpl ? 0 : evpl_create(&self->evpl, self->pool, &self->config);
}

/* Closes the pool, which has no children. Without the GIL. Returns 0 or -errno. */
static int close_pool(struct pool *self)
{
	int err;

	/* If the pool stays open, the next allocation makes another context. */
	evpl_destroy(self->evpl);
	self->evpl = NULL;
	err = evpl_pool_close(self->pool);
	if (!err)
		self->pool = NULL;
	return err;
}

static int to_backend(PyObject *object, void *to)
{
	static const char *const names[] = {
		[EVPL_BACKEND_MODULE] = "module",
		[EVPL_BACKEND_ANON] = "anon",
	};
	unsigned int *backend = to;

	*backend = EVPL_BACKEND_DEFAULT;
	if (object == Py_None)
		return 1;
	for (*backend = EVPL_BACKEND_MODULE; *backend <= EVPL_BACKEND_ANON; ++*backend)
		if (PyUnicode_Check(object) &&
		    !PyUnicode_CompareWithASCIIString(object, names[*backend]))
			return 1;
	PyErr_SetString(PyExc_ValueError, "the back end is \"module\" or \"anon\"");
	return 0;
}

static int to_node(PyObject *object, void *to)
{
	long node;

	*(int *)to = EVPL_ANY_NODE;
	if (object == Py_None)
		return 1;
	node = PyLong_AsLong(object);
	if (node == -1 && PyErr_Occurred())
		return 0;
	if (node < 0 || node > 0x7fffffff) {
		PyErr_SetString(PyExc_ValueError, "there is no such node");
		return 0;
	}
	*(int *)to = node;
	return 1;
}

/* With Py_CLEANUP_SUPPORTED: @object is NULL if a later argument is wrong. */
static int to_path(PyObject *object, void *to)
{
	return object == Py_None ? 1 : PyUnicode_FSConverter(object, to);
}

#define CONFIG_DOC	"*, backend=None, huge=False, zeros=False, revoke=False,\n"	\
			"     atomic=False, buffer_size=0, slab_size=0, slab_size_max=0,\n" \
			"     max_bytes=0, device=None, node=None, cache=0"

/*
 * Opens the pool of an object, or adopts the one of @fd if that isn't -1. Returns 0, or -1 with an
 * exception.
 */
static int pool_open(struct pool *self, PyObject *args, PyObject *kwargs, int fd)
{
	static char *names[] = {
		"backend", "huge", "zeros", "revoke", "atomic", "buffer_size", "slab_size",
		"slab_size_max", "max_bytes", "device", "node", "cache", NULL
	};
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;
	int huge = 0, zeros = 0, revoke = 0, atomic = 0, node = EVPL_ANY_NODE;
	uint64_t buffer_size = 0, slab_size = 0, slab_size_max = 0, cache = 0;
	PyObject *device = NULL;
	struct evpl_pool *pool;
	int err;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O&ppppO&O&O&O&O&O&O&", names,
					 to_backend, &config.backend, &huge, &zeros, &revoke,
					 &atomic, to_u64, &buffer_size, to_u64, &slab_size,
					 to_u64, &slab_size_max, to_u64, &config.max_bytes,
					 to_path, &device, to_node, &node,
					 to_u64, &cache))
		return -1;
	if (self->pool || self->busy) {
		Py_XDECREF(device);
		PyErr_SetString(PyExc_ValueError, "the pool is open already");
		return -1;
	}
	config.flags = (huge ? EVPL_POOL_HUGE : 0) | (zeros ? EVPL_POOL_ZEROS : 0) |
		       (revoke ? EVPL_POOL_REVOKE : 0) | (atomic ? EVPL_POOL_ATOMIC : 0);
	config.buffer_size = buffer_size;
	config.slab_size = slab_size;
	config.slab_size_max = slab_size_max;
	config.device = device ? PyBytes_AsString(device) : NULL;
	self->config = (struct evpl_config)EVPL_CONFIG_INIT;
	self->config.cache = cache;
	if (node != EVPL_ANY_NODE) {
		self->config.flags = EVPL_CONFIG_NODE;
		self->config.node = node;
	}
	self->forks = forks();
	pthread_mutex_init(&self->lock, NULL);

	self->busy++;
	Py_BEGIN_ALLOW_THREADS
	err = fd < 0 ? evpl_pool_open(&pool, &config) : evpl_pool_adopt(&pool, fd, &config);
	Py_END_ALLOW_THREADS
	self->busy--;
	Py_XDECREF(device);
	if (err) {
		raise_reason(err);
		return -1;
	}
	evpl_pool_stats(pool, &stats);
	self->buffer_size = stats.buffer_size;
	/* Last: another thread may have the object. The GIL is held until the pool has its context. */
	self->pool = pool;
	return 0;
}

static int pool_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
	struct pool *self = (struct pool *)object;
	int err;

	if (pool_open(self, args, kwargs, -1) < 0)
		return -1;
	err = pool_context(self);
	if (err) {
		close_pool(self);
		raise_errno(err);
		return -1;
	}
	return 0;
}

/* Once this has succeeded the descriptor is the pool's, so an unknown node isn't noticed here. */
static PyObject *pool_adopt(PyObject *type, PyObject *args, PyObject *kwargs)
{
	PyObject *no_args = PyTuple_New(0);
	PyObject *self = NULL;
	int fd;

	if (!no_args || !PyArg_ParseTuple(args, "i", &fd))
		goto drop_args;
	if (fd < 0) {
		raise_errno(-EBADF);
		goto drop_args;
	}
	self = PyType_GenericAlloc((PyTypeObject *)type, 0);
	if (self && pool_open((struct pool *)self, no_args, kwargs, fd) < 0)
		Py_CLEAR(self);
drop_args:
	Py_XDECREF(no_args);
	return self;
}

static void pool_dealloc(PyObject *object)
{
	struct pool *self = (struct pool *)object;
	PyObject *type, *value, *traceback;
	int err = 0;

	PyObject_GC_UnTrack(object);
	if (self->pool) {
		PyErr_Fetch(&type, &value, &traceback);
		Py_BEGIN_ALLOW_THREADS
		err = close_pool(self);
		Py_END_ALLOW_THREADS
		/* A child of fork(2) leaves its parent's pool alone. */
		if (err && err != -EPERM &&
		    PyErr_ResourceWarning(NULL, 1, "a pool stays open: others have its memory") < 0)
			PyErr_WriteUnraisable(NULL);
		PyErr_Restore(type, value, traceback);
	}
	object_free(object);
}

static int pool_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	return 0;
}

static PyObject *pool_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct pool *self = (struct pool *)object;
	int err;

	if (!self->pool)
		return Py_NewRef(Py_None);
	if (pool_enter(self) < 0)
		return NULL;
	/* No other thread gets into the pool while the GIL isn't held: it looks closed. */
	if (self->children || self->busy > 1) {
		err = -EBUSY;
	} else {
		struct pool closing = *self;

		self->pool = NULL;
		self->evpl = NULL;
		Py_BEGIN_ALLOW_THREADS
		err = close_pool(&closing);
		Py_END_ALLOW_THREADS
		self->pool = closing.pool;
	}
	pool_leave(self);
	return err ? raise_errno(err) : Py_NewRef(Py_None);
}

/*
 * After an exception the traceback may have iovecs. The pool is closed with the last of its objects
 * then, and the exception that was raised is the one that the program sees.
 */
static PyObject *pool_exit(PyObject *object, PyObject *args)
{
	PyObject *type, *value, *traceback, *closed;

	if (!PyArg_ParseTuple(args, "OOO", &type, &value, &traceback))
		return NULL;
	closed = PyObject_CallMethod(object, "close", NULL);
	if (!closed && type != Py_None && PyErr_ExceptionMatches(PyExc_OSError)) {
		PyErr_Clear();
		return Py_NewRef(Py_None);
	}
	return closed;
}

/* Allocates by the context that all threads share. Returns how many iovecs, or -errno. */
static int allocate(struct pool *self, unsigned int length, unsigned int align, unsigned int max,
		    unsigned int flags, struct evpl_iovec *iovecs)
{
	int ret;

	pthread_mutex_lock(&self->lock);
	ret = pool_context(self);
	if (!ret)
		ret = evpl_iovec_alloc_flags(self->evpl, length, align, max, flags, iovecs);
	pthread_mutex_unlock(&self->lock);
	/* No bytes are no iovec. */
	return ret ? ret : -EINVAL;
}

static int parse_alloc(PyObject *args, PyObject *kwargs, unsigned int *length, unsigned int *align,
		       unsigned int *flags)
{
	static char *names[] = { "length", "align", "private", NULL };
	int private = 0;

	*align = 0;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|O&$p", names, to_unsigned, length,
					 to_unsigned, align, &private))
		return -1;
	*flags = private ? EVPL_IOVEC_PRIVATE : 0;
	return 0;
}

static PyObject *pool_alloc(PyObject *object, PyObject *args, PyObject *kwargs)
{
	struct pool *self = (struct pool *)object;
	unsigned int length, align, flags;
	struct evpl_iovec iovec;
	int ret;

	if (parse_alloc(args, kwargs, &length, &align, &flags) < 0 || pool_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	ret = allocate(self, length, align, 1, flags, &iovec);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	return ret < 0 ? raise_errno(ret) : iovec_new(self, &iovec, false);
}

static PyObject *pool_alloc_list(PyObject *object, PyObject *args, PyObject *kwargs)
{
	struct pool *self = (struct pool *)object;
	unsigned int length, align, flags, max;
	struct evpl_iovec *iovecs;
	PyObject *list, *iovec;
	int i, n;

	if (parse_alloc(args, kwargs, &length, &align, &flags) < 0 || pool_enter(self) < 0)
		return NULL;
	max = length / self->buffer_size + 1;
	iovecs = PyMem_Calloc(max, sizeof(*iovecs));
	if (!iovecs) {
		pool_leave(self);
		return PyErr_NoMemory();
	}
	Py_BEGIN_ALLOW_THREADS
	n = allocate(self, length, align, max, flags, iovecs);
	Py_END_ALLOW_THREADS
	list = n < 0 ? raise_errno(n) : PyList_New(n);
	for (i = 0; i < n; i++) {
		if (!list) {
			evpl_iovec_release(&iovecs[i]);
			continue;
		}
		iovec = iovec_new(self, &iovecs[i], false);
		if (iovec)
			PyList_SetItem(list, i, iovec);
		else
			Py_CLEAR(list);
	}
	pool_leave(self);
	PyMem_Free(iovecs);
	return list;
}

static PyObject *pool_keep(PyObject *object, PyObject *args)
{
	struct pool *self = (struct pool *)object;
	struct iovec_object *kept;
	struct evpl_iovec iovec;
	PyObject *result = NULL;
	const char *text;
	PyObject *name;
	int err;

	if (!PyArg_ParseTuple(args, "O&O!", PyUnicode_FSConverter, &name, iovec_type, &kept))
		return NULL;
	text = PyBytes_AsString(name);
	if (iovec_check(kept) < 0 || pool_enter(self) < 0)
		goto drop_name;
	/* Another thread may release the iovec meanwhile. */
	evpl_iovec_clone(&iovec, &kept->iovec);
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_keep(self->pool, text, &iovec);
	evpl_iovec_release(&iovec);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	result = err ? raise_errno(err) : Py_NewRef(Py_None);
drop_name:
	Py_DECREF(name);
	return result;
}

static PyObject *pool_kept(PyObject *object, PyObject *args)
{
	struct pool *self = (struct pool *)object;
	struct evpl_iovec iovec;
	PyObject *result = NULL;
	const char *text;
	PyObject *name;
	int err;

	if (!PyArg_ParseTuple(args, "O&", PyUnicode_FSConverter, &name))
		return NULL;
	text = PyBytes_AsString(name);
	if (pool_enter(self) < 0)
		goto drop_name;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_kept(self->pool, text, &iovec);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	result = err ? raise_errno(err) : iovec_new(self, &iovec, false);
drop_name:
	Py_DECREF(name);
	return result;
}

static PyObject *pool_forget(PyObject *object, PyObject *args)
{
	struct pool *self = (struct pool *)object;
	PyObject *result = NULL;
	const char *text;
	PyObject *name;
	int err;

	if (!PyArg_ParseTuple(args, "O&", PyUnicode_FSConverter, &name))
		return NULL;
	text = PyBytes_AsString(name);
	if (pool_enter(self) < 0)
		goto drop_name;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_forget(self->pool, text);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	result = err ? raise_errno(err) : Py_NewRef(Py_None);
drop_name:
	Py_DECREF(name);
	return result;
}

static PyObject *pool_names(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct pool *self = (struct pool *)object;
	PyObject *list = PyList_New(0);
	char name[EVPL_NAME_MAX + 1];
	uint64_t cursor = 0;
	PyObject *text;
	int ret;

	if (!list || pool_enter(self) < 0) {
		Py_XDECREF(list);
		return NULL;
	}
	for (;;) {
		Py_BEGIN_ALLOW_THREADS
		ret = evpl_pool_list(self->pool, &cursor, name);
		Py_END_ALLOW_THREADS
		if (ret <= 0)
			break;
		text = PyUnicode_DecodeFSDefault(name);
		if (!text || PyList_Append(list, text) < 0)
			Py_CLEAR(list);
		Py_XDECREF(text);
		if (!list)
			break;
	}
	pool_leave(self);
	if (ret < 0) {
		Py_CLEAR(list);
		raise_errno(ret);
	}
	return list;
}

static PyObject *pool_watch(PyObject *object, PyObject *args)
{
	struct pool *self = (struct pool *)object;
	uint64_t low, high;
	int err;

	if (!PyArg_ParseTuple(args, "O&O&", to_u64, &low, to_u64, &high) || pool_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_watch(self->pool, low, high);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	return err ? raise_errno(err) : Py_NewRef(Py_None);
}

static PyStructSequence_Field pressure_fields[] = {
	{ "level", "ROOM_AMPLE, ROOM_SCARCE or ROOM_SHORT" },
	{ "cap", "the cap that leaves the least growth" },
	{ "room", "bytes that can still be allocated" },
	{ "free", "bytes of buffers that are free" },
	{ "growth", "bytes by which the pool could grow" },
	{ NULL, NULL },
};

static PyStructSequence_Desc pressure_desc = {
	.name = "evplmem.Pressure",
	.doc = "How much memory a pool can still give.",
	.fields = pressure_fields,
	.n_in_sequence = 5,
};

static PyObject *pool_pressure(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct evpl_pool_pressure pressure = EVPL_POOL_PRESSURE_INIT;
	struct pool *self = (struct pool *)object;
	int err;

	if (pool_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_pressure(self->pool, &pressure);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	if (err)
		return raise_errno(err);
	return tuple_of_numbers(pressure_type, (uint64_t []){
		pressure.level, pressure.cap, pressure.room, pressure.free, pressure.growth
	}, pressure_desc.n_in_sequence);
}

static PyStructSequence_Field stats_fields[] = {
	{ "backend", "BACKEND_MODULE or BACKEND_ANON" },
	{ "devices", "devices that are attached" },
	{ "contexts", "contexts: one, or none" },
	{ "buffer_size", "bytes of a buffer" },
	{ "slabs", "slabs" },
	{ "bytes", "bytes of the slabs" },
	{ "buffers", "buffers of the slabs" },
	{ "buffers_free", "buffers that any context can take" },
	{ "buffers_cached", "free buffers that the context keeps" },
	{ "buffers_used", "all other buffers" },
	{ "grows", "slabs taken since the pool was opened" },
	{ "shrinks", "slabs given back" },
	{ "steals", "buffers that a context took from another's cache" },
	{ "failures", "allocations that failed with ENOMEM" },
	{ "wakeups", "times that the pool's eventfd was written" },
	{ "roots", "roots that are kept" },
	{ "roots_broken", "roots that adopting left out, since they were damaged" },
	{ NULL, NULL },
};

static PyStructSequence_Desc stats_desc = {
	.name = "evplmem.PoolStats",
	.doc = "Statistics of a pool.",
	.fields = stats_fields,
	.n_in_sequence = 17,
};

static PyObject *pool_stats(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct evpl_pool_stats stats = EVPL_POOL_STATS_INIT;
	struct pool *self = (struct pool *)object;
	int err;

	if (pool_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_stats(self->pool, &stats);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	if (err)
		return raise_errno(err);
	return tuple_of_numbers(stats_type, (uint64_t []){
		stats.backend, stats.devices, stats.contexts, stats.buffer_size, stats.slabs,
		stats.bytes, stats.buffers, stats.buffers_free, stats.buffers_cached,
		stats.buffers_used, stats.grows, stats.shrinks, stats.steals, stats.failures,
		stats.wakeups, stats.roots, stats.roots_broken
	}, stats_desc.n_in_sequence);
}

static PyObject *pool_preallocate(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "bytes", "node", NULL };
	struct pool *self = (struct pool *)object;
	int node = EVPL_ANY_NODE;
	uint64_t bytes;
	int err;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|O&", names, to_u64, &bytes,
					 to_node, &node) || pool_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	err = evpl_pool_preallocate(self->pool, bytes, node);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	return err ? raise_errno(err) : Py_NewRef(Py_None);
}

static PyObject *pool_trim(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct pool *self = (struct pool *)object;
	uint64_t bytes;

	if (pool_enter(self) < 0)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	bytes = evpl_pool_trim(self->pool);
	Py_END_ALLOW_THREADS
	pool_leave(self);
	return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *descriptor(PyObject *object, int (*get)(struct evpl_pool *))
{
	struct pool *self = (struct pool *)object;
	int fd;

	if (pool_enter(self) < 0)
		return NULL;
	fd = get(self->pool);
	pool_leave(self);
	return fd < 0 ? raise_errno(fd) : PyLong_FromLong(fd);
}

static PyObject *pool_eventfd(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return descriptor(object, evpl_pool_eventfd);
}

static PyObject *pool_fileno(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return descriptor(object, evpl_pool_fd);
}

static PyObject *pool_get_closed(PyObject *object, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(!((struct pool *)object)->pool);
}

static PyMethodDef pool_methods[] = {
	METHOD("adopt", pool_adopt, METH_VARARGS | METH_KEYWORDS | METH_CLASS,
	       "adopt($type, fd, /, " CONFIG_DOC ")\n--\n\n"
	       "Opens a pool over the memory of a process that has died. The descriptor then\n"
	       "belongs to the pool."),
	METHOD("alloc", pool_alloc, METH_VARARGS | METH_KEYWORDS,
	       "alloc($self, /, length, align=0, *, private=False)\n--\n\n"
	       "Allocates one iovec, of at most a buffer. The memory isn't zeroed."),
	METHOD("alloc_list", pool_alloc_list, METH_VARARGS | METH_KEYWORDS,
	       "alloc_list($self, /, length, align=0, *, private=False)\n--\n\n"
	       "Allocates any length. Returns a list of iovecs."),
	METHOD("keep", pool_keep, METH_VARARGS, "keep($self, name, iovec, /)\n--\n\n"
	       "Gives a slice a name, by which the pool's successor finds it."),
	METHOD("kept", pool_kept, METH_VARARGS, "kept($self, name, /)\n--\n\n"
	       "Returns an iovec of the slice that has the name."),
	METHOD("forget", pool_forget, METH_VARARGS, "forget($self, name, /)\n--\n\nDrops a name."),
	METHOD("names", pool_names, METH_NOARGS, "names($self, /)\n--\n\n"
	       "Returns a list of the names."),
	METHOD("watch", pool_watch, METH_VARARGS, "watch($self, low, high, /)\n--\n\n"
	       "Has eventfd() tell when the room crosses a mark, in bytes."),
	METHOD("pressure", pool_pressure, METH_NOARGS, "pressure($self, /)\n--\n\n"
	       "Tells how much memory the pool can still give, and what limits it."),
	METHOD("stats", pool_stats, METH_NOARGS, "stats($self, /)\n--\n\nReturns statistics."),
	METHOD("preallocate", pool_preallocate, METH_VARARGS | METH_KEYWORDS,
	       "preallocate($self, /, bytes, node=None)\n--\n\nTakes memory beforehand."),
	METHOD("trim", pool_trim, METH_NOARGS, "trim($self, /)\n--\n\n"
	       "Gives idle slabs back. Returns their bytes."),
	METHOD("eventfd", pool_eventfd, METH_NOARGS, "eventfd($self, /)\n--\n\n"
	       "Returns the descriptor that tells when to retry an allocation, and of watch()."),
	METHOD("fileno", pool_fileno, METH_NOARGS, "fileno($self, /)\n--\n\n"
	       "Returns the descriptor that tells when other processes gave memory back."),
	METHOD("close", pool_close, METH_NOARGS, "close($self, /)\n--\n\n"
	       "Closes the pool. Raises OSError with EBUSY while anything has its memory."),
	METHOD("__enter__", object_enter, METH_NOARGS, "__enter__($self, /)\n--\n\n"
	       "Returns the pool."),
	METHOD("__exit__", pool_exit, METH_VARARGS, "__exit__($self, /, *error)\n--\n\n"
	       "Closes the pool."),
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef pool_getset[] = {
	{ "closed", pool_get_closed, NULL, "Whether the pool is closed.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
	{ Py_tp_doc, "Pool(" CONFIG_DOC ")\n--\n\nA pool of memory." },
	{ Py_tp_init, pool_init },
	{ Py_tp_dealloc, pool_dealloc },
	{ Py_tp_traverse, pool_traverse },
	{ Py_tp_methods, pool_methods },
	{ Py_tp_getset, pool_getset },
	{ 0, NULL },
};

static PyType_Spec pool_spec = {
	.name = "evplmem.Pool",
	.basicsize = sizeof(struct pool),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
		 Py_TPFLAGS_IMMUTABLETYPE,
	.slots = pool_slots,
};

int pool_add_type(PyObject *module)
{
	pool_type = add_type(module, &pool_spec);
	stats_type = add_tuple(module, &stats_desc);
	pressure_type = add_tuple(module, &pressure_desc);
	return pool_type && stats_type && pressure_type ? 0 : -1;
}
