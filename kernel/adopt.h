/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_ADOPT_H
#define EVPL_ADOPT_H

struct evpl_client;

int evpl_adopt(struct evpl_client *client);

#endif /* EVPL_ADOPT_H */
