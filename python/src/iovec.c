// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * evplmem.Iovec: a slice of a buffer, and one reference to it. While Python has a buffer of the
 * memory, such as a memoryview, the reference stays.
 */
#include "binding.h"

#include <errno.h>

PyTypeObject *iovec_type;

PyObject *iovec_new(struct pool *pool, const struct evpl_iovec *iovec, bool readonly)
{
	struct iovec_object *self = (struct iovec_object *)PyType_GenericAlloc(iovec_type, 0);
	struct evpl_iovec copy = *iovec;

	if (!self) {
		evpl_iovec_release(&copy);
		return NULL;
	}
	self->pool = (struct pool *)Py_NewRef((PyObject *)pool);
	self->readonly = readonly;
	iovec_put_back(self, iovec);
	return (PyObject *)self;
}

int iovec_check(struct iovec_object *self)
{
	if (!self->iovec.data) {
		PyErr_SetString(PyExc_ValueError, "the iovec has been released or sent");
		return -1;
	}
	if (self->pool->forks != forks()) {
		raise_errno(-EPERM);
		return -1;
	}
	return 0;
}

static int check_exports(struct iovec_object *self)
{
	if (self->exports) {
		PyErr_SetString(PyExc_BufferError, "Python still has a buffer of the memory");
		return -1;
	}
	return 0;
}

int iovec_take(struct iovec_object *self, struct evpl_iovec *iovec)
{
	if (iovec_check(self) < 0 || check_exports(self) < 0)
		return -1;
	evpl_iovec_move(iovec, &self->iovec);
	self->pool->children--;
	return 0;
}

void iovec_put_back(struct iovec_object *self, const struct evpl_iovec *iovec)
{
	self->iovec = *iovec;
	self->pool->children++;
}

/* The reference leaves the object before the GIL is given up, so no other thread releases it. */
static void drop(struct iovec_object *self)
{
	struct evpl_iovec iovec;

	if (!self->iovec.data)
		return;
	evpl_iovec_move(&iovec, &self->iovec);
	Py_BEGIN_ALLOW_THREADS
	evpl_iovec_release(&iovec);
	Py_END_ALLOW_THREADS
	self->pool->children--;
}

static void iovec_dealloc(PyObject *object)
{
	struct iovec_object *self = (struct iovec_object *)object;

	PyObject_GC_UnTrack(object);
	drop(self);
	Py_XDECREF((PyObject *)self->pool);
	object_free(object);
}

static int iovec_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT((PyObject *)((struct iovec_object *)object)->pool);
	return 0;
}

static int iovec_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
	struct iovec_object *self = (struct iovec_object *)object;

	view->obj = NULL;
	if (iovec_check(self) < 0)
		return -1;
	if (PyBuffer_FillInfo(view, object, self->iovec.data, self->iovec.length, self->readonly,
			      flags) < 0)
		return -1;
	self->exports++;
	return 0;
}

static void iovec_releasebuffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
	((struct iovec_object *)object)->exports--;
}

static Py_ssize_t iovec_length(PyObject *object)
{
	struct iovec_object *self = (struct iovec_object *)object;

	return iovec_check(self) < 0 ? -1 : (Py_ssize_t)self->iovec.length;
}

static PyObject *iovec_subscript(PyObject *object, PyObject *key)
{
	struct iovec_object *self = (struct iovec_object *)object;
	Py_ssize_t start, stop, step, length;
	struct evpl_iovec iovec;
	int err;

	if (!PyObject_TypeCheck(key, &PySlice_Type)) {
		PyErr_SetString(PyExc_TypeError, "an iovec has slices; a memoryview has bytes");
		return NULL;
	}
	if (PySlice_Unpack(key, &start, &stop, &step) < 0)
		return NULL;
	if (step != 1) {
		PyErr_SetString(PyExc_ValueError, "a slice of an iovec has no step");
		return NULL;
	}
	if (iovec_check(self) < 0)
		return NULL;
	length = PySlice_AdjustIndices(self->iovec.length, &start, &stop, step);
	err = evpl_iovec_clone_segment(&iovec, &self->iovec, start, length);
	return err ? raise_errno(err) : iovec_new(self->pool, &iovec, self->readonly);
}

static PyObject *iovec_repr(PyObject *object)
{
	struct iovec_object *self = (struct iovec_object *)object;

	if (!self->iovec.data)
		return PyUnicode_FromString("<evplmem.Iovec, released>");
	return PyUnicode_FromFormat("<evplmem.Iovec, %u %sbytes at %p>", self->iovec.length,
				    self->readonly ? "read-only " : "", self->iovec.data);
}

static PyObject *iovec_clone(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct iovec_object *self = (struct iovec_object *)object;
	struct evpl_iovec iovec;

	if (iovec_check(self) < 0)
		return NULL;
	evpl_iovec_clone(&iovec, &self->iovec);
	return iovec_new(self->pool, &iovec, self->readonly);
}

static PyObject *iovec_release(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct iovec_object *self = (struct iovec_object *)object;

	if (check_exports(self) < 0)
		return NULL;
	drop(self);
	return Py_NewRef(Py_None);
}

/* After an exception the traceback may have a buffer. The reference goes with the object then. */
static PyObject *iovec_exit(PyObject *object, PyObject *args)
{
	struct iovec_object *self = (struct iovec_object *)object;
	PyObject *type, *value, *traceback;

	if (!PyArg_ParseTuple(args, "OOO", &type, &value, &traceback))
		return NULL;
	if (type != Py_None && self->exports)
		return Py_NewRef(Py_None);
	return iovec_release(object, NULL);
}

static PyObject *iovec_is_unique(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct iovec_object *self = (struct iovec_object *)object;

	return iovec_check(self) < 0 ? NULL : PyBool_FromLong(evpl_iovec_is_unique(&self->iovec));
}

/*
 * Calls the library for a copy of the iovec without the GIL. The copy has a reference of its own,
 * as another thread may release the iovec meanwhile.
 */
static int call_for_copy(struct iovec_object *self,
			 int (*call)(const struct evpl_iovec *, unsigned int), unsigned int flags)
{
	struct evpl_iovec iovec;
	int ret;

	evpl_iovec_clone(&iovec, &self->iovec);
	Py_BEGIN_ALLOW_THREADS
	ret = call(&iovec, flags);
	evpl_iovec_release(&iovec);
	Py_END_ALLOW_THREADS
	return ret;
}

static int revoke_buffer(const struct evpl_iovec *iovec, unsigned int Py_UNUSED(flags))
{
	return evpl_iovec_revoke(iovec);
}

static PyObject *iovec_revoke(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct iovec_object *self = (struct iovec_object *)object;
	int ret;

	if (iovec_check(self) < 0 || pool_enter(self->pool) < 0)
		return NULL;
	ret = call_for_copy(self, revoke_buffer, 0);
	pool_leave(self->pool);
	return ret < 0 ? raise_errno(ret) : PyBool_FromLong(!ret);
}

static PyObject *iovec_wait(PyObject *object, PyObject *args, PyObject *kwargs)
{
	struct iovec_object *self = (struct iovec_object *)object;
	static char *names[] = { "blocking", NULL };
	int blocking = 1;
	int err;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", names, &blocking))
		return NULL;
	do {
		if (iovec_check(self) < 0 || pool_enter(self->pool) < 0)
			return NULL;
		err = call_for_copy(self, evpl_iovec_wait, blocking ? 0 : EVPL_IOVEC_TRY);
		pool_leave(self->pool);
	} while (err == -EINTR && PyErr_CheckSignals() == 0);
	if (PyErr_Occurred())
		return NULL;
	return err ? raise_errno(err) : Py_NewRef(Py_None);
}

static PyObject *iovec_get_address(PyObject *object, void *Py_UNUSED(closure))
{
	struct iovec_object *self = (struct iovec_object *)object;

	return iovec_check(self) < 0 ? NULL : PyLong_FromVoidPtr(self->iovec.data);
}

static PyObject *iovec_get_readonly(PyObject *object, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(((struct iovec_object *)object)->readonly);
}

static PyObject *iovec_get_released(PyObject *object, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(!((struct iovec_object *)object)->iovec.data);
}

static PyObject *iovec_get_pool(PyObject *object, void *Py_UNUSED(closure))
{
	return Py_NewRef((PyObject *)((struct iovec_object *)object)->pool);
}

static PyMethodDef iovec_methods[] = {
	METHOD("clone", iovec_clone, METH_NOARGS, "clone($self, /)\n--\n\n"
	       "Returns another iovec of the slice, with a reference of its own."),
	METHOD("release", iovec_release, METH_NOARGS, "release($self, /)\n--\n\n"
	       "Drops the reference. Raises BufferError while Python has a buffer of the memory."),
	METHOD("is_unique", iovec_is_unique, METH_NOARGS, "is_unique($self, /)\n--\n\n"
	       "Tells whether this is the only reference to the buffer."),
	METHOD("revoke", iovec_revoke, METH_NOARGS, "revoke($self, /)\n--\n\n"
	       "Takes the buffer back from all other processes. Returns False if a device of one of\n"
	       "them still has it; wait() then tells when that is over."),
	METHOD("wait", iovec_wait, METH_VARARGS | METH_KEYWORDS,
	       "wait($self, /, blocking=True)\n--\n\n"
	       "Waits until no other process has the buffer. If it isn't to block it raises\n"
	       "BlockingIOError."),
	METHOD("__enter__", object_enter, METH_NOARGS, "__enter__($self, /)\n--\n\n"
	       "Returns the iovec."),
	METHOD("__exit__", iovec_exit, METH_VARARGS, "__exit__($self, /, *error)\n--\n\n"
	       "Releases the iovec."),
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef iovec_getset[] = {
	{ "address", iovec_get_address, NULL, "The address of the first byte.", NULL },
	{ "readonly", iovec_get_readonly, NULL, "Whether the memory may not be written to.", NULL },
	{ "released", iovec_get_released, NULL, "Whether it has been released or sent.", NULL },
	{ "pool", iovec_get_pool, NULL, "The pool.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot iovec_slots[] = {
	{ Py_tp_doc, "A slice of a buffer, and one reference to it. It has the buffer protocol." },
	{ Py_tp_dealloc, iovec_dealloc },
	{ Py_tp_traverse, iovec_traverse },
	{ Py_tp_repr, iovec_repr },
	{ Py_tp_methods, iovec_methods },
	{ Py_tp_getset, iovec_getset },
	{ Py_mp_length, iovec_length },
	{ Py_mp_subscript, iovec_subscript },
	{ Py_bf_getbuffer, iovec_getbuffer },
	{ Py_bf_releasebuffer, iovec_releasebuffer },
	{ 0, NULL },
};

static PyType_Spec iovec_spec = {
	.name = "evplmem.Iovec",
	.basicsize = sizeof(struct iovec_object),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
		 Py_TPFLAGS_IMMUTABLETYPE,
	.slots = iovec_slots,
};

int iovec_add_type(PyObject *module)
{
	iovec_type = add_type(module, &iovec_spec);
	return iovec_type ? 0 : -1;
}
