/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_CHANNEL_H
#define EVPL_CHANNEL_H

#include <linux/atomic.h>
#include <linux/fs.h>

struct evpl_client;
struct evpl_user;

extern atomic_long_t evpl_nr_channels, evpl_nr_records;
extern const struct file_operations evpl_end_fops;
int evpl_channel_create(struct evpl_user *user, u32 capacity,
			struct file *ends[2]);
int evpl_channel_capacity(struct file *file, u32 *capacity);
int evpl_channel_bind(struct evpl_client *client, struct file *file, bool lane);
int evpl_channel_doorbell(struct file *file, bool self, u32 ring, u32 quiet);
void evpl_channel_client_gone(struct evpl_client *client);

#endif /* EVPL_CHANNEL_H */
