// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exports: dma-bufs made of slabs' memory. An export is an array of pieces. Each piece keeps
 * its pages, by a reference on a share, as a record in flight has, or by one of the exports of
 * a slab. So no page goes while a descriptor, a mapping or an attachment of the dma-buf is
 * left, and nothing here takes references on pages.
 *
 * Importers let their devices read and write the memory. Mappings are PFN-mapped: nothing can
 * pin memory through them.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/iosys-map.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "client.h"
#include "compat.h"
#include "dmabuf.h"
#include "evpl.h"
#include "lease.h"
#include "refs.h"
#include "share.h"
#include "slab.h"
#include "syncpoint.h"
#include "window.h"

EVPL_IMPORT_NS(DMA_BUF);

/**
 * struct piece - consecutive pages of an export in one buffer or slab
 * @slab: the slab that the pages lie in
 * @share: of the pages' buffer, on which the piece owns a reference; NULL if the piece is one of
 *	the slab's exports
 * @lease: the lease that had the reference, until its transfer is finished; NULL if there is none
 * @start: the first page, in the own window of the slab's client
 */
struct piece {
	struct evpl_slab *slab;
	struct evpl_share *share;
	struct evpl_lease *lease;
	pgoff_t start;
};

/**
 * struct mapping - an export as it is mapped for a device
 * @list: in export.mappings
 * @table: the pages, with the device's addresses for them
 * @device: the device
 * @direction: what the device may do
 */
struct mapping {
	struct list_head list;
	struct sg_table table;
	struct device *device;
	enum dma_data_direction direction;
};

/**
 * struct export - the memory of a dma-buf
 * @mutex: guards @mappings
 * @mappings: the mappings for devices that exist now
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
	struct mutex mutex; /* see above */
	struct list_head mappings;
	bool writable;
	unsigned long nr_pages;
	struct page **pages;
	unsigned int nr_pieces;
	struct piece pieces[];
};

atomic_long_t evpl_nr_exports;

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
	ret = export_fill_table(&mapping->table, export, mapping->device);
	if (ret)
		goto free_mapping;
	ret = dma_map_sgtable(mapping->device, &mapping->table, direction, 0);
	if (ret)
		goto free_table;

	mutex_lock(&export->mutex);
	list_add(&mapping->list, &export->mappings);
	mutex_unlock(&export->mutex);
	return &mapping->table;

free_table:
	sg_free_table(&mapping->table);
free_mapping:
	kfree(mapping);
	return ERR_PTR(ret);
}

static void export_unmap_dma_buf(struct dma_buf_attachment *attachment,
				 struct sg_table *table,
				 enum dma_data_direction direction)
{
	struct export *export = attachment->dmabuf->priv;
	struct mapping *mapping = container_of(table, struct mapping, table);

	mutex_lock(&export->mutex);
	list_del(&mapping->list);
	mutex_unlock(&export->mutex);
	dma_unmap_sgtable(mapping->device, table, direction, 0);
	sg_free_table(table);
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

	mutex_lock(&export->mutex);
	list_for_each_entry(mapping, &export->mappings, list)
		dma_sync_sgtable_for_cpu(mapping->device, &mapping->table,
					 mapping->direction);
	mutex_unlock(&export->mutex);
	return 0;
}

static int export_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction unused)
{
	struct export *export = dmabuf->priv;
	struct mapping *mapping;

	mutex_lock(&export->mutex);
	list_for_each_entry(mapping, &export->mappings, list)
		dma_sync_sgtable_for_device(mapping->device, &mapping->table,
					    mapping->direction);
	mutex_unlock(&export->mutex);
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
	void *address = vmap(export->pages, export->nr_pages, VM_MAP, PAGE_KERNEL);

	if (!address)
		return -ENOMEM;
	iosys_map_set_vaddr(map, address);
	return 0;
}

static void export_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	vunmap(map->vaddr);
}

/* Map the page that was touched, then those that follow it in its 2 MiB of the VMA. */
static vm_fault_t export_fault(struct vm_fault *vmf)
{
	struct export *export = vmf->vma->vm_private_data;
	unsigned long end = min(ALIGN(vmf->address + 1, EVPL_SLAB_ALIGN), vmf->vma->vm_end);
	unsigned long address = vmf->address;
	struct page *page;
	vm_fault_t ret;

	if (unlikely(evpl_fault_is_marked(vmf)))
		return VM_FAULT_SIGBUS;
	for (; address < end; address += PAGE_SIZE) {
		page = export->pages[vmf->pgoff + PHYS_PFN(address - vmf->address)];
		ret = unlikely(PageHWPoison(page)) ? VM_FAULT_HWPOISON :
		      vmf_insert_pfn(vmf->vma, address, page_to_pfn(page));
		if (ret != VM_FAULT_NOPAGE)
			return address == vmf->address ? ret : VM_FAULT_NOPAGE;
	}
	return VM_FAULT_NOPAGE;
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

/* The last user of the dma-buf has gone. This runs in any task. */
static void export_release(struct dma_buf *dmabuf)
{
	struct export *export = dmabuf->priv;
	unsigned int i;

	for (i = 0; i < export->nr_pieces; i++) {
		struct piece *piece = &export->pieces[i];

		if (piece->share) {
			evpl_share_unexport(piece->share, export->writable);
			evpl_share_put(piece->share);
		} else {
			evpl_slab_unexport(piece->slab);
		}
		cond_resched();
	}
	mutex_destroy(&export->mutex);
	kvfree(export->pages);
	kvfree(export);
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

static int piece_from_ref(struct piece *piece, struct evpl_client *client,
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
	ret = evpl_share_export(share, write);
	if (ret) {
		evpl_ref_cancel_transfer(share, piece->lease);
		return ret;
	}
	piece->share = share;
	piece->slab = share->slab;
	mask = (PAGE_SIZE << piece->slab->buffer_order) - 1;
	piece->start = evpl_share_start(share) +
		       ((range->offset & mask) >> PAGE_SHIFT);
	return 0;
}

static int piece_from_slab(struct piece *piece, struct evpl_client *client,
			   const struct evpl_range *range, bool write)
{
	struct evpl_slab *slab;

	slab = evpl_slab_export(client, range->offset, range->length, write);
	if (IS_ERR(slab))
		return PTR_ERR(slab);
	piece->slab = slab;
	piece->start = range->offset >> PAGE_SHIFT;
	return 0;
}

static void piece_cancel(struct piece *piece, bool write)
{
	if (piece->share) {
		evpl_share_unexport(piece->share, write);
		evpl_ref_cancel_transfer(piece->share, piece->lease);
	} else {
		evpl_slab_unexport(piece->slab);
	}
}

static int export_add_pieces(struct export *export, struct evpl_client *client,
			     const struct evpl_range *ranges, u32 count, u32 flags)
{
	bool write = flags & EVPL_EXPORT_WRITE;
	u32 i;
	int ret;

	for (i = 0; i < count; i++) {
		struct piece *piece = &export->pieces[i];

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
		struct piece *piece = &export->pieces[i];
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
		piece_cancel(&export->pieces[--export->nr_pieces],
			     export->writable);
		cond_resched();
	}
	up_read(&client->send_sem);

	for (i = 0; i < export->nr_pieces; i++) {
		struct piece *piece = &export->pieces[i];

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
	/* The header will report the buffers that come back. */
	ret = evpl_refs_grow_header(client);
	if (ret)
		return ERR_PTR(ret);
	export = kvzalloc(struct_size(export, pieces, count), EVPL_GFP);
	if (!export)
		return ERR_PTR(-ENOMEM);
	mutex_init(&export->mutex);
	INIT_LIST_HEAD(&export->mappings);
	export->writable = flags & EVPL_EXPORT_WRITE;
	export->nr_pages = info.size >> PAGE_SHIFT;

	info.ops = export->writable ? &export_writable_ops : &export_readable_ops;
	info.flags = export->writable ? O_RDWR : O_RDONLY;
	info.priv = export;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		mutex_destroy(&export->mutex);
		kvfree(export);
		return ERR_CAST(dmabuf);
	}
	atomic_long_inc(&evpl_nr_exports);

	ret = export_fill(export, client, ranges, count, flags);
	if (ret) {
		/* The export has no pieces, so this frees nothing but the export itself. */
		dma_buf_put(dmabuf);
		return ERR_PTR(ret);
	}
	return dmabuf->file;
}
