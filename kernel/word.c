// SPDX-License-Identifier: GPL-2.0-only
/*
 * Words. A word counts the references that a client has on a buffer of its own, or by a lease. User
 * space can write it at any time, so nothing here believes what it reads. refs.c has the pages of
 * the words. Such a page may get a memory error at any time: then its words aren't touched.
 */
#include <linux/mm.h>

#include "evpl.h"
#include "word.h"

static bool word_is_there(atomic64_t *word)
{
	return !PageHWPoison(virt_to_page(word));
}

/* A hint: user space can change the word. A word that a memory error has taken has no reference. */
u64 evpl_word_read(atomic64_t *word)
{
	return word_is_there(word) ? atomic64_read(word) : 0;
}

/* Whatever the word was before, its client has these references and flags from now on. */
void evpl_word_set(atomic64_t *word, u64 value)
{
	if (word_is_there(word))
		atomic64_set(word, value);
}

void evpl_word_inc(atomic64_t *word)
{
	if (word_is_there(word))
		atomic64_inc(word);
}

void evpl_word_dec(atomic64_t *word)
{
	if (word_is_there(word))
		atomic64_dec(word);
}

/* One of the references that the word counts becomes the kernel's share of the buffer. */
void evpl_word_share(atomic64_t *word)
{
	if (word_is_there(word))
		atomic64_add(EVPL_WORD_SHARED - 1, word);
}

/* Another client than the owner has passed the buffer on. Once for each share. */
void evpl_word_pass_on(atomic64_t *word)
{
	if (word_is_there(word))
		atomic64_add(EVPL_WORD_PASSED_ON, word);
}

/*
 * The share has gone. Return whether that took the word to 0. A subtraction, because it tells that
 * without a loop. To clear the bits and learn the rest of the word can take a loop, in which user
 * space could keep the kernel.
 */
bool evpl_word_unshare(atomic64_t *word, bool passed_on)
{
	u64 bits = EVPL_WORD_SHARED | (passed_on ? EVPL_WORD_PASSED_ON : 0);

	return word_is_there(word) && atomic64_sub_and_test(bits, word);
}

/*
 * Set or clear EVPL_WORD_WANTED, by which a lease's client is asked to release the lease as
 * soon as its word is idle. When the client takes the last reference off the word, it sees the
 * flag; or the caller, when it reads the word after this, sees that the reference has gone.
 */
void evpl_word_want(atomic64_t *word, bool want)
{
	if (!word_is_there(word))
		return;
	if (want)
		atomic64_or(EVPL_WORD_WANTED, word);
	else
		atomic64_andnot(EVPL_WORD_WANTED, word);
}
