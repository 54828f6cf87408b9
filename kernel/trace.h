/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints. They show when slabs and leases come and go, why a buffer doesn't go back to its
 * owner yet, and when it does. No tracepoint is on the path of a record.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM evpl

#if !defined(EVPL_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define EVPL_TRACE_H

#include <linux/tracepoint.h>

#include "client.h"
#include "evpl.h"
#include "lease.h"
#include "share.h"
#include "slab.h"

DECLARE_EVENT_CLASS(evpl_slab,
	TP_PROTO(struct evpl_slab *slab),
	TP_ARGS(slab),
	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u64, bytes)
		__field(unsigned int, folios)
	),
	TP_fast_assign(
		__entry->pid = pid_nr(slab->client->pid);
		__entry->bytes = (u64)slab->nr_pages << PAGE_SHIFT;
		__entry->folios = slab->nr_folios;
	),
	TP_printk("owner %d bytes %llu in %u folios", __entry->pid, __entry->bytes,
		  __entry->folios)
);

DEFINE_EVENT(evpl_slab, evpl_slab_begin,
	TP_PROTO(struct evpl_slab *slab), TP_ARGS(slab));
DEFINE_EVENT(evpl_slab, evpl_slab_end,
	TP_PROTO(struct evpl_slab *slab), TP_ARGS(slab));

DECLARE_EVENT_CLASS(evpl_lease,
	TP_PROTO(struct evpl_lease *lease),
	TP_ARGS(lease),
	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u32, number)
		__field(pid_t, owner)
		__field(u64, offset)
	),
	TP_fast_assign(
		__entry->pid = pid_nr(lease->client->pid);
		__entry->number = lease->number;
		__entry->owner = pid_nr(lease->share->slab->client->pid);
		__entry->offset = evpl_share_offset(lease->share);
	),
	TP_printk("client %d lease %#x owner %d buffer %#llx", __entry->pid,
		  __entry->number, __entry->owner, __entry->offset)
);

DEFINE_EVENT(evpl_lease, evpl_lease_begin,
	TP_PROTO(struct evpl_lease *lease), TP_ARGS(lease));
DEFINE_EVENT(evpl_lease, evpl_lease_end,
	TP_PROTO(struct evpl_lease *lease), TP_ARGS(lease));

DECLARE_EVENT_CLASS(evpl_quarantine,
	TP_PROTO(struct evpl_share *share),
	TP_ARGS(share),
	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u64, offset)
	),
	TP_fast_assign(
		__entry->pid = pid_nr(share->slab->client->pid);
		__entry->offset = evpl_share_offset(share);
	),
	TP_printk("owner %d buffer %#llx", __entry->pid, __entry->offset)
);

DEFINE_EVENT(evpl_quarantine, evpl_quarantine_begin,
	TP_PROTO(struct evpl_share *share), TP_ARGS(share));
DEFINE_EVENT(evpl_quarantine, evpl_quarantine_end,
	TP_PROTO(struct evpl_share *share), TP_ARGS(share));

TRACE_EVENT(evpl_folio_held,
	TP_PROTO(struct evpl_share *share, struct evpl_slab_folio *slab_folio, int refs,
		 int baseline),
	TP_ARGS(share, slab_folio, refs, baseline),
	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u64, offset)
		__field(u64, folio)
		__field(int, refs)
		__field(int, baseline)
	),
	TP_fast_assign(
		__entry->pid = pid_nr(share->slab->client->pid);
		__entry->offset = evpl_share_offset(share);
		__entry->folio = (u64)slab_folio->index << PAGE_SHIFT;
		__entry->refs = refs;
		__entry->baseline = baseline;
	),
	TP_printk("owner %d buffer %#llx folio at %#llx has %d references, baseline %d",
		  __entry->pid, __entry->offset, __entry->folio, __entry->refs,
		  __entry->baseline)
);

#endif /* EVPL_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
