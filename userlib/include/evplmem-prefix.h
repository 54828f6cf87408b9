/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
/*
 * For the headers of libevplmem alone, if a program has defined EVPLMEM_PREFIX_ONLY or EVPLMEM_CXX.
 * Each header includes this file before its declarations, and again after them. Between the two all
 * tags begin with evplmem, so that outside evpl_iovec and the like can be another library's. With
 * EVPLMEM_CXX that is so for struct evpl alone, so that outside evpl can be the namespace of
 * evplmem.hpp. This file is included twice, so it has no include guard.
 */
#ifndef EVPLMEM_RENAMES
#define EVPLMEM_RENAMES
#define evpl			evplmem
#ifdef EVPLMEM_PREFIX_ONLY
#define evpl_backend		evplmem_backend
#define evpl_cap		evplmem_cap
#define evpl_channel		evplmem_channel
#define evpl_config		evplmem_config
#define evpl_device		evplmem_device
#define evpl_device_ops		evplmem_device_ops
#define evpl_iovec		evplmem_iovec
#define evpl_lane_stats		evplmem_lane_stats
#define evpl_level		evplmem_level
#define evpl_message		evplmem_message
#define evpl_pool		evplmem_pool
#define evpl_pool_config	evplmem_pool_config
#define evpl_pool_pressure	evplmem_pool_pressure
#define evpl_pool_stats		evplmem_pool_stats
#define evpl_rdma		evplmem_rdma
#define evpl_rdma_stats		evplmem_rdma_stats
#define evpl_slab_info		evplmem_slab_info
#define evpl_uring		evplmem_uring
#define evpl_uring_buf_ring	evplmem_uring_buf_ring
#define evpl_uring_stats	evplmem_uring_stats
#define evpl_waiter		evplmem_waiter
#define evpl_zerocopy		evplmem_zerocopy
#endif
#else
#undef EVPLMEM_RENAMES
#undef evpl
#undef evpl_backend
#undef evpl_cap
#undef evpl_channel
#undef evpl_config
#undef evpl_device
#undef evpl_device_ops
#undef evpl_iovec
#undef evpl_lane_stats
#undef evpl_level
#undef evpl_message
#undef evpl_pool
#undef evpl_pool_config
#undef evpl_pool_pressure
#undef evpl_pool_stats
#undef evpl_rdma
#undef evpl_rdma_stats
#undef evpl_slab_info
#undef evpl_uring
#undef evpl_uring_buf_ring
#undef evpl_uring_stats
#undef evpl_waiter
#undef evpl_zerocopy
#endif
