// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Has mimalloc allocate in a buffer of evpl, and puts it under stress: threads allocate objects of
 * many sizes, exchange them, check what is in them, and free objects of each other. All objects are
 * in the buffer. Objects of other heaps aren't.
 *
 *	cc mimalloc.c $(pkg-config --cflags --libs libevplmem) -lmimalloc
 */
#include "arena.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 3, STEPS = 20000, SLOTS = 512, OWN = 64 };

/* The head of an object. The bytes behind it follow from both fields. */
struct object {
	size_t length;
	uint64_t seed;
};

static struct arena arena;
static _Atomic(struct object *) slots[SLOTS];	/* where threads exchange objects */
static atomic_ulong allocated, freed, from_others;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "mimalloc: %s: %s. %s\n", what, strerror(-ret), evpl_last_error());
	exit(1);
}

static void want(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "mimalloc: it isn't true that %s\n", what);
	exit(1);
}

static uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Most objects are small. One of 256 is large. */
static size_t draw_length(uint64_t *state)
{
	unsigned int bits = draw(state) % 256 ? 4 + draw(state) % 10 : 14 + draw(state) % 6;

	return sizeof(struct object) + draw(state) % (1UL << bits);
}

static unsigned char byte_of(const struct object *object, size_t i)
{
	return (unsigned char)((object->seed + i) * 31);
}

static struct object *make(mi_heap_t *heap, uint64_t *state)
{
	size_t length = draw_length(state), i;
	struct object *object = mi_heap_malloc(heap, length);

	want(object, "the arena has room for an object");
	want(arena_has(&arena, object, length), "an object is in the buffer");
	object->length = length;
	object->seed = draw(state);
	for (i = sizeof(*object); i < length; i++)
		((unsigned char *)object)[i] = byte_of(object, i);
	atomic_fetch_add(&allocated, 1);
	return object;
}

static void drop(struct object *object)
{
	size_t i;

	if (!object)
		return;
	for (i = sizeof(*object); i < object->length; i++)
		want(((unsigned char *)object)[i] == byte_of(object, i),
		     "an object has the bytes that were written to it");
	atomic_fetch_add(&freed, 1);
	mi_free(object);
}

/* A heap is its thread's own. Any thread may free the objects. */
static void *stress(void *arg)
{
	uint64_t state = 0x9e3779b97f4a7c15 * ((uintptr_t)arg + 1);
	mi_heap_t *heap = mi_heap_new_in_arena(arena.id);
	struct object *own[OWN] = { 0 }, *object;
	int i;

	want(heap, "a thread gets a heap in the arena");
	for (i = 0; i < STEPS; i++) {
		object = make(heap, &state);
		if (draw(&state) % 4) {
			drop(own[i % OWN]);
			own[i % OWN] = object;
			continue;
		}
		object = atomic_exchange(&slots[draw(&state) % SLOTS], object);
		if (object)
			atomic_fetch_add(&from_others, 1);
		drop(object);
	}
	/* Half of the thread's own objects outlive the thread, and its heap. */
	for (i = 0; i < OWN; i++)
		if (i % 2)
			drop(own[i]);
		else
			drop(atomic_exchange(&slots[draw(&state) % SLOTS], own[i]));
	return NULL;
}

static void run_threads(void)
{
	pthread_t threads[THREADS];
	uintptr_t round, i;

	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < THREADS; i++)
			check(-pthread_create(&threads[i], NULL, stress,
					      (void *)(round * THREADS + i)), "thread");
		for (i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
	}
	for (i = 0; i < SLOTS; i++)
		drop(atomic_exchange(&slots[i], NULL));
	want(atomic_load(&allocated) == atomic_load(&freed), "each object was freed");
	want(atomic_load(&from_others), "the threads exchanged objects");
}

/* When the buffer is full, mimalloc doesn't go elsewhere. After a free there is room again. */
static void fill(void)
{
	enum { LENGTH = 1 << 20, MOST = 4096 };
	mi_heap_t *heap = mi_heap_new_in_arena(arena.id);
	void *objects[MOST];
	size_t n = 0;

	want(heap, "the first thread gets a heap in the arena");
	while (n < MOST && (objects[n] = mi_heap_malloc(heap, LENGTH))) {
		want(arena_has(&arena, objects[n], LENGTH), "a large object is in the buffer");
		n++;
	}
	want(n >= arena.iovec.length / LENGTH / 2 && n <= arena.iovec.length / LENGTH,
	     "as many objects as fit are allocated");
	mi_free(objects[--n]);
	objects[n] = mi_heap_malloc(heap, LENGTH);
	want(objects[n], "there is room again after a free");
	do
		mi_free(objects[n]);
	while (n--);
	mi_heap_delete(heap);
}

/* An object is a slice of the buffer, which a channel, a ring or a socket can take. */
static void send_object(void)
{
	mi_heap_t *heap = mi_heap_new_in_arena(arena.id);
	char *text = mi_heap_strdup(heap, "hello");
	struct evpl_iovec slice;

	want(text, "a string is allocated");
	check(evpl_iovec_clone_segment(&slice, &arena.iovec,
				       (unsigned int)(text - (char *)arena.iovec.data), 6), "slice");
	want(slice.data == text && !strcmp(slice.data, "hello"), "the slice is the object");
	/* The reference keeps the buffer, not the object: mi_free() comes when the I/O is over. */
	evpl_iovec_release(&slice);
	mi_free(text);
	mi_heap_delete(heap);
}

int main(void)
{
	struct evpl_pool *pool;
	struct evpl *evpl;
	void *other;

	/* Each thread takes a segment of 32 MiB. */
	check(arena_pool_open(&pool, 4 * ARENA_MIN), "pool");
	check(evpl_create(&evpl, pool, NULL), "context");
	check(arena_create(&arena, evpl, true), "arena");
	other = mi_malloc(100);
	want(other && !arena_has(&arena, other, 1), "an object of another heap is elsewhere");
	mi_free(other);
	run_threads();
	fill();
	send_object();
	evpl_destroy(evpl);
	want(evpl_pool_close(pool) == -EBUSY, "the arena keeps its buffer");
	printf("%lu objects were in the buffer, of which %lu were freed by another thread or later.\n",
	       atomic_load(&allocated), atomic_load(&from_others));
	return 0;
}
