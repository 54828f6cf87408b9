/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_HPP
#define EVPLMEM_HPP

/**
 * DOC: libevplmem for C++
 *
 * The namespace evpl has classes over the calls of evplmem.h, for C++17 or later. This header is
 * all that there is of them: a program links libevplmem, as a program in C does.
 *
 * A pool, a context, a channel and an iovec each have one owner, as a std::unique_ptr has. They
 * move, and aren't copied. A source that was moved from is empty. The destructor ends the object,
 * or drops the reference. iovec::clone() makes another reference, by name, because it is counted.
 *
 * Errors: a function that can fail returns a &class result, and has then changed nothing. It throws
 * nothing. result::error() makes a std::error_code of the errno, of std::generic_category(). A
 * program that wants an exception, such as one that sets itself up, calls result::value(), which
 * throws std::system_error. Without exceptions (-fno-exceptions) there is no value(), and all else
 * works. RTTI isn't needed. Nothing in this header allocates: the only memory that a call takes is
 * that which the C function takes.
 *
 * Each function's comment names the C function that it calls. evplmem.h has the errnos of that
 * function, and says what holds of threads, fork(2), cancellation and signal handlers. Callbacks of
 * the library are called by C code, so they must not throw.
 *
 * Devices, waiters, sockets that send without a copy, and rings of io_uring have no class here, and
 * are used in C. get() gives the C object of each class, which stays the class's.
 *
 * A namespace can't have the name of a struct. So in a file that includes this header, struct evpl
 * of evplmem.h is called struct evplmem. All other names of C are as they are. Include this header
 * before evplmem.h and the headers that include that, or define EVPLMEM_CXX before all of them.
 */

#if __cplusplus < 201703L
#error "evplmem.hpp needs C++17 or later."
#endif
#ifdef EVPLMEM_PREFIX_ONLY
#error "evplmem.hpp has the namespace evpl, and can't be used with EVPLMEM_PREFIX_ONLY."
#endif
#ifndef EVPLMEM_CXX
#ifdef EVPLMEM_H
#error "Include evplmem.hpp before evplmem.h, or define EVPLMEM_CXX before both."
#endif
#define EVPLMEM_CXX
#endif

#include "evplmem.h"

#include <climits>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

namespace evpl {

/* For this header alone. */
namespace detail {

/* A negative errno of a C function. */
struct failure {
	int negative;
};

/* A struct that starts with its size: that size, and zeros. */
template <class C> struct sized : C {
	sized() noexcept : C(evplmem_sized<C>()) {}
};

/* Owns a C object, which @end ends. The functions are the exported ones, which have linkage. */
template <class C, auto end> class owner {
public:
	/** get() - get the C object, which stays this object's; NULL if this is empty */
	C *get() const noexcept { return object_.get(); }

	/** detach() - give the C object up: the caller ends it in C; this is empty afterwards */
	[[nodiscard]] C *detach() noexcept { return object_.release(); }

	/** operator bool() - tell whether this isn't empty */
	explicit operator bool() const noexcept { return static_cast<bool>(object_); }

protected:
	owner() noexcept = default;
	explicit owner(C *object) noexcept : object_(object) {}

	void end_now() noexcept { object_.reset(); }

private:
	struct ender {
		void operator()(C *object) const noexcept { static_cast<void>(end(object)); }
	};

	std::unique_ptr<C, ender> object_;
};

/*
 * An alignment is a power of two, and no reserved slice has UINT_MAX bytes. So the library refuses
 * UINT_MAX in place of all that is greater.
 */
inline unsigned int narrow(std::size_t n) noexcept
{
	return n < UINT_MAX ? static_cast<unsigned int>(n) : UINT_MAX;
}

} // namespace detail

/** struct pool_config - the configuration of a pool: &struct evpl_pool_config, all defaults */
using pool_config = detail::sized<struct ::evpl_pool_config>;
/** struct context_config - the configuration of a context: &struct evpl_config, all defaults */
using context_config = detail::sized<struct ::evpl_config>;
/** struct pool_stats - statistics of a pool: &struct evpl_pool_stats */
using pool_stats = detail::sized<struct ::evpl_pool_stats>;
/** struct pool_pressure - a pool's room: &struct evpl_pool_pressure */
using pool_pressure = detail::sized<struct ::evpl_pool_pressure>;
/** struct lane_stats - statistics of a lane: &struct evpl_lane_stats */
using lane_stats = detail::sized<struct ::evpl_lane_stats>;

/**
 * class result - the value of a function, or the reason why it failed
 * @T: the type of the value; void: there is none
 *
 * It is true if the function succeeded. A result that is ignored is a warning of the compiler.
 */
template <class T> class [[nodiscard]] result {
public:
	result(T &&value) noexcept : value_(std::move(value)) {}
	result(detail::failure failure) noexcept : value_(), number_(-failure.negative) {}

	explicit operator bool() const noexcept { return !number_; }

	/** number() - get the errno, as a positive number; 0: the function succeeded */
	int number() const noexcept { return number_; }

	/** error() - get the errno as a std::error_code, which is false after success */
	std::error_code error() const noexcept { return { number_, std::generic_category() }; }

	/** operator*() - get the value; an empty one if the function failed */
	T &operator*() & noexcept { return value_; }
	const T &operator*() const & noexcept { return value_; }
	T &&operator*() && noexcept { return std::move(value_); }
	T *operator->() noexcept { return &value_; }
	const T *operator->() const noexcept { return &value_; }

#ifdef __cpp_exceptions
	/** value() - get the value, or throw std::system_error if the function failed */
	T &value() &
	{
		if (number_)
			throw std::system_error(error());
		return value_;
	}

	T value() &&
	{
		if (number_)
			throw std::system_error(error());
		return std::move(value_);
	}
#endif

private:
	T value_;
	int number_ = 0;
};

template <> class [[nodiscard]] result<void> {
public:
	result() noexcept = default;
	result(detail::failure failure) noexcept : number_(-failure.negative) {}

	explicit operator bool() const noexcept { return !number_; }
	int number() const noexcept { return number_; }
	std::error_code error() const noexcept { return { number_, std::generic_category() }; }

#ifdef __cpp_exceptions
	void value() const
	{
		if (number_)
			throw std::system_error(error());
	}
#endif

private:
	int number_ = 0;
};

namespace detail {

/* The result of a C function that returns 0 or a negative errno. */
inline result<void> done(int ret) noexcept
{
	return failure{ ret };
}

/* The result of a C function that returns a number or a negative errno. */
template <class T> inline result<T> counted(int ret) noexcept
{
	if (ret < 0)
		return failure{ ret };
	return static_cast<T>(ret);
}

} // namespace detail

/**
 * class iovec - a slice of a buffer, and one reference to it: &struct evpl_iovec
 *
 * It is a range of std::byte, so std::span and classes like it are made of it. A const iovec's
 * bytes can be written to, as those behind a const pointer can. But memory that another process
 * has sent without %EVPL_MESSAGE_WRITE can't: a write raises SIGSEGV.
 */
class iovec {
public:
	using c_type = ::evpl_iovec;
	using value_type = std::byte;
	using iterator = std::byte *;
	using const_iterator = std::byte *;

	/** npos - the length of all bytes that are left, for slice() */
	static constexpr std::size_t npos = static_cast<std::size_t>(-1);

	/** iovec() - make an empty iovec, which has neither bytes nor a reference */
	iovec() noexcept : iovec_() {}

	/** iovec() - take over the reference of a C iovec, which must not be used any more */
	explicit iovec(const ::evpl_iovec &owned) noexcept : iovec_(owned) {}

	iovec(iovec &&other) noexcept : iovec_(other.detach()) {}

	iovec &operator=(iovec &&other) noexcept
	{
		::evpl_iovec owned = other.detach();
		iovec old(iovec_);

		/* First, as done() of a wrapped iovec may use this object. */
		iovec_ = owned;
		return *this;
	}

	iovec(const iovec &) = delete;
	iovec &operator=(const iovec &) = delete;

	~iovec() { drop(); }

	/**
	 * wrap() - make an iovec of memory that is no pool's
	 *
	 * Calls evpl_iovec_wrap(), with the same parameters. @done must not throw.
	 */
	static result<iovec> wrap(void *data, std::size_t length, void (*done)(void *arg),
				  void *arg) noexcept
	{
		::evpl_iovec owned;
		int err;

		if (length >= UINT_MAX)
			return detail::failure{ -EINVAL };
		err = evpl_iovec_wrap(&owned, data, static_cast<unsigned int>(length), done, arg);
		if (err)
			return detail::failure{ err };
		return iovec(owned);
	}

	/** operator bool() - tell whether this has a reference, if maybe no bytes */
	explicit operator bool() const noexcept { return iovec_.__private2; }

	std::byte *data() const noexcept { return static_cast<std::byte *>(iovec_.data); }
	std::size_t size() const noexcept { return iovec_.length; }
	/** empty() - tell whether this has no bytes; it may still have a reference */
	bool empty() const noexcept { return !iovec_.length; }
	std::byte *begin() const noexcept { return data(); }
	std::byte *end() const noexcept { return data() + size(); }
	std::byte &operator[](std::size_t i) const noexcept { return data()[i]; }

	/** get() - get the C iovec, whose reference stays this object's */
	::evpl_iovec *get() noexcept { return &iovec_; }
	const ::evpl_iovec *get() const noexcept { return &iovec_; }

	/** detach() - give the reference up, for the caller to release in C; this is then empty */
	[[nodiscard]] ::evpl_iovec detach() noexcept
	{
		::evpl_iovec owned;

		evpl_iovec_move(&owned, &iovec_);
		return owned;
	}

	/** reset() - drop the reference; this is empty afterwards. See evpl_iovec_release(). */
	void reset() noexcept
	{
		iovec old(detach());
	}

	/** clone() - make a second iovec of the same slice, with a reference of its own */
	iovec clone() const noexcept
	{
		iovec copy{ uninitialized() };

		evpl_iovec_clone(&copy.iovec_, &iovec_);
		return copy;
	}

	/**
	 * slice() - make an iovec of a part of the slice, with a reference of its own
	 * @offset: where the part starts
	 * @length: the bytes of the part, or npos
	 *
	 * Calls evpl_iovec_clone_segment().
	 */
	result<iovec> slice(std::size_t offset, std::size_t length = npos) const noexcept
	{
		::evpl_iovec part;
		int err;

		if (offset > size())
			return detail::failure{ -EINVAL };
		if (length == npos)
			length = size() - offset;
		if (length > size())
			return detail::failure{ -EINVAL };
		err = evpl_iovec_clone_segment(&part, &iovec_, static_cast<unsigned int>(offset),
					       static_cast<unsigned int>(length));
		if (err)
			return detail::failure{ err };
		return iovec(part);
	}

	/** split() - keep the first @length bytes, and return the rest. See evpl_iovec_split(). */
	result<iovec> split(std::size_t length) noexcept
	{
		::evpl_iovec rest;
		int err;

		if (length > size())
			return detail::failure{ -EINVAL };
		err = evpl_iovec_split(&rest, &iovec_, static_cast<unsigned int>(length));
		if (err)
			return detail::failure{ err };
		return iovec(rest);
	}

	/** advance() - leave bytes out at the beginning. See evpl_iovec_advance(). */
	result<void> advance(std::size_t bytes) noexcept
	{
		if (bytes > size())
			return detail::failure{ -EINVAL };
		return detail::done(evpl_iovec_advance(&iovec_, static_cast<unsigned int>(bytes)));
	}

	/** trim() - leave bytes out at the end. See evpl_iovec_trim(). */
	result<void> trim(std::size_t bytes) noexcept
	{
		if (bytes > size())
			return detail::failure{ -EINVAL };
		return detail::done(evpl_iovec_trim(&iovec_, static_cast<unsigned int>(bytes)));
	}

	/** is_unique() - tell whether this is the only reference. See evpl_iovec_is_unique(). */
	bool is_unique() const noexcept { return evpl_iovec_is_unique(&iovec_); }

	/**
	 * revoke() - take the buffer back from all other processes
	 *
	 * Calls evpl_iovec_revoke().
	 *
	 * Return: false: no other process has any part of the buffer; true: something of another
	 * process still has, until wait() succeeds
	 */
	result<bool> revoke() const noexcept
	{
		return detail::counted<bool>(evpl_iovec_revoke(&iovec_));
	}

	/**
	 * wait() - wait until no other process has the buffer
	 * @flags: %EVPL_IOVEC_TRY or 0
	 *
	 * Calls evpl_iovec_wait().
	 */
	result<void> wait(unsigned int flags = 0) const noexcept
	{
		return detail::done(evpl_iovec_wait(&iovec_, flags));
	}

private:
	friend class channel;

	struct uninitialized {};

	/* For a C function that fills the iovec in. */
	explicit iovec(uninitialized) noexcept {}

	/* The reference is another's now. */
	void forget() noexcept { iovec_ = ::evpl_iovec(); }

	/*
	 * Does what evpl_iovec_release() does, and leaves the library out for an empty iovec. That
	 * test comes last, since an empty iovec doesn't pass evplmem_put(): so a slice that this
	 * thread counts pays nothing for it.
	 */
	void drop() noexcept
	{
		if (__builtin_expect(evplmem_put(iovec_.__private1, iovec_.__private2), 1))
			return;
		if (iovec_.__private2)
			evplmem_iovec_release(&iovec_);
	}

	::evpl_iovec iovec_;
};

/**
 * struct message - a reference on its way to another process: &struct evpl_message
 * @iovec: the slice, and the reference; empty in a message with %EVPL_MESSAGE_REVOKED
 * @cookie: any value, for the receiver
 * @flags: %EVPL_MESSAGE_WRITE and %EVPL_MESSAGE_DEVICE, or 0; in a received message also
 *	%EVPL_MESSAGE_REVOKED or %EVPL_MESSAGE_HELD
 * @reserved: 0
 */
struct message {
	using c_type = ::evpl_message;

	evpl::iovec iovec;
	std::uint64_t cookie = 0;
	std::uint32_t flags = 0;
	std::uint32_t reserved = 0;
};

/* The library reads and writes arrays of these classes as arrays of C's structs. */
static_assert(std::is_standard_layout_v<iovec> && sizeof(iovec) == sizeof(::evpl_iovec));
static_assert(std::is_standard_layout_v<message> && sizeof(message) == sizeof(::evpl_message));
static_assert(offsetof(message, cookie) == offsetof(::evpl_message, cookie) &&
	      offsetof(message, flags) == offsetof(::evpl_message, flags) &&
	      offsetof(message, reserved) == offsetof(::evpl_message, reserved));

/**
 * class batch - up to @N objects, in the batch itself
 * @T: &class iovec or &struct message
 * @N: how many there is room for
 *
 * It has the iovecs of an allocation that is longer than a buffer, or messages that come or go
 * together. It owns the first size() objects. The slices of a batch are released together, as by
 * evpl_iovecs_release().
 */
template <class T, std::size_t N> class batch {
	static_assert(std::is_same_v<T, iovec> || std::is_same_v<T, message>);
	static_assert(N > 0 && N <= INT_MAX);

public:
	using value_type = T;
	using iterator = T *;
	using const_iterator = const T *;

	batch() noexcept {}
	batch(batch &&other) noexcept { take(other); }

	batch &operator=(batch &&other) noexcept
	{
		if (this != &other) {
			clear();
			take(other);
		}
		return *this;
	}

	batch(const batch &) = delete;
	batch &operator=(const batch &) = delete;

	~batch() { clear(); }

	T *data() noexcept { return items_; }
	const T *data() const noexcept { return items_; }
	std::size_t size() const noexcept { return size_; }
	bool empty() const noexcept { return !size_; }
	static constexpr std::size_t capacity() noexcept { return N; }
	/** room() - get how many objects still fit */
	std::size_t room() const noexcept { return N - size_; }
	T *begin() noexcept { return items_; }
	const T *begin() const noexcept { return items_; }
	T *end() noexcept { return items_ + size_; }
	const T *end() const noexcept { return items_ + size_; }
	T &operator[](std::size_t i) noexcept { return items_[i]; }
	const T &operator[](std::size_t i) const noexcept { return items_[i]; }

	/** get() - get the objects as an array of C's structs, which stay the batch's */
	typename T::c_type *get() noexcept
	{
		return reinterpret_cast<typename T::c_type *>(items_);
	}

	const typename T::c_type *get() const noexcept
	{
		return reinterpret_cast<const typename T::c_type *>(items_);
	}

	/** push_back() - append an object. Return: false: there is no room, and @item stays */
	[[nodiscard]] bool push_back(T &&item) noexcept
	{
		if (size_ == N)
			return false;
		::new (static_cast<void *>(items_ + size_)) T(std::move(item));
		size_++;
		return true;
	}

	/** clear() - drop all references */
	void clear() noexcept
	{
		std::size_t n = size_;

		size_ = 0;
		if constexpr (std::is_same_v<T, iovec>) {
			evpl_iovecs_release(get(), static_cast<int>(n));
		} else {
			for (std::size_t i = 0; i < n; i++)
				items_[i].~T();
		}
	}

private:
	friend class channel;
	friend class context;
	template <std::size_t M>
	friend result<int> export_dmabuf(batch<iovec, M> &iovecs, unsigned int flags) noexcept;

	/* Where a C function puts more objects, which added() then makes the batch's. */
	typename T::c_type *next() noexcept { return get() + size_; }
	void added(int n) noexcept { size_ += static_cast<std::size_t>(n); }

	/* The references are another's now. */
	void forget() noexcept { size_ = 0; }

	void take(batch &other) noexcept
	{
		for (T &item : other)
			::new (static_cast<void *>(items_ + size_++)) T(std::move(item));
		other.clear();
	}

	/* The objects after the first @size_ aren't made yet. */
	union {
		T items_[N];
	};
	std::size_t size_ = 0;
};

/** iovecs - up to @N iovecs, such as those of one allocation */
template <std::size_t N> using iovecs = batch<iovec, N>;
/** messages - up to @N messages, which are sent or received together */
template <std::size_t N> using messages = batch<message, N>;

/** bytes() - get how many bytes the iovecs of a batch have together */
template <std::size_t N> inline std::size_t bytes(const batch<iovec, N> &iovecs) noexcept
{
	std::size_t sum = 0;

	for (const iovec &slice : iovecs)
		sum += slice.size();
	return sum;
}

/** last_error() - get the reason why the last call failed, in words. See evpl_last_error(). */
inline const char *last_error() noexcept
{
	return evpl_last_error();
}

/**
 * class pool - a pool of memory: &struct evpl_pool
 *
 * The destructor closes the pool. If references or contexts of the pool are left, it can't: the
 * pool then stays open, and the references stay valid. So a program declares its pool before its
 * contexts and iovecs, and they end first. close() tells whether anything is left.
 */
class pool : public detail::owner<::evpl_pool, &evplmem_pool_close> {
public:
	/** pool() - make an empty object, without a pool */
	pool() noexcept = default;

	/** pool() - take over a pool of C's */
	explicit pool(::evpl_pool *owned) noexcept : owner(owned) {}

	/** open() - open a pool. See evpl_pool_open(). */
	static result<pool> open(const ::evpl_pool_config &config = pool_config()) noexcept
	{
		::evpl_pool *owned;
		int err = evpl_pool_open(&owned, &config);

		if (err)
			return detail::failure{ err };
		return pool(owned);
	}

	/**
	 * adopt() - open a pool over memory that another process has left
	 * @fd: a duplicate of the dead process's fd(). If the call succeeds, the descriptor belongs
	 *	to the pool. Else it stays the caller's.
	 * @config: the configuration
	 *
	 * Calls evpl_pool_adopt().
	 */
	static result<pool> adopt(int fd,
				  const ::evpl_pool_config &config = pool_config()) noexcept
	{
		::evpl_pool *owned;
		int err = evpl_pool_adopt(&owned, fd, &config);

		if (err)
			return detail::failure{ err };
		return pool(owned);
	}

	/** close() - close the pool, which is then empty, or stays as it is after an error */
	result<void> close() noexcept
	{
		int err = *this ? evpl_pool_close(get()) : 0;

		if (!err)
			static_cast<void>(detach());
		return detail::done(err);
	}

	/** keep() - give a slice a name, for the pool's successor. See evpl_pool_keep(). */
	result<void> keep(const char *name, const iovec &slice) const noexcept
	{
		return detail::done(evpl_pool_keep(get(), name, slice.get()));
	}

	/** kept() - get the slice of a root, with a reference of its own. See evpl_pool_kept(). */
	result<iovec> kept(const char *name) const noexcept
	{
		::evpl_iovec found;
		int err = evpl_pool_kept(get(), name, &found);

		if (err)
			return detail::failure{ err };
		return iovec(found);
	}

	/** forget() - drop a root. See evpl_pool_forget(). */
	result<void> forget(const char *name) const noexcept
	{
		return detail::done(evpl_pool_forget(get(), name));
	}

	/**
	 * list() - call a function for each root
	 * @function: called with the name as a std::string_view, which a zero follows. It may keep
	 *	and forget roots, and it may throw.
	 *
	 * Calls evpl_pool_list().
	 *
	 * Return: how many roots there were
	 */
	template <class F> result<std::size_t> list(F &&function) const
	{
		char name[EVPL_NAME_MAX + 1];
		std::uint64_t cursor = 0;
		std::size_t n = 0;
		int ret;

		while ((ret = evpl_pool_list(get(), &cursor, name)) > 0) {
			function(std::string_view(name));
			n++;
		}
		if (ret < 0)
			return detail::failure{ ret };
		return n;
	}

	/** preallocate() - take slabs beforehand. See evpl_pool_preallocate(). */
	result<void> preallocate(std::uint64_t bytes, int node = EVPL_ANY_NODE) const noexcept
	{
		return detail::done(evpl_pool_preallocate(get(), bytes, node));
	}

	/** trim() - give idle slabs back, and get their bytes. See evpl_pool_trim(). */
	std::uint64_t trim() const noexcept { return evpl_pool_trim(get()); }

	/** stats() - get statistics. See evpl_pool_stats(). */
	result<pool_stats> stats() const noexcept
	{
		pool_stats stats;
		int err = evpl_pool_stats(get(), &stats);

		if (err)
			return detail::failure{ err };
		return stats;
	}

	/** watch() - be told when the room crosses a mark. See evpl_pool_watch(). */
	result<void> watch(std::uint64_t low, std::uint64_t high) const noexcept
	{
		return detail::done(evpl_pool_watch(get(), low, high));
	}

	/** pressure() - get how much the pool can still give. See evpl_pool_pressure(). */
	result<pool_pressure> pressure() const noexcept
	{
		pool_pressure pressure;
		int err = evpl_pool_pressure(get(), &pressure);

		if (err)
			return detail::failure{ err };
		return pressure;
	}

	/** eventfd() - get the pool's descriptor that tells when to retry: evpl_pool_eventfd() */
	result<int> eventfd() const noexcept
	{
		return detail::counted<int>(evpl_pool_eventfd(get()));
	}

	/** fd() - get the pool's descriptor that tells when memory came back: evpl_pool_fd() */
	result<int> fd() const noexcept { return detail::counted<int>(evpl_pool_fd(get())); }
};

/**
 * class context - a thread's way to allocate from a pool: &struct evpl
 *
 * One thread uses it at a time. It ends before its pool does.
 */
class context : public detail::owner<struct ::evplmem, &evplmem_destroy> {
public:
	/** context() - make an empty object, without a context */
	context() noexcept = default;

	/** context() - take over a context of C's */
	explicit context(struct ::evplmem *owned) noexcept : owner(owned) {}

	/** create() - create a context. See evpl_create(). */
	static result<context> create(const pool &from,
				      const ::evpl_config &config = context_config()) noexcept
	{
		struct ::evplmem *owned;
		int err = evpl_create(&owned, from.get(), &config);

		if (err)
			return detail::failure{ err };
		return context(owned);
	}

	/**
	 * alloc() - allocate a slice of at most a buffer
	 * @length: how many bytes; 0: the iovec is empty
	 * @alignment: as for evpl_iovec_alloc()
	 *
	 * Calls evpl_iovec_alloc(), with room for one iovec.
	 */
	result<iovec> alloc(std::size_t length, std::size_t alignment = 0) noexcept
	{
		::evpl_iovec owned;
		int ret;

		if (length > UINT_MAX)
			return detail::failure{ -EMSGSIZE };
		ret = evpl_iovec_alloc(get(), static_cast<unsigned int>(length),
				       detail::narrow(alignment), 1, &owned);
		return took(owned, ret);
	}

	/** alloc_flags() - like alloc(), with %EVPL_IOVEC_PRIVATE or 0: evpl_iovec_alloc_flags() */
	result<iovec> alloc_flags(std::size_t length, std::size_t alignment,
				  unsigned int flags) noexcept
	{
		::evpl_iovec owned;
		int ret;

		if (length > UINT_MAX)
			return detail::failure{ -EMSGSIZE };
		ret = evpl_iovec_alloc_flags(get(), static_cast<unsigned int>(length),
					     detail::narrow(alignment), 1, flags, &owned);
		return took(owned, ret);
	}

	/**
	 * alloc() - allocate memory of any length
	 * @iovecs: where the iovecs go, after those that it has
	 * @length: how many bytes
	 * @alignment: as for evpl_iovec_alloc()
	 * @flags: %EVPL_IOVEC_PRIVATE or 0
	 *
	 * Calls evpl_iovec_alloc_flags(), with room for iovecs.room().
	 */
	template <std::size_t N>
	result<void> alloc(batch<iovec, N> &iovecs, std::size_t length, std::size_t alignment = 0,
			   unsigned int flags = 0) noexcept
	{
		if (length > UINT_MAX)
			return detail::failure{ -EMSGSIZE };
		return took(iovecs, evpl_iovec_alloc_flags(get(), static_cast<unsigned int>(length),
							   detail::narrow(alignment),
							   static_cast<unsigned int>(iovecs.room()),
							   flags, iovecs.next()));
	}

	/** alloc_buffer() - allocate a whole buffer. See evpl_buffer_alloc(). */
	result<iovec> alloc_buffer() noexcept
	{
		::evpl_iovec owned;

		return took(owned, evpl_buffer_alloc(get(), &owned));
	}

	/**
	 * reserve() - allocate before it is known how much is needed
	 * @iovecs: where the iovecs go, for commit(); it must be empty, or EINVAL is returned
	 * @length: the most bytes that may be needed
	 * @alignment: as for evpl_iovec_alloc()
	 *
	 * Calls evpl_iovec_reserve().
	 */
	template <std::size_t N>
	result<void> reserve(batch<iovec, N> &iovecs, std::size_t length,
			     std::size_t alignment = 0) noexcept
	{
		if (!iovecs.empty())
			return detail::failure{ -EINVAL };
		if (length > UINT_MAX)
			return detail::failure{ -EMSGSIZE };
		return took(iovecs, evpl_iovec_reserve(get(), static_cast<unsigned int>(length),
						       detail::narrow(alignment), N,
						       iovecs.next()));
	}

	/**
	 * commit() - keep the beginning of reserved memory
	 * @iovecs: what reserve() filled in; the iovecs that get no bytes are released
	 * @used: how many bytes are kept
	 *
	 * Calls evpl_iovec_commit().
	 */
	template <std::size_t N>
	result<void> commit(batch<iovec, N> &iovecs, std::size_t used) noexcept
	{
		int ret = evpl_iovec_commit(get(), iovecs.get(), static_cast<int>(iovecs.size()),
					    detail::narrow(used));

		if (ret >= 0)
			iovecs.forget();
		return took(iovecs, ret);
	}

private:
	static result<iovec> took(const ::evpl_iovec &owned, int ret) noexcept
	{
		if (ret > 0)
			return iovec(owned);
		if (ret < 0)
			return detail::failure{ ret };
		return iovec();
	}

	template <std::size_t N>
	static result<void> took(batch<iovec, N> &iovecs, int ret) noexcept
	{
		if (ret < 0)
			return detail::failure{ ret };
		iovecs.added(ret);
		return {};
	}
};

/**
 * class channel - an end of a channel to another process: &struct evpl_channel
 *
 * The destructor closes the end. The pool ends after the channel does.
 */
class channel : public detail::owner<::evpl_channel, &evplmem_channel_close> {
public:
	/** channel() - make an empty object, without a channel */
	channel() noexcept = default;

	/** channel() - take over a channel of C's */
	explicit channel(::evpl_channel *owned) noexcept : owner(owned) {}

	/**
	 * create() - make a channel to another process
	 * @of: the pool whose memory is sent, and that received iovecs belong to
	 * @r_peer: where the other end goes: a descriptor, for bind() in the other process. The
	 *	caller closes it.
	 * @flags: %EVPL_CHANNEL_BLOCKING, %EVPL_CHANNEL_LANE, %EVPL_CHANNEL_POLLING or 0
	 * @capacity: how many messages can be on their way in one direction; 0: 256
	 *
	 * Calls evpl_channel_create().
	 */
	static result<channel> create(const pool &of, int &r_peer, unsigned int flags = 0,
				      unsigned int capacity = 0) noexcept
	{
		::evpl_channel *owned;
		int err = evpl_channel_create(&owned, of.get(), capacity, flags, &r_peer);

		if (err)
			return detail::failure{ err };
		return channel(owned);
	}

	/**
	 * bind() - make a channel of an end that came from another process
	 * @of: as for create()
	 * @fd: the end; if the call succeeds it belongs to the channel, else it stays the caller's
	 * @flags: as for create()
	 *
	 * Calls evpl_channel_bind().
	 */
	static result<channel> bind(const pool &of, int fd, unsigned int flags = 0) noexcept
	{
		::evpl_channel *owned;
		int err = evpl_channel_bind(&owned, of.get(), fd, flags);

		if (err)
			return detail::failure{ err };
		return channel(owned);
	}

	/** close() - close the end; this is empty afterwards. See evpl_channel_close(). */
	void close() noexcept { end_now(); }

	/** fd() - get the channel's descriptor to poll. See evpl_channel_fd(). */
	result<int> fd() const noexcept { return detail::counted<int>(evpl_channel_fd(get())); }

	/**
	 * send() - transfer a reference to the other process
	 * @sent: the message; its iovec is empty after success, and stays as it is after an error
	 *
	 * Calls evpl_channel_send(). Several threads may call this for one channel at a time.
	 */
	result<void> send(message &sent) const noexcept { return send(&sent, 1); }

	/** send() - transfer a reference; if the call fails, the reference ends with @sent */
	result<void> send(message &&sent) const noexcept { return send(&sent, 1); }

	/** send() - transfer the references of an array: those of all messages, or none */
	result<void> send(message *sent, std::size_t n) const noexcept
	{
		int err;

		if (n > INT_MAX)
			return detail::failure{ -EMSGSIZE };
		err = evpl_channel_send(get(), reinterpret_cast<::evpl_message *>(sent),
					static_cast<int>(n));
		for (std::size_t i = 0; !err && i < n; i++)
			sent[i].iovec.forget();
		return detail::done(err);
	}

	/** send() - transfer all references of a batch, which is empty after success, or none */
	template <std::size_t N> result<void> send(batch<message, N> &sent) const noexcept
	{
		int err = evpl_channel_send(get(), sent.get(), static_cast<int>(sent.size()));

		if (!err)
			sent.forget();
		return detail::done(err);
	}

	/** recv() - receive a message. See evpl_channel_recv(). */
	result<message> recv() const noexcept
	{
		::evpl_message got;
		int ret = evpl_channel_recv(get(), &got, 1);

		if (ret < 0)
			return detail::failure{ ret };
		return message{ iovec(got.iovec), got.cookie, got.flags, got.reserved };
	}

	/**
	 * recv() - receive messages
	 * @got: where the messages go, after those that it has; no room is EINVAL
	 *
	 * Calls evpl_channel_recv().
	 *
	 * Return: how many messages were received
	 */
	template <std::size_t N> result<std::size_t> recv(batch<message, N> &got) const noexcept
	{
		int ret = evpl_channel_recv(get(), got.next(), static_cast<int>(got.room()));

		if (ret > 0)
			got.added(ret);
		return detail::counted<std::size_t>(ret);
	}

	/** arm() - prepare to sleep until there is a message. See evpl_channel_arm(). */
	result<void> arm() const noexcept { return detail::done(evpl_channel_arm(get())); }

	/** stats() - get a lane's statistics. See evpl_lane_stats(). */
	result<lane_stats> stats() const noexcept
	{
		lane_stats stats;
		int err = evpl_lane_stats(get(), &stats);

		if (err)
			return detail::failure{ err };
		return stats;
	}
};

/**
 * export_dmabuf() - make a dma-buf of slices
 * @iovecs: the slices; after success the batch is empty, and their references are the dma-buf's
 * @flags: %EVPL_DMABUF_WRITE or 0
 *
 * Calls evpl_iovec_export().
 *
 * Return: the dma-buf, a descriptor that the caller closes
 */
template <std::size_t N>
inline result<int> export_dmabuf(batch<iovec, N> &iovecs, unsigned int flags = 0) noexcept
{
	int fd = evpl_iovec_export(iovecs.get(), static_cast<int>(iovecs.size()), flags);

	if (fd >= 0)
		iovecs.forget();
	return detail::counted<int>(fd);
}

} // namespace evpl

#endif /* EVPLMEM_HPP */
