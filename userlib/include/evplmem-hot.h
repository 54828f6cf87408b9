/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_HOT_H
#define EVPLMEM_HOT_H

/*
 * The hot path of libevplmem, for evplmem.h alone: programs don't include this file, and
 * use nothing in it.
 *
 * This code is compiled into programs, so it is as much a part of the ABI as the exported
 * functions are. A library that changes the layout or the meaning of these structs needs
 * another soname.
 *
 * A buffer's references are counted in its word, with atomics. The library can give a part
 * of the count to one thread, the buffer's @owner. The owner takes references from @spare and
 * returns references to @spare, without atomics. Likewise a context that is bound to a thread
 * has a credit: references that the word counts already, of which each new slice gets one.
 *
 * @spare belongs to the thread only while @owner names it, and the credit only while @thread
 * names it. Another thread may end either at any time. So the thread reads @owner or @thread
 * and changes the count in one section: it sets @busy before, and clears it afterwards. The
 * thread that ends the binding
 *
 *  1. sets @owner or @thread to NULL,
 *  2. has every thread of the process execute a memory barrier (membarrier(2)),
 *  3. waits until @busy isn't set.
 *
 * If the section began before the barrier, step 3 sees @busy. If it began after the barrier,
 * the section sees NULL. So a section needs no locked instruction and no fence.
 *
 * A section calls nothing, and touches no memory that can fault: step 3 would wait for ever.
 */

#include <stdint.h>

/**
 * struct evplmem_thread - what the library knows of a thread
 * @busy: 1 in a section
 * @generation: the generation (fork.h) of the iovecs that the thread may count without the
 *	library; %EVPLMEM_NO_GENERATION: none, as no context was ever bound to the thread
 */
struct evplmem_thread {
	uint32_t busy;
	uint32_t generation;
};

#define EVPLMEM_NO_GENERATION 1U

extern __thread struct evplmem_thread evplmem_thread
	__attribute__((tls_model("initial-exec"), visibility("default")));

/*
 * The calling thread's struct. The asm keeps the compiler from comparing the address with
 * NULL, as -fsanitize=null does: GCC 12 takes the CPU flags from the addition that computes
 * the address, which the linker may replace by an instruction that sets no flags.
 */
static inline struct evplmem_thread *evplmem_self(void)
{
	struct evplmem_thread *thread = &evplmem_thread;

	__asm__("" : "+r"(thread));
	return thread;
}

/**
 * struct evplmem_count - how a buffer's entry begins
 * @word: the buffer's references, including those in @spare and in a context's credit
 * @owner: the thread that may count in @spare, or NULL
 * @spare: references that @owner can give out, and that nobody uses
 */
struct evplmem_count {
	uint64_t word;
	struct evplmem_thread *owner;
	uint32_t spare;
};

/* All slices start at a multiple of this. */
#define EVPLMEM_SLICE_ALIGN 8U

/**
 * struct evplmem_context - how a context begins
 * @thread: the thread that the context is bound to, or NULL
 * @base: the first byte of the current buffer, which slices are cut off
 * @buffer: the current buffer's entry
 * @place: lower half: the offset of the next slice, a multiple of EVPLMEM_SLICE_ALIGN; upper
 *	half: the credit. They are one word because a compiler may store two fields as one
 *	vector, and such fields are slow to load again.
 * @limit: bytes of the current buffer; 0: the inlines may not cut slices off it
 * @generation: the generation that iovecs get
 */
struct evplmem_context {
	struct evplmem_thread *thread;
	char *base;
	struct evplmem_count *buffer;
	uint64_t place;
	uint32_t limit;
	uint32_t generation;
};

#define EVPLMEM_CREDIT (1ULL << 32)	/* one reference of it */

/*
 * Begins a section of the calling thread. The fence stops the compiler alone. The CPU may still
 * load @owner or @thread before it stores @busy: the membarrier(2) of step 2 closes that race.
 */
static inline void evplmem_enter(struct evplmem_thread *thread)
{
	__atomic_store_n(&thread->busy, 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Ends the section. Release: the thread of step 3 then sees what the section has counted. */
static inline void evplmem_leave(struct evplmem_thread *thread)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&thread->busy, 0, __ATOMIC_RELEASE);
}

/* The asm hides the value: no compiler is to warn that an empty iovec's buffer is NULL. */
static inline struct evplmem_count *evplmem_count(unsigned long buffer)
{
	__asm__("" : "+r"(buffer));
	return (struct evplmem_count *)buffer;
}

/*
 * If a program is built for ThreadSanitizer and the library isn't, the sanitizer doesn't see
 * the reference counts, which order the threads that use a buffer one after the other. So the
 * inlines tell it that each release of a buffer happens before the buffer's next allocation.
 * They leave the counting to the library, as the sanitizer would see only their half of it.
 * A program whose library is built for ThreadSanitizer too is compiled with -DEVPLMEM_TSAN=0.
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
 * Take and drop a reference on the buffer that an iovec's private fields name. Both return 0
 * if the library has to do it.
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
		/* Keep one: a release elsewhere must not take the word of our buffer to zero. */
		if (__builtin_expect(--count->spare != 0, 1))
			ok = 1;
		else
			count->spare = 1;
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
		count->spare++;
		ok = 1;
	}
	evplmem_leave(thread);
	return ok;
}

/**
 * struct evplmem_slice - a slice that evplmem_cut() has cut off
 * @data: the first byte; NULL: the library has to allocate the slice
 * @buffer: the slice's buffer
 * @generation: the generation that the iovec gets
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
		/* The library cuts a slice that uses the buffer up, since the hold ends with it. */
		if (__builtin_expect(next < context->limit, 1) && alignment <= context->limit) {
			context->place = place - (uint32_t)place + next - EVPLMEM_CREDIT;
			slice.data = context->base + start;
			slice.buffer = context->buffer;
		}
	}
	evplmem_leave(thread);
	return slice;
}

#endif /* EVPLMEM_HOT_H */
