/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_HOT_H
#define EVPLMEM_HOT_H

/*
 * The hot path of libevplmem, for evplmem.h alone: programs don't include this, and
 * nothing in it is theirs to use.
 *
 * What is here is compiled into programs, so it is as much a part of the ABI as the
 * exported functions are: a library that lays these structs out otherwise, or means
 * something else by them, has another soname.
 *
 * A buffer's references are counted in its word, with atomics. The library can hand a
 * part of them to a thread: that counts in @own what it adds and lets go of, without
 * any. A context that is bound to a thread likewise has a charge of references that
 * its slices get. Both belong to the thread only while @owner, or @thread, says so,
 * and that another thread may end. So it looks at them in a section, between setting
 * its @busy and clearing it. Who ends it clears @owner or @thread, has every thread of
 * the process pass a barrier (membarrier(2)), then waits until the section is over:
 * a section that began before the barrier is seen, one that begins after it sees the
 * change. So a section needs no atomic operation and no fence.
 *
 * A section calls nothing, and touches nothing that can fault: whoever waits for it
 * would wait for ever.
 */

#include <stdint.h>

/**
 * struct evplmem_thread - what the library knows of a thread
 * @busy: 1 in a section
 * @generation: of which process its iovecs are; %EVPLMEM_NO_GENERATION while it counts
 *	nothing by itself
 */
struct evplmem_thread {
	uint32_t busy;
	uint32_t generation;
};

#define EVPLMEM_NO_GENERATION 1U

extern __thread struct evplmem_thread evplmem_thread
	__attribute__((tls_model("initial-exec"), visibility("default")));

/*
 * This thread's. Not for the compiler to compare with NULL, as -fsanitize=null does: GCC 12
 * takes the flags of an addition that the linker may replace by one that sets none.
 */
static inline struct evplmem_thread *evplmem_self(void)
{
	struct evplmem_thread *thread = &evplmem_thread;

	__asm__("" : "+r"(thread));
	return thread;
}

/**
 * struct evplmem_count - how a buffer's entry begins
 * @word: its references, and those that @own and a context's charge stand for
 * @owner: the thread that may count in @own, or NULL
 * @own: references that @owner has, and nobody uses
 */
struct evplmem_count {
	uint64_t word;
	struct evplmem_thread *owner;
	uint32_t own;
};

/* All slices start at a multiple of this. */
#define EVPLMEM_SLICE_ALIGN 8U

/**
 * struct evplmem_context - how a context begins
 * @thread: the thread that it is bound to, or NULL
 * @base: where the buffer starts that slices are cut off
 * @buffer: that buffer's entry
 * @place: how far it has been cut, a multiple of EVPLMEM_SLICE_ALIGN, and in the upper half
 *	the charge: in one word, since two that a compiler stores as a vector are slow to
 *	load again
 * @limit: bytes of that buffer; 0: none may be cut here
 * @generation: what iovecs get
 */
struct evplmem_context {
	struct evplmem_thread *thread;
	char *base;
	struct evplmem_count *buffer;
	uint64_t place;
	uint32_t limit;
	uint32_t generation;
};

#define EVPLMEM_CHARGE (1ULL << 32)	/* one reference of it */

/* A section of this thread begins, or ends. */
static inline void evplmem_enter(struct evplmem_thread *thread)
{
	__atomic_store_n(&thread->busy, 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void evplmem_leave(struct evplmem_thread *thread)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&thread->busy, 0, __ATOMIC_RELEASE);
}

/* By way of nothing: no compiler is to warn that some iovec's may be NULL. */
static inline struct evplmem_count *evplmem_count(unsigned long buffer)
{
	__asm__("" : "+r"(buffer));
	return (struct evplmem_count *)buffer;
}

/*
 * Where a program is built for ThreadSanitizer and the library isn't, the sanitizer doesn't
 * see the counts that order the threads which have a buffer one after the other. So the
 * inlines tell it that a release comes before the allocations of the same buffer that follow.
 * And they leave the counting to the library, as the sanitizer would see the inlines' half of
 * it alone. A program whose library is built for ThreadSanitizer too is compiled with
 * -DEVPLMEM_TSAN=0.
 */
#ifndef EVPLMEM_TSAN
#ifdef __SANITIZE_THREAD__
#define EVPLMEM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EVPLMEM_TSAN 1
#endif
#endif
#ifndef EVPLMEM_TSAN
#define EVPLMEM_TSAN 0
#endif
#endif

#if EVPLMEM_TSAN
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#endif

static inline void evplmem_tsan_acquire(unsigned long buffer)
{
#if EVPLMEM_TSAN
	__tsan_acquire((void *)buffer);
#else
	(void)buffer;
#endif
}

static inline void evplmem_tsan_release(unsigned long buffer)
{
#if EVPLMEM_TSAN
	__tsan_release((void *)buffer);
#else
	(void)buffer;
#endif
}

/*
 * One reference more, or less, of the buffer that the private fields of an iovec name.
 * Return 0 where the library has to do it.
 */
static inline int evplmem_get(unsigned int generation, unsigned long buffer)
{
	struct evplmem_count *count = evplmem_count(buffer);
	struct evplmem_thread *thread = evplmem_self();
	int ok = 0;

	if (EVPLMEM_TSAN || __builtin_expect(generation != thread->generation, 0))
		return 0;
	evplmem_enter(thread);
	if (__builtin_expect(__atomic_load_n(&count->owner, __ATOMIC_RELAXED) == thread, 1)) {
		/* One is left, so that the word isn't zero. */
		if (__builtin_expect(--count->own != 0, 1))
			ok = 1;
		else
			count->own = 1;
	}
	evplmem_leave(thread);
	return ok;
}

static inline int evplmem_put(unsigned int generation, unsigned long buffer)
{
	struct evplmem_count *count = evplmem_count(buffer);
	struct evplmem_thread *thread = evplmem_self();
	int ok = 0;

	evplmem_tsan_release(buffer);
	if (EVPLMEM_TSAN || __builtin_expect(generation != thread->generation, 0))
		return 0;
	evplmem_enter(thread);
	if (__builtin_expect(__atomic_load_n(&count->owner, __ATOMIC_RELAXED) == thread, 1)) {
		count->own++;
		ok = 1;
	}
	evplmem_leave(thread);
	return ok;
}

/**
 * struct evplmem_slice - what evplmem_cut() has cut off
 * @data: its first byte; NULL if the library has to do it
 * @buffer: its buffer
 * @generation: what its iovec gets
 */
struct evplmem_slice {
	char *data;
	struct evplmem_count *buffer;
	unsigned int generation;
};

static inline struct evplmem_slice evplmem_cut(struct evplmem_context *context,
					       unsigned int length, unsigned int alignment)
{
	struct evplmem_thread *thread = evplmem_self();
	struct evplmem_slice slice = { 0, 0, thread->generation };
	uint64_t mask = alignment > EVPLMEM_SLICE_ALIGN ? alignment - 1 : 0;
	uint64_t least = EVPLMEM_SLICE_ALIGN - 1, bytes = (length + least) & ~least;
	uint64_t place, start, next;

	if (EVPLMEM_TSAN || __builtin_expect(slice.generation != context->generation, 0) ||
	    __builtin_expect(!length, 0) || (alignment & (unsigned int)((long)alignment - 1)))
		return slice;
	evplmem_enter(thread);
	if (__builtin_expect(__atomic_load_n(&context->thread, __ATOMIC_RELAXED) == thread, 1)) {
		place = context->place;
		start = ((uint32_t)place + mask) & ~mask;
		next = start + bytes;
		/* The last slice ends more than itself. */
		if (__builtin_expect(next < context->limit, 1) && alignment <= context->limit) {
			context->place = place - (uint32_t)place + next - EVPLMEM_CHARGE;
			slice.data = context->base + start;
			slice.buffer = context->buffer;
		}
	}
	evplmem_leave(thread);
	return slice;
}

#endif /* EVPLMEM_HOT_H */
