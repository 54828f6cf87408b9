// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * A feed of records in C++: a publisher writes many records into one slice, and each subscriber
 * gets the records of its own topic, as a part of that slice. No byte is copied. A subscriber that
 * lags behind is waited for, and one that has died is left out.
 *
 *	c++ -std=c++17 feed.cc $(pkg-config --cflags --libs libevplmem)
 *
 * publish.c does the like in C, with lanes too.
 */
#include <evplmem.hpp>

#include <cstdio>
#include <cstring>
#include <exception>
#include <system_error>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr unsigned int topics = 3, rounds = 1000, records = 64;

struct record {
	unsigned int topic, round, number;
};

/* Whether these are the records of a topic and a round. */
bool is_right(const evpl::iovec &slice, unsigned int topic, unsigned int round)
{
	if (slice.size() != records * sizeof(record))
		return false;
	for (unsigned int i = 0; i < records; i++) {
		record seen;

		std::memcpy(&seen, slice.data() + i * sizeof(seen), sizeof(seen));
		if (seen.topic != topic || seen.round != round || seen.number != i)
			return false;
	}
	return true;
}

/*
 * A subscriber: another process, with a pool of its own. Returns its exit status. An exception ends
 * the process here, so that it doesn't destroy the publisher's objects.
 */
int subscribe(int end, unsigned int topic) noexcept
{
	evpl::pool pool = evpl::pool::open().value();
	evpl::channel channel = evpl::channel::bind(pool, end, EVPL_CHANNEL_BLOCKING).value();
	evpl::messages<16> messages;
	unsigned int right = 0;

	/* The last result is EPIPE: the publisher has closed its end. */
	while (channel.recv(messages)) {
		for (const evpl::message &message : messages)
			right += is_right(message.iovec, topic,
					  static_cast<unsigned int>(message.cookie));
		messages.clear();
	}
	std::printf("subscriber of topic %u saw %u messages\n", topic, right);
	std::fflush(stdout);
	return right != rounds;
}

evpl::iovec write_round(evpl::context &context, unsigned int round)
{
	/* The buffer is for this round alone, since each subscriber can read all of it. */
	evpl::iovec slice = context.alloc_flags(topics * records * sizeof(record), alignof(record),
						EVPL_IOVEC_PRIVATE).value();
	std::byte *next = slice.data();

	for (unsigned int topic = 0; topic < topics; topic++) {
		for (unsigned int i = 0; i < records; i++) {
			record written = { topic, round, i };

			std::memcpy(next, &written, sizeof(written));
			next += sizeof(written);
		}
	}
	return slice;
}

int publish()
{
	evpl::pool_config config;
	config.buffer_size = 64 << 10;
	evpl::pool pool = evpl::pool::open(config).value();
	evpl::context context = evpl::context::create(pool).value();
	std::vector<evpl::channel> channels;
	int failed = 0, status;

	for (unsigned int topic = 0; topic < topics; topic++) {
		int peer;

		channels.push_back(
			evpl::channel::create(pool, peer, EVPL_CHANNEL_BLOCKING).value());
		pid_t child = fork();
		if (!child) {
			/* While the child has copies of these ends, it wouldn't see them closed. */
			channels.clear();
			_exit(subscribe(peer, topic));
		}
		close(peer);
		failed |= child < 0;
	}

	for (unsigned int round = 0; round < rounds; round++) {
		evpl::iovec slice = write_round(context, round);

		for (unsigned int topic = 0; topic < topics; topic++) {
			constexpr std::size_t bytes = records * sizeof(record);
			auto sent = channels[topic].send(
				{ slice.slice(topic * bytes, bytes).value(), round });

			if (!sent && sent.number() != EPIPE)
				throw std::system_error(sent.error(), "send");
		}
	}

	channels.clear();
	for (unsigned int topic = 0; topic < topics; topic++)
		failed |= wait(&status) < 0 || status;
	return failed;
}

} // namespace

int main()
{
	try {
		return publish();
	} catch (const std::exception &error) {
		std::fprintf(stderr, "%s. %s\n", error.what(), evpl::last_error());
		return 1;
	}
}
