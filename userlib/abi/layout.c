/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
/*
 * Programs that were linked with soname 1 have the offsets of fields and the values of constants
 * compiled in. A change that doesn't compile here needs another soname. A struct that starts
 * with its size may grow after its last field.
 */
#include <stddef.h>

#include <evplmem.h>

#define AT(type, field, offset) \
	_Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type)
#define IS(name, value) _Static_assert((name) == (value), #name)

/* The inlines. */
SIZE(evpl_iovec, 24);
AT(evpl_iovec, data, 0);
AT(evpl_iovec, length, 8);
AT(evpl_iovec, __private1, 12);
AT(evpl_iovec, __private2, 16);
AT(evplmem_thread, busy, 0);
AT(evplmem_thread, generation, 4);
AT(evplmem_count, owner, 8);
AT(evplmem_count, spare, 16);
AT(evplmem_context, thread, 0);
AT(evplmem_context, base, 8);
AT(evplmem_context, buffer, 16);
AT(evplmem_context, place, 24);
AT(evplmem_context, limit, 32);
AT(evplmem_context, generation, 36);
IS(EVPLMEM_NO_GENERATION, 1);
IS(EVPLMEM_SLICE_ALIGN, 8);
IS(EVPLMEM_CREDIT, 1ULL << 32);

/* The structs that are passed. */
AT(evpl_pool_config, size, 0);
AT(evpl_pool_config, backend, 8);
AT(evpl_pool_config, flags, 12);
AT(evpl_pool_config, buffer_size, 16);
AT(evpl_pool_config, slab_size, 24);
AT(evpl_pool_config, slab_size_max, 32);
AT(evpl_pool_config, max_bytes, 40);
AT(evpl_pool_config, device, 48);
AT(evpl_config, size, 0);
AT(evpl_config, flags, 8);
AT(evpl_config, node, 12);
AT(evpl_config, cache, 16);
AT(evpl_pool_stats, size, 0);
AT(evpl_pool_stats, backend, 8);
AT(evpl_pool_stats, devices, 12);
AT(evpl_pool_stats, contexts, 16);
AT(evpl_pool_stats, buffer_size, 24);
AT(evpl_pool_stats, slabs, 32);
AT(evpl_pool_stats, bytes, 40);
AT(evpl_pool_stats, buffers, 48);
AT(evpl_pool_stats, buffers_free, 56);
AT(evpl_pool_stats, buffers_cached, 64);
AT(evpl_pool_stats, buffers_used, 72);
AT(evpl_pool_stats, grows, 80);
AT(evpl_pool_stats, shrinks, 88);
AT(evpl_pool_stats, steals, 96);
AT(evpl_pool_stats, failures, 104);
AT(evpl_pool_stats, wakeups, 112);
AT(evpl_pool_stats, roots, 120);
AT(evpl_pool_stats, roots_broken, 128);
AT(evpl_pool_pressure, size, 0);
AT(evpl_pool_pressure, level, 8);
AT(evpl_pool_pressure, cap, 12);
AT(evpl_pool_pressure, room, 16);
AT(evpl_pool_pressure, free, 24);
AT(evpl_pool_pressure, growth, 32);
SIZE(evpl_slab_info, 32);
AT(evpl_slab_info, number, 0);
AT(evpl_slab_info, node, 4);
AT(evpl_slab_info, base, 8);
AT(evpl_slab_info, length, 16);
AT(evpl_slab_info, flags, 24);
AT(evpl_device_ops, size, 0);
AT(evpl_device_ops, register_slab, 8);
AT(evpl_device_ops, unregister_slab, 16);
SIZE(evpl_message, 40);
AT(evpl_message, iovec, 0);
AT(evpl_message, cookie, 24);
AT(evpl_message, flags, 32);
AT(evpl_device_ops, flags, 24);
AT(evpl_lane_stats, size, 0);
AT(evpl_lane_stats, sending, 8);
AT(evpl_lane_stats, receiving, 12);
AT(evpl_lane_stats, grants, 16);
AT(evpl_lane_stats, sent, 24);
AT(evpl_lane_stats, sent_as_records, 32);
AT(evpl_lane_stats, received, 40);
AT(evpl_lane_stats, doorbells, 48);
SIZE(evpl_waiter, 48);
AT(evpl_waiter, length, 0);
AT(evpl_waiter, alignment, 4);
AT(evpl_waiter, max_iovecs, 8);
AT(evpl_waiter, flags, 12);
AT(evpl_waiter, iovecs, 16);
AT(evpl_waiter, done, 24);
AT(evpl_waiter, __evpl, 32);
AT(evpl_waiter, __next, 40);

IS(EVPLMEM_VERSION_MAJOR, 1);
IS(EVPLMEM_VERSION >> 16, 1);
IS(EVPL_BACKEND_DEFAULT, 0);
IS(EVPL_BACKEND_MODULE, 1);
IS(EVPL_BACKEND_ANON, 2);
IS(EVPL_ROOM_AMPLE, 0);
IS(EVPL_ROOM_SCARCE, 1);
IS(EVPL_ROOM_SHORT, 2);
IS(EVPL_CAP_POOL, 1);
IS(EVPL_CAP_USER, 2);
IS(EVPL_CAP_SYSTEM, 3);
IS(EVPL_CAP_MEMORY, 4);
IS(EVPL_POOL_HUGE, 1);
IS(EVPL_POOL_ZEROS, 2);
IS(EVPL_POOL_REVOKE, 4);
IS(EVPL_POOL_ATOMIC, 8);
IS(EVPL_CONFIG_NODE, 1);
IS(EVPL_ANY_NODE, -1);
IS(EVPL_IOVEC_PRIVATE, 1);
IS(EVPL_CHANNEL_BLOCKING, 1);
IS(EVPL_CHANNEL_LANE, 2);
IS(EVPL_CHANNEL_POLLING, 4);
IS(EVPL_MESSAGE_WRITE, 1);
IS(EVPL_MESSAGE_REVOKED, 2);
IS(EVPL_MESSAGE_DEVICE, 4);
IS(EVPL_MESSAGE_HELD, 8);
IS(EVPL_IOVEC_TRY, 1);
IS(EVPL_DMABUF_WRITE, 1);
IS(EVPL_SLAB_LEASED, 1);
IS(EVPL_SLAB_READONLY, 2);
IS(EVPL_NAME_MAX, 63);
IS(EVPL_DEVICES_MAX, 16);
IS(EVPL_DEVICE_LATER, 1);
IS(EVPL_DEVICE_LEASES, 1);

int main(void)
{
	return 0;
}
