// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accounting of users, and the two caps.
 *
 * Slabs, the pages of refs windows and channels are charged before they are allocated, and
 * uncharged after they have been freed. So the charge is never less than the memory used. Shares
 * and leases are charged with the page of their entries, as many as that page can have
 * (refs.c). So only the first share or lease of a page takes account_lock. When a client has
 * gone, the user of a lease is charged for the folios that the lease keeps (slab.c).
 *
 * The caps divide memory fairly. They don't stop somebody who has many user ids, such as the
 * owner of a user namespace. The boundary for that is the memory cgroup.
 */
#include <linux/hashtable.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/moduleparam.h>
#include <linux/nodemask.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/vmstat.h>

#include "account.h"
#include "evpl.h"
#include "folio.h"

static unsigned long max_bytes;
module_param(max_bytes, ulong, 0644);
MODULE_PARM_DESC(max_bytes,
		 "most bytes for the system (0 when loaded: 3/4 of what can be had)");

static unsigned long max_bytes_per_user;
module_param(max_bytes_per_user, ulong, 0644);
MODULE_PARM_DESC(max_bytes_per_user,
		 "most bytes for each user (0 when loaded: 1/2 of what can be had)");

/*
 * Guards everything below, and the fields of struct evpl_user that name it. No lock nests
 * inside it.
 */
static DEFINE_SPINLOCK(account_lock);
static DEFINE_HASHTABLE(users, 6);
static u64 charged_bytes;

/*
 * The pages that slabs could be made of: pages that are free, or that processes and the page
 * cache have, in the zones that GFP_KERNEL takes from. ZONE_MOVABLE isn't one of these, and CMA
 * lends its pages for movable allocations alone. The pools of hugetlb aren't counted, since
 * their pages are neither free nor on an LRU list. Nor is the kernel's own memory.
 */
static unsigned long __init pages_to_be_had(void)
{
	static const enum zone_stat_item items[] = {
		NR_FREE_PAGES, NR_ZONE_INACTIVE_ANON, NR_ZONE_ACTIVE_ANON,
		NR_ZONE_INACTIVE_FILE, NR_ZONE_ACTIVE_FILE, NR_ZONE_UNEVICTABLE,
	};
	unsigned long pages = 0, here;
	enum zone_type type;
	unsigned int i;
	int node;

	for_each_online_node(node)
		for (type = 0; type <= ZONE_NORMAL; type++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[type];

			here = 0;
			for (i = 0; i < ARRAY_SIZE(items); i++)
				here += zone_page_state(zone, items[i]);
			pages += here - min(here, zone_cma_pages(zone));
		}
	return pages;
}

void __init evpl_account_init(void)
{
	unsigned long bytes = pages_to_be_had() << PAGE_SHIFT;

	if (!max_bytes)
		max_bytes = bytes / 4 * 3;
	if (!max_bytes_per_user)
		max_bytes_per_user = bytes / 2;
}

static struct evpl_user *user_lookup(kuid_t uid)
{
	struct evpl_user *user;

	lockdep_assert_held(&account_lock);
	hash_for_each_possible(users, user, node, __kuid_val(uid))
		if (uid_eq(user->uid, uid))
			return user;
	return NULL;
}

/**
 * evpl_user_find_or_create() - find or make the account of a user
 * @uid: the user
 *
 * Return: the account, with a reference that the caller owns; NULL if memory is
 * short.
 */
struct evpl_user *evpl_user_find_or_create(kuid_t uid)
{
	struct evpl_user *user, *new;

	new = kzalloc(sizeof(*new), EVPL_GFP);
	if (!new)
		return NULL;
	new->uid = uid;
	evpl_folio_init_user(new);

	spin_lock(&account_lock);
	user = user_lookup(uid);
	if (!user) {
		user = new;
		new = NULL;
		hash_add(users, &user->node, __kuid_val(uid));
	}
	user->refs++;
	spin_unlock(&account_lock);

	kfree(new);
	return user;
}

/* Return any account, with a reference that the caller owns; NULL if there is none. */
struct evpl_user *evpl_user_any(void)
{
	struct evpl_user *user;
	int bucket;

	spin_lock(&account_lock);
	hash_for_each(users, bucket, user, node) {
		user->refs++;
		spin_unlock(&account_lock);
		return user;
	}
	spin_unlock(&account_lock);
	return NULL;
}

void evpl_user_get(struct evpl_user *user)
{
	spin_lock(&account_lock);
	user->refs++;
	spin_unlock(&account_lock);
}

void evpl_user_put(struct evpl_user *user)
{
	spin_lock(&account_lock);
	if (--user->refs) {
		spin_unlock(&account_lock);
		return;
	}
	hash_del(&user->node);
	spin_unlock(&account_lock);

	WARN_ON_ONCE(user->bytes);
	mutex_destroy(&user->reap_mutex);
	kfree(user);
}

static bool user_try_charge(struct evpl_user *user, u64 bytes)
{
	u64 of_all, of_user;
	bool fits;

	spin_lock(&account_lock);
	fits = !check_add_overflow(charged_bytes, bytes, &of_all) &&
	       of_all <= READ_ONCE(max_bytes) &&
	       !check_add_overflow(user->bytes, bytes, &of_user) &&
	       of_user <= READ_ONCE(max_bytes_per_user);
	if (fits) {
		charged_bytes = of_all;
		user->bytes = of_user;
	}
	spin_unlock(&account_lock);

	return fits;
}

/**
 * evpl_charge() - charge a user and the system
 * @user: the user
 * @bytes: how much
 *
 * Return: 0; -ENOMEM if that would exceed one of the caps, even after the user's detached folios
 * that nothing holds any more have been freed.
 */
int evpl_charge(struct evpl_user *user, u64 bytes)
{
	if (user_try_charge(user, bytes))
		return 0;
	if (bytes > READ_ONCE(max_bytes) || bytes > READ_ONCE(max_bytes_per_user))
		return -ENOMEM;

	/*
	 * Try again in any case: the user's reaper may have freed the folios instead of this
	 * task.
	 */
	if (atomic64_read_acquire(&evpl_detached_bytes))
		evpl_folio_reap(user);
	return user_try_charge(user, bytes) ? 0 : -ENOMEM;
}

void evpl_uncharge(struct evpl_user *user, u64 bytes)
{
	spin_lock(&account_lock);
	charged_bytes -= bytes;
	user->bytes -= bytes;
	spin_unlock(&account_lock);
}

/**
 * evpl_recharge() - move a charge from one user to another
 * @from: the user that was charged
 * @to: the user that is to be charged
 * @bytes: how much
 * @anyway: even past the cap of @to
 *
 * Return: whether the charge was moved. Unless @anyway, it isn't if it would exceed the cap of
 * @to.
 */
bool evpl_recharge(struct evpl_user *from, struct evpl_user *to, u64 bytes, bool anyway)
{
	bool fits;

	spin_lock(&account_lock);
	fits = anyway || to->bytes + bytes <= READ_ONCE(max_bytes_per_user);
	if (fits) {
		from->bytes -= bytes;
		to->bytes += bytes;
	}
	spin_unlock(&account_lock);
	return fits;
}

/**
 * evpl_room() - how much the caps leave
 * @user: a user
 * @of_user: set to the bytes that the user can still be charged, were it not for the other cap
 * @of_system: set to the bytes that all users together can still be charged
 */
void evpl_room(struct evpl_user *user, u64 *of_user, u64 *of_system)
{
	u64 per_user = READ_ONCE(max_bytes_per_user), all = READ_ONCE(max_bytes);

	spin_lock(&account_lock);
	*of_user = per_user - min(per_user, user->bytes);
	*of_system = all - min(all, charged_bytes);
	spin_unlock(&account_lock);
}

u64 evpl_charged_bytes(void)
{
	return READ_ONCE(charged_bytes);
}
