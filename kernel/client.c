// SPDX-License-Identifier: GPL-2.0-only
/*
 * Clients. A client is an open file description of /dev/evpl. It goes with its last descriptor
 * and its last VMA. That may happen in any task, so nothing on the way out looks at current.
 * The client's entries are freed then. Slabs, leases and ends may still need its account and
 * its inode, so these are freed with the last reference on the client.
 */
#include <linux/compat.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pid.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "account.h"
#include "channel.h"
#include "client.h"
#include "evpl.h"
#include "fdinfo.h"
#include "folio.h"
#include "ioctl.h"
#include "lease.h"
#include "quarantine.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "uring.h"
#include "window.h"

/* Guards the list of clients, its length, and the last id that was given to one. */
static DEFINE_MUTEX(clients_mutex);
static LIST_HEAD(clients);
static unsigned long nr_clients;
static u64 last_id;

static struct vfsmount *evpl_mnt;

static int evpl_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x6576706c) ? 0 : -ENOMEM; /* "evpl" */
}

/* Without .owner: with it, the mount below would keep the module loaded for ever. */
static struct file_system_type evpl_fs_type = {
	.name = "evpl",
	.init_fs_context = evpl_init_fs_context,
	.kill_sb = kill_anon_super,
};

int __init evpl_client_init(void)
{
	evpl_mnt = kern_mount(&evpl_fs_type);
	return PTR_ERR_OR_ZERO(evpl_mnt);
}

void evpl_client_exit(void)
{
	kern_unmount(evpl_mnt);
}

/*
 * The core calls this before it evicts a folio of a mapping from the page cache, or splits it.
 * Folios of slabs are in no page cache, and stay whole.
 */
static bool evpl_release_folio(struct folio *folio, gfp_t gfp)
{
	return false;
}

/* For the folios of a client's slabs: see folio_join_mapping(). */
static const struct address_space_operations evpl_aops = {
	.dirty_folio = noop_dirty_folio,
	.release_folio = evpl_release_folio,
};

static int evpl_open(struct inode *inode, struct file *file)
{
	struct evpl_client *client;
	int ret = -ENOMEM;

	evpl_syncpoint(EVPL_SYNCPOINT_OPEN);
	client = kzalloc(sizeof(*client), EVPL_GFP);
	if (!client)
		return -ENOMEM;
	kref_init(&client->kref);
	mutex_init(&client->lock);
	init_rwsem(&client->tree_lock);
	init_rwsem(&client->fault_sem);
	init_rwsem(&client->lease_sem);
	init_rwsem(&client->send_sem);
	mutex_init(&client->refs_mutex);
	client->writable = file->f_mode & FMODE_WRITE;
	client->file = file;
	client->slabs = RB_ROOT;
	xa_init_flags(&client->refs, XA_FLAGS_ACCOUNT);
	xa_init_flags(&client->leases, XA_FLAGS_ALLOC | XA_FLAGS_ACCOUNT);
	client->lease_tree = RB_ROOT;
	INIT_LIST_HEAD(&client->ends);
	init_waitqueue_head(&client->wait);
	evpl_quarantine_init(client);

	client->user = evpl_user_find_or_create(file->f_cred->uid);
	if (!client->user)
		goto free_client;

	client->inode = alloc_anon_inode(evpl_mnt->mnt_sb);
	if (IS_ERR(client->inode)) {
		ret = PTR_ERR(client->inode);
		goto put_user;
	}
	client->inode->i_mapping->a_ops = &evpl_aops;
	/* Keeps NUMA balancing away: see vma_migratable(). GFP_DMA has no other meaning here. */
	mapping_set_gfp_mask(client->inode->i_mapping, GFP_DMA);
	client->pid = get_pid(task_tgid(current));

	mutex_lock(&clients_mutex);
	client->id = ++last_id;
	list_add_tail(&client->list, &clients);
	nr_clients++;
	mutex_unlock(&clients_mutex);

	file->private_data = client;
	file->f_mapping = client->inode->i_mapping;
	/* There is no page cache to bypass, so a program may open the device with O_DIRECT. */
	file->f_mode |= FMODE_CAN_ODIRECT;
	return 0;

put_user:
	evpl_user_put(client->user);
free_client:
	kfree(client);
	return ret;
}

/* The last reference has gone. */
void evpl_client_free(struct kref *kref)
{
	struct evpl_client *client = container_of(kref, struct evpl_client, kref);

	xa_destroy(&client->leases);
	put_pid(client->pid);
	iput(client->inode);
	evpl_user_put(client->user);
	mutex_destroy(&client->refs_mutex);
	mutex_destroy(&client->lock);
	kfree(client);
}

static int evpl_release(struct inode *inode, struct file *file)
{
	struct evpl_client *client = file->private_data;

	mutex_lock(&clients_mutex);
	list_del(&client->list);
	nr_clients--;
	mutex_unlock(&clients_mutex);

	/*
	 * A task may still be writing to one of the client's ends, or reading from one. Such a
	 * task checks ->gone under one of these locks.
	 */
	down_write(&client->tree_lock);
	down_write(&client->lease_sem);
	WRITE_ONCE(client->gone, true);
	up_write(&client->lease_sem);
	up_write(&client->tree_lock);
	evpl_quarantine_exit(client);

	evpl_syncpoint(EVPL_SYNCPOINT_GONE);
	/* The leases first: when the other ends see that their peers are closed, none is left. */
	evpl_lease_end_all(client, false);
	evpl_channel_client_gone(client);
	evpl_slab_orphan_all(client);
	evpl_refs_destroy(client);
	if (client->zeros)
		evpl_folio_free(page_folio(client->zeros), client->user);
	evpl_client_put(client);
	return 0;
}

static int client_alloc_zeros(struct evpl_client *client)
{
	int ret;

	lockdep_assert_held(&client->lock);
	ret = evpl_charge(client->user, PAGE_SIZE);
	if (ret)
		return ret;
	client->zeros = alloc_page(EVPL_GFP | __GFP_ZERO);
	if (!client->zeros) {
		evpl_uncharge(client->user, PAGE_SIZE);
		return -ENOMEM;
	}
	return 0;
}

/**
 * evpl_client_set_up() - set a client up
 * @client: the client
 * @buffer_shift: log2 of its buffer size
 * @flags: EVPL_SETUP_*
 * @slab: its first slab, which becomes the client's if 0 is returned; or NULL
 *
 * The header stays with the client also if something else fails.
 *
 * Return: 0; -EBUSY if it is set up already; -ENOMEM; -EINTR; what evpl_slab_reserve()
 * returns.
 */
int evpl_client_set_up(struct evpl_client *client, unsigned int buffer_shift,
		       u32 flags, struct evpl_slab *slab)
{
	int ret;

	mutex_lock(&client->lock);
	ret = client->buffer_shift ? -EBUSY : evpl_refs_grow_header(client);
	if (ret)
		goto unlock;
	if (slab)
		ret = evpl_slab_reserve(client, slab, buffer_shift);
	else if (flags & EVPL_SETUP_ZEROS)
		ret = client_alloc_zeros(client);
	if (ret)
		goto unlock;
	client->flags = flags;

	if (slab)
		evpl_slab_publish(client, slab);
	evpl_syncpoint(EVPL_SYNCPOINT_SET_UP);
	/* Publish last: a reader that sees buffer_shift != 0 must also see the first slab. */
	smp_store_release(&client->buffer_shift, buffer_shift);
unlock:
	mutex_unlock(&client->lock);
	return ret;
}

static __poll_t evpl_poll(struct file *file, struct poll_table_struct *table)
{
	struct evpl_client *client = file->private_data;

	poll_wait(file, &client->wait, table);
	return evpl_refs_poll(client);
}

/* Programs seek to the end to learn the size. */
static loff_t evpl_llseek(struct file *file, loff_t offset, int whence)
{
	struct evpl_client *client = file->private_data;

	return fixed_size_llseek(file, offset, whence,
				 i_size_read(client->inode));
}

/**
 * evpl_client_show_all() - list the clients of the system
 * @m: where to
 */
void evpl_client_show_all(struct seq_file *m)
{
	struct evpl_client *client;

	seq_puts(m, "pid uid slabs bytes leases exports registrations id\n");
	mutex_lock(&clients_mutex);
	list_for_each_entry(client, &clients, list)
		seq_printf(m, "%d %u %lu %lu %lu %ld %ld %llu\n", pid_vnr(client->pid),
			   from_kuid_munged(&init_user_ns, client->user->uid),
			   READ_ONCE(client->nr_slabs),
			   READ_ONCE(client->nr_pages) << PAGE_SHIFT,
			   READ_ONCE(client->nr_leases),
			   atomic_long_read(&client->nr_ranges[EVPL_RANGE_EXPORTED]),
			   atomic_long_read(&client->nr_ranges[EVPL_RANGE_REGISTERED]),
			   client->id);
	mutex_unlock(&clients_mutex);
}

unsigned long evpl_client_count(void)
{
	return READ_ONCE(nr_clients);
}

const struct file_operations evpl_fops = {
	.owner = THIS_MODULE,
	.open = evpl_open,
	.release = evpl_release,
	.llseek = evpl_llseek,
	.unlocked_ioctl = evpl_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
#ifdef EVPL_HAS_VM_OPS_MAPPED
	.mmap_prepare = evpl_mmap_prepare,
#else
	.mmap = evpl_mmap,
#endif
	.poll = evpl_poll,
	/* Programs call msync(2) and fsync(2) on their mappings. There is nothing to write back. */
	.fsync = noop_fsync,
	.get_unmapped_area = thp_get_unmapped_area,
	.show_fdinfo = evpl_show_fdinfo,
#ifdef EVPL_HAS_URING_BVEC
	.uring_cmd = evpl_uring_cmd,
#endif
};
