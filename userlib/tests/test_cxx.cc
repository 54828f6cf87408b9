// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* The classes of evplmem.hpp. The other tests have the functions that these call. */
#include <evplmem.hpp>

#include <algorithm>
#include <fcntl.h>
#include <map>
#include <new>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cxx.h"

static constexpr std::size_t BUFFER = 64 << 10;
static constexpr std::size_t SLAB = 2 << 20;
static constexpr std::size_t PER_SLAB = SLAB / BUFFER;

template <class T> constexpr bool is_owner = !std::is_copy_constructible_v<T> &&
	!std::is_copy_assignable_v<T> && std::is_nothrow_move_constructible_v<T> &&
	std::is_nothrow_move_assignable_v<T> && std::is_nothrow_default_constructible_v<T> &&
	std::is_nothrow_destructible_v<T> && std::is_nothrow_swappable_v<T>;

static_assert(is_owner<evpl::pool>);
static_assert(is_owner<evpl::context>);
static_assert(is_owner<evpl::channel>);
static_assert(is_owner<evpl::iovec>);
static_assert(is_owner<evpl::message>);
static_assert(is_owner<evpl::iovecs<4>>);
static_assert(is_owner<evpl::messages<4>>);
static_assert(!std::is_copy_constructible_v<evpl::result<evpl::iovec>>);
static_assert(std::is_nothrow_move_constructible_v<evpl::result<evpl::iovec>>);
/* A C object becomes an owner's, and a length an iovec's, by name alone. */
static_assert(!std::is_convertible_v<struct evpl_iovec, evpl::iovec>);
static_assert(!std::is_convertible_v<struct evpl_pool *, evpl::pool>);
static_assert(!std::is_convertible_v<evpl::iovec, bool>);
/* The calls of a hot path throw nothing. */
static_assert(noexcept(std::declval<evpl::context &>().alloc(1)));
static_assert(noexcept(std::declval<evpl::context &>().alloc(std::declval<evpl::iovecs<2> &>(),
							     1)));
static_assert(noexcept(std::declval<evpl::iovec &>().clone()));
static_assert(noexcept(std::declval<evpl::iovec &>().slice(1)));
static_assert(noexcept(std::declval<evpl::iovec &>().reset()));
static_assert(noexcept(std::declval<evpl::channel &>().send(std::declval<evpl::message &>())));
static_assert(noexcept(std::declval<evpl::channel &>().recv()));

/* Objects that this program has made on the heap. */
static unsigned long news;

void *operator new(std::size_t size)
{
	void *memory = std::malloc(size);

	news++;
	if (!memory)
		std::abort();
	return memory;
}

void operator delete(void *memory) noexcept
{
	std::free(memory);
}

void operator delete(void *memory, std::size_t) noexcept
{
	std::free(memory);
}

static unsigned long long word_of(const evpl::iovec &iovec)
{
	return cxx_word_of(iovec.get());
}

static evpl::pool_config small_config()
{
	evpl::pool_config config;

	config.buffer_size = BUFFER;
	config.slab_size_max = SLAB;
	config.max_bytes = SLAB;
	return config;
}

static unsigned long long used_in(const evpl::pool &pool)
{
	return (*pool.stats()).buffers_used;
}

/* A pool with a context. The pool can be closed only if the test has left no reference. */
struct with_pool {
	explicit with_pool(const evpl::pool_config &config = small_config()) :
		pool(evpl::pool::open(config).value()),
		context(evpl::context::create(pool).value()) {}

	~with_pool()
	{
		context = evpl::context();
		EXPECT_EQ(0, pool.close().number());
	}

	evpl::iovec filled(std::size_t length, char byte)
	{
		evpl::iovec iovec = context.alloc(length).value();

		std::memset(iovec.data(), byte, length);
		return iovec;
	}

	evpl::pool pool;
	evpl::context context;
};

static bool is_filled(const evpl::iovec &iovec, char byte)
{
	return std::all_of(iovec.begin(), iovec.end(),
			   [byte](std::byte b) { return b == static_cast<std::byte>(byte); });
}

TEST(moving_leaves_the_source_empty)
{
	with_pool self;
	evpl::iovec first = self.filled(100, 'x'), second;
	std::byte *data = first.data();
	unsigned long long word = word_of(first);

	EXPECT(first);
	EXPECT(!second);
	second = std::move(first);
	EXPECT(!first);
	EXPECT(!first.data());
	EXPECT_EQ(std::size_t(0), first.size());
	EXPECT(second.data() == data);
	EXPECT_EQ(std::size_t(100), second.size());
	EXPECT_EQ(word, word_of(second));

	evpl::iovec third(std::move(second));
	EXPECT(!second);
	EXPECT_EQ(word, word_of(third));
	std::swap(first, third);
	EXPECT(!third);
	EXPECT(first.data() == data);

	evpl::message message{ std::move(first), 7 }, other(std::move(message));
	EXPECT(!message.iovec);
	EXPECT_EQ(7U, other.cookie);
	EXPECT_EQ(word, word_of(other.iovec));

	evpl::context context(std::move(self.context));
	EXPECT(!self.context);
	EXPECT(context);
	evpl::pool pool(std::move(self.pool));
	EXPECT(!self.pool);
	EXPECT(pool);
	self.pool = std::move(pool);
	EXPECT(!pool);
}

TEST(a_move_to_itself_keeps_the_slice)
{
	with_pool self;
	evpl::iovec iovec = self.filled(100, 'x'), &same = iovec;
	evpl::iovecs<2> batch, &same_batch = batch;
	unsigned long long word = word_of(iovec);

	iovec = std::move(same);
	EXPECT_EQ(std::size_t(100), iovec.size());
	EXPECT_EQ(word, word_of(iovec));
	ASSERT(batch.push_back(iovec.clone()));
	batch = std::move(same_batch);
	EXPECT_EQ(std::size_t(1), batch.size());
	EXPECT_EQ(word + 1, word_of(iovec));
}

TEST(a_move_over_an_iovec_drops_its_old_reference)
{
	with_pool self;
	evpl::iovec kept = self.context.alloc_buffer().value(), copy = kept.clone();

	EXPECT_EQ(2U, word_of(kept));
	copy = self.context.alloc_buffer().value();
	EXPECT_EQ(1U, word_of(kept));
	copy = evpl::iovec();
	EXPECT_EQ(1U, used_in(self.pool));
}

TEST(a_clone_counts_and_shows_the_same_bytes)
{
	with_pool self;
	evpl::iovec iovec = self.context.alloc_buffer().value();

	EXPECT_EQ(1U, word_of(iovec));
	EXPECT(iovec.is_unique());
	{
		evpl::iovec copy = iovec.clone(), another = copy.clone();

		EXPECT_EQ(3U, word_of(iovec));
		EXPECT(!iovec.is_unique());
		EXPECT(copy.data() == iovec.data());
		EXPECT_EQ(iovec.size(), another.size());
		copy.reset();
		EXPECT(!copy);
		EXPECT_EQ(2U, word_of(iovec));
		copy.reset();
		EXPECT_EQ(2U, word_of(iovec));
	}
	EXPECT_EQ(1U, word_of(iovec));
	EXPECT(iovec.is_unique());
}

TEST(an_empty_iovec_is_cloned_cut_and_dropped)
{
	evpl::iovec empty, copy = empty.clone();

	EXPECT(!copy);
	EXPECT(copy.begin() == copy.end());
	EXPECT_EQ(0, empty.advance(0).number());
	EXPECT_EQ(EINVAL, empty.trim(1).number());
	EXPECT_EQ(EINVAL, empty.slice(1).number());
	EXPECT(!empty.is_unique());
	EXPECT_EQ(EINVAL, empty.revoke().number());
}

TEST(a_reference_goes_to_c_and_back)
{
	with_pool self;
	evpl::iovec iovec = self.context.alloc_buffer().value();
	struct evpl_iovec raw = iovec.detach();

	EXPECT(!iovec);
	evpl_iovec_addref(&raw);
	{
		evpl::iovec owner(raw);

		EXPECT_EQ(2U, word_of(owner));
		EXPECT(owner.get()->data == raw.data);
	}
	EXPECT_EQ(1U, cxx_word_of(&raw));
	evpl_iovec_release(&raw);
}

TEST(slices_are_references_within_their_source)
{
	with_pool self;
	evpl::iovec iovec = self.context.alloc_buffer().value();
	auto part = iovec.slice(100, 200), rest = iovec.slice(BUFFER - 1);
	auto none = iovec.slice(BUFFER);

	ASSERT(part && rest && none);
	EXPECT_EQ(4U, word_of(iovec));
	EXPECT(part->data() == iovec.data() + 100);
	EXPECT_EQ(std::size_t(200), part->size());
	EXPECT_EQ(std::size_t(1), rest->size());
	EXPECT(none->empty());
	EXPECT(*none);
	EXPECT_EQ(EINVAL, iovec.slice(BUFFER + 1).number());
	EXPECT_EQ(EINVAL, iovec.slice(1, BUFFER).number());
	/* A length isn't shortened to 32 bits. */
	EXPECT_EQ(EINVAL, iovec.slice(1ULL << 32).number());
	EXPECT_EQ(EINVAL, iovec.slice(0, (1ULL << 32) + 1).number());
	EXPECT_EQ(EINVAL, iovec.advance((1ULL << 32) + 1).number());
	EXPECT_EQ(EINVAL, iovec.trim((1ULL << 32) + 1).number());
	EXPECT_EQ(EINVAL, iovec.split((1ULL << 32) + 1).number());
	EXPECT_EQ(4U, word_of(iovec));
	EXPECT_EQ(BUFFER, iovec.size());

	auto end = iovec.split(1000);
	ASSERT(end);
	EXPECT_EQ(std::size_t(1000), iovec.size());
	EXPECT_EQ(BUFFER - 1000, end->size());
	EXPECT(end->data() == iovec.end());
	EXPECT_EQ(5U, word_of(iovec));
	EXPECT(iovec.advance(10));
	EXPECT(iovec.trim(20));
	EXPECT_EQ(std::size_t(970), iovec.size());
	EXPECT_EQ(EINVAL, iovec.trim(971).number());
	EXPECT_EQ(std::size_t(970), iovec.size());
}

TEST(an_iovec_is_a_range_of_bytes)
{
	with_pool self;
	evpl::iovec iovec = self.filled(1000, 'x');
	const evpl::iovec &same = iovec;
	std::size_t n = 0;

	for (std::byte byte : same)
		n += byte == std::byte('x');
	EXPECT_EQ(std::size_t(1000), n);
	std::fill(iovec.begin(), iovec.end(), std::byte('y'));
	EXPECT(is_filled(same, 'y'));
	EXPECT_EQ('y', static_cast<char>(same[999]));
}

TEST(each_failed_allocation_has_its_errno)
{
	with_pool self;
	evpl::iovecs<PER_SLAB + 1> all;

	EXPECT_EQ(ENOBUFS, self.context.alloc(BUFFER + 1).number());
	EXPECT_EQ(EINVAL, self.context.alloc(100, 3).number());
	EXPECT_EQ(EINVAL, self.context.alloc(100, 1ULL << 32).number());
	EXPECT_EQ(EMSGSIZE, self.context.alloc(1ULL << 32).number());
	EXPECT_EQ(EMSGSIZE, self.context.alloc_flags((1ULL << 32) + 100, 0, 0).number());
	EXPECT_EQ(EOPNOTSUPP, self.context.alloc_flags(100, 0, 1U << 31).number());
	EXPECT_EQ(EMSGSIZE, self.context.alloc(all, SLAB + 1).number());
	EXPECT_EQ(EMSGSIZE, self.context.alloc(all, 1ULL << 32).number());
	EXPECT(all.empty());

	auto none = self.context.alloc(0);
	EXPECT(none);
	EXPECT(!*none);

	ASSERT(self.context.alloc(all, SLAB));
	EXPECT_EQ(ENOMEM, self.context.alloc(1).number());
	EXPECT_EQ(ENOMEM, self.context.alloc_buffer().number());
	all.clear();
	EXPECT(self.context.alloc(1));
}

TEST(a_private_slice_has_a_buffer_to_itself)
{
	with_pool self;
	evpl::iovec iovec = self.context.alloc_flags(100, 64, EVPL_IOVEC_PRIVATE).value();

	EXPECT(iovec.is_unique());
	EXPECT_EQ(0U, reinterpret_cast<std::uintptr_t>(iovec.data()) % 64);
}

TEST(a_batch_owns_the_iovecs_of_an_allocation)
{
	with_pool self;
	evpl::iovecs<5> batch;

	EXPECT_EQ(std::size_t(5), batch.room());
	ASSERT(self.context.alloc(batch, 2 * BUFFER + 100, 64));
	EXPECT_EQ(std::size_t(3), batch.size());
	EXPECT_EQ(2 * BUFFER + 100, bytes(batch));
	EXPECT_EQ(std::size_t(100), batch[2].size());
	for (evpl::iovec &iovec : batch)
		std::fill(iovec.begin(), iovec.end(), std::byte('x'));
	EXPECT_EQ(1U, word_of(batch[0]));

	/* A failed call leaves the batch as it is, and others append to it. */
	EXPECT_EQ(ENOBUFS, self.context.alloc(batch, 2 * BUFFER + 1).number());
	EXPECT_EQ(std::size_t(3), batch.size());
	ASSERT(self.context.alloc(batch, 10));
	ASSERT(batch.push_back(batch[0].clone()));
	EXPECT_EQ(2U, word_of(batch[0]));
	EXPECT_EQ(std::size_t(0), batch.room());
	EXPECT_EQ(ENOBUFS, self.context.alloc(batch, 1).number());

	evpl::iovec more = batch[1].clone();
	EXPECT(!batch.push_back(std::move(more)));
	EXPECT_EQ(2U, word_of(more));

	evpl::iovecs<5> other(std::move(batch));
	EXPECT(batch.empty());
	EXPECT_EQ(std::size_t(5), other.size());
	EXPECT_EQ(2U, word_of(other[0]));
	batch = std::move(other);
	EXPECT(other.empty());
	EXPECT_EQ(2U, word_of(batch[0]));
	batch.clear();
	EXPECT(batch.empty());
	EXPECT_EQ(1U, word_of(more));
	ASSERT(self.context.alloc(batch, 5 * BUFFER));
	EXPECT_EQ(std::size_t(5), batch.size());
}

TEST(reserved_memory_is_committed_in_part)
{
	with_pool self;
	evpl::iovecs<4> batch;

	ASSERT(self.context.reserve(batch, 3 * BUFFER));
	EXPECT_EQ(EINVAL, self.context.reserve(batch, 100).number());
	EXPECT_EQ(std::size_t(3), batch.size());
	EXPECT_EQ(EINVAL, self.context.commit(batch, 3 * BUFFER + 1).number());
	EXPECT_EQ(EINVAL, self.context.commit(batch, (1ULL << 32) + 1).number());
	EXPECT_EQ(std::size_t(3), batch.size());
	ASSERT(self.context.commit(batch, BUFFER + 10));
	EXPECT_EQ(std::size_t(2), batch.size());
	EXPECT_EQ(BUFFER + 10, bytes(batch));
	EXPECT_EQ(EINVAL, self.context.commit(batch, 1).number());
	EXPECT_EQ(std::size_t(2), batch.size());
	batch.clear();
	ASSERT(self.context.reserve(batch, 100));
	ASSERT(self.context.commit(batch, 0));
	EXPECT(batch.empty());
	EXPECT_EQ(EMSGSIZE, self.context.reserve(batch, 1ULL << 32).number());
}

static void fail_with_references(with_pool &self, evpl::iovec &kept)
{
	evpl::iovec copy = kept.clone(), moved = std::move(copy);
	evpl::message message{ kept.clone() };
	evpl::iovecs<8> batch;
	evpl::messages<8> messages;
	std::vector<evpl::iovec> many;
	auto result = self.context.alloc(100);

	if (!self.context.alloc(batch, 3 * BUFFER) || !messages.push_back(std::move(message)))
		return;
	for (int i = 0; i < 20; i++)
		many.push_back(kept.clone());
	EXPECT_EQ(23U, word_of(kept));
	throw std::runtime_error("a mistake of the program");
}

TEST(exceptions_of_the_program_leak_nothing)
{
	with_pool self;
	evpl::iovec kept = self.context.alloc_buffer().value();
	bool caught = false;

	try {
		fail_with_references(self, kept);
	} catch (const std::runtime_error &) {
		caught = true;
	}
	EXPECT(caught);
	EXPECT_EQ(1U, word_of(kept));
}

TEST(errors_are_codes_and_exceptions_for_those_who_ask)
{
	evpl::pool_config config = small_config();
	std::error_code code;

	config.buffer_size = 12345;
	auto pool = evpl::pool::open(config);
	EXPECT(!pool);
	EXPECT(!*pool);
	EXPECT_EQ(EINVAL, pool.number());
	EXPECT(pool.error() == std::errc::invalid_argument);
	EXPECT(pool.error().category() == std::generic_category());
	EXPECT(std::strlen(evpl::last_error()) > 0);
	try {
		EXPECT(!evpl::pool::open(config).value());
		EXPECT(false);
	} catch (const std::system_error &error) {
		code = error.code();
	}
	EXPECT(code == std::errc::invalid_argument);

	with_pool self;
	EXPECT(!self.context.alloc(1).error());
	EXPECT_EQ(0, self.context.alloc(1).number());
	code = std::error_code();
	try {
		self.pool.watch(2, 1).value();
	} catch (const std::system_error &error) {
		code = error.code();
	}
	EXPECT(code == std::errc::invalid_argument);
	self.pool.watch(1, 2).value();
}

TEST(iovecs_live_in_containers)
{
	with_pool self;
	evpl::iovec kept = self.context.alloc_buffer().value();
	std::map<std::string, evpl::iovec> named;
	std::vector<evpl::iovec> many;

	for (unsigned int i = 0; i < 100; i++) {
		many.push_back(kept.slice(99 - i, 1).value());
		many.back()[0] = static_cast<std::byte>(99 - i);
	}
	EXPECT_EQ(101U, word_of(kept));
	std::sort(many.begin(), many.end(),
		  [](const auto &a, const auto &b) { return a.data() < b.data(); });
	for (unsigned int i = 0; i < 100; i++)
		EXPECT(many[i][0] == static_cast<std::byte>(i));
	many.erase(many.begin() + 10, many.begin() + 60);
	EXPECT_EQ(51U, word_of(kept));
	many.erase(std::remove_if(many.begin(), many.end(),
				  [](const auto &a) { return a[0] > std::byte(80); }),
		   many.end());
	EXPECT_EQ(32U, word_of(kept));
	many.insert(many.begin(), kept.clone());
	many.resize(2);
	EXPECT_EQ(3U, word_of(kept));
	many.resize(10);
	EXPECT_EQ(3U, word_of(kept));

	named["a"] = kept.clone();
	named["b"] = std::move(many[0]);
	named.emplace("c", kept.clone());
	named["a"] = kept.clone();
	EXPECT_EQ(5U, word_of(kept));
	named.erase("a");
	many.clear();
	EXPECT_EQ(3U, word_of(kept));
}

static void count_end(void *arg)
{
	++*static_cast<int *>(arg);
}

TEST(memory_of_the_program_is_wrapped)
{
	static char memory[100];
	int ends = 0;
	{
		auto iovec = evpl::iovec::wrap(memory, sizeof(memory), count_end, &ends);

		ASSERT(iovec);
		EXPECT(iovec->data() == reinterpret_cast<std::byte *>(memory));
		auto copy = iovec->clone();
		iovec->reset();
		EXPECT_EQ(0, ends);
	}
	EXPECT_EQ(1, ends);
	EXPECT_EQ(EINVAL, evpl::iovec::wrap(memory, 1ULL << 32, count_end, &ends).number());
	EXPECT_EQ(1, ends);
}

TEST(length_of_33_bits_is_refused_by_the_longest_slice)
{
	/* Only an iovec of C can have as many bytes. Nothing reads them. */
	static char memory[1];
	int ends = 0;
	{
		struct evpl_iovec longest;

		ASSERT_EQ(0, evpl_iovec_wrap(&longest, memory, UINT_MAX, count_end, &ends));
		evpl::iovec iovec(longest);
		EXPECT_EQ(EINVAL, iovec.slice(0, 1ULL << 32).number());
		EXPECT_EQ(EINVAL, iovec.slice(1ULL << 32, 0).number());
		EXPECT_EQ(EINVAL, iovec.advance(1ULL << 32).number());
		EXPECT_EQ(EINVAL, iovec.trim(1ULL << 32).number());
		EXPECT_EQ(EINVAL, iovec.split(1ULL << 32).number());
		EXPECT_EQ(UINT_MAX, iovec.size());
		EXPECT(iovec.is_unique());
	}
	EXPECT_EQ(1, ends);
}

struct held {
	evpl::iovec iovec;
	int ends = 0;
};

/* As when the object that has the iovec ends along with the memory. */
static void reset_once(void *arg)
{
	held *object = static_cast<held *>(arg);

	if (object->ends++ == 0)
		object->iovec.reset();
}

TEST(the_end_of_wrapped_memory_may_use_the_iovec_that_is_released)
{
	static char memory[100];
	held object;

	object.iovec = evpl::iovec::wrap(memory, sizeof(memory), reset_once, &object).value();
	object.iovec.reset();
	EXPECT_EQ(1, object.ends);
	object.ends = 0;
	object.iovec = evpl::iovec::wrap(memory, sizeof(memory), reset_once, &object).value();
	object.iovec = evpl::iovec();
	EXPECT_EQ(1, object.ends);
}

TEST(a_pool_stays_open_while_references_are_left)
{
	evpl::pool pool = evpl::pool::open(small_config()).value();
	struct evpl_pool *raw = pool.get();
	evpl::iovec iovec;

	{
		evpl::context context = evpl::context::create(pool).value();

		EXPECT_EQ(EBUSY, pool.close().number());
		EXPECT(pool);
		iovec = context.alloc(100).value();
	}
	EXPECT_EQ(EBUSY, pool.close().number());
	pool = evpl::pool();
	std::memset(iovec.data(), 1, iovec.size());
	iovec.reset();
	EXPECT_EQ(0, evpl_pool_close(raw));
	EXPECT_EQ(0, evpl::pool().close().number());
}

TEST(the_hot_path_makes_no_object_on_the_heap)
{
	with_pool self;
	std::size_t failures = 0;
	unsigned long before;

	self.context.alloc(1).value();
	before = news;
	for (int i = 0; i < 1000; i++) {
		auto iovec = self.context.alloc(1000);
		evpl::iovec copy = iovec->clone();
		evpl::iovecs<3> batch;
		evpl::messages<2> messages;

		failures += !iovec->slice(10, 20);
		failures += !self.context.alloc(batch, 2 * BUFFER + 1);
		failures += !messages.push_back({ std::move(copy) });
		failures += !!self.context.alloc(BUFFER + 1);
	}
	EXPECT_EQ(before, news);
	EXPECT_EQ(std::size_t(0), failures);
}

TEST(a_pool_tells_its_room_and_its_statistics)
{
	with_pool self;
	struct pollfd pollfd = { self.pool.eventfd().value(), POLLIN, 0 };
	evpl::iovecs<PER_SLAB> all;

	EXPECT_EQ(BUFFER, (*self.pool.stats()).buffer_size);
	EXPECT_EQ(EINVAL, self.pool.watch(2 * BUFFER, BUFFER).number());
	ASSERT(self.pool.watch(4 * BUFFER, 8 * BUFFER));
	EXPECT_EQ(unsigned(EVPL_ROOM_AMPLE), (*self.pool.pressure()).level);
	EXPECT_EQ(SLAB, (*self.pool.pressure()).room);
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	ASSERT(self.context.alloc(all, SLAB));
	EXPECT_EQ(1, poll(&pollfd, 1, 0));
	EXPECT_EQ(unsigned(EVPL_ROOM_SHORT), (*self.pool.pressure()).level);
	EXPECT_EQ(unsigned(EVPL_CAP_POOL), (*self.pool.pressure()).cap);
	EXPECT_EQ(PER_SLAB, used_in(self.pool));
	all.clear();
	EXPECT_EQ(unsigned(EVPL_ROOM_AMPLE), (*self.pool.pressure()).level);
	ASSERT(self.pool.preallocate(SLAB));
	EXPECT_EQ(ENOMEM, self.pool.preallocate(2 * SLAB).number());
	EXPECT_EQ(0U, self.pool.trim());
}

TEST(the_anon_back_end_refuses_what_is_the_modules)
{
	evpl::pool_config config = small_config();
	int peer = -1;

	config.backend = EVPL_BACKEND_ANON;
	with_pool self(config);
	evpl::iovecs<1> batch;
	ASSERT(self.context.alloc(batch, BUFFER));
	EXPECT_EQ(EOPNOTSUPP, evpl::channel::create(self.pool, peer).number());
	EXPECT_EQ(-1, peer);
	EXPECT_EQ(EOPNOTSUPP, evpl::channel::bind(self.pool, 0).number());
	EXPECT_EQ(EOPNOTSUPP, self.pool.keep("name", batch[0]).number());
	EXPECT_EQ(EOPNOTSUPP, self.pool.kept("name").number());
	EXPECT_EQ(EOPNOTSUPP, self.pool.forget("name").number());
	EXPECT_EQ(EOPNOTSUPP, self.pool.list([](std::string_view) {}).number());
	EXPECT_EQ(EOPNOTSUPP, self.pool.fd().number());
	EXPECT_EQ(EOPNOTSUPP, batch[0].revoke().number());
	EXPECT_EQ(EOPNOTSUPP, batch[0].wait().number());
	EXPECT_EQ(EOPNOTSUPP, export_dmabuf(batch).number());
	EXPECT_EQ(std::size_t(1), batch.size());
	EXPECT_EQ(1U, word_of(batch[0]));
}

/* Two pools of this process, with a channel between them, in place of two processes. */
struct with_pair {
	with_pair(unsigned int pool_flags, unsigned int flags, unsigned int capacity) :
		here(config_of(pool_flags)), there(config_of(pool_flags))
	{
		int peer;

		sender = evpl::channel::create(here.pool, peer, flags, capacity).value();
		receiver = evpl::channel::bind(there.pool, peer, flags).value();
	}

	~with_pair()
	{
		sender.close();
		receiver.close();
		here.pool.trim();
		there.pool.trim();
	}

	static evpl::pool_config config_of(unsigned int pool_flags)
	{
		evpl::pool_config config = small_config();

		config.flags = pool_flags;
		config.max_bytes = 2 * SLAB;
		return config;
	}

	with_pool here, there;
	evpl::channel sender, receiver;
};

MODULE_TEST(a_send_takes_the_iovec_exactly_when_it_succeeds)
{
	with_pair self(0, 0, 2);
	evpl::iovec kept = self.here.filled(BUFFER, 'x');
	evpl::message message{ kept.clone(), 5, 1U << 31 };

	EXPECT_EQ(2U, word_of(kept));
	EXPECT_EQ(EOPNOTSUPP, self.sender.send(message).number());
	EXPECT(message.iovec.data() == kept.data());
	EXPECT_EQ(2U, word_of(kept));

	message.flags = 0;
	ASSERT(self.sender.send(message));
	EXPECT(!message.iovec);
	EXPECT_EQ(5U, message.cookie);
	EXPECT_EQ(EINVAL, self.sender.send(message).number());

	message.iovec = kept.clone();
	ASSERT(self.sender.send(message));
	EXPECT(!message.iovec);
	message.iovec = kept.clone();
	unsigned long long word = word_of(kept);
	EXPECT_EQ(EAGAIN, self.sender.send(message).number());
	EXPECT(message.iovec);
	EXPECT_EQ(word, word_of(kept));

	/* A message that isn't named ends with the call, sent or not. */
	EXPECT_EQ(EAGAIN, self.sender.send({ std::move(message.iovec) }).number());
	EXPECT(!message.iovec);
	EXPECT_EQ(word - 1, word_of(kept));

	for (unsigned long i = 0; i < 2; i++) {
		auto got = self.receiver.recv();

		ASSERT(got);
		EXPECT_EQ(5U, got->cookie);
		EXPECT_EQ(0U, got->flags);
		EXPECT_EQ(BUFFER, got->iovec.size());
		EXPECT(is_filled(got->iovec, 'x'));
	}
	EXPECT_EQ(EAGAIN, self.receiver.recv().number());
}

MODULE_TEST(all_messages_of_an_array_are_sent_or_none)
{
	with_pair self(0, 0, 4);
	evpl::iovec kept = self.here.filled(BUFFER, 'x');
	evpl::messages<8> batch, got;
	evpl::message array[2];

	for (unsigned int i = 0; i < 4; i++)
		ASSERT(batch.push_back({ kept.clone(), i }));
	batch[3].flags = 1U << 31;
	EXPECT_EQ(EOPNOTSUPP, self.sender.send(batch).number());
	EXPECT_EQ(std::size_t(4), batch.size());
	EXPECT_EQ(5U, word_of(kept));
	batch[3].flags = 0;
	ASSERT(self.sender.send(batch));
	EXPECT(batch.empty());

	array[0].iovec = kept.clone();
	array[1].iovec = kept.clone();
	EXPECT_EQ(EAGAIN, self.sender.send(array, 2).number());
	EXPECT(array[0].iovec && array[1].iovec);
	EXPECT_EQ(EMSGSIZE, self.sender.send(array, 1ULL << 32).number());
	EXPECT(array[0].iovec && array[1].iovec);

	EXPECT_EQ(std::size_t(4), *self.receiver.recv(got));
	EXPECT_EQ(std::size_t(4), got.size());
	for (unsigned int i = 0; i < 4; i++) {
		EXPECT_EQ(i, got[i].cookie);
		EXPECT(is_filled(got[i].iovec, 'x'));
	}
	EXPECT_EQ(EAGAIN, self.receiver.recv(got).number());
	EXPECT_EQ(std::size_t(4), got.size());

	ASSERT(self.sender.send(array, 2));
	EXPECT(!array[0].iovec && !array[1].iovec);
	EXPECT_EQ(std::size_t(2), *self.receiver.recv(got));
	EXPECT_EQ(std::size_t(6), got.size());

	/* Messages that are sent back bring their buffers home. */
	evpl::messages<8> home;
	evpl::messages<2> full;
	ASSERT(full.push_back(std::move(got[0])) && full.push_back(std::move(got[1])));
	EXPECT_EQ(EINVAL, self.receiver.recv(full).number());
	EXPECT_EQ(std::size_t(2), full.size());
	ASSERT(self.receiver.send(full));
	EXPECT(full.empty());
	EXPECT_EQ(std::size_t(2), *self.sender.recv(home));
	EXPECT(home[1].iovec.data() == kept.data());
}

MODULE_TEST(a_channel_whose_other_end_is_closed_is_EPIPE)
{
	with_pair self(0, 0, 2);
	evpl::message message{ self.here.filled(100, 'x') };
	struct pollfd pollfd = { self.sender.fd().value(), POLLIN, 0 };

	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	self.receiver.close();
	EXPECT(!self.receiver);
	self.receiver.close();
	EXPECT_EQ(1, poll(&pollfd, 1, 0));
	EXPECT_EQ(EPIPE, self.sender.send(message).number());
	EXPECT(is_filled(message.iovec, 'x'));
	EXPECT_EQ(EPIPE, self.sender.recv().number());
}

MODULE_TEST(an_end_that_can_not_be_bound_stays_the_callers)
{
	with_pool self;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	EXPECT_EQ(EBADF, evpl::channel::bind(self.pool, fd).number());
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(EINVAL, evpl::channel::create(self.pool, fd, 0, 16385).number());
}

MODULE_TEST(a_revoked_buffer_arrives_without_an_iovec)
{
	with_pair self(0, 0, 2);
	evpl::iovec kept = self.here.filled(100, 'x');

	ASSERT(self.sender.send({ kept.clone(), 9 }));
	EXPECT_EQ(EAGAIN, kept.wait(EVPL_IOVEC_TRY).number());
	auto revoked = kept.revoke();
	ASSERT(revoked);
	EXPECT_EQ(false, *revoked);
	auto got = self.receiver.recv();
	ASSERT(got);
	EXPECT_EQ(EVPL_MESSAGE_REVOKED, got->flags);
	EXPECT_EQ(9U, got->cookie);
	EXPECT(!got->iovec);
	EXPECT(kept.wait());
	EXPECT_EQ(1U, word_of(kept));
}

MODULE_TEST(a_lane_carries_messages_too)
{
	with_pair self(EVPL_POOL_ZEROS, EVPL_CHANNEL_LANE | EVPL_CHANNEL_POLLING, 64);

	/* Each side looks for the block of the other one. */
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(EAGAIN, self.sender.recv().number());
		EXPECT_EQ(EAGAIN, self.receiver.recv().number());
	}
	EXPECT_EQ(1U, (*self.sender.stats()).sending);
	EXPECT_EQ(1U, (*self.receiver.stats()).receiving);
	for (unsigned int i = 0; i < 100; i++) {
		evpl::message message{ self.here.filled(1000, 'l'), i };

		ASSERT(self.sender.send(message));
		EXPECT(!message.iovec);
		EXPECT_EQ(EBUSY, self.receiver.arm().number());
		auto got = self.receiver.recv();
		ASSERT(got);
		EXPECT_EQ(i, got->cookie);
		EXPECT(is_filled(got->iovec, 'l'));
	}
	EXPECT(self.receiver.arm());
	EXPECT_EQ(100U, (*self.receiver.stats()).received);
	EXPECT((*self.sender.stats()).sent >= 98);
}

MODULE_TEST(a_channel_is_no_lane)
{
	with_pair self(0, 0, 2);
	int peer;

	EXPECT_EQ(EOPNOTSUPP, self.sender.stats().number());
	EXPECT(self.sender.arm());
	EXPECT_EQ(EINVAL, evpl::channel::create(self.here.pool, peer, EVPL_CHANNEL_LANE).number());
}

MODULE_TEST(a_successor_finds_what_was_kept)
{
	evpl::pool first = evpl::pool::open(small_config()).value(), pool;
	std::vector<std::string> names;
	int fd;

	{
		evpl::context context = evpl::context::create(first).value();
		evpl::iovec iovec = context.alloc_buffer().value();

		std::fill(iovec.begin(), iovec.end(), std::byte('k'));
		ASSERT(first.keep("one", iovec));
		ASSERT(first.keep("two", iovec.slice(0, 10).value()));
		EXPECT_EQ(3U, word_of(iovec));
		EXPECT_EQ(EINVAL, first.keep("", iovec).number());
		EXPECT_EQ(EINVAL, first.keep("empty", evpl::iovec()).number());
		EXPECT_EQ(ENAMETOOLONG, first.keep(std::string(64, 'x').c_str(), iovec).number());
	}
	fd = dup(first.fd().value());
	ASSERT_EQ(0, first.close().number());
	EXPECT(!first);
	pool = evpl::pool::adopt(fd, small_config()).value();

	EXPECT_EQ(std::size_t(2), *pool.list([&](std::string_view name) {
		names.emplace_back(name);
	}));
	std::sort(names.begin(), names.end());
	ASSERT_EQ(std::size_t(2), names.size());
	EXPECT_EQ(std::string("one"), names[0]);
	EXPECT_EQ(std::string("two"), names[1]);
	{
		auto one = pool.kept("one"), two = pool.kept("two");

		ASSERT(one && two);
		EXPECT_EQ(BUFFER, one->size());
		EXPECT_EQ(std::size_t(10), two->size());
		EXPECT(is_filled(*one, 'k'));
		EXPECT_EQ(4U, word_of(*one));
		EXPECT_EQ(ENOENT, pool.kept("three").number());
		EXPECT_EQ(EBUSY, pool.close().number());
	}
	/* An exception of the function passes through the list. */
	EXPECT_EQ(1U, (*pool.stats()).slabs);
	try {
		pool.list([](std::string_view) { throw std::runtime_error("enough"); }).value();
		EXPECT(false);
	} catch (const std::runtime_error &) {
	}
	EXPECT_EQ(std::size_t(2), *pool.list([&](std::string_view name) {
		EXPECT(pool.forget(name.data()));
	}));
	EXPECT_EQ(ENOENT, pool.forget("one").number());
	EXPECT_EQ(0, pool.close().number());
}

MODULE_TEST(a_descriptor_that_can_not_be_adopted_stays_the_callers)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	EXPECT_EQ(ENOTTY, evpl::pool::adopt(fd, small_config()).number());
	EXPECT_EQ(0, close(fd));
}

MODULE_TEST(an_export_takes_the_iovecs_exactly_when_it_succeeds)
{
	with_pool self;
	evpl::iovecs<2> batch;

	ASSERT(self.context.alloc(batch, 2 * BUFFER));
	EXPECT_EQ(EOPNOTSUPP, export_dmabuf(batch, 1U << 31).number());
	EXPECT_EQ(std::size_t(2), batch.size());
	EXPECT_EQ(1U, word_of(batch[0]));
	auto fd = export_dmabuf(batch);
	ASSERT(fd);
	EXPECT(batch.empty());
	EXPECT_EQ(off_t(2 * BUFFER), lseek(*fd, 0, SEEK_END));
	EXPECT_EQ(2U, used_in(self.pool));
	close(*fd);
	self.pool.trim();
	EXPECT_EQ(EINVAL, export_dmabuf(batch).number());
}

int main()
{
	return cxx_run_all();
}
