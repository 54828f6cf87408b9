/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_DEBUGFS_H
#define EVPL_DEBUGFS_H

void evpl_debugfs_init(void);
void evpl_debugfs_exit(void);

#endif /* EVPL_DEBUGFS_H */
