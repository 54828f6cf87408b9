// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * Adopting a pool: a process is killed, a supervisor has kept the descriptor of its pool, and a
 * successor finds its roots. test_directory.c has the directory itself, and test_adopt_storm.c
 * kills at random moments.
 */
#include <poll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

#include "supervisor.h"

FIXTURE(adopt) {
	struct supervisor supervisor;
	struct evpl_pool *pool;
};

FIXTURE_SETUP(adopt)
{
	int err = supervisor_open(&self->supervisor);

	self->pool = NULL;
	if (err)
		SKIP(return, "the module's alone");
}

FIXTURE_TEARDOWN(adopt)
{
	if (self->supervisor.child > 0)
		EXPECT_TRUE(stop(&self->supervisor));
	if (self->pool) {
		EXPECT_EQ(0, evpl_pool_close(self->pool));
	}
	close(self->supervisor.client);
}

#define ADOPT() ASSERT_EQ(0, adopt(&self->pool, &self->supervisor)) TH_LOG("%s", evpl_last_error())

/* Forgets all roots. Returns how many there were. */
static unsigned int forget_all(struct evpl_pool *pool)
{
	char name[EVPL_NAME_MAX + 1];
	uint64_t cursor = 0;
	unsigned int n = 0;

	while (evpl_pool_list(pool, &cursor, name) == 1 && !evpl_pool_forget(pool, name))
		n++;
	return n;
}

TEST_F(adopt, a_client_that_was_never_set_up_is_an_empty_pool)
{
	char name[EVPL_NAME_MAX + 1];
	uint64_t cursor = 0;

	ADOPT();
	EXPECT_EQ(0, stats_of(self->pool).slabs);
	EXPECT_EQ(0, stats_of(self->pool).roots);
	EXPECT_EQ(BUFFER, stats_of(self->pool).buffer_size);
	EXPECT_EQ(0, evpl_pool_list(self->pool, &cursor, name));
	EXPECT_EQ(0, keep_bytes(self->pool, "first", 1, 100));
	EXPECT_TRUE(kept_has(self->pool, "first", 1, 100));
	EXPECT_EQ(2, used_in(self->pool));
}

/* Keeps three roots, and has references on other buffers as well. */
static int keep_three(struct evpl_pool *pool, void *arg)
{
	struct evpl_iovec iovec[2 * PER_SLAB], slice;
	struct evpl *evpl;
	int i;

	if (evpl_create(&evpl, pool, NULL))
		return 1;
	for (i = 0; i < (int)(2 * PER_SLAB) - 4; i++)
		if (evpl_buffer_alloc(evpl, &iovec[i]) != 1)
			return 2;
	memset(iovec[3].data, 3, BUFFER);
	memset(iovec[30].data, 30, BUFFER);
	if (evpl_pool_keep(pool, "third", &iovec[3]) ||
	    evpl_pool_keep(pool, "thirtieth", &iovec[30]) ||
	    evpl_iovec_clone_segment(&slice, &iovec[30], 100, 200) ||
	    evpl_pool_keep(pool, "a part of it", &slice))
		return 3;
	if (word_of(&iovec[3]) != 2 || word_of(&iovec[30]) != 4)
		return 4;
	/* The caller's references are its own. */
	evpl_iovec_release(&iovec[3]);
	return word_of(&iovec[30]) != 4;
}

TEST_F(adopt, a_successor_finds_the_roots_and_all_other_buffers_are_free)
{
	struct evpl_pool_stats stats;
	char name[EVPL_NAME_MAX + 1];
	struct evpl_iovec iovec[3];
	unsigned int seen = 0;
	uint64_t cursor = 0;

	ASSERT_EQ(0, start(&self->supervisor, keep_three, NULL));
	ASSERT_TRUE(stop(&self->supervisor));
	ADOPT();
	stats = stats_of(self->pool);
	EXPECT_EQ(3, stats.roots);
	EXPECT_EQ(0, stats.roots_broken);
	EXPECT_EQ(0, stats.grows);
	EXPECT_EQ(2 * PER_SLAB, stats.buffers);
	/* Two buffers, and the one with the names. */
	EXPECT_EQ(3, stats.buffers_used);

	EXPECT_TRUE(kept_has(self->pool, "third", 3, BUFFER));
	EXPECT_TRUE(kept_has(self->pool, "a part of it", 30, 200));
	ASSERT_EQ(0, evpl_pool_kept(self->pool, "third", &iovec[0]));
	ASSERT_EQ(0, evpl_pool_kept(self->pool, "thirtieth", &iovec[1]));
	ASSERT_EQ(0, evpl_pool_kept(self->pool, "a part of it", &iovec[2]));
	EXPECT_EQ(2, word_of(&iovec[0]));
	EXPECT_EQ(4, word_of(&iovec[1]));
	EXPECT_EQ((char *)iovec[1].data + 100, iovec[2].data);
	EXPECT_EQ(-ENOENT, evpl_pool_kept(self->pool, "fourth", &iovec[2]));
	while (evpl_pool_list(self->pool, &cursor, name) == 1)
		seen |= !strcmp(name, "third") ? 1 : !strcmp(name, "thirtieth") ? 2 :
			!strcmp(name, "a part of it") ? 4 : 8;
	EXPECT_EQ(7, seen);

	EXPECT_EQ(-EBUSY, evpl_pool_close(self->pool));
	EXPECT_TRUE(kept_has(self->pool, "third", 3, BUFFER));
	evpl_iovecs_release(iovec, 3);
	EXPECT_EQ(0, evpl_pool_forget(self->pool, "third"));
	EXPECT_EQ(-ENOENT, evpl_pool_forget(self->pool, "third"));
	EXPECT_EQ(2, used_in(self->pool));
	EXPECT_EQ(2, forget_all(self->pool));
	EXPECT_EQ(1, used_in(self->pool));
}

TEST_F(adopt, a_process_that_opened_a_pool_has_successors_too)
{
	struct evpl_pool *first;

	ASSERT_EQ(0, open_pool(&first, BUFFER, 0));
	ASSERT_EQ(0, keep_bytes(first, "root", 'r', 1000));
	close(self->supervisor.client);
	self->supervisor.client = dup(evpl_pool_fd(first));
	EXPECT_EQ(0, evpl_pool_close(first));
	ADOPT();
	EXPECT_TRUE(kept_has(self->pool, "root", 'r', 1000));
}

TEST_F(adopt, a_closed_pool_leaves_the_slabs_of_its_roots_and_no_other)
{
	struct evpl_iovec iovec[2 * PER_SLAB];
	struct evpl *evpl;
	unsigned int i;

	ADOPT();
	ASSERT_EQ(0, evpl_create(&evpl, self->pool, NULL));
	ASSERT_EQ(0, take_slab(evpl, iovec));
	ASSERT_EQ(0, take_slab(evpl, iovec + PER_SLAB));
	memset(iovec[PER_SLAB + 1].data, 7, BUFFER);
	ASSERT_EQ(0, evpl_pool_keep(self->pool, "seventh", &iovec[PER_SLAB + 1]));
	/* The name is in a third slab. */
	EXPECT_EQ(3, count_slabs(&self->supervisor));
	evpl_iovecs_release(iovec, 2 * PER_SLAB - 1);
	evpl_destroy(evpl);
	EXPECT_EQ(-EBUSY, evpl_pool_close(self->pool));
	EXPECT_EQ(3, count_slabs(&self->supervisor));
	EXPECT_TRUE(kept_has(self->pool, "seventh", 7, BUFFER));
	evpl_iovec_release(&iovec[2 * PER_SLAB - 1]);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	EXPECT_EQ(2, count_slabs(&self->supervisor));

	ADOPT();
	EXPECT_TRUE(kept_has(self->pool, "seventh", 7, BUFFER));
	EXPECT_EQ(2, used_in(self->pool));
	/* All that is free can be used. */
	ASSERT_EQ(0, evpl_create(&evpl, self->pool, NULL));
	for (i = 0; i < 2 * PER_SLAB - 2; i++)
		ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec[i]));
	EXPECT_EQ(0, stats_of(self->pool).grows);
	evpl_iovecs_release(iovec, (int)i);
	evpl_destroy(evpl);
	EXPECT_EQ(1, forget_all(self->pool));
}

TEST_F(adopt, a_root_that_is_replaced_loses_its_old_slice)
{
	struct evpl_iovec iovec[3];
	struct evpl *evpl;
	unsigned int i;

	ADOPT();
	ASSERT_EQ(0, evpl_create(&evpl, self->pool, NULL));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec[i]));
		memset(iovec[i].data, (int)i, BUFFER);
		ASSERT_EQ(0, evpl_pool_keep(self->pool, "name", &iovec[i]));
		EXPECT_EQ(2, word_of(&iovec[i]));
		if (i)
			EXPECT_EQ(1, word_of(&iovec[i - 1]));
		EXPECT_TRUE(kept_has(self->pool, "name", (int)i, BUFFER));
	}
	/* The same slice again changes nothing. */
	ASSERT_EQ(0, evpl_pool_keep(self->pool, "name", &iovec[2]));
	EXPECT_EQ(2, word_of(&iovec[2]));
	EXPECT_EQ(1, stats_of(self->pool).roots);
	evpl_iovecs_release(iovec, 3);
	evpl_destroy(evpl);
	EXPECT_EQ(2, used_in(self->pool));
	EXPECT_EQ(1, forget_all(self->pool));
}

TEST_F(adopt, hundreds_of_roots_take_more_buffers_for_their_names)
{
	const unsigned int n = few() ? 600 : 2000;
	char name[EVPL_NAME_MAX + 1];
	unsigned int i;

	ADOPT();
	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%u", i);
		ASSERT_EQ(0, keep_bytes(self->pool, name, (int)(i % 256), 16));
	}
	EXPECT_EQ(n, stats_of(self->pool).roots);
	EXPECT_LT(1, self->pool->roots.dir.nr_blocks);
	EXPECT_EQ(0, evpl_pool_close(self->pool));
	ADOPT();
	EXPECT_EQ(n, stats_of(self->pool).roots);
	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%u", i);
		ASSERT_TRUE(kept_has(self->pool, name, (int)(i % 256), 16));
	}
	EXPECT_EQ(n, forget_all(self->pool));
	EXPECT_EQ(self->pool->roots.dir.nr_blocks, used_in(self->pool));
}

TEST_F(adopt, arguments_of_keep_and_kept_are_checked)
{
	char longest[EVPL_NAME_MAX + 2], data[10];
	struct evpl_iovec iovec, other, wrong, none = { 0 };
	struct received received;
	struct evpl_pool *pool;
	struct evpl *evpl;

	memset(longest, 'n', sizeof(longest));
	longest[EVPL_NAME_MAX + 1] = 0;
	ADOPT();
	ASSERT_EQ(0, evpl_create(&evpl, self->pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, 100, 0, 1, &iovec));

	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "", &iovec));
	EXPECT_EQ(-ENAMETOOLONG, evpl_pool_keep(self->pool, longest, &iovec));
	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "x", &none));
	wrong = iovec;
	wrong.length = 0;
	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "x", &wrong));
	wrong.length = BUFFER + 1;
	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "x", &wrong));
	wrong.data = (char *)iovec.data - 1;
	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "x", &wrong));
	ASSERT_EQ(0, evpl_iovec_wrap(&wrong, data, sizeof(data), NULL, NULL));
	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "x", &wrong));
	evpl_iovec_release(&wrong);
	receive(&received, self->pool, 100);
	EXPECT_EQ(-EINVAL, evpl_pool_keep(self->pool, "x", &received.message.iovec));
	EXPECT_EQ(-EINVAL, evpl_pool_keep(received.other, "x", &iovec));
	EXPECT_EQ(0, end_received(&received));
	EXPECT_EQ(0, stats_of(self->pool).roots);

	EXPECT_EQ(-EINVAL, evpl_pool_kept(self->pool, "", &other));
	EXPECT_EQ(-ENAMETOOLONG, evpl_pool_kept(self->pool, longest, &other));
	EXPECT_EQ(-ENOENT, evpl_pool_kept(self->pool, "x", &other));
	EXPECT_EQ(-EINVAL, evpl_pool_forget(self->pool, ""));
	EXPECT_EQ(-ENAMETOOLONG, evpl_pool_forget(self->pool, longest));
	EXPECT_EQ(-ENOENT, evpl_pool_forget(self->pool, "x"));
	longest[EVPL_NAME_MAX] = 0;
	EXPECT_EQ(0, evpl_pool_keep(self->pool, longest, &iovec));
	EXPECT_EQ(0, evpl_pool_forget(self->pool, longest));
	EXPECT_EQ(2, word_of(&iovec));
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);

	/* A pool without room for the name. */
	ASSERT_EQ(0, open_pool(&pool, SLAB, SLAB));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec));
	EXPECT_EQ(-ENOMEM, evpl_pool_keep(pool, "x", &iovec));
	EXPECT_EQ(1, word_of(&iovec));
	EXPECT_EQ(0, stats_of(pool).roots);
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
}

TEST_F(adopt, an_adoption_that_fails_leaves_the_descriptor_and_the_roots)
{
	struct evpl_pool_config config = { .size = sizeof(config), .buffer_size = 2 * BUFFER };
	int fd = self->supervisor.client, readonly, null;
	struct evpl_pool *pool;

	ASSERT_EQ(0, start(&self->supervisor, keep_three, NULL));
	/* The process lives. */
	EXPECT_EQ(-EBUSY, evpl_pool_adopt(&pool, fd, NULL));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "another process"));
	ASSERT_TRUE(stop(&self->supervisor));

	EXPECT_EQ(-EBADF, evpl_pool_adopt(&pool, -1, NULL));
	null = open("/dev/null", O_RDWR);
	EXPECT_EQ(-ENOTTY, evpl_pool_adopt(&pool, null, NULL));
	close(null);
	EXPECT_EQ(-EINVAL, evpl_pool_adopt(&pool, fd, &config));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "another size"));
	config.buffer_size = 0;
	config.flags = EVPL_POOL_ZEROS;
	EXPECT_EQ(-EINVAL, evpl_pool_adopt(&pool, fd, &config));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "EVPL_POOL_ZEROS"));
	config.flags = 1U << 31;
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_adopt(&pool, fd, &config));
	config.flags = 0;
	config.slab_size = 3;
	EXPECT_EQ(-EINVAL, evpl_pool_adopt(&pool, fd, &config));
	config.slab_size = 0;
	config.backend = EVPL_BACKEND_ANON;
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_adopt(&pool, fd, &config));
	config.size = 1;
	EXPECT_EQ(-EINVAL, evpl_pool_adopt(&pool, fd, &config));
	readonly = open("/dev/evpl", O_RDONLY);
	EXPECT_EQ(-EACCES, evpl_pool_adopt(&pool, readonly, NULL));
	close(readonly);

	ADOPT();
	EXPECT_EQ(3, stats_of(self->pool).roots);
	EXPECT_TRUE(kept_has(self->pool, "third", 3, BUFFER));
	EXPECT_EQ(3, forget_all(self->pool));
	EXPECT_EQ(1, used_in(self->pool));
	EXPECT_EQ(FD_CLOEXEC, fcntl(evpl_pool_fd(self->pool), F_GETFD));
}

static int damage_directory(struct evpl_pool *pool, void *arg)
{
	struct dir_block *block;

	if (keep_three(pool, NULL))
		return 1;
	block = pool->roots.dir.blocks[0].block;
	if (arg)
		block->magic++;
	else
		block->records[1].versions[0].length ^= 1;
	return 0;
}

TEST_F(adopt, a_broken_root_is_left_out_and_its_memory_is_free)
{
	struct evpl_iovec iovec;

	ASSERT_EQ(0, start(&self->supervisor, damage_directory, NULL));
	ASSERT_TRUE(stop(&self->supervisor));
	ADOPT();
	EXPECT_EQ(2, stats_of(self->pool).roots);
	EXPECT_EQ(1, stats_of(self->pool).roots_broken);
	EXPECT_EQ(3, used_in(self->pool));
	EXPECT_EQ(-ENOENT, evpl_pool_kept(self->pool, "thirtieth", &iovec));
	EXPECT_TRUE(kept_has(self->pool, "third", 3, BUFFER));
	EXPECT_TRUE(kept_has(self->pool, "a part of it", 30, 200));
}

TEST_F(adopt, a_broken_directory_is_refused_in_words)
{
	ASSERT_EQ(0, start(&self->supervisor, damage_directory, self));
	ASSERT_TRUE(stop(&self->supervisor));
	EXPECT_EQ(-EUCLEAN, adopt(&self->pool, &self->supervisor));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "damaged"));
	EXPECT_EQ(-EUCLEAN, adopt(&self->pool, &self->supervisor));
	self->pool = NULL;
}

/* A reader in this process, and a writer in a child. The supervisor keeps the writer's end too. */
struct line {
	struct evpl_pool *reader;
	struct evpl_channel *channel;
	int end;
};

static int send_a_root(struct evpl_pool *pool, void *arg)
{
	struct line *line = arg;
	struct evpl_message message = { .cookie = 1 };
	struct evpl_channel *channel;

	if (evpl_channel_bind(&channel, pool, line->end, 0) || keep_three(pool, NULL) ||
	    evpl_pool_kept(pool, "third", &message.iovec) ||
	    evpl_channel_send(channel, &message, 1))
		return 1;
	/* Another buffer, which only the reader has after the death. */
	if (evpl_pool_kept(pool, "thirtieth", &message.iovec) ||
	    evpl_pool_forget(pool, "thirtieth") || evpl_pool_forget(pool, "a part of it"))
		return 2;
	return evpl_channel_send(channel, &message, 1);
}

TEST_F(adopt, a_reader_of_the_dead_process_reads_on_and_the_channel_goes_on)
{
	struct evpl_message message[2];
	struct evpl_channel *again;
	struct line line;

	ASSERT_EQ(0, open_pool(&line.reader, BUFFER, 0));
	ASSERT_EQ(0, evpl_channel_create(&line.channel, line.reader, 0, 0, &line.end));
	ASSERT_EQ(0, start(&self->supervisor, send_a_root, &line));
	ASSERT_EQ(1, evpl_channel_recv(line.channel, message, 1));
	EXPECT_TRUE(has_bytes(&message[0].iovec, 3));
	ASSERT_TRUE(stop(&self->supervisor));
	EXPECT_TRUE(has_bytes(&message[0].iovec, 3));
	ADOPT();
	EXPECT_TRUE(has_bytes(&message[0].iovec, 3));
	EXPECT_EQ(1, stats_of(self->pool).roots);
	EXPECT_TRUE(kept_has(self->pool, "third", 3, BUFFER));
	/* The root, its name, and the buffer in the message that wasn't read yet. */
	EXPECT_EQ(3, used_in(self->pool));
	ASSERT_EQ(1, evpl_channel_recv(line.channel, &message[1], 1));
	EXPECT_TRUE(has_bytes(&message[1].iovec, 30));

	/* The end is bound still, and the successor sends by it. */
	evpl_iovec_release(&message[0].iovec);
	ASSERT_EQ(0, evpl_channel_bind(&again, self->pool, line.end, 0));
	message[0] = (struct evpl_message){ .cookie = 2 };
	ASSERT_EQ(0, evpl_pool_kept(self->pool, "third", &message[0].iovec));
	ASSERT_EQ(0, evpl_channel_send(again, message, 1));
	ASSERT_EQ(1, evpl_channel_recv(line.channel, message, 1));
	EXPECT_EQ(2, message[0].cookie);
	EXPECT_TRUE(has_bytes(&message[0].iovec, 3));

	EXPECT_EQ(1, forget_all(self->pool));
	EXPECT_TRUE(has_bytes(&message[0].iovec, 3));
	EXPECT_TRUE(has_bytes(&message[1].iovec, 30));
	EXPECT_EQ(3, used_in(self->pool));
	evpl_iovec_release(&message[0].iovec);
	evpl_iovec_release(&message[1].iovec);
	evpl_pool_trim(line.reader);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(1, used_in(self->pool));
	evpl_channel_close(again);
	evpl_channel_close(line.channel);
	EXPECT_EQ(0, evpl_pool_close(line.reader));
}

/* Sends all buffers of two slabs. */
static int send_all(struct evpl_pool *pool, void *arg)
{
	struct evpl_message messages[2 * PER_SLAB] = { 0 };
	struct evpl_channel *channel;
	struct evpl *evpl;
	unsigned int i;

	if (evpl_channel_bind(&channel, pool, ((struct line *)arg)->end, 0) ||
	    evpl_create(&evpl, pool, NULL))
		return 1;
	for (i = 0; i < 2 * PER_SLAB; i++)
		if (evpl_buffer_alloc(evpl, &messages[i].iovec) != 1)
			return 2;
	return evpl_channel_send(channel, messages, 2 * PER_SLAB);
}

/* The leases of a reader that releases them one by one. */
struct leases {
	struct evpl_pool *reader;
	struct evpl_message messages[2 * PER_SLAB];
	atomic_bool begun;
};

static void *release_all(void *arg)
{
	struct leases *leases = arg;
	unsigned int i;

	for (i = 0; i < 2 * PER_SLAB; i++) {
		evpl_iovec_release(&leases->messages[i].iovec);
		evpl_pool_trim(leases->reader);
		atomic_store(&leases->begun, true);
	}
	return NULL;
}

TEST_F(adopt, buffers_that_come_back_during_the_adoption_are_free_once)
{
	struct evpl_iovec iovec[2 * PER_SLAB];
	int round, rounds = few() ? 10 : 100;
	struct leases leases;
	struct line line;
	struct evpl *evpl;
	unsigned int i, j;
	pthread_t thread;

	for (round = 0; round < rounds; round++) {
		leases.begun = false;
		ASSERT_EQ(0, open_pool(&leases.reader, BUFFER, 0));
		ASSERT_EQ(0, evpl_channel_create(&line.channel, leases.reader, 0, 0, &line.end));
		ASSERT_EQ(0, start(&self->supervisor, send_all, &line));
		close(line.end);
		ASSERT_EQ(2 * PER_SLAB, evpl_channel_recv(line.channel, leases.messages,
							  2 * PER_SLAB));
		ASSERT_TRUE(stop(&self->supervisor));
		ASSERT_EQ(0, pthread_create(&thread, NULL, release_all, &leases));
		while (!atomic_load(&leases.begun))
			sched_yield();
		ADOPT();
		ASSERT_EQ(0, pthread_join(thread, NULL));
		evpl_pool_trim(self->pool);
		EXPECT_EQ(0, used_in(self->pool));

		/* A trim leaves a slab. All of its buffers, and those of the next, are had once. */
		ASSERT_EQ(0, evpl_create(&evpl, self->pool, NULL));
		for (i = 0; i < 2 * PER_SLAB; i++) {
			ASSERT_EQ(1, evpl_buffer_alloc(evpl, &iovec[i]));
			for (j = 0; j < i; j++)
				ASSERT_NE(iovec[j].data, iovec[i].data);
		}
		evpl_iovecs_release(iovec, 2 * PER_SLAB);
		evpl_destroy(evpl);
		ASSERT_EQ(0, evpl_pool_close(self->pool));
		self->pool = NULL;
		evpl_channel_close(line.channel);
		ASSERT_EQ(0, evpl_pool_close(leases.reader));
	}
}

/* Puts a page of a buffer into a pipe. */
static int splice_a_buffer(struct evpl_pool *pool, void *arg)
{
	struct evpl_iovec iovec;
	struct iovec page;
	struct evpl *evpl;

	if (evpl_create(&evpl, pool, NULL) || evpl_buffer_alloc(evpl, &iovec) != 1)
		return 1;
	memset(iovec.data, 'p', BUFFER);
	page = (struct iovec){ iovec.data, PAGE };
	return vmsplice(((int *)arg)[1], &page, 1, 0) != (ssize_t)PAGE;
}

TEST_F(adopt, memory_that_a_pipe_of_the_dead_process_holds_comes_back_after_it)
{
	char *page = malloc(PAGE);
	uint64_t held;
	int ends[2];

	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(0, start(&self->supervisor, splice_a_buffer, ends));
	ASSERT_TRUE(stop(&self->supervisor));
	ADOPT();
	/* All buffers of the folio. */
	held = used_in(self->pool);
	EXPECT_LT(0, held);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(held, used_in(self->pool));
	ASSERT_EQ(PAGE, read(ends[0], page, PAGE));
	EXPECT_EQ('p', page[PAGE - 1]);
	free(page);
	evpl_pool_trim(self->pool);
	EXPECT_EQ(0, used_in(self->pool));
	close(ends[0]);
	close(ends[1]);
}

static int register_slab(void *arg, const struct evpl_slab_info *slab, uint64_t *cookie)
{
	*cookie = slab->number;
	++*(unsigned int *)arg;
	return 0;
}

TEST_F(adopt, devices_register_the_slabs_that_were_adopted)
{
	const struct evpl_device_ops ops = { .size = sizeof(ops), .register_slab = register_slab };
	struct evpl_device *device;
	struct evpl_iovec iovec;
	unsigned int registered = 0;
	uint64_t cookie;

	ASSERT_EQ(0, start(&self->supervisor, keep_three, NULL));
	ASSERT_TRUE(stop(&self->supervisor));
	ADOPT();
	ASSERT_EQ(0, evpl_device_attach(self->pool, &ops, &registered, &device));
	EXPECT_EQ(2, registered);
	ASSERT_EQ(0, evpl_pool_kept(self->pool, "thirtieth", &iovec));
	EXPECT_EQ(0, evpl_device_cookie(device, &iovec, &cookie));
	evpl_iovec_release(&iovec);
	evpl_device_detach(device);
}

/* A client with four slabs. It has no roots: where the blocks are longer, more records are read. */
struct four {
	struct supervisor supervisor;
	size_t buffer_size, slab_size;
};

static int make_four_slabs(void *arg)
{
	struct four *four = arg;
	struct evpl_pool_config config = {
		.size = sizeof(config),
		.buffer_size = four->buffer_size,
		.slab_size = four->slab_size,
		.slab_size_max = four->slab_size,
	};
	struct evpl_pool *pool;

	return evpl_pool_adopt(&pool, four->supervisor.client, &config) ||
	       evpl_pool_preallocate(pool, 4 * four->slab_size, EVPL_ANY_NODE) ||
	       stats_of(pool).slabs != 4;
}

/*
 * Adopts the client in a child, which this process traces by @request. Returns how often the child
 * stopped: for each instruction of its own, or twice for each system call.
 */
static long count_stops(struct four *four, enum __ptrace_request request)
{
	struct evpl_pool *pool;
	int status = 1;
	long stops = 0;
	pid_t child;

	if (supervisor_open(&four->supervisor) || status_of(make_four_slabs, four))
		return -1;
	child = fork();
	if (!child) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(1);
		raise(SIGSTOP);
		_exit(evpl_pool_adopt(&pool, four->supervisor.client, NULL) ||
		      stats_of(pool).slabs != 4);
	}
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		stops++;
		if (ptrace(request, child, NULL, NULL))
			return -1;
	}
	close(four->supervisor.client);
	return status ? -1 : stops;
}

TEST_F(adopt, the_cost_is_in_the_number_of_buffers_and_not_in_that_of_bytes)
{
	struct four small = { .buffer_size = 4 * BUFFER, .slab_size = 16 * MB };
	struct four large = { .buffer_size = 32 * BUFFER, .slab_size = 128 * MB };
	struct four more = { .buffer_size = BUFFER, .slab_size = 16 * MB };
	long calls, instructions __attribute__((unused)), others __attribute__((unused));

	calls = count_stops(&small, PTRACE_SYSCALL);
	ASSERT_LT(0, calls);
	EXPECT_EQ(calls, count_stops(&large, PTRACE_SYSCALL));
	EXPECT_EQ(calls, count_stops(&more, PTRACE_SYSCALL));

	/* The library's instructions are the same on each kernel. */
	if (is_slow())
		return;
	/* On arm64 a traced step between two exclusive accesses has the second one fail, for ever. */
#ifdef __x86_64__
	instructions = count_stops(&small, PTRACE_SINGLESTEP);
	others = count_stops(&large, PTRACE_SINGLESTEP);
	ASSERT_LT(0, instructions);
	ASSERT_LT(0, others);
	/* Where the stack and the heap are makes a small difference. */
	EXPECT_GE(instructions / 50, labs(others - instructions));
	TH_LOG("256 buffers: %ld instructions for 64 MiB, %ld for 512 MiB", instructions, others);
#endif
}

TEST(the_anon_back_end_keeps_nothing)
{
	struct evpl_pool_config config = { .size = sizeof(config), .backend = EVPL_BACKEND_ANON };
	char name[EVPL_NAME_MAX + 1];
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct evpl *evpl;
	uint64_t cursor = 0;

	ASSERT_EQ(0, evpl_pool_open(&pool, &config));
	ASSERT_EQ(0, evpl_create(&evpl, pool, NULL));
	ASSERT_EQ(1, evpl_iovec_alloc(evpl, 100, 0, 1, &iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_keep(pool, "name", &iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_kept(pool, "name", &iovec));
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_forget(pool, "name"));
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_list(pool, &cursor, name));
	EXPECT_EQ(0, stats_of(pool).roots);
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	EXPECT_EQ(0, evpl_pool_close(pool));
	EXPECT_EQ(-EOPNOTSUPP, evpl_pool_adopt(&pool, 0, &config));
	EXPECT_NE(NULL, strstr(evpl_last_error(), "module"));
}

TEST_HARNESS_MAIN
