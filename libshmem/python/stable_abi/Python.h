/* The part of CPython's stable ABI (PEP 384) that cffi's generated code calls, for machines that have Python but
 * not its headers (Debian's python3 without python3-dev). CPython keeps these signatures for all of Python 3, and
 * the extension built from them is the same abi3 binary as one built from the full headers. What is missing here
 * shows as a compile error, never as a wrong binary; the build takes the installed Python.h where there is one.
 *
 * Counting references goes through the functions Py_IncRef and Py_DecRef, so no object's layout is assumed. */
#ifndef SHMEM_STABLE_ABI_PYTHON_H
#define SHMEM_STABLE_ABI_PYTHON_H

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define PY_MAJOR_VERSION 3
#define PY_MINOR_VERSION 10
#define PY_VERSION_HEX 0x030A0000

typedef struct _object PyObject;
typedef struct _typeobject PyTypeObject;
typedef struct _ts PyThreadState;
typedef ssize_t Py_ssize_t;

#define PyMODINIT_FUNC __attribute__((visibility("default"))) PyObject *

extern PyObject _Py_NoneStruct;
#define Py_None (&_Py_NoneStruct)

void Py_IncRef(PyObject *object);
void Py_DecRef(PyObject *object);
#define Py_INCREF(object) Py_IncRef((PyObject *)(object))
#define Py_DECREF(object) Py_DecRef((PyObject *)(object))
#define Py_XDECREF(object) Py_DecRef((PyObject *)(object)) /* Py_DecRef takes NULL */

PyThreadState *PyEval_SaveThread(void);
void PyEval_RestoreThread(PyThreadState *state);
#define Py_BEGIN_ALLOW_THREADS                                                                               \
    {                                                                                                        \
        PyThreadState *_save = PyEval_SaveThread();
#define Py_END_ALLOW_THREADS                                                                                 \
    PyEval_RestoreThread(_save);                                                                             \
    }

__attribute__((noreturn)) void Py_FatalError(const char *message);
PyObject *PyErr_Occurred(void);
void PyErr_SetString(PyObject *type, const char *message);
PyObject *PyImport_ImportModule(const char *name);
PyObject *PyObject_CallMethod(PyObject *object, const char *method, const char *format, ...);
void *PyObject_Malloc(size_t size);
void PyObject_Free(void *block);
int PyArg_UnpackTuple(PyObject *args, const char *name, Py_ssize_t min, Py_ssize_t max, ...);
PyObject *PyBool_FromLong(long value);
PyObject *PyLong_FromLong(long value);
PyObject *PyLong_FromUnsignedLong(unsigned long value);
PyObject *PyLong_FromLongLong(long long value);
PyObject *PyLong_FromUnsignedLongLong(unsigned long long value);
PyObject *PyLong_FromVoidPtr(void *value);
long PyLong_AsLong(PyObject *object);
void *PyLong_AsVoidPtr(PyObject *object);
PyObject *PyFloat_FromDouble(double value);
double PyFloat_AsDouble(PyObject *object);

#endif
