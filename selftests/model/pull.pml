/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * EVPL_LEASE_PULL, for spin: an owner with one buffer hands it to a client that lets go
 * of it, and says nothing: it collects releases, and sleeps. The owner pulls, and if that
 * gives nothing waits to be told. It must not wait for ever, whenever the other one
 * sleeps. As kernel/lease.c, share.c and userlib/src/sharing.c have it; an atomic block is
 * one atomic operation, or what one lock covers where nothing without the lock matters.
 *
 * BROKEN picks a change that makes it wrong: see check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef ROUNDS
#define ROUNDS	3
#endif

#define NO_MARK		1	/* a pull leaves nothing in the words of leases */
#define NO_SHARE_MARK	2	/* nor for leases that are still to come */
#define NO_SECOND_LOOK	3	/* a word isn't looked at after it was marked */
#define LATE_LEASE	4	/* a lease looks at its share, then is found there */
#define QUIET		5	/* who takes the last reference releases with others */

byte word;		/* of the owner's entry */
bool returned;		/* the bit in its header */
byte held;		/* ghost: references of the receiver */

bool shared;
bool share_wanted;
chan ring = [1] of { bit };

bool lease_sem;		/* held for write */
bool live;		/* the lease is in its client's tables, and leads to the share */
bool found;		/* the share leads to it */
byte count;		/* of its word */
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

/* The share's last count goes, and with it its reference in the owner's word. */
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

		/* The library: a release, then sleep, or more of them one day. */
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
