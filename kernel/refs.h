/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_REFS_H
#define EVPL_REFS_H

#include <linux/bits.h>
#include <linux/evpl.h>
#include <linux/math.h>
#include <linux/mm.h>
#include <linux/poll.h>

#include "window.h"

struct evpl_client;
struct evpl_slab;

/*
 * The places of the refs windows, in pages from EVPL_REFS_START on. In bytes they are the same
 * for all page sizes.
 */
#define EVPL_REFS_ENTRIES	0
#define EVPL_REFS_LEASES	(BIT(38) >> PAGE_SHIFT)
#define EVPL_REFS_RETURNED	(BIT(39) >> PAGE_SHIFT)
#define EVPL_REFS_REVOKED	((BIT(39) + BIT(28)) >> PAGE_SHIFT)
#define EVPL_REFS_HEADER	((BIT(39) + BIT(30)) >> PAGE_SHIFT)
/* Each of the 2^32 numbers of leases has an entry, and a bit. */
#define EVPL_LEASES_PAGES	(BIT(38) >> PAGE_SHIFT)
#define EVPL_REVOKED_PAGES	(BIT(29) >> PAGE_SHIFT)

int evpl_refs_grow(struct evpl_client *client, unsigned long first,
		   unsigned long last);
int evpl_refs_grow_entries(struct evpl_client *client, u64 first, u64 last);
int evpl_refs_grow_header(struct evpl_client *client);
int evpl_refs_grow_lease(struct evpl_client *client, u32 number);
int evpl_refs_grow_share(struct evpl_client *client, u64 buffer, atomic64_t *word);
unsigned long evpl_refs_in_use(struct evpl_client *client,
			       struct evpl_slab *slab);
atomic64_t *evpl_refs_word(struct evpl_client *client, unsigned long first,
			   u64 number);
bool evpl_refs_are_held(struct evpl_client *client);
int evpl_refs_clear(struct evpl_client *client);
void evpl_refs_reset_buffer(struct evpl_client *client, u64 buffer, u64 word);
void evpl_refs_reset_lease(struct evpl_client *client, u32 number);
void evpl_refs_report_returned(struct evpl_client *client, u64 buffer);
void evpl_refs_report_unshared(struct evpl_client *client, u64 buffer);
void evpl_refs_wake_returned(struct evpl_client *client);
void evpl_refs_count_ends(struct evpl_client *client);
void evpl_refs_report_revoked(struct evpl_client *client, u32 number);
__poll_t evpl_refs_poll(struct evpl_client *client);
void evpl_refs_destroy(struct evpl_client *client);

/* Pages of the own buffers' entries: one entry for each buffer that the own window has room for. */
static inline unsigned long evpl_refs_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP((EVPL_OWN_SIZE >> buffer_shift) *
			    sizeof(struct evpl_entry), PAGE_SIZE);
}

/* Pages of the returned bitmap: one bit for each buffer that the own window has room for. */
static inline unsigned long evpl_returned_pages(unsigned int buffer_shift)
{
	return DIV_ROUND_UP(EVPL_OWN_SIZE >> buffer_shift, 8 * PAGE_SIZE);
}

#endif /* EVPL_REFS_H */
