/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_IOCTL_H
#define EVPL_IOCTL_H

struct file;

long evpl_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

#endif /* EVPL_IOCTL_H */
