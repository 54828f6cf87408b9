/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of EVPL_LEASE_PULL, as kernel/lease.c, share.c and userlib/src/lease.c and
 * returned.c implement it. An owner sends its only buffer to a receiver. The receiver drops its
 * reference without a call: it collects releases, and may sleep for ever. The owner pulls,
 * and if that ends no lease it waits to be told. It must not wait for ever, whenever the
 * receiver sleeps. An atomic block stands for one atomic operation, or for code under a lock
 * that doesn't race with code outside of the lock.
 *
 * BROKEN picks a change that breaks the protocol: see the script check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef ROUNDS
#define ROUNDS	3
#endif

#define NO_MARK		1	/* a pull doesn't set EVPL_WORD_WANTED in the word of a lease */
#define NO_SHARE_MARK	2	/* a pull doesn't mark the share, so not the leases to come */
#define NO_SECOND_LOOK	3	/* a pull doesn't check the word after it has marked it */
#define LATE_LEASE	4	/* a lease checks its share's mark, then joins the share's list */
#define QUIET		5	/* the receiver ignores EVPL_WORD_WANTED, and releases later */

byte word;		/* of the owner's entry */
bool returned;		/* the bit in its header */
byte held;		/* ghost: references that the receiver has */

bool shared;
bool share_wanted;
chan ring = [1] of { bit };

bool lease_sem;		/* held for write */
bool live;		/* the lease is in its client's tables, and leads to the share */
bool found;		/* the share leads to it */
byte count;		/* in its word */
bool wanted;		/* EVPL_WORD_WANTED */
bool asked;		/* evpl_lease.wanted */

inline lock()
{
	atomic { !lease_sem -> lease_sem = true }
}

inline unlock()
{
	lease_sem = false
}

/* Under lease_sem. */
inline end_idle(ended)
{
	ended = false;
	atomic {
		if
		:: live && count == 0 ->
			assert(held == 0);
			live = false;
			found = false;
			wanted = false;
			asked = false;
			ended = true
		:: else
		fi
	}
}

/* The share's last count goes, and with it its flag in the owner's word. */
inline finish(ended)
{
	if
	:: ended ->
		atomic { shared = false; share_wanted = false }
		atomic { assert(word == 1); word = 0 }
		returned = true
	:: else
	fi
}

inline pull(ended)
{
	atomic {
		if
		:: shared ->
#if BROKEN != NO_SHARE_MARK
			share_wanted = true
#endif
		:: else
		fi
	}
	if
	:: found ->
		lock();
		end_idle(ended);
		if
		:: !ended && live && !asked ->
			asked = true;
#if BROKEN != NO_MARK
			wanted = true;
#endif
#if BROKEN != NO_SECOND_LOOK
			end_idle(ended)
#endif
		:: else
		fi;
		unlock();
		finish(ended)
	:: else
	fi
}

active proctype owner()
{
	byte round;
	bool ended;

	do
	:: round < ROUNDS ->
		do
		:: word == 0 -> returned = false; break
		:: else ->
			pull(ended);
			if
			:: word == 0
			:: else -> returned -> returned = false
			fi
		od;
		assert(!shared && !live);
		word = 1;
		atomic { shared = true; ring!1 }
		round++
	:: else -> break
	od
}

active proctype receiver()
{
	bool ended, last, told;

end:	do
	:: ring?1 ->
		/* evpl_lease_deliver() */
		lock();
		atomic {
			assert(!live);
			live = true;
#if BROKEN != LATE_LEASE
			found = true
#endif
		}
		if
		:: share_wanted && !asked -> asked = true; wanted = true
		:: else
		fi;
		atomic { count++; held++ }
		unlock();
#if BROKEN == LATE_LEASE
		found = true;
#endif

		/* The library: it drops the reference, then sleeps, or goes on one day. */
		atomic {
			held--;
			count--;
			last = count == 0;
			told = wanted
		}
		if
#if BROKEN != QUIET
		:: last && told ->
			lock();
			end_idle(ended);
			unlock();
			finish(ended)
#endif
		:: else
		fi
	od
}
