// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* A small program with the classes of evplmem.hpp, built in each way that check tries. */
#include <evplmem.hpp>
#if __cplusplus >= 202002L
#include <span>

/* A slice is a span's source, with the span's length known or not. */
static std::size_t length_of(std::span<const std::byte> span)
{
	return span.size();
}
#else
static std::size_t length_of(const evpl::iovec &iovec)
{
	return iovec.size();
}
#endif

int main()
{
	evpl::pool_config config;
	config.backend = EVPL_BACKEND_ANON;
	auto pool = evpl::pool::open(config);
	auto context = evpl::context::create(*pool);
	auto slice = context->alloc(4096);
	evpl::iovec copy = slice->clone();
	evpl::iovecs<2> batch;
	evpl::messages<2> messages;
	int peer;

	if (!slice || !context->alloc(batch, 1500000) || !messages.push_back({ std::move(copy) }))
		return 1;
	auto channel = evpl::channel::create(*pool, peer);
	if (channel.number() != EOPNOTSUPP || length_of(*slice) != 4096 || bytes(batch) != 1500000)
		return 1;
	batch.clear();
	messages.clear();
	slice->reset();
	*context = evpl::context();
	return pool->close().number();
}
