// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The module evplmem._evplmem, and the helpers of its types.
 */
#include "binding.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

static unsigned int nr_forks;

unsigned int forks(void)
{
	return nr_forks;
}

static void in_child(void)
{
	nr_forks++;
}

PyObject *raise_errno(int err)
{
	errno = -err;
	return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *raise_reason(int err)
{
	const char *reason = evpl_last_error();
	PyObject *error;

	/* A path in it may be of any bytes. */
	error = PyObject_CallFunction(PyExc_OSError, "iN", -err,
				      PyUnicode_DecodeLocale(*reason ? reason : strerror(-err),
							     "surrogateescape"));
	if (error)
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(error);
	return NULL;
}

int to_u64(PyObject *object, void *to)
{
	PyObject *number = PyNumber_Index(object);
	unsigned long long value;

	if (!number)
		return 0;
	value = PyLong_AsUnsignedLongLong(number);
	Py_DECREF(number);
	if (PyErr_Occurred())
		return 0;
	*(uint64_t *)to = value;
	return 1;
}

int to_unsigned(PyObject *object, void *to)
{
	uint64_t value;

	if (!to_u64(object, &value))
		return 0;
	if (value > UINT_MAX) {
		PyErr_SetString(PyExc_OverflowError, "the number has more than 32 bits");
		return 0;
	}
	*(unsigned int *)to = value;
	return 1;
}

PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
	PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);

	if (type && PyModule_AddType(module, type) < 0)
		Py_CLEAR(type);
	return type;
}

PyTypeObject *add_tuple(PyObject *module, PyStructSequence_Desc *desc)
{
	PyTypeObject *type = PyStructSequence_NewType(desc);

	if (type && PyModule_AddType(module, type) < 0)
		Py_CLEAR(type);
	return type;
}

PyObject *tuple_of_numbers(PyTypeObject *type, const uint64_t *numbers, int n)
{
	PyObject *tuple = PyStructSequence_New(type);
	PyObject *number;
	int i;

	for (i = 0; tuple && i < n; i++) {
		number = PyLong_FromUnsignedLongLong(numbers[i]);
		if (number)
			PyStructSequence_SetItem(tuple, i, number);
		else
			Py_CLEAR(tuple);
	}
	return tuple;
}

void object_free(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	freefunc free_memory = (freefunc)PyType_GetSlot(type, Py_tp_free);

	free_memory(self);
	Py_DECREF(type);
}

PyObject *object_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
	return Py_NewRef(self);
}

static PyObject *version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
	unsigned int number = evplmem_version();

	return Py_BuildValue("(III)", number >> 16, number >> 8 & 0xff, number & 0xff);
}

static PyMethodDef methods[] = {
	METHOD("version", version, METH_NOARGS, "version($module, /)\n--\n\n"
	       "The version of the library: its major, minor and micro number."),
	{ NULL, NULL, 0, NULL },
};

static const struct {
	const char *name;
	int value;
} constants[] = {
	{ "BACKEND_MODULE", EVPL_BACKEND_MODULE },
	{ "BACKEND_ANON", EVPL_BACKEND_ANON },
	{ "MESSAGE_WRITE", EVPL_MESSAGE_WRITE },
	{ "MESSAGE_REVOKED", EVPL_MESSAGE_REVOKED },
	{ "MESSAGE_DEVICE", EVPL_MESSAGE_DEVICE },
	{ "MESSAGE_HELD", EVPL_MESSAGE_HELD },
	{ "CHANNEL_BLOCKING", EVPL_CHANNEL_BLOCKING },
	{ "CHANNEL_LANE", EVPL_CHANNEL_LANE },
	{ "CHANNEL_POLLING", EVPL_CHANNEL_POLLING },
	{ "ROOM_AMPLE", EVPL_ROOM_AMPLE },
	{ "ROOM_SCARCE", EVPL_ROOM_SCARCE },
	{ "ROOM_SHORT", EVPL_ROOM_SHORT },
	{ "CAP_POOL", EVPL_CAP_POOL },
	{ "CAP_USER", EVPL_CAP_USER },
	{ "CAP_SYSTEM", EVPL_CAP_SYSTEM },
	{ "CAP_MEMORY", EVPL_CAP_MEMORY },
	{ "NAME_MAX", EVPL_NAME_MAX },
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "evplmem._evplmem",
	.m_doc = "The types of evplmem that are in C.",
	.m_size = -1,
	.m_methods = methods,
};

/* Python finds the function by its name. */
PyMODINIT_FUNC PyInit__evplmem(void);

PyMODINIT_FUNC PyInit__evplmem(void)
{
	PyObject *module;
	size_t i;

	if (pthread_atfork(NULL, NULL, in_child))
		return PyErr_NoMemory();
	module = PyModule_Create(&definition);
	if (!module)
		return NULL;
	for (i = 0; i < sizeof(constants) / sizeof(constants[0]); i++)
		if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0)
			goto drop_module;
	if (pool_add_type(module) < 0 || iovec_add_type(module) < 0 || channel_add_type(module) < 0)
		goto drop_module;
	return module;

drop_module:
	Py_DECREF(module);
	return NULL;
}
