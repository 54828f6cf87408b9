/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The word of an entry and EVPL_WORD_BIASED, for spin: the thread that allocated a buffer
 * counts beside the word, without atomics. What it gives away it first moves into the
 * word; at last it settles, by one atomic operation that moves all it has left and
 * clears the flag. Whoever looks whether the buffer is free looks at the word alone:
 * the flag says that the sum isn't to be known there.
 *
 * BROKEN picks a change that makes it wrong: see check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef OTHERS
#define OTHERS	2	/* that references are given to: threads, or the kernel */
#endif
#ifndef REFS
#define REFS	3	/* that the thread takes before it settles */
#endif

#define TWO_LOADS	1	/* a look adds up both counts, and minds no flag */
#define SETTLE_TWICE	2	/* the flag is cleared, then the rest is moved */
#define GIVE_UNMOVED	3	/* what is given away stays where it is */

byte shared;		/* EVPL_WORD_COUNT */
bool biased;
byte own;		/* the thread's count */

byte mine;		/* ghost: references of the thread */
byte theirs;		/* ghost: references of the others */
bool freed;		/* by whoever took the word to 0 */
chan gift = [1] of { bit };

/* Somebody took the word to zero, or found it so. */
inline check_free()
{
	assert(mine + theirs == 0 && len(gift) == 0)
}

active proctype thread()
{
	byte n = 1;
	bool zero;

	/* A buffer of its own: nobody else looks at it, and knows it, before this. */
	atomic { biased = true; own = 1; mine = 1 }
	do
	:: n < REFS -> n++; own++; mine++
	:: mine > 0 -> atomic { own--; mine-- }
	:: mine > 0 ->
		/* One is given away. */
		nfull(gift);
#if BROKEN != GIVE_UNMOVED
		shared++;
		own--;
#endif
		atomic { mine--; theirs++; gift!1 }
	:: mine == 0 || n == REFS -> break
	od;
	/* It settles: what it has left is in the word from here. */
#if BROKEN == SETTLE_TWICE
	atomic { biased = false; zero = shared == 0 }
	atomic { shared = shared + own; own = 0 }
#else
	atomic {
		shared = shared + own;
		biased = false;
		zero = shared == 0
	}
	own = 0;
#endif
	do
	:: zero -> check_free(); assert(!freed); freed = true; break
	:: mine == 0 && !zero -> break
	:: mine > 0 && !zero ->
		atomic { mine--; assert(shared > 0); shared--; zero = shared == 0 }
	od
}

active [OTHERS] proctype other()
{
	bool zero;

end:	do
	:: gift?1 ->
		atomic {
			assert(shared > 0);
			theirs--;
			shared--;
			zero = shared == 0 && !biased
		}
		if
		:: zero -> check_free(); assert(!freed); freed = true
		:: else
		fi
	od
}

/* Who wants to free the slab, or end the lease: it may look at any moment. */
active proctype looker()
{
	bool zero;
	byte sum;

end:	atomic { mine + theirs > 0 -> sum = shared }
#if BROKEN == TWO_LOADS
	atomic { sum = sum + own; zero = sum == 0 }
#else
	atomic { sum = shared; zero = sum == 0 && !biased }
#endif
	if
	:: zero -> check_free()
	:: else
	fi
}

/* In the end somebody has it. */
active proctype last()
{
	freed
}
