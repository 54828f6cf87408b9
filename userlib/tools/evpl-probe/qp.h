/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_QP_H
#define EVPLMEM_QP_H

/* Two connected queue pairs of one RDMA device, to move bytes from one to the other. */

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

struct pair {
	struct ibv_cq *cq;
	struct ibv_qp *qp[2];
};

static inline int find_gid(struct ibv_context *context, struct ibv_port_attr *port,
			   union ibv_gid *gid)
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	int i;

	for (i = 0; i < port->gid_tbl_len; i++)
		if (!ibv_query_gid(context, 1, i, gid) &&
		    (!memcmp(gid->raw, mapped, 12) || port->link_layer == IBV_LINK_LAYER_INFINIBAND))
			return i;
	return -1;
}

static inline int pair_connect(struct pair *pair, int which, struct ibv_port_attr *port,
			       int index, const union ibv_gid *gid)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
		.path_mtu = port->active_mtu,
		.dest_qp_num = pair->qp[!which]->qp_num,
		.min_rnr_timer = 12,
		.timeout = 18,
		.retry_cnt = 7,
		.rnr_retry = 7,
		.ah_attr = {
			.is_global = 1,
			.dlid = port->lid,
			.port_num = 1,
			.grh = {
				.dgid = *gid,
				.sgid_index = (uint8_t)index,
				.hop_limit = 64,
			},
		},
	};

	if (ibv_modify_qp(pair->qp[which], &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
			  IBV_QP_ACCESS_FLAGS))
		return -1;
	attr.qp_state = IBV_QPS_RTR;
	if (ibv_modify_qp(pair->qp[which], &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
			  IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
			  IBV_QP_MIN_RNR_TIMER))
		return -1;
	attr.qp_state = IBV_QPS_RTS;
	return ibv_modify_qp(pair->qp[which], &attr, IBV_QP_STATE | IBV_QP_TIMEOUT |
			     IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
			     IBV_QP_MAX_QP_RD_ATOMIC);
}

static inline int pair_make(struct pair *pair, struct ibv_context *context, struct ibv_pd *pd)
{
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = { 4, 4, 1, 1, 0 },
	};
	struct ibv_port_attr port;
	union ibv_gid gid;
	int i, index;

	pair->cq = ibv_create_cq(context, 16, NULL, NULL, 0);
	if (!pair->cq || ibv_query_port(context, 1, &port))
		return -1;
	index = find_gid(context, &port, &gid);
	if (index < 0)
		return -1;
	attr.send_cq = pair->cq;
	attr.recv_cq = pair->cq;
	for (i = 0; i < 2; i++) {
		pair->qp[i] = ibv_create_qp(pd, &attr);
		if (!pair->qp[i])
			return -1;
	}
	return pair_connect(pair, 0, &port, index, &gid) ||
	       pair_connect(pair, 1, &port, index, &gid) ? -1 : 0;
}

static inline void pair_end(struct pair *pair)
{
	ibv_destroy_qp(pair->qp[0]);
	ibv_destroy_qp(pair->qp[1]);
	ibv_destroy_cq(pair->cq);
}

/* Waits for @count completions. Returns false if one failed, or if they don't come in time. */
static inline bool pair_wait(struct pair *pair, int count, int seconds)
{
	struct ibv_wc wc;
	int i, n;

	for (i = 0; i < seconds * 1000; i++) {
		while ((n = ibv_poll_cq(pair->cq, 1, &wc)) > 0) {
			if (wc.status != IBV_WC_SUCCESS)
				return false;
			if (!--count)
				return true;
		}
		if (n < 0)
			return false;
		usleep(1000);
	}
	return false;
}

#endif /* EVPLMEM_QP_H */
