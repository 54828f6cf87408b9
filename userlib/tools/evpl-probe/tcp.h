/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_TCP_H
#define EVPLMEM_TCP_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

/* Makes a TCP connection over the loopback device. Returns false, and sets errno, if it can't. */
static inline bool tcp_pair(int sockets[2])
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t length = sizeof(address);
	int listener;

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	sockets[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || sockets[0] < 0)
		return false;
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &length) ||
	    connect(sockets[0], (struct sockaddr *)&address, length))
		return false;
	sockets[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	return sockets[1] >= 0;
}

#endif /* EVPLMEM_TCP_H */
