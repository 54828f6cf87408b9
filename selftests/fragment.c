// SPDX-License-Identifier: GPL-2.0-only
/*
 * In fragmented memory slabs consist of smaller folios, and work the same.
 */
#include "fragment.h"

FIXTURE(fragmented)
{
	int fd;
	struct counters before;
	struct evpl_setup setup;
	struct fragments fragments;
};

FIXTURE_SETUP(fragmented)
{
	self->before = read_counters();
	ASSERT_EQ(0, fragment(&self->fragments));
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, evpl_setup(self->fd, 0, &self->setup));
}

FIXTURE_TEARDOWN(fragmented)
{
	close(self->fd);
	unfragment(&self->fragments);
	EXPECT_TRUE(counters_return_to(self->before));
}

TEST_F(fragmented, gives_small_folios_that_work_the_same_and_none_where_2_MiB_are_a_must)
{
	/* More than fragment() leaves in whole runs of 2 MiB, and less than is free. */
	const size_t length = 352 * MIB;
	long long in_small = 0;
	uint64_t offset, again;
	char *memory;

	if (!has_huge())
		SKIP(return, "a kernel without large folios");
	EXPECT_EQ(-ENOMEM, evpl_slab_alloc_on(self->fd, length, EVPL_NODE_ANY,
					      EVPL_SLAB_HUGE, &offset));
	EXPECT_EQ(0, fdinfo(self->fd, "evpl-slabs"));
	EXPECT_EQ(self->before.charged + HEADER_PAGE, read_counters().charged);
	EXPECT_EQ(self->before.slabs, read_counters().slabs);

	ASSERT_EQ(0, evpl_slab_alloc(self->fd, length, &offset));
	TH_LOG("%lld folios of 2 MiB, %lld smaller ones",
	       fdinfo(self->fd, "evpl-folios-2048kB"), small_folios(self->fd));
	ASSERT_LT(0, small_folios(self->fd));
	/* No folio is smaller than 16 KiB, and together they make up the slab. */
	EXPECT_EQ(-1, fdinfo(self->fd, "evpl-folios-4kB"));
	EXPECT_EQ(-1, fdinfo(self->fd, "evpl-folios-8kB"));
	for (int kib = 16; kib <= 2048; kib *= 2) {
		char name[64];

		snprintf(name, sizeof(name), "evpl-folios-%dkB", kib);
		if (fdinfo(self->fd, name) > 0)
			in_small += fdinfo(self->fd, name) * kib * KIB;
	}
	EXPECT_EQ(length, in_small);

	memory = evpl_map(self->fd, length, offset);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_TRUE(is_filled_with(memory, 0, length));
	for (size_t at = 0; at < length; at += PAGE)
		*(size_t *)(memory + at) = at;
	munmap(memory, length);
	memory = evpl_map(self->fd, length, offset);
	for (size_t at = 0; at < length; at += PAGE)
		ASSERT_EQ(at, *(size_t *)(memory + at));
	EXPECT_EQ(length / KIB, smaps(memory, "Rss:"));

	EXPECT_EQ(0, evpl_slab_free(self->fd, offset));
	EXPECT_EQ(SIGBUS, touch_read(memory));
	EXPECT_EQ(0, smaps(memory, "Rss:"));
	ASSERT_EQ(0, evpl_slab_alloc(self->fd, SLAB_2M, &again));
	EXPECT_TRUE(is_filled_with(memory, 0, SLAB_2M));
	munmap(memory, length);
}

TEST_HARNESS_MAIN
