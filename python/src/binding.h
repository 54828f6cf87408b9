/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_BINDING_H
#define EVPLMEM_BINDING_H

/*
 * The objects of the extension module. They hold each other in one direction alone: an iovec or a
 * channel has a reference to its pool. So a cycle of references goes through an object that Python
 * can change, the __dict__ of a subclass, which the garbage collector can clear. The types have
 * tp_traverse therefore, and no tp_clear.
 *
 * The GIL guards all fields. A function that gives up the GIL for a call of the library first
 * counts itself in @busy of the object that the call uses, or takes the iovec out of its object, so
 * that no other thread ends what the call uses.
 *
 * The module uses the stable ABI of Python 3.11, the first one with the buffer protocol.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <evplmem.h>
#include <pthread.h>
#include <stdbool.h>

/**
 * struct pool - evplmem.Pool
 * @pool: the pool; NULL once it is closed
 * @evpl: the context that the pool's allocations share; NULL until the next one makes it
 * @lock: guards @evpl, and its users; taken without the GIL
 * @config: the configuration of @evpl
 * @buffer_size: bytes of a buffer
 * @children: the iovecs that aren't released, and the channels that aren't closed
 * @busy: threads that are in a call of the library for the pool
 * @forks: the value of forks() when the pool was opened
 */
struct pool {
	PyObject_HEAD
	struct evpl_pool *pool;
	struct evpl *evpl;
	pthread_mutex_t lock;
	struct evpl_config config;
	size_t buffer_size;
	size_t children;
	unsigned int busy;
	unsigned int forks;
};

/**
 * struct iovec_object - evplmem.Iovec
 * @pool: the pool, which the object keeps alive
 * @iovec: the slice and its reference; the data is NULL once it is released or sent
 * @readonly: whether this process may not write to the memory
 * @exports: buffers of Python that show the memory
 */
struct iovec_object {
	PyObject_HEAD
	struct pool *pool;
	struct evpl_iovec iovec;
	bool readonly;
	size_t exports;
};

extern PyTypeObject *pool_type;
extern PyTypeObject *iovec_type;
extern PyTypeObject *channel_type;

int pool_add_type(PyObject *module);
int iovec_add_type(PyObject *module);
int channel_add_type(PyObject *module);

/* How many times fork(2) has made this process a child of the one that loaded the module. */
unsigned int forks(void);

/* Raise OSError, with the message of the errno, or the library's own one. Return NULL. */
PyObject *raise_errno(int err);
PyObject *raise_reason(int err);

/*
 * Checks that the pool is open, and this process's, and counts this thread in. Returns 0, or -1
 * with an exception. pool_leave() counts it out.
 */
int pool_enter(struct pool *self);
void pool_leave(struct pool *self);

/* Makes the object of an iovec. The reference is the object's, or released after an error. */
PyObject *iovec_new(struct pool *pool, const struct evpl_iovec *iovec, bool readonly);

/* Checks that an iovec can be used. Returns 0, or -1 with an exception. */
int iovec_check(struct iovec_object *self);

/*
 * Checks that an iovec can be given away, and takes the reference out of the object. Returns 0, or
 * -1 with an exception. iovec_put_back() undoes it.
 */
int iovec_take(struct iovec_object *self, struct evpl_iovec *iovec);
void iovec_put_back(struct iovec_object *self, const struct evpl_iovec *iovec);

/* Converters for PyArg_ParseTuple(): an int of Python that fits, or OverflowError. */
int to_u64(PyObject *object, void *to);
int to_unsigned(PyObject *object, void *to);

/* Adds a type to the module. Returns the type, or NULL with an exception. */
PyTypeObject *add_type(PyObject *module, PyType_Spec *spec);

/* Adds a type of tuples with named fields to the module. */
PyTypeObject *add_tuple(PyObject *module, PyStructSequence_Desc *desc);

/* Makes such a tuple of numbers. */
PyObject *tuple_of_numbers(PyTypeObject *type, const uint64_t *numbers, int n);

/* Frees the memory of an object of a type of this module, as the end of tp_dealloc. */
void object_free(PyObject *self);

/* The __exit__() of an object is its close(). */
PyObject *object_enter(PyObject *self, PyObject *unused);

#define METHOD(name, function, flags, doc)	\
	{ name, (PyCFunction)(void (*)(void))(function), flags, doc }

#endif /* EVPLMEM_BINDING_H */
