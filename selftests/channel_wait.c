// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tasks that wait for an end of a channel: in read and write, in poll and epoll, by io_uring;
 * and tasks that are held up in the middle of a read or write, by a page that isn't there yet.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/epoll.h>

#include "pair.h"
#include "ring.h"

FIXTURE(channel)
{
	PAIR;
};

FIXTURE_SETUP(channel)
{
	open_nonblocking_pair(_metadata, &self->pair, 0);
}

FIXTURE_TEARDOWN(channel)
{
	close_pair(&self->pair);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(channel, write_sleeps_until_all_of_it_fits)
{
	struct evpl_record sent[8], got[8];
	pid_t child;

	for (int i = 0; i < 8; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set_count(&self->owner.entries[1].word, 100);
	ASSERT_EQ(0, fcntl(self->ends[0], F_SETFL, 0));
	ASSERT_EQ(1, evpl_send(self->ends[0], sent, 1));
	child = fork_child();
	if (!child)
		_exit(evpl_send(self->ends[0], sent, 8) == 8 ? 0 : 1);
	usleep(100 * 1000);
	EXPECT_EQ(1, read_counters().records);
	ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(8, evpl_recv(self->ends[1], got, 8));
	EXPECT_EQ(9, get(&self->lessee.leases[got[0].lease].word));
}

TEST_F(channel, read_sleeps_until_there_is_a_record)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	pid_t child;

	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	child = fork_child();
	if (!child) {
		usleep(100 * 1000);
		_exit(evpl_send(self->ends[0], &sent, 1) == 1 ? 0 : 1);
	}
	/* If the child ends without having sent, the read must not wait for ever. */
	close(self->ends[0]);
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
}

/* The events of an end that have come since the last call (epoll(7), edge-triggered). */
static uint32_t edges(int epoll)
{
	struct epoll_event event = { .events = 0 };

	return epoll_wait(epoll, &event, 1, 0) < 0 ? ~0U : event.events;
}

TEST_F(channel, epoll_tells_of_records_of_room_and_of_the_end)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	struct evpl_record sent[8], got[8];
	int reader = epoll_create1(EPOLL_CLOEXEC), writer = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_GE(reader, 0);
	ASSERT_GE(writer, 0);
	for (int i = 0; i < 8; i++)
		sent[i] = fill(&self->owner, 1, 'x');
	set_count(&self->owner.entries[1].word, 100);
	ASSERT_EQ(0, epoll_ctl(reader, EPOLL_CTL_ADD, self->ends[1], &event));
	ASSERT_EQ(0, epoll_ctl(writer, EPOLL_CTL_ADD, self->ends[0], &event));
	EXPECT_EQ(EPOLLOUT, edges(reader));
	EXPECT_EQ(EPOLLOUT, edges(writer));
	EXPECT_EQ(0, edges(reader));
	EXPECT_EQ(0, edges(writer));

	ASSERT_EQ(8, evpl_send(self->ends[0], sent, 8));
	EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(reader));
	EXPECT_EQ(0, edges(reader));
	EXPECT_EQ(0, edges(writer));
	ASSERT_EQ(-EAGAIN, evpl_send(self->ends[0], sent, 1));
	ASSERT_EQ(8, evpl_recv(self->ends[1], got, 8));
	EXPECT_EQ(EPOLLOUT, edges(writer));
	for (int i = 0; i < 8; i++)
		let_go(&self->lessee, &got[i]);

	/* A closed end has no room. */
	close(self->ends[1]);
	EXPECT_EQ(EPOLLIN | EPOLLHUP, edges(writer));
	EXPECT_EQ(0, edges(reader));
	close(reader);
	close(writer);
}

TEST_F(channel, write_that_fails_tells_nobody_of_room)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET }, got;
	struct evpl_record sent = fill(&self->owner, 1, 'x');
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_LE(0, epoll);
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, self->ends[0], &event));
	EXPECT_EQ(1, epoll_wait(epoll, &got, 1, 0));
	EXPECT_EQ(0, epoll_wait(epoll, &got, 1, 0));
	set_count(&self->owner.entries[1].word, 0);
	for (int i = 0; i < 10; i++) {
		EXPECT_EQ(-ESTALE, evpl_send(self->ends[0], &sent, 1));
		EXPECT_EQ(0, epoll_wait(epoll, &got, 1, 0));
	}
	close(epoll);
}

TEST_F(channel, binding_an_end_wakes_who_polls_it)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int bound = epoll_create1(EPOLL_CLOEXEC), peer = epoll_create1(EPOLL_CLOEXEC);
	int ends[2];

	ASSERT_GE(bound, 0);
	ASSERT_GE(peer, 0);
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	ASSERT_EQ(0, epoll_ctl(bound, EPOLL_CTL_ADD, ends[1], &event));
	ASSERT_EQ(0, epoll_ctl(peer, EPOLL_CTL_ADD, ends[0], &event));
	EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(bound));
	EXPECT_EQ(EPOLLOUT, edges(peer));
	EXPECT_EQ(-ENOTCONN, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(-ENOTCONN, evpl_send(ends[1], &sent, 1));
	EXPECT_EQ(0, edges(bound));

	ASSERT_EQ(0, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(EPOLLIN | EPOLLOUT, edges(bound));
	EXPECT_EQ(0, edges(bound));
	/* Nothing has changed for the other end: it was writable before, and has no record. */
	EXPECT_EQ(0, edges(peer));
	EXPECT_EQ(-EBUSY, evpl_bind(self->lessee.fd, ends[1]));
	EXPECT_EQ(0, edges(bound));
	EXPECT_EQ(1, fdinfo(ends[1], "evpl-records-to-read"));
	ASSERT_EQ(1, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close(bound);
	close(peer);
	close(ends[0]);
	close(ends[1]);
}

TEST_F(channel, binding_an_end_that_has_nothing_to_read_tells_of_room)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	struct evpl_record sent = fill(&self->owner, 1, 'x');
	int epoll = epoll_create1(EPOLL_CLOEXEC), ends[2];

	ASSERT_GE(epoll, 0);
	ASSERT_EQ(0, evpl_channel(self->owner.fd, 8, ends));
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
	EXPECT_EQ(EPOLLOUT, edges(epoll));
	EXPECT_EQ(-ENOTCONN, evpl_send(ends[0], &sent, 1));
	EXPECT_EQ(0, edges(epoll));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	EXPECT_EQ(EPOLLOUT, edges(epoll));
	EXPECT_EQ(1, evpl_send(ends[0], &sent, 1));
	close(epoll);
	close(ends[0]);
	close(ends[1]);
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
}

/* A page whose content a test supplies by userfaultfd(2). A task that touches it waits. */
struct served {
	int fd;
	struct evpl_record *page;
};

static int serve(struct served *served)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	served->fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (served->fd < 0 || page == MAP_FAILED)
		return -errno;
	served->page = page;
	range.range.start = (uintptr_t)page;
	range.range.len = PAGE;
	return RESULT(ioctl(served->fd, UFFDIO_API, &api)) ?:
	       RESULT(ioctl(served->fd, UFFDIO_REGISTER, &range));
}

/* Whether a task waits for the page, or does so within 100 ms. */
static bool is_touched(struct served *served)
{
	struct pollfd news = { .fd = served->fd, .events = POLLIN };
	struct uffd_msg message;

	return poll(&news, 1, 100) == 1 &&
	       read(served->fd, &message, sizeof(message)) == sizeof(message) &&
	       message.event == UFFD_EVENT_PAGEFAULT;
}

static int give_page(struct served *served, const void *content)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)served->page,
		.src = (uintptr_t)content,
		.len = PAGE,
	};

	return RESULT(ioctl(served->fd, UFFDIO_COPY, &copy));
}

static void end_service(struct served *served)
{
	munmap(served->page, PAGE);
	close(served->fd);
}

/* A read or a write of an end, by a thread of its own. */
struct call {
	int end;
	struct evpl_record *record;
	bool writes;
	int result;
	pthread_t thread;
};

static void *make_call(void *arg)
{
	struct call *call = arg;

	call->result = call->writes ? evpl_send(call->end, call->record, 1) :
				      evpl_recv(call->end, call->record, 1);
	return NULL;
}

/*
 * Start the call, with its record in the served page, and wait until the call waits for that
 * page. Return false if it doesn't: it may have failed and ended before.
 */
static bool begin_call(struct call *call, struct served *served)
{
	call->record = served->page;
	if (pthread_create(&call->thread, NULL, make_call, call))
		return false;
	for (int tries = 0; tries < 10 * LIMIT; tries++) {
		if (is_touched(served))
			return true;
		if (!pthread_tryjoin_np(call->thread, NULL))
			return false;
	}
	return false;
}

/* Wait until the call returns. Return its result, or -ETIMEDOUT if it doesn't return. */
static int end_call(struct call *call)
{
	const struct timespec limit = { .tv_sec = time(NULL) + LIMIT };

	return -pthread_timedjoin_np(call->thread, NULL, &limit) ?: call->result;
}

TEST_F(channel, read_into_a_page_that_is_not_there_yet_holds_nobody_up)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got;
	char content[PAGE] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[0], 1));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	sent[1].cookie = 17;
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[1], 1));
	ASSERT_TRUE(begin_call(&call, &served));

	/* Meanwhile the lessee, the owner and the end all still work. */
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	EXPECT_EQ(0, evpl_lease_pull(self->owner.fd));
	set_count(&self->owner.entries[1].word, 1);
	EXPECT_EQ(1, evpl_send(self->ends[0], &sent[0], 1));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 2 * BUFFER));
	EXPECT_EQ(0, get(&self->owner.entries[2].word));

	/* The buffer has been revoked meanwhile, and the record that it reads says so. */
	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(EVPL_RECORD_REVOKED, served.page->flags);
	EXPECT_EQ(EVPL_LEASE_NONE, served.page->lease);
	EXPECT_EQ(17, served.page->cookie);
	EXPECT_EQ(0, get(&self->owner.entries[2].word));
	EXPECT_EQ(0, read_counters().leases);
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	end_service(&served);
}

TEST_F(channel, poll_says_nothing_of_a_record_that_another_reads)
{
	struct epoll_event by_edges = { .events = EPOLLIN | EPOLLET };
	struct epoll_event by_level = { .events = EPOLLIN };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int edge = epoll_create1(EPOLL_CLOEXEC), level = epoll_create1(EPOLL_CLOEXEC);
	char content[PAGE] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	set_count(&self->owner.entries[1].word, 2);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	ASSERT_TRUE(begin_call(&call, &served));

	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	ASSERT_EQ(0, epoll_ctl(edge, EPOLL_CTL_ADD, self->ends[1], &by_edges));
	ASSERT_EQ(0, epoll_ctl(level, EPOLL_CTL_ADD, self->ends[1], &by_level));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(0, edges(level));
	/* The next record can't be read either, while another task reads the first. */
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(0, edges(level));
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(POLLIN | POLLOUT, events_of(self->ends[1]));
	EXPECT_EQ(EPOLLIN, edges(edge));
	EXPECT_EQ(0, edges(edge));
	EXPECT_EQ(EPOLLIN, edges(level));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, edges(level));
	EXPECT_EQ(2, get(&self->lessee.leases[got.lease].word));
	end_service(&served);
	close(edge);
	close(level);
}

TEST_F(channel, poll_tells_of_a_record_that_a_reader_gives_back)
{
	struct epoll_event by_edges = { .events = EPOLLIN | EPOLLET };
	struct epoll_event by_level = { .events = EPOLLIN };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int edge = epoll_create1(EPOLL_CLOEXEC), level = epoll_create1(EPOLL_CLOEXEC);
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, epoll_ctl(level, EPOLL_CTL_ADD, self->ends[1], &by_level));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(EPOLLIN, edges(level));
	ASSERT_TRUE(begin_call(&call, &served));
	EXPECT_EQ(0, edges(level));
	ASSERT_EQ(0, epoll_ctl(edge, EPOLL_CTL_ADD, self->ends[1], &by_edges));
	EXPECT_EQ(0, edges(edge));

	/* The page is unmapped, so the record can't be copied out. */
	end_service(&served);
	EXPECT_EQ(-EFAULT, end_call(&call));
	EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));
	EXPECT_EQ(EPOLLIN, edges(level));
	EXPECT_EQ(EPOLLIN, edges(edge));
	EXPECT_EQ(0, edges(edge));
	ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, edges(level));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close(edge);
	close(level);
}

TEST_F(channel, poll_tells_of_the_end_when_the_last_record_has_been_read)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	char content[PAGE] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_TRUE(begin_call(&call, &served));
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, self->ends[1], &event));
	close(self->ends[0]);
	EXPECT_EQ(POLLHUP, events_of(self->ends[1]));
	EXPECT_EQ(EPOLLHUP, edges(epoll));
	EXPECT_EQ(-EAGAIN, evpl_recv(self->ends[1], &got, 1));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(EPOLLIN | EPOLLHUP, edges(epoll));
	EXPECT_EQ(0, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(1, let_go(&self->lessee, served.page));
	end_service(&served);
	close(epoll);
}

TEST_F(channel, client_that_goes_while_a_record_is_copied_out_leaves_nothing_behind)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	char content[PAGE] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(2, evpl_send(self->ends[0], sent, 2));
	ASSERT_TRUE(begin_call(&call, &served));

	close_client(&self->lessee);
	EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, get(&self->owner.entries[2].word));
	EXPECT_EQ(1, read_counters().records);
	EXPECT_EQ(POLLIN | POLLHUP, events_of(self->ends[0]));
	EXPECT_EQ(-ENOTCONN, evpl_recv(self->ends[1], sent, 1));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(-ENOTCONN, end_call(&call));
	EXPECT_EQ(0, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, read_counters().records);
	EXPECT_EQ(0, read_counters().shares);
	end_service(&served);
}

TEST_F(channel, record_of_ones_own_is_nobodys_when_its_client_goes_meanwhile)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char content[PAGE] = { 0 };
	struct served served;
	struct call call = { 0 };
	int ends[2], ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, evpl_channel(self->lessee.fd, 8, ends));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[0]));
	ASSERT_EQ(0, evpl_bind(self->owner.fd, ends[1]));
	ASSERT_EQ(1, evpl_send(ends[0], &sent, 1));
	call.end = ends[1];
	ASSERT_TRUE(begin_call(&call, &served));

	close_client(&self->owner);
	EXPECT_EQ(-ENOTCONN, evpl_recv(ends[1], &got, 1));
	EXPECT_EQ(0, fdinfo(ends[1], "evpl-bound"));
	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(-ENOTCONN, end_call(&call));
	EXPECT_EQ(0, read_counters().records);
	end_service(&served);
	close(ends[0]);
	close(ends[1]);
}

TEST_F(channel, reader_that_another_holds_up_has_the_next_record)
{
	struct evpl_record sent[2] = {
		fill(&self->owner, 1, 'x'), fill(&self->owner, 2, 'y'),
	};
	struct evpl_record got[2];
	char content[PAGE] = { 0 };
	struct served served;
	struct call calls[3];
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	for (int i = 0; i < 3; i++)
		calls[i] = (struct call){ .end = self->ends[1] };
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[0], 1));
	ASSERT_TRUE(begin_call(&calls[0], &served));
	for (int i = 1; i < 3; i++) {
		calls[i].record = &got[i - 1];
		ASSERT_EQ(0, pthread_create(&calls[i].thread, NULL, make_call, &calls[i]));
	}
	usleep(100 * 1000);
	set_count(&self->owner.entries[2].word, 3);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[1], 1));
	usleep(100 * 1000);
	EXPECT_EQ(2, read_counters().records);

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&calls[0]));
	/* Only the end of the first call can wake one of the other readers. */
	for (int i = 0; i < 10 * LIMIT && read_counters().records; i++)
		usleep(100 * 1000);
	EXPECT_EQ(0, read_counters().records);
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent[1], 1));
	for (int i = 1; i < 3; i++)
		EXPECT_EQ(1, end_call(&calls[i]));
	EXPECT_EQ(got[0].lease, got[1].lease);
	EXPECT_NE(got[0].lease, served.page->lease);
	EXPECT_EQ(2, get(&self->lessee.leases[got[0].lease].word));
	EXPECT_EQ(1, get(&self->lessee.leases[served.page->lease].word));
	end_service(&served);
}

TEST_F(channel, write_from_a_page_that_is_not_there_yet_holds_nobody_up)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char content[PAGE] = { 0 };
	struct served served;
	struct call call = { .end = self->ends[0], .writes = true };
	int ret = serve(&served);

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	memcpy(content, &sent, sizeof(sent));
	ASSERT_TRUE(begin_call(&call, &served));

	fill(&self->owner, 2, 'y');
	sent.offset = 2 * BUFFER;
	EXPECT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	EXPECT_EQ(1, evpl_recv(self->ends[1], &got, 1));
	EXPECT_EQ(0, evpl_revoke(self->owner.fd, 2 * BUFFER));
	EXPECT_EQ(1, let_go(&self->lessee, &got));
	close_client(&self->lessee);

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(-EPIPE, end_call(&call));
	EXPECT_EQ(1, get(&self->owner.entries[1].word));
	EXPECT_EQ(0, read_counters().shares);
	end_service(&served);
}

TEST_F(channel, RWF_NOWAIT_is_EOPNOTSUPP_and_moves_nothing)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	struct iovec from = { .iov_base = &sent, .iov_len = sizeof(sent) };
	struct iovec to = { .iov_base = &got, .iov_len = sizeof(got) };

	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 2; j++)
			ASSERT_EQ(0, fcntl(self->ends[j], F_SETFL, i ? O_NONBLOCK : 0));
		set_count(&self->owner.entries[1].word, 1);
		EXPECT_EQ(-EOPNOTSUPP, RESULT(pwritev2(self->ends[0], &from, 1, -1, RWF_NOWAIT)));
		EXPECT_EQ(0, fdinfo(self->ends[1], "evpl-records-to-read"));
		EXPECT_EQ(1, get(&self->owner.entries[1].word));
		EXPECT_EQ(0, read_counters().shares);
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		EXPECT_EQ(-EOPNOTSUPP, RESULT(preadv2(self->ends[1], &to, 1, -1, RWF_NOWAIT)));
		EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));
		EXPECT_EQ(0, read_counters().leases);
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
	}
}

static struct io_uring_sqe request(uint8_t opcode, int end, struct evpl_record *record)
{
	return (struct io_uring_sqe){
		.opcode = opcode,
		.fd = end,
		.addr = (uintptr_t)record,
		.len = sizeof(*record),
		.user_data = opcode,
	};
}

TEST_F(channel, ring_reads_and_writes_an_end_as_soon_as_it_can)
{
	struct evpl_record sent[8], got[8], one = fill(&self->owner, 1, 'x');
	struct io_uring_sqe sqe;
	struct ring ring;

	ASSERT_TRUE(ring_open(&ring));
	for (int i = 0; i < 8; i++)
		sent[i] = one;
	/* Blocking and O_NONBLOCK ends; without IOSQE_ASYNC, and with it, so that a worker acts. */
	for (int i = 0; i < 4; i++) {
		for (int j = 0; j < 2; j++)
			ASSERT_EQ(0, fcntl(self->ends[j], F_SETFL, i & 1 ? O_NONBLOCK : 0));
		sqe = request(IORING_OP_READ, self->ends[1], got);
		sqe.flags = i & 2 ? IOSQE_ASYNC : 0;
		ASSERT_EQ(0, ring_submit(&ring, &sqe));
		EXPECT_FALSE(ring_has_result(&ring));
		set_count(&self->owner.entries[1].word, 1);
		ASSERT_EQ(1, evpl_send(self->ends[0], &one, 1));
		ASSERT_EQ(sizeof(*got), ring_wait(&ring)) {
			TH_LOG("case %d", i);
		}
		EXPECT_EQ(0, read_counters().records);
		EXPECT_EQ(1, get(&self->lessee.leases[got->lease].word));
		EXPECT_EQ(1, let_go(&self->lessee, got));

		set_count(&self->owner.entries[1].word, 9);
		ASSERT_EQ(8, evpl_send(self->ends[0], sent, 8));
		sqe = request(IORING_OP_WRITE, self->ends[0], &one);
		sqe.flags = i & 2 ? IOSQE_ASYNC : 0;
		ASSERT_EQ(0, ring_submit(&ring, &sqe));
		EXPECT_FALSE(ring_has_result(&ring));
		EXPECT_EQ(8, read_counters().records);
		ASSERT_EQ(1, evpl_recv(self->ends[1], got, 1));
		ASSERT_EQ(sizeof(one), ring_wait(&ring)) {
			TH_LOG("case %d", i);
		}
		EXPECT_EQ(8, fdinfo(self->ends[1], "evpl-records-to-read"));
		EXPECT_EQ(EVPL_WORD_SHARED, get(&self->owner.entries[1].word));
		/* Work that io_uring has for this task ends a read early. */
		for (int nr = 0, ret; nr < 8; nr += ret) {
			ret = evpl_recv(self->ends[1], got + nr, 8 - nr);
			ASSERT_LT(0, ret);
		}
		EXPECT_EQ(9, get(&self->lessee.leases[got->lease].word));
		set(&self->lessee.leases[got->lease].word, 1);
		EXPECT_EQ(1, let_go(&self->lessee, got));
	}
	ring_close(&ring);
}

/* Cancel a request that was submitted. Return the request's result. */
static int cancel(struct ring *ring, const struct io_uring_sqe *sqe)
{
	int results[2] = { 0 };
	uint64_t user_data = 0;
	int ret = ring_submit(ring, &(struct io_uring_sqe){
		.opcode = IORING_OP_ASYNC_CANCEL,
		.addr = sqe->user_data,
		.user_data = IORING_OP_ASYNC_CANCEL,
	});

	if (ret)
		return ret;
	/* The request and the cancellation both have a result. */
	for (int i = 0; i < 2; i++) {
		ret = ring_result(ring, &user_data);
		if (ret == -ETIME)
			return ret;
		results[user_data == sqe->user_data] = ret;
	}
	return results[1];
}

TEST_F(channel, ring_that_cancels_a_read_takes_no_record)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got, mine = { .length = 0 };
	struct io_uring_sqe sqe = request(IORING_OP_READ, self->ends[1], &mine);
	struct ring ring;

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, i ? O_NONBLOCK : 0));
		ASSERT_TRUE(ring_open(&ring));
		ASSERT_EQ(0, ring_submit(&ring, &sqe));
		EXPECT_EQ(-ECANCELED, cancel(&ring, &sqe));
		set_count(&self->owner.entries[1].word, 1);
		ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
		EXPECT_EQ(1, fdinfo(self->ends[1], "evpl-records-to-read"));
		ASSERT_EQ(1, evpl_recv(self->ends[1], &got, 1));
		EXPECT_EQ(1, let_go(&self->lessee, &got));
		EXPECT_EQ(0, mine.length);
		ring_close(&ring);
	}
}

TEST_F(channel, ring_that_goes_lets_go_of_the_end_that_it_reads)
{
	struct io_uring_sqe sqe;
	struct evpl_record got;
	struct pollfd gone = { .fd = self->ends[0] };
	struct ring ring;

	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	ASSERT_TRUE(ring_open(&ring));
	sqe = request(IORING_OP_READ, self->ends[1], &got);
	ASSERT_EQ(0, ring_submit(&ring, &sqe));
	close(self->ends[1]);
	EXPECT_EQ(POLLOUT, events_of(self->ends[0]));
	ring_close(&ring);
	EXPECT_EQ(1, poll(&gone, 1, LIMIT * 1000));
	EXPECT_EQ(POLLHUP, gone.revents);
}

TEST_F(channel, worker_of_a_ring_that_sleeps_in_a_read_can_be_stopped)
{
	struct evpl_record sent = fill(&self->owner, 1, 'x'), got;
	char content[PAGE] = { 0 };
	struct io_uring_sqe sqe;
	struct served served;
	struct ring ring;
	struct call call = { .end = self->ends[1] };
	int ret = serve(&served);
	pid_t child;

	if (ret == -ENOSYS)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, fcntl(self->ends[1], F_SETFL, 0));
	ASSERT_EQ(1, evpl_send(self->ends[0], &sent, 1));
	ASSERT_TRUE(begin_call(&call, &served));
	/* poll says POLLHUP, so the worker reads instead of polling, and is turned away. */
	close(self->ends[0]);
	sqe = request(IORING_OP_READ, self->ends[1], &got);
	sqe.flags = IOSQE_ASYNC;

	ASSERT_TRUE(ring_open(&ring));
	ASSERT_EQ(0, ring_submit(&ring, &sqe));
	usleep(100 * 1000);
	EXPECT_FALSE(ring_has_result(&ring));
	ret = cancel(&ring, &sqe);
	/* -ECANCELED: the worker had not begun yet. */
	EXPECT_TRUE(ret == -EINTR || ret == -ECANCELED) {
		TH_LOG("%d", ret);
	}
	ring_close(&ring);

	child = fork_child();
	if (!child) {
		ret = ring_open(&ring) && !ring_submit(&ring, &sqe) ? 0 : 1;
		usleep(100 * 1000);
		_exit(ret);
	}
	EXPECT_EQ(0, reap(child));

	ASSERT_EQ(0, give_page(&served, content));
	EXPECT_EQ(1, end_call(&call));
	EXPECT_EQ(1, let_go(&self->lessee, served.page));
	EXPECT_EQ(0, evpl_recv(self->ends[1], &got, 1));
	end_service(&served);
}

TEST_HARNESS_MAIN
