// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stops: places where a test holds a task up, so that an event which rarely falls between two
 * steps does so for certain. They are built with EVPL_DEBUG alone. Each stop is a file
 * /sys/kernel/debug/evpl/stop-NAME: writing 1 closes it, writing 0 opens it, reading tells how
 * many tasks wait there.
 */
#include <linux/debugfs.h>
#include <linux/wait.h>

#include "evpl.h"

static const char * const names[] = {
	[EVPL_STOP_OPEN] = "stop-open",
	[EVPL_STOP_OWN_FAULT] = "stop-own-fault",
	[EVPL_STOP_SET_UP] = "stop-set-up",
	[EVPL_STOP_GUEST_FAULT] = "stop-guest-fault",
	[EVPL_STOP_TABLES] = "stop-tables",
	[EVPL_STOP_RESERVED] = "stop-reserved",
	[EVPL_STOP_ENTRIES] = "stop-entries",
	[EVPL_STOP_REAP] = "stop-reap",
	[EVPL_STOP_CHECKED] = "stop-checked",
	[EVPL_STOP_EXPORT] = "stop-export",
	[EVPL_STOP_MAP] = "stop-map",
	[EVPL_STOP_RECHECK] = "stop-recheck",
};

static struct evpl_stop {
	bool closed;
	atomic_t waiting;
} stops[ARRAY_SIZE(names)];

static DECLARE_WAIT_QUEUE_HEAD(opened);

#define STOP_TIMEOUT	(120 * HZ)

/**
 * evpl_stop() - wait while a stop is closed
 * @nr: the stop
 *
 * A task that is being killed waits too. The wait has a timeout, because the test that closed the
 * stop may have died.
 */
void evpl_stop(enum evpl_stop_nr nr)
{
	struct evpl_stop *stop = &stops[nr];

	might_sleep();
	if (!READ_ONCE(stop->closed))
		return;
	atomic_inc(&stop->waiting);
	wait_event_timeout(opened, !READ_ONCE(stop->closed), STOP_TIMEOUT);
	atomic_dec(&stop->waiting);
}

static int stop_get(void *data, u64 *value)
{
	struct evpl_stop *stop = data;

	*value = atomic_read(&stop->waiting);
	return 0;
}

static int stop_set(void *data, u64 value)
{
	struct evpl_stop *stop = data;

	WRITE_ONCE(stop->closed, value);
	wake_up_all(&opened);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(stop_fops, stop_get, stop_set, "%llu\n");

void __init evpl_stop_init(struct dentry *root)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		debugfs_create_file_unsafe(names[i], 0600, root, &stops[i],
					   &stop_fops);
}

/* Open all stops. With their files gone, nothing else can. */
void evpl_stop_exit(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(stops); i++)
		stop_set(&stops[i], 0);
}
