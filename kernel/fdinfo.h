/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_FDINFO_H
#define EVPL_FDINFO_H

struct file;
struct seq_file;

void evpl_show_fdinfo(struct seq_file *m, struct file *file);

#endif /* EVPL_FDINFO_H */
