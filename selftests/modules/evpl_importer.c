// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module for tests: a driver that imports a dma-buf, with a device that takes segments of any
 * length, as many GPUs and cameras do. (The drivers of the virtual GPU and camera take 64 KiB at
 * most.) Loading the module with fd=N imports the dma-buf that is the caller's descriptor N. Then
 * kind=KIND says how:
 *
 *	once	maps it for the device, and unmaps it. The module doesn't stay: loading it gives
 *		ECANCELED if the mapping worked.
 *	fixed	maps it, and can't be told to unmap it
 *	vmap	maps it for the kernel, and not for the device
 *	prompt	maps it, and unmaps it as soon as it is told to
 *	slow	maps it with a fence. When it is told to unmap it, it leaves that to the test.
 *
 * Loading gives the errno of what failed, and EOPNOTSUPP for the last three on a kernel that
 * can't tell importers to unmap a dma-buf for good. The dma-buf is kept until the module is
 * unloaded. Until then, in /sys/kernel/debug/evpl-importer/
 *
 *	told		says how often the module was told to unmap the dma-buf
 *	map, unmap	map it again, or unmap it, when they are written to
 *	signal		signals the fence when it is written to
 */
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/iosys-map.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>

/* MODULE_IMPORT_NS() takes an identifier on older kernels, and a string on newer ones. */
MODULE_INFO(import_ns, "DMA_BUF");

static int fd = -1;
module_param(fd, int, 0);
static char *kind = "once";
module_param(kind, charp, 0);

static struct dentry *root;
static struct platform_device *device;
static struct dma_buf *dmabuf;
static struct dma_buf_attachment *attachment;
/* The dma-buf's resv guards these. */
static struct sg_table *table;
static struct dma_fence *fence;
static u64 told;

static int map_locked(void)
{
	struct sg_table *new;

	if (table)
		return -EEXIST;
	new = dma_buf_map_attachment(attachment, DMA_BIDIRECTIONAL);
	if (IS_ERR(new))
		return PTR_ERR(new);
	table = new;
	return 0;
}

static void unmap_locked(void)
{
	if (table)
		dma_buf_unmap_attachment(attachment, table, DMA_BIDIRECTIONAL);
	table = NULL;
}

static int map(void *unused, u64 unused_value)
{
	int ret;

	dma_resv_lock(dmabuf->resv, NULL);
	ret = map_locked();
	dma_resv_unlock(dmabuf->resv);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(map_fops, NULL, map, "%llu\n");

static int unmap(void *unused, u64 unused_value)
{
	dma_resv_lock(dmabuf->resv, NULL);
	unmap_locked();
	dma_resv_unlock(dmabuf->resv);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(unmap_fops, NULL, unmap, "%llu\n");

static int signal(void *unused, u64 unused_value)
{
	if (!fence)
		return -ENOENT;
	dma_fence_signal(fence);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(signal_fops, NULL, signal, "%llu\n");

#ifdef IMPORTERS_CAN_BE_TOLD

static DEFINE_SPINLOCK(fence_lock);
static struct iosys_map vmapped;

static const char *fence_name(struct dma_fence *unused)
{
	return "evpl-importer";
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_name,
	.get_timeline_name = fence_name,
};

static int add_fence(void)
{
	int ret = -ENOMEM;

	fence = kzalloc(sizeof(*fence), GFP_KERNEL);
	if (!fence)
		return ret;
	dma_fence_init(fence, &fence_ops, &fence_lock, dma_fence_context_alloc(1), 1);
	dma_resv_lock(dmabuf->resv, NULL);
	ret = dma_resv_reserve_fences(dmabuf->resv, 1);
	if (!ret)
		dma_resv_add_fence(dmabuf->resv, fence, DMA_RESV_USAGE_BOOKKEEP);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

/* Leave nothing of the fence with the dma-buf, which outlives this module. */
static void remove_fence(void)
{
	struct dma_fence *stub;

	if (!fence)
		return;
	stub = dma_fence_get_stub();
	dma_fence_signal(fence);
	dma_resv_lock(dmabuf->resv, NULL);
	dma_resv_replace_fences(dmabuf->resv, fence->context, stub, DMA_RESV_USAGE_BOOKKEEP);
	dma_resv_unlock(dmabuf->resv);
	dma_fence_put(stub);
	dma_fence_put(fence);
	synchronize_rcu();
}

static void prompt_invalidate(struct dma_buf_attachment *unused)
{
	told++;
	unmap_locked();
}

static void slow_invalidate(struct dma_buf_attachment *unused)
{
	told++;
}

static const struct dma_buf_attach_ops prompt_ops = {
	.invalidate_mappings = prompt_invalidate,
};

static const struct dma_buf_attach_ops slow_ops = {
	.invalidate_mappings = slow_invalidate,
};

static struct dma_buf_attachment *attach_with(const struct dma_buf_attach_ops *ops)
{
	return dma_buf_dynamic_attach(dmabuf, &device->dev, ops, NULL);
}

static int map_for_kernel(void)
{
	return dma_buf_vmap_unlocked(dmabuf, &vmapped);
}

static void unmap_for_kernel(void)
{
	if (iosys_map_is_set(&vmapped))
		dma_buf_vunmap_unlocked(dmabuf, &vmapped);
}

#else

static const struct dma_buf_attach_ops prompt_ops, slow_ops;

static struct dma_buf_attachment *attach_with(const struct dma_buf_attach_ops *unused)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static int add_fence(void)
{
	return -EOPNOTSUPP;
}

static void remove_fence(void)
{
}

static int map_for_kernel(void)
{
	return -EOPNOTSUPP;
}

static void unmap_for_kernel(void)
{
}

#endif

static struct dma_buf_attachment *attach(void)
{
	if (!strcmp(kind, "vmap"))
		return NULL;
	if (!strcmp(kind, "prompt"))
		return attach_with(&prompt_ops);
	if (!strcmp(kind, "slow"))
		return attach_with(&slow_ops);
	return dma_buf_attach(dmabuf, &device->dev);
}

static int import(void)
{
	int ret;

	if (!strcmp(kind, "vmap"))
		return map_for_kernel();
	ret = map(NULL, 0);
	if (!ret && !strcmp(kind, "slow"))
		ret = add_fence();
	if (!ret && !strcmp(kind, "once"))
		ret = -ECANCELED;
	return ret;
}

static void let_go(void)
{
	unmap_for_kernel();
	unmap(NULL, 0);
	remove_fence();
	if (attachment)
		dma_buf_detach(dmabuf, attachment);
}

static int __init evpl_importer_init(void)
{
	int ret;

	dmabuf = dma_buf_get(fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	device = platform_device_register_simple("evpl-importer", -1, NULL, 0);
	if (IS_ERR(device)) {
		ret = PTR_ERR(device);
		goto put_dmabuf;
	}
	ret = dma_coerce_mask_and_coherent(&device->dev, DMA_BIT_MASK(64));
	if (ret)
		goto unregister;
	dma_set_max_seg_size(&device->dev, UINT_MAX);
	attachment = attach();
	if (IS_ERR(attachment)) {
		ret = PTR_ERR(attachment);
		goto unregister;
	}
	ret = import();
	if (ret)
		goto let_go;
	root = debugfs_create_dir("evpl-importer", NULL);
	debugfs_create_u64("told", 0400, root, &told);
	debugfs_create_file_unsafe("map", 0200, root, NULL, &map_fops);
	debugfs_create_file_unsafe("unmap", 0200, root, NULL, &unmap_fops);
	debugfs_create_file_unsafe("signal", 0200, root, NULL, &signal_fops);
	return 0;

let_go:
	let_go();
unregister:
	platform_device_unregister(device);
put_dmabuf:
	dma_buf_put(dmabuf);
	return ret;
}

static void __exit evpl_importer_exit(void)
{
	debugfs_remove(root);
	let_go();
	platform_device_unregister(device);
	dma_buf_put(dmabuf);
}

module_init(evpl_importer_init);
module_exit(evpl_importer_exit);

MODULE_DESCRIPTION("Imports a dma-buf for the tests of /dev/evpl");
MODULE_LICENSE("GPL");
