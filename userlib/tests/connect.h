/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TESTS_CONNECT_H
#define EVPLMEM_TESTS_CONNECT_H

#include <net/if.h>
#include <sys/ioctl.h>

#include "../tools/evpl-probe/tcp.h"

/* Like tcp_pair(), but first brings the loopback device up: in a virtual machine it may be down. */
static inline bool connect_pair(int sockets[2])
{
	struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	ioctl(fd, SIOCSIFFLAGS, &up);
	close(fd);
	return tcp_pair(sockets);
}

#endif /* EVPLMEM_TESTS_CONNECT_H */
