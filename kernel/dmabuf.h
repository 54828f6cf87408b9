/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_DMABUF_H
#define EVPL_DMABUF_H

#include <linux/atomic.h>

struct evpl_client;
struct evpl_range;
struct file;

extern atomic_long_t evpl_nr_exports;
struct file *evpl_export(struct evpl_client *client,
			 const struct evpl_range *ranges, u32 count, u32 flags);

#endif /* EVPL_DMABUF_H */
