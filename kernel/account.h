/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_ACCOUNT_H
#define EVPL_ACCOUNT_H

#include <linux/init.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/uidgid.h>
#include <linux/workqueue.h>

/**
 * struct evpl_user - the account of a user
 * @node: in the table of users; guarded by account_lock (account.c)
 * @uid: the user's id
 * @refs: one for each client, channel and detached folio; one for each folio of an orphaned
 *	slab that is charged to this user instead of the user of the slab's client; and one for
 *	@reap_work while it is scheduled. Guarded by account_lock.
 * @bytes: charged to this user; guarded by account_lock
 * @detached: detached folios that are charged to this user; guarded by detached_lock
 *	(folio.c)
 * @reap_mutex: held by the one task that goes over @detached
 * @reap_work: frees the detached folios that nothing holds any more
 */
struct evpl_user {
	struct hlist_node node;
	kuid_t uid;
	unsigned long refs;
	u64 bytes;
	struct list_head detached;
	struct mutex reap_mutex; /* see above */
	struct delayed_work reap_work;
};

void evpl_account_init(void);
struct evpl_user *evpl_user_find_or_create(kuid_t uid);
struct evpl_user *evpl_user_any(void);
void evpl_user_get(struct evpl_user *user);
void evpl_user_put(struct evpl_user *user);
int evpl_charge(struct evpl_user *user, u64 bytes);
void evpl_uncharge(struct evpl_user *user, u64 bytes);
bool evpl_recharge(struct evpl_user *from, struct evpl_user *to, u64 bytes, bool anyway);
void evpl_room(struct evpl_user *user, u64 *of_user, u64 *of_system);
u64 evpl_charged_bytes(void);

#endif /* EVPL_ACCOUNT_H */
