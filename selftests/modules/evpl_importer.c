// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module for tests, with a device that takes segments of any length, as many GPUs and
 * cameras do; the drivers of the virtual GPU and camera take 64 KiB at most. Loading the
 * module with fd=N maps the dma-buf that is the caller's descriptor N for the device, and
 * unmaps it. The module never stays: loading it gives ECANCELED if the mapping worked, or
 * the mapping's errno.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/platform_device.h>

/* MODULE_IMPORT_NS() takes an identifier on older kernels, and a string on newer ones. */
MODULE_INFO(import_ns, "DMA_BUF");

static int fd = -1;
module_param(fd, int, 0);

static int map_for(struct device *device, struct dma_buf *dmabuf)
{
	struct dma_buf_attachment *attachment;
	struct sg_table *table;
	int ret = -ECANCELED;

	attachment = dma_buf_attach(dmabuf, device);
	if (IS_ERR(attachment))
		return PTR_ERR(attachment);
	table = dma_buf_map_attachment_unlocked(attachment, DMA_BIDIRECTIONAL);
	if (IS_ERR(table))
		ret = PTR_ERR(table);
	else
		dma_buf_unmap_attachment_unlocked(attachment, table, DMA_BIDIRECTIONAL);
	dma_buf_detach(dmabuf, attachment);
	return ret;
}

static int __init evpl_importer_init(void)
{
	struct platform_device *device;
	struct dma_buf *dmabuf;
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
	if (!ret) {
		dma_set_max_seg_size(&device->dev, UINT_MAX);
		ret = map_for(&device->dev, dmabuf);
	}
	platform_device_unregister(device);
put_dmabuf:
	dma_buf_put(dmabuf);
	return ret;
}
module_init(evpl_importer_init);

MODULE_DESCRIPTION("Maps a dma-buf for a device once");
MODULE_LICENSE("GPL");
