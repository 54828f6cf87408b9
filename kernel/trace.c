// SPDX-License-Identifier: GPL-2.0-only
/*
 * The code of the tracepoints that trace.h declares.
 */
#include <linux/pid.h>

#include "evpl.h"

#define CREATE_TRACE_POINTS
#include "trace.h"
