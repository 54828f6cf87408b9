/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EVPL_WORD_H
#define EVPL_WORD_H

#include <linux/atomic.h>
#include <linux/types.h>

u64 evpl_word_read(atomic64_t *word);
void evpl_word_set(atomic64_t *word, u64 value);
void evpl_word_inc(atomic64_t *word);
void evpl_word_dec(atomic64_t *word);
void evpl_word_share(atomic64_t *word);
void evpl_word_pass_on(atomic64_t *word);
bool evpl_word_unshare(atomic64_t *word, bool passed_on);
void evpl_word_want(atomic64_t *word, bool want);

#endif /* EVPL_WORD_H */
