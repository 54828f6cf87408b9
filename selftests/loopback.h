/* SPDX-License-Identifier: GPL-2.0-only */
/* Two sockets that are connected over TCP on the loopback device. */
#ifndef EVPL_LOOPBACK_H
#define EVPL_LOOPBACK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

static inline bool connect_pair(int sockets[2])
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sockets[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (void *)&address, length) || listen(listener, 1) ||
	    getsockname(listener, (void *)&address, &length) ||
	    connect(sockets[0], (void *)&address, length))
		return false;
	sockets[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	return sockets[1] >= 0;
}

#endif /* EVPL_LOOPBACK_H */
