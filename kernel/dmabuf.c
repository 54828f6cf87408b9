// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exports: dma-bufs made of slabs' memory. An export is an array of pieces. Each piece keeps
 * its pages, by a reference on a share, as a record in flight has, or by one of the exports of
 * a slab. So no page goes while a descriptor, a mapping or an attachment of the dma-buf is
 * left, and nothing here takes references on pages.
 *
 * Importers let their devices read and write the memory. Mappings are PFN-mapped: nothing can
 * pin memory through them.
 *
 * The owner of a buffer can revoke an export that has the buffer, whole, if the kernel can tell
 * importers to let go of a dma-buf, and each importer that uses this one can be told. An export
 * is *fixed* as long as something uses it that can't be told: then the revoke fails.
 */
#include <linux/atomic.h>
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/iosys-map.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/rwsem.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "client.h"
#include "compat.h"
#include "dmabuf.h"
#include "evpl.h"
#include "lease.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "window.h"

EVPL_IMPORT_NS(DMA_BUF);

/**
 * struct mapping - an export as it is mapped for a device
 * @list: in export.mappings
 * @table: the pages, with the device's addresses for them
 * @device: the device
 * @direction: what the device may do
 * @fixed: the importer can't be told to unmap it
 */
struct mapping {
	struct list_head list;
	struct sg_table table;
	struct device *device;
	enum dma_data_direction direction;
	bool fixed;
};

/**
 * struct export - the memory of a dma-buf
 * @refs: one for the dma-buf, and one for each task that revokes the export
 * @resv: of the dma-buf. The export has it, since it can outlive the dma-buf.
 * @dmabuf: NULL once the dma-buf is being released. Guarded by @resv.
 * @inode: of the dma-buf's file, on which the export owns a reference; all VMAs of the dma-buf
 *	are in its i_mapping
 * @lock: guards @mappings. A page fault holds it for read while it maps pages.
 * @mappings: the mappings for devices that exist now
 * @revoked: nothing may map a page any more. Changes with @resv and @lock (for write) held.
 * @fixed: how many things use the export that can't be told to stop: the making of it, mappings
 *	of importers that can't be told, and a vmap. Guarded by @resv. Where the kernel can tell no
 *	importer, this is always 1.
 * @users: mappings for devices, and a vmap
 * @wait: a task that revokes the export waits here for @users
 * @writable: importers may write
 * @nr_pages: length
 * @pages: all pages in their order; the pieces keep them. export_vmap() passes this array to
 *	vmap(). It can't allocate one, since it must not fail.
 * @nr_pieces: entries of @pieces
 * @pieces: in their order, without a gap
 *
 * The fields without a lock don't change once the dma-buf can be found.
 */
struct export {
	struct kref refs;
	struct dma_resv resv;
	struct dma_buf *dmabuf;
	struct inode *inode;
	struct rw_semaphore lock; /* see above */
	struct list_head mappings;
	bool revoked;
	unsigned int fixed;
	atomic_t users;
	wait_queue_head_t wait;
	bool writable;
	unsigned long nr_pages;
	struct page **pages;
	unsigned int nr_pieces;
	struct evpl_piece pieces[];
};

atomic_long_t evpl_nr_exports;

static void export_fix_pieces(struct export *export, bool fixed)
{
	unsigned int i;

	for (i = 0; i < export->nr_pieces; i++)
		if (export->pieces[i].share)
			evpl_share_fix_export(&export->pieces[i], fixed);
}

/*
 * Before something begins to use the export. If it can't be told to stop (@fixed), a revoke that
 * comes from now on fails, until the use ends.
 */
static void export_begin_use(struct export *export, bool fixed)
{
	if (EVPL_EXPORTS_REVOCABLE && fixed && !export->fixed++)
		export_fix_pieces(export, true);
	atomic_inc(&export->users);
}

static void export_end_use(struct export *export, bool fixed)
{
	if (EVPL_EXPORTS_REVOCABLE && fixed && !--export->fixed)
		export_fix_pieces(export, false);
	if (atomic_dec_and_test(&export->users))
		wake_up_all(&export->wait);
}

/* How many pages from @index on are contiguous in memory too, up to @most. */
static unsigned long export_run_at(struct export *export, pgoff_t index, unsigned long most)
{
	unsigned long pfn = page_to_pfn(export->pages[index]), nr = 1;

	most = min(most, export->nr_pages - index);
	while (nr < most && page_to_pfn(export->pages[index + nr]) == pfn + nr)
		nr++;
	return nr;
}

/* Make a table of all pages, in as few runs as the device can take. */
static int export_fill_table(struct sg_table *table, struct export *export,
			     struct device *device)
{
	/* A device with bounce buffers can't map more at once than one of them holds. */
	size_t bytes = min_t(size_t, dma_get_max_seg_size(device),
			     dma_max_mapping_size(device));
	unsigned long most = max(bytes >> PAGE_SHIFT, 1UL), nr;
	unsigned int nr_runs = 0, i;
	struct scatterlist *sg;
	pgoff_t index;
	int ret;

	evpl_syncpoint(EVPL_SYNCPOINT_MAP);
	for (index = 0; index < export->nr_pages; index += nr) {
		if (fatal_signal_pending(current))
			return -EINTR;
		nr = export_run_at(export, index, most);
		nr_runs++;
		cond_resched();
	}
	ret = sg_alloc_table(table, nr_runs, EVPL_GFP);
	if (ret)
		return ret;
	index = 0;
	for_each_sgtable_sg(table, sg, i) {
		if (fatal_signal_pending(current)) {
			sg_free_table(table);
			return -EINTR;
		}
		nr = export_run_at(export, index, most);
		sg_set_page(sg, export->pages[index], nr << PAGE_SHIFT, 0);
		index += nr;
		cond_resched();
	}
	return 0;
}

static struct sg_table *export_map_dma_buf(struct dma_buf_attachment *attachment,
					   enum dma_data_direction direction)
{
	struct export *export = attachment->dmabuf->priv;
	struct mapping *mapping;
	int ret;

	if (!export->writable && direction != DMA_TO_DEVICE)
		return ERR_PTR(-EACCES);
	mapping = kzalloc(sizeof(*mapping), EVPL_GFP);
	if (!mapping)
		return ERR_PTR(-ENOMEM);
	mapping->device = attachment->dev;
	mapping->direction = direction;
	mapping->fixed = !dma_buf_attach_revocable(attachment);
	export_begin_use(export, mapping->fixed);
	ret = export_fill_table(&mapping->table, export, mapping->device);
	if (ret)
		goto end_use;
	ret = dma_map_sgtable(mapping->device, &mapping->table, direction, 0);
	if (ret)
		goto free_table;

	down_write(&export->lock);
	list_add(&mapping->list, &export->mappings);
	up_write(&export->lock);
	return &mapping->table;

free_table:
	sg_free_table(&mapping->table);
end_use:
	export_end_use(export, mapping->fixed);
	kfree(mapping);
	return ERR_PTR(ret);
}

static void export_unmap_dma_buf(struct dma_buf_attachment *attachment,
				 struct sg_table *table,
				 enum dma_data_direction direction)
{
	struct export *export = attachment->dmabuf->priv;
	struct mapping *mapping = container_of(table, struct mapping, table);

	down_write(&export->lock);
	list_del(&mapping->list);
	up_write(&export->lock);
	dma_unmap_sgtable(mapping->device, table, direction, 0);
	sg_free_table(table);
	export_end_use(export, mapping->fixed);
	kfree(mapping);
}

/*
 * An importer brackets its accesses by the CPU with these two calls. They sync the mappings of
 * all devices, for those whose caches or bounce buffers the CPU doesn't see through.
 */
static int export_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction unused)
{
	struct export *export = dmabuf->priv;
	struct mapping *mapping;

	down_read(&export->lock);
	list_for_each_entry(mapping, &export->mappings, list)
		dma_sync_sgtable_for_cpu(mapping->device, &mapping->table,
					 mapping->direction);
	up_read(&export->lock);
	return 0;
}

static int export_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction unused)
{
	struct export *export = dmabuf->priv;
	struct mapping *mapping;

	down_read(&export->lock);
	list_for_each_entry(mapping, &export->mappings, list)
		dma_sync_sgtable_for_device(mapping->device, &mapping->table,
					    mapping->direction);
	up_read(&export->lock);
	return 0;
}

/*
 * Mappings in the kernel's address space. Nothing keeps them from being written to. The core
 * warns of a vmap that fails. So this allocates nothing that is charged to a user, or that a
 * signal interrupts. vmap() itself allocates single pages, charged to nobody, and gets them
 * unless the system has none left.
 */
static int export_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct export *export = dmabuf->priv;
	void *address;

	export_begin_use(export, true);
	address = vmap(export->pages, export->nr_pages, VM_MAP, PAGE_KERNEL);
	if (!address) {
		export_end_use(export, true);
		return -ENOMEM;
	}
	iosys_map_set_vaddr(map, address);
	return 0;
}

static void export_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	vunmap(map->vaddr);
	export_end_use(dmabuf->priv, true);
}

/*
 * Map the page that was touched, then those that follow it in its 2 MiB of the VMA. A task that
 * revokes the export says so with its lock held for write, then unmaps all pages. So a page is
 * mapped before that unmapping, or not at all. That task may be another client's, so page tables
 * are allocated before the lock is taken.
 */
static vm_fault_t export_fault(struct vm_fault *vmf)
{
	struct export *export = vmf->vma->vm_private_data;
	unsigned long end = min(ALIGN(vmf->address + 1, EVPL_SLAB_ALIGN), vmf->vma->vm_end);
	unsigned long address = vmf->address;
	vm_fault_t ret = VM_FAULT_SIGBUS, more;
	struct page *page;

	if (unlikely(evpl_fault_is_marked(vmf)))
		return VM_FAULT_SIGBUS;
	if (apply_to_page_range(vmf->vma->vm_mm, address, end - address, NULL, NULL))
		return VM_FAULT_OOM;
	down_read(&export->lock);
	for (; !export->revoked && address < end; address += PAGE_SIZE) {
		page = export->pages[vmf->pgoff + PHYS_PFN(address - vmf->address)];
		more = unlikely(PageHWPoison(page)) ? VM_FAULT_HWPOISON :
		       vmf_insert_pfn(vmf->vma, address, page_to_pfn(page));
		if (address == vmf->address)
			ret = more;
		if (more != VM_FAULT_NOPAGE)
			break;
	}
	up_read(&export->lock);
	return ret;
}

static const struct vm_operations_struct export_vm_ops = {
	.fault = export_fault,
};

/* Called with a VMA that lies within the dma-buf. Importers also call it for files of their own. */
static int export_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct export *export = dmabuf->priv;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	if (!export->writable && vma->vm_flags & VM_WRITE)
		return -EACCES;
	vma->vm_ops = &export_vm_ops;
	vma->vm_private_data = export;
	vm_flags_mod(vma, VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP,
		     VM_MAYEXEC | (export->writable ? 0 : VM_MAYWRITE));
	return 0;
}

static void export_free(struct kref *refs)
{
	struct export *export = container_of(refs, struct export, refs);

	iput(export->inode);
	dma_resv_fini(&export->resv);
	kvfree(export->pages);
	kvfree(export);
}

void evpl_export_get(struct export *export)
{
	kref_get(&export->refs);
}

void evpl_export_put(struct export *export)
{
	kref_put(&export->refs, export_free);
}

/* The last user of the dma-buf has gone. This runs in any task. */
static void export_release(struct dma_buf *dmabuf)
{
	struct export *export = dmabuf->priv;
	unsigned int i;

	/* A task that revokes the export may be about to use the dma-buf. */
	dma_resv_lock(&export->resv, NULL);
	export->dmabuf = NULL;
	dma_resv_unlock(&export->resv);
	for (i = 0; i < export->nr_pieces; i++) {
		struct evpl_piece *piece = &export->pieces[i];

		if (piece->share) {
			evpl_share_unexport(piece);
			evpl_share_put(piece->share);
		} else {
			evpl_slab_put_range(piece->slab, EVPL_RANGE_EXPORTED);
		}
		cond_resched();
	}
	evpl_export_put(export);
	atomic_long_dec(&evpl_nr_exports);
}

static const struct dma_buf_ops export_writable_ops = {
	.map_dma_buf = export_map_dma_buf,
	.unmap_dma_buf = export_unmap_dma_buf,
	.begin_cpu_access = export_begin_cpu_access,
	.end_cpu_access = export_end_cpu_access,
	.vmap = export_vmap,
	.vunmap = export_vunmap,
	.mmap = export_mmap,
	.release = export_release,
};

/* Without ->vmap: the core takes a vmap that refuses for a bug, and warns. */
static const struct dma_buf_ops export_readable_ops = {
	.map_dma_buf = export_map_dma_buf,
	.unmap_dma_buf = export_unmap_dma_buf,
	.begin_cpu_access = export_begin_cpu_access,
	.end_cpu_access = export_end_cpu_access,
	.mmap = export_mmap,
	.release = export_release,
};

static int revoked_attach(struct dma_buf *unused, struct dma_buf_attachment *attachment)
{
	return -ENODEV;
}

static struct sg_table *revoked_map_dma_buf(struct dma_buf_attachment *unused,
					    enum dma_data_direction direction)
{
	return ERR_PTR(-ENODEV);
}

static int revoked_mmap(struct dma_buf *unused, struct vm_area_struct *vma)
{
	return -ENODEV;
}

/*
 * Those of a revoked export. They have no ->vmap, as those of a readable one. The core holds the
 * dma-buf's resv when it looks for ->map_dma_buf or ->vmap, and calls it. It looks for the others
 * without a lock, so a call of an older one may follow. Such an attachment or VMA gets no page.
 */
static const struct dma_buf_ops export_revoked_ops = {
	.attach = revoked_attach,
	.map_dma_buf = revoked_map_dma_buf,
	.unmap_dma_buf = export_unmap_dma_buf,
	.begin_cpu_access = export_begin_cpu_access,
	.end_cpu_access = export_end_cpu_access,
	.vunmap = export_vunmap,
	.mmap = revoked_mmap,
	.release = export_release,
};

/**
 * evpl_export_revoke() - let nothing map pages of an export any more
 * @export: the export
 * @wait: wait for an importer that is at the dma-buf just now, but not beyond a signal
 *
 * VMAs are unmapped, and importers are told to unmap what their devices have. A second call does
 * nothing.
 *
 * Return: whether the export is revoked now.
 */
bool evpl_export_revoke(struct export *export, bool wait)
{
	bool locked;

	if (wait)
		locked = !dma_resv_lock_interruptible(&export->resv, NULL);
	else
		locked = dma_resv_trylock(&export->resv);
	if (!locked)
		return false;
	if (!export->revoked) {
		down_write(&export->lock);
		export->revoked = true;
		up_write(&export->lock);
		unmap_mapping_range(export->inode->i_mapping, 0, 0, 1);
		if (export->dmabuf) {
			WRITE_ONCE(export->dmabuf->ops, &export_revoked_ops);
			dma_buf_invalidate_mappings(export->dmabuf);
		}
	}
	dma_resv_unlock(&export->resv);
	return true;
}

/**
 * evpl_export_is_unused() - whether no importer can reach the pages of a revoked export any more
 * @export: the export
 * @wait: wait for the importers, but not beyond a signal. Something that can't be told to stop,
 *	and that came to use the export just before it was revoked, isn't waited for.
 */
bool evpl_export_is_unused(struct export *export, bool wait)
{
	unsigned long timeout = wait ? MAX_SCHEDULE_TIMEOUT : 0;

	/*
	 * A revoked export gets no new user, and an importer that has unmapped the pages doesn't
	 * touch them any more. So fences say nothing then. Whatever has a descriptor of the
	 * dma-buf can go on adding fences.
	 */
	if (READ_ONCE(export->fixed))
		return false;
	if (!atomic_read_acquire(&export->users))
		return true;
	/* dma_buf_invalidate_mappings() asks for both: the fences first, and then the unmapping. */
	if (dma_resv_wait_timeout(&export->resv, DMA_RESV_USAGE_BOOKKEEP, wait, timeout) <= 0)
		return false;
	if (wait && wait_event_interruptible(export->wait, !atomic_read(&export->users)))
		return false;
	return !atomic_read(&export->users);
}

static int piece_from_ref(struct evpl_piece *piece, struct evpl_client *client,
			  const struct evpl_range *range, bool write)
{
	struct evpl_share *share;
	u64 mask;
	int ret;

	if (range->length > EVPL_BUFFER_SIZE_MAX)
		return -EINVAL;
	/* Importers are devices, so a lease must be one for devices. */
	share = evpl_ref_transfer(client, range->offset, range->length,
				  EVPL_RECORD_DEVICE | (write ? EVPL_RECORD_WRITE : 0),
				  &piece->lease);
	if (IS_ERR(share))
		return PTR_ERR(share) == -EACCES ? -EPERM : PTR_ERR(share);
	piece->share = share;
	ret = evpl_share_export(piece);
	if (ret) {
		evpl_ref_cancel_transfer(share, piece->lease);
		return ret;
	}
	piece->slab = share->slab;
	mask = (PAGE_SIZE << piece->slab->buffer_order) - 1;
	piece->start = evpl_share_start(share) +
		       ((range->offset & mask) >> PAGE_SHIFT);
	return 0;
}

static int piece_from_slab(struct evpl_piece *piece, struct evpl_client *client,
			   const struct evpl_range *range, bool write)
{
	struct evpl_slab *slab;

	slab = evpl_slab_get_range(client, range->offset, range->length, write,
				   EVPL_RANGE_EXPORTED);
	if (IS_ERR(slab))
		return PTR_ERR(slab);
	piece->slab = slab;
	piece->start = range->offset >> PAGE_SHIFT;
	return 0;
}

static void piece_cancel(struct evpl_piece *piece)
{
	if (piece->share) {
		evpl_share_unexport(piece);
		evpl_ref_cancel_transfer(piece->share, piece->lease);
	} else {
		evpl_slab_put_range(piece->slab, EVPL_RANGE_EXPORTED);
	}
}

static int export_add_pieces(struct export *export, struct evpl_client *client,
			     const struct evpl_range *ranges, u32 count, u32 flags)
{
	bool write = flags & EVPL_EXPORT_WRITE;
	u32 i;
	int ret;

	for (i = 0; i < count; i++) {
		struct evpl_piece *piece = &export->pieces[i];

		piece->export = export;
		piece->write = write;
		ret = flags & EVPL_EXPORT_SLAB ?
		      piece_from_slab(piece, client, &ranges[i], write) :
		      piece_from_ref(piece, client, &ranges[i], write);
		if (ret)
			return ret;
		export->nr_pieces++;
		evpl_syncpoint(EVPL_SYNCPOINT_EXPORT);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/* Called once the pieces are taken: they bound nr_pages by the memory that they have. */
static int export_note_pages(struct export *export, const struct evpl_range *ranges)
{
	struct page **page;
	unsigned int i;

	export->pages = kvmalloc_array(export->nr_pages, sizeof(*page), EVPL_GFP);
	if (!export->pages)
		return -ENOMEM;
	page = export->pages;
	for (i = 0; i < export->nr_pieces; i++) {
		struct evpl_piece *piece = &export->pieces[i];
		pgoff_t at = piece->start, end = at + (ranges[i].length >> PAGE_SHIFT);

		while (at < end) {
			struct evpl_slab_folio *slab_folio = evpl_slab_folio_at(piece->slab, at);
			pgoff_t next = slab_folio->index + folio_nr_pages(slab_folio->folio);

			if (fatal_signal_pending(current))
				return -EINTR;
			for (; at < min(end, next); at++)
				*page++ = folio_page(slab_folio->folio, at - slab_folio->index);
			cond_resched();
		}
	}
	return 0;
}

/* Take all pieces of an export, or none. */
static int export_fill(struct export *export, struct evpl_client *client,
		       const struct evpl_range *ranges, u32 count, u32 flags)
{
	unsigned int i;
	int ret;

	down_read(&client->send_sem);
	ret = export_add_pieces(export, client, ranges, count, flags) ?:
	      export_note_pages(export, ranges);
	while (ret && export->nr_pieces) {
		piece_cancel(&export->pieces[--export->nr_pieces]);
		cond_resched();
	}
	up_read(&client->send_sem);

	for (i = 0; i < export->nr_pieces; i++) {
		struct evpl_piece *piece = &export->pieces[i];

		if (piece->lease)
			evpl_lease_finish_transfer(piece->lease);
		piece->lease = NULL;
		cond_resched();
	}
	return ret;
}

/* Return the sum of the ranges' lengths, or 0 if a range is invalid. */
static size_t ranges_size(const struct evpl_range *ranges, u32 count)
{
	size_t size = 0;
	u32 i;

	for (i = 0; i < count; i++)
		if (!ranges[i].length ||
		    !IS_ALIGNED(ranges[i].offset | ranges[i].length, PAGE_SIZE) ||
		    check_add_overflow(size, (size_t)ranges[i].length, &size))
			return 0;
	return size;
}

static int range_compare(const void *a, const void *b)
{
	const struct evpl_range *left = a, *right = b;

	if (left->offset == right->offset)
		return 0;
	return left->offset < right->offset ? -1 : 1;
}

/*
 * Return -EINVAL if two of the ranges overlap. So a dma-buf isn't longer than the memory that
 * it is made of, whatever user space writes to its words. So the work that is done for each
 * page of a dma-buf is bounded.
 */
static int ranges_check_overlap(const struct evpl_range *ranges, u32 count)
{
	struct evpl_range *sorted;
	int ret = 0;
	u32 i;

	sorted = kmemdup(ranges, count * sizeof(*sorted), EVPL_GFP);
	if (!sorted)
		return -ENOMEM;
	sort(sorted, count, sizeof(*sorted), range_compare, NULL);
	for (i = 1; i < count; i++)
		if (sorted[i].offset - sorted[i - 1].offset < sorted[i - 1].length)
			ret = -EINVAL;
	kfree(sorted);
	return ret;
}

/**
 * evpl_export() - make a dma-buf
 * @client: the client whose windows have the ranges
 * @ranges: the ranges to export
 * @count: how many ranges, not 0
 * @flags: EVPL_EXPORT_*
 *
 * Return: the dma-buf's file, which owns the references that the client gave up; or an error
 * pointer, and the client keeps them.
 */
struct file *evpl_export(struct evpl_client *client,
			 const struct evpl_range *ranges, u32 count, u32 flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	struct export *export;
	int ret;

	info.size = ranges_size(ranges, count);
	if (!info.size)
		return ERR_PTR(-EINVAL);
	ret = ranges_check_overlap(ranges, count);
	if (ret)
		return ERR_PTR(ret);
	export = kvzalloc(struct_size(export, pieces, count), EVPL_GFP);
	if (!export)
		return ERR_PTR(-ENOMEM);
	kref_init(&export->refs);
	dma_resv_init(&export->resv);
	init_rwsem(&export->lock);
	INIT_LIST_HEAD(&export->mappings);
	init_waitqueue_head(&export->wait);
	/* Nothing is revoked while its pages are collected. */
	export->fixed = 1;
	export->writable = flags & EVPL_EXPORT_WRITE;
	export->nr_pages = info.size >> PAGE_SHIFT;

	info.ops = export->writable ? &export_writable_ops : &export_readable_ops;
	info.flags = export->writable ? O_RDWR : O_RDONLY;
	info.resv = &export->resv;
	info.priv = export;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		evpl_export_put(export);
		return ERR_CAST(dmabuf);
	}
	export->dmabuf = dmabuf;
	export->inode = file_inode(dmabuf->file);
	ihold(export->inode);
	atomic_long_inc(&evpl_nr_exports);

	ret = export_fill(export, client, ranges, count, flags);
	if (ret) {
		/* The export has no pieces, so this frees nothing but the export itself. */
		dma_buf_put(dmabuf);
		return ERR_PTR(ret);
	}
	if (EVPL_EXPORTS_REVOCABLE) {
		dma_resv_lock(&export->resv, NULL);
		export->fixed = 0;
		export_fix_pieces(export, false);
		dma_resv_unlock(&export->resv);
	}
	return dmabuf->file;
}
