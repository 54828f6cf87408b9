// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Puts all of the memory of a program that isn't changed into slabs: a malloc() to preload, over
 * mimalloc with buffers of evpl as its arenas (arena.h). When the arenas are full, it takes another
 * buffer. EVPL_ARENA_MIB says how long a buffer is; an object can be half as long. Each thread that
 * allocates takes a segment of an arena, which is 32 MiB.
 *
 *	cc -shared -fPIC -o preload.so preload.c $(pkg-config --cflags --libs libevplmem) -lmimalloc
 *	LD_PRELOAD=./preload.so redis-server --save ''
 *
 * A child of fork(2) would share its parent's heap, since slabs are shared memory. So fork(),
 * _Fork(), forkpty() and daemon() fail with ENOSYS, as on a machine without an MMU. A program starts
 * others by posix_spawn(3), vfork(2), system(3) or popen(3), which work.
 *
 * The library's own objects are from the C library's malloc(), as are those that the program
 * allocates when there is no pool. mimalloc exports strdup() and a few more such calls. If the
 * program makes one of these first, the object is outside of the arenas.
 */
#include "arena.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <pty.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARENAS	64
/* mimalloc doesn't align objects in an arena to more. */
#define ALIGNMENT_MAX	((size_t)16 << 20)

/* The C library's allocator, by the names that are left for a program with one of its own. */
void *__libc_malloc(size_t length);
void *__libc_calloc(size_t n, size_t length);
void *__libc_realloc(void *object, size_t length);
void *__libc_memalign(size_t alignment, size_t length);
void __libc_free(void *object);

size_t nallocx(size_t length, int flags);

static struct arena arenas[ARENAS];
static atomic_uint arenas_used;		/* those before it don't change any more */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct evpl *evpl;		/* guarded by lock, as bytes is until there is an arena */
static size_t bytes = (size_t)256 << 20;
static atomic_bool has_failed;		/* there is no pool, and won't be one */

/* The thread is in the library, and what it allocates belongs to the library. */
static __thread bool inside __attribute__((tls_model("initial-exec")));

/* Whether an object is one of mimalloc, and not of the C library. */
static bool is_ours(const void *object)
{
	unsigned int n = atomic_load_explicit(&arenas_used, memory_order_acquire), i;

	for (i = 0; i < n; i++)
		if (arena_has(&arenas[i], object, 0))
			return true;
	return object && mi_is_in_heap_region(object);
}

static int open_pool(void)
{
	const char *mib = getenv("EVPL_ARENA_MIB");
	struct evpl_pool *pool;
	int err;

	if (mib)
		bytes = (size_t)strtoul(mib, NULL, 10) << 20;
	err = arena_pool_open(&pool, bytes);
	if (err)
		return err;
	/* mimalloc takes no other memory, and makes no arenas of its own. */
	mi_option_enable(mi_option_limit_os_alloc);
#if MI_MALLOC_VERSION >= 212
	mi_option_set(mi_option_arena_reserve, 0);
#endif
	/* Version 2 uses the arenas for the first objects of a thread too. */
#if MI_MALLOC_VERSION < 300 || MI_MALLOC_VERSION / 10000 == 2
	mi_option_set(mi_option_eager_commit_delay, 0);
#endif
	return evpl_create(&evpl, pool, NULL);
}

/* Adds an arena. @seen is how many the caller has tried. Returns whether there are more now. */
static bool grow(unsigned int seen)
{
	unsigned int n;
	int err = 0;

	if (atomic_load(&has_failed))
		return false;
	inside = true;
	pthread_mutex_lock(&lock);
	n = atomic_load(&arenas_used);
	if (n == seen && n < ARENAS && !atomic_load(&has_failed)) {
		err = evpl ? 0 : open_pool();
		if (!err)
			err = arena_create(&arenas[n], evpl, false);
		if (!err)
			atomic_store(&arenas_used, ++n);
		/* Without a first arena the program goes on with the C library's malloc(). */
		else if (!seen)
			atomic_store(&has_failed, true);
	}
	pthread_mutex_unlock(&lock);
	if (err && !seen)
		fprintf(stderr, "evpl: No memory for the program: %s. %s\n", strerror(-err),
			evpl_last_error());
	inside = false;
	return n > seen;
}

/* Whether the caller is the program, and the program has arenas. */
static bool is_ready(void)
{
	return !inside && (atomic_load_explicit(&arenas_used, memory_order_acquire) || grow(0));
}

/* mimalloc's CALL, again with more arenas if there is no room, and as ENOMEM in the end. */
#define WITH_ROOM(length, call) ({						\
	unsigned int tried;							\
	void *made;								\
										\
	do {									\
		tried = atomic_load(&arenas_used);				\
		made = (call);							\
	} while (!made && (length) <= bytes / 2 && grow(tried));		\
	if (!made)								\
		errno = ENOMEM;							\
	made;									\
})

void *malloc(size_t length)
{
	if (!is_ready())
		return __libc_malloc(length);
	return WITH_ROOM(length, mi_malloc(length));
}

void *calloc(size_t n, size_t length)
{
	size_t all;

	if (!is_ready())
		return __libc_calloc(n, length);
	if (__builtin_mul_overflow(n, length, &all))
		all = SIZE_MAX;
	return WITH_ROOM(all, mi_calloc(n, length));
}

/* An object that the C library has made before there were arenas stays there. */
void *realloc(void *object, size_t length)
{
	if (object ? !is_ours(object) : !is_ready())
		return __libc_realloc(object, length);
	return WITH_ROOM(length, mi_realloc(object, length));
}

void free(void *object)
{
	if (is_ours(object))
		mi_free(object);
	else
		__libc_free(object);
}

void *memalign(size_t alignment, size_t length)
{
	size_t all;

	if (!is_ready())
		return __libc_memalign(alignment, length);
	if (!alignment || alignment & (alignment - 1)) {
		errno = EINVAL;
		return NULL;
	}
	/* The bytes before the first aligned address take room too. */
	if (alignment > ALIGNMENT_MAX || __builtin_add_overflow(alignment, length, &all))
		all = SIZE_MAX;
	return WITH_ROOM(all, mi_memalign(alignment, length));
}

void *aligned_alloc(size_t alignment, size_t length)
{
	return memalign(alignment, length);
}

int posix_memalign(void **r_object, size_t alignment, size_t length)
{
	int saved = errno;
	void *object;

	if (!alignment || alignment & (alignment - 1) || alignment % sizeof(void *))
		return EINVAL;
	object = memalign(alignment, length);
	errno = saved;
	if (!object)
		return ENOMEM;
	*r_object = object;
	return 0;
}

void *valloc(size_t length)
{
	return memalign((size_t)sysconf(_SC_PAGESIZE), length);
}

/* The C library's own malloc_usable_size(). mimalloc exports that name too. */
static size_t libc_usable_size(void *object)
{
	static size_t (*_Atomic usable_size)(void *object);
	size_t (*call)(void *object) = atomic_load(&usable_size);
	bool was_inside = inside;
	void *libc;

	if (!call) {
		inside = true;
		libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
		call = libc ? (size_t (*)(void *))dlsym(libc, "malloc_usable_size") : NULL;
		atomic_store(&usable_size, call);
		inside = was_inside;
	}
	return call ? call(object) : 0;
}

size_t malloc_usable_size(void *object)
{
	return is_ours(object) ? mi_usable_size(object) : libc_usable_size(object);
}

/* A program for jemalloc, as redis is, asks with it how many bytes malloc() would give. */
size_t nallocx(size_t length, int flags)
{
	(void)flags;
	return is_ready() ? mi_good_size(length) : length;
}

static int refused(void)
{
	errno = ENOSYS;
	return -1;
}

pid_t fork(void)
{
	return refused();
}

pid_t _Fork(void)
{
	return refused();
}

int forkpty(int *terminal, char *name, const struct termios *termios, const struct winsize *size)
{
	(void)terminal;
	(void)name;
	(void)termios;
	(void)size;
	return refused();
}

int daemon(int nochdir, int noclose)
{
	(void)nochdir;
	(void)noclose;
	return refused();
}
