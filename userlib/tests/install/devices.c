// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/* A program that uses all libraries, built as C and as C++. It reads its own file into a slice. */
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <liburing.h>
#include <string.h>

#include <evplmem-rdma.h>
#include <evplmem-uring.h>

int main(int argc, char **argv)
{
	struct evpl_pool_config config = EVPL_POOL_CONFIG_INIT;
	struct evpl_uring *uring;
	struct evpl_iovec iovec;
	struct evpl_pool *pool;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	struct evpl *evpl;
	int fd;

	config.backend = EVPL_BACKEND_ANON;
	fd = open(argv[argc - 1], O_RDONLY);
	if (fd < 0 || evpl_pool_open(&pool, &config) || evpl_create(&evpl, pool, NULL))
		return 1;
	/* If io_uring is forbidden, this only tests that the program links. */
	if (io_uring_queue_init(4, &ring, 0))
		return 0;
	if (evpl_uring_create(&uring, pool, &ring, 0, 4, EVPL_URING_NEW_TABLE) ||
	    evpl_iovec_alloc(evpl, 4096, 0, 1, &iovec) != 1 ||
	    !evpl_uring_prep_read(uring, io_uring_get_sqe(&ring), fd, &iovec, 0) ||
	    io_uring_submit_and_wait(&ring, 1) != 1 || io_uring_peek_cqe(&ring, &cqe) ||
	    cqe->res != 4096 || memcmp(iovec.data, "\177ELF", 4))
		return 1;
	evpl_iovec_release(&iovec);
	evpl_destroy(evpl);
	evpl_uring_destroy(uring);
	evpl_rdma_destroy(NULL);
	return evpl_pool_close(pool);
}
