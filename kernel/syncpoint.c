// SPDX-License-Identifier: GPL-2.0-only
/*
 * Syncpoints: places where a test holds a task up, so that an event which rarely falls between two
 * steps does so for certain. They are built with EVPL_DEBUG alone. Each syncpoint is a file
 * /sys/kernel/debug/evpl/syncpoint-NAME: writing 1 closes it, writing 0 opens it, reading tells how
 * many tasks wait there.
 */
#include <linux/debugfs.h>
#include <linux/wait.h>

#include "evpl.h"
#include "syncpoint.h"

static const char * const names[] = {
	[EVPL_SYNCPOINT_OPEN] = "syncpoint-open",
	[EVPL_SYNCPOINT_OWN_FAULT] = "syncpoint-own-fault",
	[EVPL_SYNCPOINT_SET_UP] = "syncpoint-set-up",
	[EVPL_SYNCPOINT_GUEST_FAULT] = "syncpoint-guest-fault",
	[EVPL_SYNCPOINT_TABLES] = "syncpoint-tables",
	[EVPL_SYNCPOINT_RESERVED] = "syncpoint-reserved",
	[EVPL_SYNCPOINT_ENTRIES] = "syncpoint-entries",
	[EVPL_SYNCPOINT_REAP] = "syncpoint-reap",
	[EVPL_SYNCPOINT_CHECKED] = "syncpoint-checked",
	[EVPL_SYNCPOINT_EXPORT] = "syncpoint-export",
	[EVPL_SYNCPOINT_MAP] = "syncpoint-map",
	[EVPL_SYNCPOINT_RECHECK] = "syncpoint-recheck",
	[EVPL_SYNCPOINT_REGISTER] = "syncpoint-register",
	[EVPL_SYNCPOINT_GONE] = "syncpoint-gone",
	[EVPL_SYNCPOINT_ADOPT] = "syncpoint-adopt",
	[EVPL_SYNCPOINT_DRAIN] = "syncpoint-drain",
	[EVPL_SYNCPOINT_SENT] = "syncpoint-sent",
};

static struct evpl_syncpoint {
	bool closed;
	atomic_t waiting;
} syncpoints[ARRAY_SIZE(names)];

static DECLARE_WAIT_QUEUE_HEAD(opened);

#define SYNCPOINT_TIMEOUT	(120 * HZ)

/**
 * evpl_syncpoint() - wait while a syncpoint is closed
 * @nr: the syncpoint
 *
 * A task that is being killed waits too. The wait has a timeout, because the test that closed the
 * syncpoint may have died.
 */
void evpl_syncpoint(enum evpl_syncpoint_nr nr)
{
	struct evpl_syncpoint *syncpoint = &syncpoints[nr];

	might_sleep();
	if (!READ_ONCE(syncpoint->closed))
		return;
	atomic_inc(&syncpoint->waiting);
	wait_event_timeout(opened, !READ_ONCE(syncpoint->closed), SYNCPOINT_TIMEOUT);
	atomic_dec(&syncpoint->waiting);
}

static int syncpoint_get(void *data, u64 *value)
{
	struct evpl_syncpoint *syncpoint = data;

	*value = atomic_read(&syncpoint->waiting);
	return 0;
}

static int syncpoint_set(void *data, u64 value)
{
	struct evpl_syncpoint *syncpoint = data;

	WRITE_ONCE(syncpoint->closed, value);
	wake_up_all(&opened);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(syncpoint_fops, syncpoint_get, syncpoint_set, "%llu\n");

void __init evpl_syncpoint_init(struct dentry *root)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		debugfs_create_file_unsafe(names[i], 0600, root, &syncpoints[i],
					   &syncpoint_fops);
}

/* Open all syncpoints. With their files gone, nothing else can. */
void evpl_syncpoint_exit(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(syncpoints); i++)
		syncpoint_set(&syncpoints[i], 0);
}
