// SPDX-License-Identifier: GPL-2.0-only
/*
 * Adopting. A client whose process has died, while another process keeps the descriptor, is made
 * as a successor needs it. The references of the dead process end; what others have of the
 * client's buffers, and what the kernel has, goes on.
 *
 * No process maps the client, and nothing else has a page of its entries, so no user writes to
 * these. A process that maps them meanwhile waits in refs_fault() (window.c). No task sends,
 * exports or revokes a buffer of the client, as these hold send_sem: so no share comes but for a
 * quarantine, and no task puts a reference back into a word. No slab comes or goes, under
 * evpl_client.lock. These can still come at any time: the end of a share, a record that another
 * process reads from an end of the client, and a pass over the buffers in quarantine. They change a
 * word, and report its buffer, under the xa_lock of evpl_slab.shares, as the reset of that word
 * does. So each comes before the reset, which then takes its effect back, or it comes after the
 * reset and finds the flag of its share in the word.
 *
 * The summaries in the header are cleared first. Afterwards a bit in a summary may have none in its
 * bitmap, but no bit in a bitmap lacks the one in the summary.
 */
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/xarray.h>

#include "adopt.h"
#include "client.h"
#include "lease.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"

/*
 * Whether a process maps the client, something has a page of its entries, or something has a range
 * of a slab without a reference on a buffer. The memory of such a range may still be written to,
 * and no share says so.
 */
static bool adopt_is_in_use(struct evpl_client *client)
{
	struct evpl_slab *slab;
	struct rb_node *node;
	bool in_use = mapping_mapped(client->inode->i_mapping) || evpl_refs_are_held(client);

	for (node = rb_first(&client->slabs); node && !in_use; node = rb_next(node)) {
		slab = rb_entry(node, struct evpl_slab, node);
		xa_lock(&slab->shares);
		in_use = evpl_slab_has_ranges(slab);
		xa_unlock(&slab->shares);
		cond_resched();
	}
	return in_use;
}

static int adopt_slabs(struct evpl_client *client)
{
	struct evpl_slab *slab;
	struct rb_node *node;
	int ret = 0;

	for (node = rb_first(&client->slabs); node && !ret; node = rb_next(node)) {
		slab = rb_entry(node, struct evpl_slab, node);
		ret = evpl_quarantine_adopt(slab);
		if (!ret)
			ret = evpl_share_reset_words(slab);
	}
	return ret;
}

/**
 * evpl_adopt() - make a client whose process has died as a successor needs it
 * @client: the client, which is set up
 *
 * Return: 0; -EBUSY with nothing changed, if the client is in use; -EBUSY also if a process has
 * mapped the client meanwhile, which then finds it adopted; -EINTR or -ENOMEM, after which the work
 * may have been done in part, and another call does all of it.
 */
int evpl_adopt(struct evpl_client *client)
{
	int ret;

	/* Don't wait: that would be for another use of the client. */
	if (!down_write_trylock(&client->send_sem))
		return -EBUSY;
	if (mutex_lock_killable(&client->lock)) {
		ret = -EINTR;
		goto unlock_send;
	}
	ret = adopt_is_in_use(client) ? -EBUSY : 0;
	if (!ret) {
		evpl_syncpoint(EVPL_SYNCPOINT_ADOPT);
		ret = evpl_refs_clear(client) ?: adopt_slabs(client);
	}
	mutex_unlock(&client->lock);
	/* The leases' owners get their buffers. That may take long, so no slab waits for it. */
	if (!ret)
		ret = evpl_lease_end_all(client, true);
	if (!ret && mapping_mapped(client->inode->i_mapping))
		ret = -EBUSY;
	if (!ret)
		WRITE_ONCE(client->adopted, client->adopted + 1);
unlock_send:
	up_write(&client->send_sem);
	return ret;
}
