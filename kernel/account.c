// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who is charged for how much, and the two caps.
 *
 * Slabs, the pages of refs windows and channels are charged before they are
 * allocated and uncharged after they went back, so what is charged for them is never
 * less than what they use. Leases and shares, which are small and have an entry each
 * in a page that is charged, are the memory cgroup's alone. The caps share memory out
 * fairly; the boundary that holds against somebody who has many users, as the
 * owner of a user namespace does, is the memory cgroup.
 */
#include <linux/hashtable.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "evpl.h"

static unsigned long max_bytes;
module_param(max_bytes, ulong, 0644);
MODULE_PARM_DESC(max_bytes,
		 "most bytes for the system (0 when loaded: 3/4 of RAM)");

static unsigned long max_bytes_per_user;
module_param(max_bytes_per_user, ulong, 0644);
MODULE_PARM_DESC(max_bytes_per_user,
		 "most bytes for each user (0 when loaded: 1/2 of RAM)");

/* Guards everything below, and the users' fields. Nothing nests inside it. */
static DEFINE_SPINLOCK(account_lock);
static DEFINE_HASHTABLE(users, 6);
static u64 charged_bytes;

void __init evpl_account_init(void)
{
	unsigned long ram = totalram_pages() << PAGE_SHIFT;

	if (!max_bytes)
		max_bytes = ram / 4 * 3;
	if (!max_bytes_per_user)
		max_bytes_per_user = ram / 2;
}

static struct evpl_user *lookup_user(kuid_t uid)
{
	struct evpl_user *user;

	lockdep_assert_held(&account_lock);
	hash_for_each_possible(users, user, node, __kuid_val(uid))
		if (uid_eq(user->uid, uid))
			return user;
	return NULL;
}

/**
 * evpl_user_get() - find or make the account of a user
 * @uid: the user
 *
 * Return: the account, with a reference that the caller owns; NULL if memory is
 * short.
 */
struct evpl_user *evpl_user_get(kuid_t uid)
{
	struct evpl_user *user, *new;

	new = kzalloc(sizeof(*new), EVPL_GFP);
	if (!new)
		return NULL;
	new->uid = uid;
	evpl_folio_init_user(new);

	spin_lock(&account_lock);
	user = lookup_user(uid);
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

/* Any account there is, with a reference that the caller owns, or NULL. */
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

void evpl_user_hold(struct evpl_user *user)
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

static bool try_charge(struct evpl_user *user, u64 bytes)
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
 * @user: whom
 * @bytes: how much
 *
 * Return: 0; -ENOMEM if it would exceed one of the caps, also after the user's folios
 * that have been let go of in the meantime went back.
 */
int evpl_charge(struct evpl_user *user, u64 bytes)
{
	if (try_charge(user, bytes))
		return 0;
	if (bytes > READ_ONCE(max_bytes) || bytes > READ_ONCE(max_bytes_per_user))
		return -ENOMEM;

	/* Look once more, whether the folios were freed here or by the user's reaper. */
	if (atomic64_read_acquire(&evpl_detached_bytes))
		evpl_folio_reap(user);
	return try_charge(user, bytes) ? 0 : -ENOMEM;
}

void evpl_uncharge(struct evpl_user *user, u64 bytes)
{
	spin_lock(&account_lock);
	charged_bytes -= bytes;
	user->bytes -= bytes;
	spin_unlock(&account_lock);
}

u64 evpl_charged_bytes(void)
{
	return READ_ONCE(charged_bytes);
}
