// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * The table of the program's references: see sites.h and common/sites.h.
 *
 * One lock guards the table. It is the innermost one, and tracing is for looking for leaks, so it
 * need not be fast.
 */
#include "sites.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../common/sites.h"
#include "cancel.h"
#include "foreign.h"
#include "lane.h"
#include "slab.h"

/* Weak: a program that is linked with libc.a may not have it. */
__attribute__((weak)) __typeof__(dladdr) dladdr;

/* The first bit of a reference's number, which is its index + 1, in an iovec's @__private1. */
#define NUMBER_SHIFT	8
/* Of a reference that isn't in the table. */
#define NO_NUMBER	(UINT32_MAX >> NUMBER_SHIFT)
/* The generation of a process that is traced is less than this. */
#define GENERATIONS	(1U << NUMBER_SHIFT)

_Static_assert(SITES_REFS_MAX < NO_NUMBER, "an iovec has room for each number");

/* Places in the hash table of sites. */
#define BUCKETS		(2 * SITES_MAX)

/* Sites that a report has at most. */
#define REPORT_MAX	20

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* NULL: the process isn't traced. It changes only when the first pool is opened, and in a child. */
static struct sites_table *_Atomic traced;

/* The generation (fork.h) of the process that has looked at EVPL_TRACE. Under @lock. */
static uint32_t asked;

/* Under @lock: index + 1 of the first free reference, or 0; sites by their hash; pools so far. */
static uint32_t free_refs;
static uint16_t buckets[BUCKETS];
static uint32_t nr_pools;

static struct sites_table *table_of_process(void)
{
	return atomic_load_explicit(&traced, memory_order_acquire);
}

bool sites_are_traced(void)
{
	return table_of_process();
}

bool is_inherited_traced(uint32_t generation)
{
	return !table_of_process() ||
	       (generation & (GENERATIONS - 1) & -GENERATION_STEP) != fork_generation;
}

/*
 * Makes the table. A child of fork(2) doesn't get the mapping, so it doesn't write its parent's
 * table. Other processes can map the memfd, and neither write nor resize it.
 */
static struct sites_table *make_table(void)
{
	int fd = memfd_create(SITES_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct sites_table *table = MAP_FAILED;

	if (fd < 0)
		return NULL;
	if (!ftruncate(fd, sizeof(*table)))
		table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (table == MAP_FAILED) {
		close(fd);
		return NULL;
	}
	madvise(table, sizeof(*table), MADV_DONTFORK);
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
	table->header = (struct sites_header){
		.magic = SITES_MAGIC,
		.version = SITES_VERSION,
		.pid = (uint32_t)getpid(),
		.nr_sites = 1,
	};
	return table;
}

/* Begins to trace if EVPL_TRACE asks for it, and this is the first pool of the process. */
void sites_set_up(void)
{
	const char *env = getenv("EVPL_TRACE");
	struct sites_table *table;

	pthread_mutex_lock(&lock);
	if (asked != fork_generation) {
		asked = fork_generation;
		if (env && *env && strcmp(env, "0")) {
			table = fork_generation < GENERATIONS ? make_table() : NULL;
			if (!table)
				dprintf(STDERR_FILENO, "evplmem: EVPL_TRACE is ignored, as its "
					"table can't be made: %s\n", strerror(errno));
			atomic_store(&traced, table);
		}
	}
	pthread_mutex_unlock(&lock);
}

/* In the child of fork(2): the table is its parent's. */
void sites_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	atomic_store(&traced, NULL);
	free_refs = 0;
	nr_pools = 0;
	memset(buckets, 0, sizeof(buckets));
}

/* A pool is being opened. If the process is traced, no context is to be bound to a thread. */
void sites_open_pool(struct evpl_pool *pool)
{
	pool->number = 0;
	if (!table_of_process())
		return;
	pthread_mutex_lock(&lock);
	pool->number = ++nr_pools;
	pthread_mutex_unlock(&lock);
	pool->generation = fork_generation | NO_NUMBER << NUMBER_SHIFT;
	pool->atomic = true;
}

/* The end of the calling thread's stack; 0 if it can't be known. */
static uintptr_t stack_end(void)
{
	static __thread uintptr_t end;
	pthread_attr_t attr;
	size_t size;
	void *low;

	if (end)
		return end == 1 ? 0 : end;
	end = 1;
	if (!pthread_getattr_np(pthread_self(), &attr)) {
		if (!pthread_attr_getstack(&attr, &low, &size))
			end = (uintptr_t)low + size;
		pthread_attr_destroy(&attr);
	}
	return end == 1 ? 0 : end;
}

/* Whether an address is in a program or library that is loaded. */
static bool is_loaded(const void *address)
{
	Dl_info info;

	return !dladdr || dladdr(address, &info);
}

/*
 * Follows the frame pointers. A function that was built without them passes on a frame pointer of
 * another function, or some number. So each one must be in the stack, above the one before, and each
 * return address must be in code. The sanitizers don't know that this reads other functions'
 * frames.
 */
__attribute__((no_sanitize("address", "thread", "undefined")))
static void follow(struct place place, struct sites_site *site)
{
	uintptr_t frame = (uintptr_t)place.frame, below = (uintptr_t)&place;
	uintptr_t end = stack_end();
	unsigned int n = 0;
	void **words;

	memset(site, 0, sizeof(*site));
	site->frames[n++] = (uintptr_t)place.caller;
	while (n < SITES_FRAMES && frame % sizeof(void *) == 0 && frame > below &&
	       frame < end && end - frame >= 2 * sizeof(void *)) {
		words = (void **)frame;
		if (!words[1] || !is_loaded(words[1]))
			break;
		site->frames[n++] = (uintptr_t)words[1];
		below = frame;
		frame = (uintptr_t)words[0];
	}
}

/* The number of a site, which may be a new one; 0 if there is no room for it. Under the lock. */
static uint32_t find_site(struct sites_table *table, const struct sites_site *site)
{
	uint32_t i, n = table->header.nr_sites;
	uint64_t hash = 0;

	for (i = 0; i < SITES_FRAMES; i++)
		hash = (hash ^ site->frames[i]) * 0x9e3779b97f4a7c15ULL;
	for (i = (uint32_t)(hash >> 32) % BUCKETS; buckets[i]; i = (i + 1) % BUCKETS)
		if (!memcmp(&table->sites[buckets[i]], site, sizeof(*site)))
			return buckets[i];
	if (n >= SITES_MAX)
		return 0;
	table->sites[n] = *site;
	table->header.nr_sites = n + 1;
	buckets[i] = (uint16_t)n;
	return n;
}

/* Takes a free reference of the table. Returns its number, or NO_NUMBER. Under the lock. */
static uint32_t take_ref(struct sites_table *table)
{
	uint32_t number = free_refs;

	if (number) {
		free_refs = table->refs[number - 1].next;
		return number;
	}
	if (table->header.nr_refs < SITES_REFS_MAX)
		return ++table->header.nr_refs;
	table->header.lost++;
	return NO_NUMBER;
}

static void free_ref(struct sites_table *table, uint32_t number)
{
	table->refs[number - 1] = (struct sites_ref){ .next = free_refs };
	free_refs = number;
}

/* The reference of an iovec, or NULL if the table has none. Under the lock. */
static struct sites_ref *find_ref(struct sites_table *table, const struct evpl_iovec *iovec)
{
	uint32_t number = iovec->__private1 >> NUMBER_SHIFT;
	struct sites_ref *ref;

	if (!number || number > table->header.nr_refs)
		return NULL;
	/* The program may have released this iovec already, and another one have the number. */
	ref = &table->refs[number - 1];
	return ref->used && ref->buffer == iovec->__private2 ? ref : NULL;
}

/* Fills in a reference that isn't yet in the table. */
static void describe(const struct evpl_iovec *iovec, struct sites_ref *ref)
{
	struct entry *entry = iovec_entry(iovec);
	struct evpl_pool *pool = NULL;

	*ref = (struct sites_ref){
		.used = 1,
		.length = iovec->length,
		.size = iovec->length,
		.buffer = iovec->__private2,
	};
	if (entry->slab) {
		pool = entry->slab->pool;
		ref->size = (uint32_t)pool->buffer_size;
	} else if (entry_is_grant(entry)) {
		pool = entry_grant(entry)->pool;
		ref->size = entry_grant(entry)->size;
	} else if (!entry_is_foreign(entry)) {
		pool = entry_lease(entry)->pool;
		ref->size = 1U << entry_lease(entry)->buffer_shift;
	}
	if (pool)
		ref->pool = pool->number;
}

/* The program has got the references of @iovecs, by an exported function. */
void sites_add(struct evpl_iovec *iovecs, int n, struct place place)
{
	struct sites_table *table = table_of_process();
	struct sites_site site;
	struct sites_ref ref;
	uint32_t number;
	NO_CANCELLATION;
	int i;

	follow(place, &site);
	for (i = 0; i < n; i++) {
		if (!iovecs[i].__private2)
			continue;
		describe(&iovecs[i], &ref);
		pthread_mutex_lock(&lock);
		number = take_ref(table);
		if (number != NO_NUMBER) {
			ref.site = find_site(table, &site);
			table->refs[number - 1] = ref;
		}
		pthread_mutex_unlock(&lock);
		iovecs[i].__private1 &= GENERATIONS - 1;
		iovecs[i].__private1 |= number << NUMBER_SHIFT;
	}
}

/* Adds a reference to that of an iovec, unless the iovec was inherited: then this returns false. */
bool sites_addref(const struct evpl_iovec *iovec, struct place place)
{
	struct sites_table *table = table_of_process();
	struct sites_ref *first, *last;
	struct sites_site site;
	uint32_t number;
	NO_CANCELLATION;

	if (iovec_is_inherited(iovec))
		return false;
	follow(place, &site);
	pthread_mutex_lock(&lock);
	first = find_ref(table, iovec);
	number = first ? take_ref(table) : NO_NUMBER;
	if (number != NO_NUMBER) {
		last = first->last ? &table->refs[first->last - 1] : first;
		table->refs[number - 1] = (struct sites_ref){
			.used = 1,
			.site = find_site(table, &site),
			.pool = first->pool,
			.length = iovec->length,
			.size = first->size,
			.buffer = first->buffer,
		};
		last->next = number;
		first->last = number;
	}
	pthread_mutex_unlock(&lock);
	return true;
}

/*
 * The program is losing a reference of an iovec: if there are several, the one that was taken first.
 * Returns false, and does nothing, if the iovec was inherited. This doesn't look at the buffer's
 * entry, which may be gone.
 */
bool sites_drop(const struct evpl_iovec *iovec)
{
	struct sites_table *table = table_of_process();
	struct sites_ref *ref;
	uint32_t next, last;

	if (!iovec->__private2 || iovec_is_inherited(iovec))
		return false;
	pthread_mutex_lock(&lock);
	ref = find_ref(table, iovec);
	if (ref && ref->next) {
		next = ref->next;
		last = ref->last;
		*ref = table->refs[next - 1];
		ref->last = ref->next ? last : 0;
		free_ref(table, next);
	} else if (ref) {
		free_ref(table, (uint32_t)(ref - table->refs) + 1);
	}
	pthread_mutex_unlock(&lock);
	return true;
}

/* A reservation was committed. */
void sites_shorten(const struct evpl_iovec *iovec)
{
	struct sites_table *table = table_of_process();
	struct sites_ref *ref;

	pthread_mutex_lock(&lock);
	ref = find_ref(table, iovec);
	if (ref)
		ref->length = iovec->length;
	pthread_mutex_unlock(&lock);
}

/* Copies the references of a pool, or of all. Returns how many, with @r_refs for free(3). */
static uint32_t copy_refs(struct sites_table *table, uint32_t pool, struct sites_ref **r_refs)
{
	struct sites_ref *refs;
	uint32_t i, n = 0;

	pthread_mutex_lock(&lock);
	refs = malloc((table->header.nr_refs + 1) * sizeof(*refs));
	for (i = 0; refs && i < table->header.nr_refs; i++)
		if (table->refs[i].used && (!pool || table->refs[i].pool == pool))
			refs[n++] = table->refs[i];
	pthread_mutex_unlock(&lock);
	*r_refs = refs;
	return n;
}

/* Prints a return address as a place in a file, as addr2line(1) takes it, and as a function. */
static void print_frame(uint64_t address)
{
	Dl_info info = { 0 };

	if (!dladdr || !dladdr((void *)(uintptr_t)address, &info) || !info.dli_fname) {
		dprintf(STDERR_FILENO, "evplmem:     at 0x%llx\n", (unsigned long long)address);
		return;
	}
	dprintf(STDERR_FILENO, "evplmem:     at %s+0x%llx", info.dli_fname,
		(unsigned long long)(address - (uintptr_t)info.dli_fbase));
	if (info.dli_sname)
		dprintf(STDERR_FILENO, " (%s)", info.dli_sname);
	dprintf(STDERR_FILENO, "\n");
}

static const char *s(uint32_t n)
{
	return n == 1 ? "" : "s";
}

static void print_sum(const struct sites_table *table, const struct sites_sum *sum)
{
	const struct sites_site *site = &table->sites[sum->site];
	unsigned int i;

	dprintf(STDERR_FILENO, "evplmem:   %u reference%s of %llu bytes, pinning %u buffer%s of %llu",
		sum->refs, s(sum->refs), (unsigned long long)sum->bytes, sum->buffers,
		s(sum->buffers), (unsigned long long)sum->pinned);
	if (sites_amplification(sum) > 1)
		dprintf(STDERR_FILENO, ": %llu times as much",
			(unsigned long long)sites_amplification(sum));
	dprintf(STDERR_FILENO, "\n");
	for (i = 0; i < SITES_FRAMES && site->frames[i]; i++)
		print_frame(site->frames[i]);
	if (!i)
		dprintf(STDERR_FILENO, "evplmem:     at sites that found no room\n");
}

/* Says on stderr which sites hold references: of a pool, or with 0 of all. */
static void report(struct sites_table *table, uint32_t pool, const char *when)
{
	struct sites_sum *sums = malloc(SITES_MAX * sizeof(*sums));
	struct sites_ref *refs;
	uint32_t i, n, nr = 0;

	n = copy_refs(table, pool, &refs);
	if (sums && refs)
		nr = sites_sum_up(refs, n, sums);
	if (nr) {
		dprintf(STDERR_FILENO, "evplmem: %s: the program has %u reference%s left, taken here:\n",
			when, n, s(n));
		for (i = 0; i < nr && i < REPORT_MAX; i++)
			print_sum(table, &sums[i]);
		if (nr > REPORT_MAX)
			dprintf(STDERR_FILENO, "evplmem:   and at %u more sites\n",
				nr - REPORT_MAX);
		if (table->header.lost)
			dprintf(STDERR_FILENO, "evplmem: %llu more references found no room in "
				"the table\n", (unsigned long long)table->header.lost);
	} else if (pool) {
		dprintf(STDERR_FILENO, "evplmem: %s: the pool is in use, though the program has "
			"no reference of it. A context or a device may be left, or other "
			"processes may have its buffers.\n", when);
	}
	free(refs);
	free(sums);
}

/* evpl_pool_close() of a traced pool has failed. */
void sites_report_pool(const struct evpl_pool *pool)
{
	NO_CANCELLATION;

	report(table_of_process(), pool->number, "evpl_pool_close()");
}

__attribute__((destructor)) static void report_at_exit(void)
{
	struct sites_table *table = table_of_process();

	if (table)
		report(table, 0, "at exit");
}
