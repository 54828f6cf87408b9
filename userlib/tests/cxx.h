/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_CXX_H
#define EVPLMEM_TESTS_CXX_H

/*
 * Tests in C++: kselftest_harness.h and the library's internal headers are C alone. A test is a
 * function that returns early if it can't go on. It prints TAP, as the harness does.
 */

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <unistd.h>
#include <vector>

/* word_of() of common.h, which cxx_word.c compiles as C. */
extern "C" unsigned long long cxx_word_of(const void *iovec);

struct cxx_test {
	const char *name;
	void (*run)();
	bool needs_module;
};

inline std::vector<cxx_test> cxx_tests;
inline bool cxx_failed;

struct cxx_register {
	cxx_register(const char *name, void (*run)(), bool needs_module)
	{
		cxx_tests.push_back({ name, run, needs_module });
	}
};

#define CXX_TEST(name, needs_module) \
	static void name(); \
	static const cxx_register name ## _registered(#name, name, needs_module); \
	static void name()

/* TEST() begins a test, and MODULE_TEST() one that the anon back end can't run. */
#define TEST(name)		CXX_TEST(name, false)
#define MODULE_TEST(name)	CXX_TEST(name, true)

template <class A, class B>
bool cxx_equal(const A &expected, const B &seen, const char *text, int line)
{
	if (expected == static_cast<A>(seen))
		return true;
	std::cout << "# line " << line << ": " << text << " is " << seen << ", not " << expected
		  << std::endl;
	cxx_failed = true;
	return false;
}

#define EXPECT_EQ(expected, seen)	cxx_equal(expected, seen, #seen, __LINE__)
#define EXPECT(condition) \
	cxx_equal(true, static_cast<bool>(condition), #condition, __LINE__)
#define ASSERT_EQ(expected, seen)	do { if (!EXPECT_EQ(expected, seen)) return; } while (0)
#define ASSERT(condition)		do { if (!EXPECT(condition)) return; } while (0)

inline bool cxx_has_module()
{
	const char *backend = std::getenv("EVPL_BACKEND");

	return backend && !std::strcmp(backend, "module");
}

inline int cxx_run_all()
{
	int n = 0, failures = 0;

	std::cout << "TAP version 13\n1.." << cxx_tests.size() << std::endl;
	for (const cxx_test &test : cxx_tests) {
		bool skipped = test.needs_module && !cxx_has_module();

		/* This ends a test that hangs. It is long, as an emulated machine is slow. */
		alarm(600);
		cxx_failed = false;
		if (!skipped)
			test.run();
		failures += cxx_failed;
		std::cout << (cxx_failed ? "not ok " : "ok ") << ++n << ' ' << test.name
			  << (skipped ? " # SKIP the module's alone" : "") << std::endl;
	}
	return failures ? 1 : 0;
}

#endif /* EVPLMEM_TESTS_CXX_H */
