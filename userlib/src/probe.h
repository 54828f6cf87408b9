/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_PROBE_H
#define EVPLMEM_PROBE_H

/*
 * Static probes (USDT) for perf(1), bpftrace(8) and the like. Each is a nop, and a note in the
 * library's ELF file with the place of the nop and of its arguments. evplmem(7) lists them. A
 * library that was built without <sys/sdt.h> has none.
 */

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define EVPLMEM_PROBES 1
#endif
#endif

#ifdef EVPLMEM_PROBES
#define PROBE1(name, a)		DTRACE_PROBE1(evplmem, name, a)
#define PROBE2(name, a, b)	DTRACE_PROBE2(evplmem, name, a, b)
#else
#define PROBE1(name, a)		((void)(a))
#define PROBE2(name, a, b)	((void)(a), (void)(b))
#endif

#endif /* EVPLMEM_PROBE_H */
