// SPDX-License-Identifier: GPL-2.0-only
/*
 * The keys of fdinfo that name clients and channels, and that say which client keeps which memory.
 * Documentation/fdinfo.md promises them. The tests of an object check the keys that count it.
 */
#include <sys/wait.h>
#include <time.h>

#include "pair.h"

/* The most clients that fdinfo lists, as Documentation/fdinfo.md says. */
#define LISTED	16

/* A client of the smallest kind that can lend: it has no window mapped but the entries. */
struct lender {
	int fd, ends[2];
	struct evpl_setup setup;
	struct evpl_entry *entries;
};

FIXTURE(fdinfo)
{
	PAIR;
	int pipe[2];
};

FIXTURE_SETUP(fdinfo)
{
	open_nonblocking_pair(_metadata, &self->pair, 0);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC | O_NONBLOCK));
}

FIXTURE_TEARDOWN(fdinfo)
{
	close(self->pipe[0]);
	close(self->pipe[1]);
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

static long long id_of(int fd)
{
	return fdinfo(fd, "evpl-client-id");
}

/*
 * Read the numbers that follow the id in the lines of this key with this id, or any if it is -1.
 * Return how many such lines there are; the numbers are those of the last one.
 */
static int lines_of(int fd, const char *key, long long id, unsigned long long numbers[3])
{
	unsigned long long in[4] = {};
	char path[64], line[256];
	int lines = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, key, strlen(key)) || line[strlen(key)] != ':' ||
		    sscanf(line + strlen(key) + 1, "%llu %llu %llu %llu", &in[0], &in[1], &in[2],
			   &in[3]) < 2 || (id != -1 && in[0] != id))
			continue;
		memcpy(numbers, &in[1], 3 * sizeof(*numbers));
		lines++;
	}
	if (file)
		fclose(file);
	return lines;
}

static bool only_line_of(int fd, const char *key, long long id, unsigned long long numbers[3])
{
	return lines_of(fd, key, id, numbers) == 1;
}

/* Whether debugfs lists a client that this process has opened, by its id. */
static bool is_listed(long long id)
{
	FILE *file = fopen("/sys/kernel/debug/evpl/clients", "re");
	bool listed = false;
	char line[256];
	long long last;
	int pid;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%d %*u %*u %*u %*u %*d %*d %lld", &pid, &last) == 2)
			listed |= pid == getpid() && last == id;
	if (file)
		fclose(file);
	return listed;
}

static unsigned long long boot_time(void)
{
	struct timespec time;

	clock_gettime(CLOCK_BOOTTIME, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

TEST_F(fdinfo, client_has_one_id_in_all_descriptors_and_no_other_client_has_it)
{
	long long owner = id_of(self->owner.fd), lessee = id_of(self->lessee.fd), later;
	int copy = dup(self->owner.fd), other, status;
	pid_t child;

	EXPECT_GT(owner, 0);
	EXPECT_GT(lessee, 0);
	EXPECT_NE(owner, lessee);
	EXPECT_EQ(owner, id_of(copy));
	close(copy);
	child = fork_child();
	if (!child)
		_exit(id_of(self->owner.fd) != owner);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);

	/* The id of a client that has gone isn't given again, and set-up doesn't change an id. */
	other = open(DEVICE, O_RDWR | O_CLOEXEC);
	later = id_of(other);
	EXPECT_GT(later, owner);
	EXPECT_GT(later, lessee);
	EXPECT_EQ(0, evpl_setup(other, BUFFER, &(struct evpl_setup){ }));
	EXPECT_EQ(later, id_of(other));
	close(other);
	other = open(DEVICE, O_RDWR | O_CLOEXEC);
	EXPECT_GT(id_of(other), later);
	close(other);
}

TEST_F(fdinfo, client_that_has_a_mapping_alone_is_listed_in_debugfs)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	long long id = id_of(fd);
	uint64_t offset;
	void *memory;

	ASSERT_EQ(0, evpl_setup(fd, BUFFER, &(struct evpl_setup){ }));
	ASSERT_EQ(0, evpl_slab_alloc(fd, SLAB_2M, &offset));
	memory = evpl_map(fd, SLAB_2M, offset);
	ASSERT_NE(MAP_FAILED, memory);
	close(fd);
	EXPECT_TRUE(is_listed(id));
	munmap(memory, SLAB_2M);
	EXPECT_FALSE(is_listed(id));
}

TEST_F(fdinfo, end_names_its_channel_its_client_and_the_other_one)
{
	long long channel = fdinfo(self->ends[0], "evpl-channel-id");
	int ends[2];

	EXPECT_GT(channel, 0);
	EXPECT_EQ(channel, fdinfo(self->ends[1], "evpl-channel-id"));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(i, fdinfo(self->ends[i], "evpl-end"));
		EXPECT_EQ(id_of(i ? self->lessee.fd : self->owner.fd), id_of(self->ends[i]));
		EXPECT_EQ(id_of(self->ends[i]), fdinfo(self->ends[!i], "evpl-peer-client-id"));
	}

	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	EXPECT_NE(channel, fdinfo(ends[0], "evpl-channel-id"));
	EXPECT_EQ(0, id_of(ends[0]));
	EXPECT_EQ(0, fdinfo(ends[0], "evpl-peer-client-id"));
	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(0, id_of(ends[0]));
	EXPECT_EQ(id_of(self->lessee.fd), fdinfo(ends[0], "evpl-peer-client-id"));
	close(ends[0]);
	close(ends[1]);

	/* A client that has gone isn't named any more. */
	close_client(&self->lessee);
	EXPECT_EQ(0, fdinfo(self->ends[0], "evpl-peer-client-id"));
	EXPECT_EQ(0, id_of(self->ends[1]));
	EXPECT_EQ(id_of(self->owner.fd), id_of(self->ends[0]));
}

TEST_F(fdinfo, leases_are_counted_by_their_owner_since_the_oldest)
{
	unsigned long long before = boot_time(), between, of[3], oldest;
	struct evpl_record got[3];
	long long owner = id_of(self->owner.fd);
	const int fd = self->lessee.fd;

	EXPECT_EQ(0, lines_of(fd, "evpl-leased-from", -1, of));
	ASSERT_TRUE(lend(&self->owner, self->ends, 1, 'x', 0, &got[0]));
	between = boot_time();
	ASSERT_TRUE(only_line_of(fd, "evpl-leased-from", owner, of));
	EXPECT_EQ(1, of[0]);
	EXPECT_EQ(BUFFER, of[1]);
	EXPECT_GE(of[2], before);
	EXPECT_LE(of[2], between);
	oldest = of[2];

	ASSERT_TRUE(lend(&self->owner, self->ends, 2, 'x', EVPL_RECORD_WRITE, &got[1]));
	ASSERT_TRUE(lend(&self->owner, self->ends, 3, 'x', EVPL_RECORD_DEVICE, &got[2]));
	ASSERT_TRUE(only_line_of(fd, "evpl-leased-from", owner, of));
	EXPECT_EQ(3, of[0]);
	EXPECT_EQ(3 * BUFFER, of[1]);
	EXPECT_EQ(oldest, of[2]);
	EXPECT_EQ(3, fdinfo(self->owner.fd, "evpl-leases-lent"));
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-leases"));
	EXPECT_EQ(0, lines_of(self->owner.fd, "evpl-leased-from", -1, of));
	EXPECT_EQ(0, fdinfo(fd, "evpl-leases-lent"));

	/* Without the oldest the next one is. */
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
	ASSERT_TRUE(only_line_of(fd, "evpl-leased-from", owner, of));
	EXPECT_EQ(2, of[0]);
	EXPECT_GE(of[2], between);

	/* A revoked lease keeps nothing of its owner's. */
	EXPECT_EQ(0, fdinfo(fd, "evpl-leases-revoked"));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 2 * BUFFER));
	EXPECT_EQ(1, fdinfo(fd, "evpl-leases-revoked"));
	EXPECT_EQ(2, fdinfo(fd, "evpl-leases"));
	EXPECT_EQ(1, fdinfo(self->owner.fd, "evpl-leases-lent"));
	ASSERT_TRUE(only_line_of(fd, "evpl-leased-from", owner, of));
	EXPECT_EQ(1, of[0]);
	EXPECT_EQ(BUFFER, of[1]);
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	EXPECT_EQ(0, fdinfo(fd, "evpl-leases-revoked"));

	/* A lease of a dead owner still names it. */
	close_owner(&self->pair);
	ASSERT_TRUE(only_line_of(fd, "evpl-leased-from", owner, of));
	EXPECT_EQ(1, of[0]);
	open_owner(_metadata, &self->pair, 0);
}

/* Make an owner whose buffers are small, and lend the first @nr of them to the lessee. */
static void lender_open(struct __test_metadata *_metadata, struct lender *lender,
			struct client *lessee, unsigned int nr)
{
	struct evpl_record *records = calloc(nr, sizeof(*records));
	uint64_t slab, size = nr * (BUFFER / 4);

	ASSERT_NE(NULL, records);
	lender->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(lender->fd, 0);
	ASSERT_EQ(0, evpl_setup(lender->fd, BUFFER / 4, &lender->setup));
	ASSERT_EQ(0, evpl_slab_alloc(lender->fd, (size + 2 * MIB - 1) / (2 * MIB) * 2 * MIB, &slab));
	lender->entries = evpl_map(lender->fd, nr * sizeof(*lender->entries),
				   lender->setup.out_refs_offset);
	ASSERT_NE(MAP_FAILED, lender->entries);
	ASSERT_EQ(0, evpl_channel(lender->fd, nr, lender->ends));
	ASSERT_EQ(0, evpl_bind(lender->fd, lender->ends[0]));
	ASSERT_EQ(0, evpl_bind(lessee->fd, lender->ends[1]));
	for (unsigned int i = 0; i < nr; i++) {
		set_count(&lender->entries[i].word, 1);
		records[i] = (struct evpl_record){
			.offset = i * (BUFFER / 4),
			.length = BUFFER / 4,
		};
	}
	ASSERT_EQ(nr, evpl_send(lender->ends[0], records, nr));
	ASSERT_EQ(nr, evpl_recv(lender->ends[1], records, nr));
	free(records);
}

static void lender_close(struct lender *lender, unsigned int nr)
{
	munmap(lender->entries, nr * sizeof(*lender->entries));
	close(lender->ends[0]);
	close(lender->ends[1]);
	close(lender->fd);
}

TEST_F(fdinfo, all_leases_are_counted_however_many_there_are)
{
	const unsigned int nr = 1000;
	unsigned long long of[3];
	struct lender lender;

	lender_open(_metadata, &lender, &self->lessee, nr);
	ASSERT_TRUE(only_line_of(self->lessee.fd, "evpl-leased-from", id_of(lender.fd), of));
	EXPECT_EQ(nr, of[0]);
	EXPECT_EQ(nr * (BUFFER / 4), of[1]);
	EXPECT_EQ(nr, fdinfo(lender.fd, "evpl-leases-lent"));
	EXPECT_EQ(nr, fdinfo(self->lessee.fd, "evpl-leases"));
	lender_close(&lender, nr);
}

TEST_F(fdinfo, owners_that_are_too_many_are_summed_up)
{
	unsigned long long of[3], sum = 0;
	struct lender lenders[LISTED + 3];
	int i;

	for (i = 0; i < LISTED; i++)
		lender_open(_metadata, &lenders[i], &self->lessee, 1);
	EXPECT_EQ(LISTED, lines_of(self->lessee.fd, "evpl-leased-from", -1, of));
	EXPECT_FALSE(only_line_of(self->lessee.fd, "evpl-leased-from", 0, of));
	for (; i < ARRAY_SIZE(lenders); i++)
		lender_open(_metadata, &lenders[i], &self->lessee, 1);
	EXPECT_EQ(LISTED + 1, lines_of(self->lessee.fd, "evpl-leased-from", -1, of));
	ASSERT_TRUE(only_line_of(self->lessee.fd, "evpl-leased-from", 0, of));
	EXPECT_EQ(3, of[0]);
	EXPECT_EQ(3 * (BUFFER / 4), of[1]);
	for (i = 0; i < ARRAY_SIZE(lenders); i++)
		if (only_line_of(self->lessee.fd, "evpl-leased-from", id_of(lenders[i].fd), of))
			sum += of[0];
	EXPECT_EQ(LISTED, sum);
	for (i = 0; i < ARRAY_SIZE(lenders); i++)
		lender_close(&lenders[i], 1);
}

TEST_F(fdinfo, quarantine_names_the_last_lessee_and_counts_the_references)
{
	struct evpl_record got[2];
	long long lessee = id_of(self->lessee.fd);
	char pages[3 * PAGE], *memory[2];
	unsigned long long of[3];
	const int fd = self->owner.fd;

	for (int i = 0; i < 2; i++)
		memory[i] = lease(_metadata, &self->pair, 5 + i, EVPL_RECORD_DEVICE, &got[i]);
	/* A pipe has a reference for each page. */
	ASSERT_EQ(2 * PAGE, into_pipe(self->pipe[1], memory[0], 2 * PAGE));
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory[1], PAGE));
	EXPECT_EQ(0, fdinfo(fd, "evpl-quarantine-references"));
	EXPECT_EQ(1, let_go(&self->lessee, &got[0]));
	EXPECT_EQ(1, let_go(&self->lessee, &got[1]));
	/* A pull checks all buffers that are in quarantine. */
	EXPECT_EQ(0, evpl_lease_pull(fd));
	EXPECT_EQ(2, fdinfo(fd, "evpl-buffers-in-quarantine"));
	EXPECT_EQ(3, fdinfo(fd, "evpl-quarantine-references"));
	EXPECT_EQ(1, lines_of(fd, "evpl-quarantine-lessee", -1, of));
	ASSERT_TRUE(only_line_of(fd, "evpl-quarantine-lessee", lessee, of));
	EXPECT_EQ(2, of[0]);

	/* It is named after its death too. */
	close_client(&self->lessee);
	ASSERT_TRUE(only_line_of(fd, "evpl-quarantine-lessee", lessee, of));
	EXPECT_EQ(2, of[0]);
	EXPECT_EQ(0, evpl_quarantine_end(fd, 6 * BUFFER));
	ASSERT_TRUE(only_line_of(fd, "evpl-quarantine-lessee", lessee, of));
	EXPECT_EQ(1, of[0]);

	EXPECT_EQ(3 * PAGE, read(self->pipe[0], pages, 3 * PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, fdinfo(fd, "evpl-quarantine-references"));
	EXPECT_EQ(0, lines_of(fd, "evpl-quarantine-lessee", -1, of));
}

TEST_F(fdinfo, references_up_to_the_baseline_are_not_counted)
{
	struct evpl_record got;
	char page[PAGE], *memory;

	/* The owner's own registration, here a pipe, is the baseline. */
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], self->owner.own + 5 * BUFFER, PAGE));
	EXPECT_EQ(0, evpl_baseline(self->owner.fd, 0, 0, SLAB));
	memory = lease(_metadata, &self->pair, 5, EVPL_RECORD_DEVICE, &got);
	ASSERT_EQ(PAGE, into_pipe(self->pipe[1], memory, PAGE));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(1, fdinfo(self->owner.fd, "evpl-buffers-in-quarantine"));
	EXPECT_EQ(1, fdinfo(self->owner.fd, "evpl-quarantine-references"));
	EXPECT_EQ(PAGE, read(self->pipe[0], page, PAGE));
	EXPECT_TRUE(is_returned(&self->owner, 5));
	EXPECT_EQ(0, fdinfo(self->owner.fd, "evpl-quarantine-references"));
}

TEST_HARNESS_MAIN
