/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of how a client is adopted (kernel/adopt.c), while the shares of its buffers end
 * and the kernel rechecks a quarantine. There are two slabs with a buffer each. Their bits share
 * a summary. A device of the dead owner may hold a page of the first, which the baseline allows.
 * An atomic block, or a lock, stands for the xa_lock of a slab's shares.
 *
 * The model checks that the successor gets each buffer once, and none that the device still holds.
 * An event that is lost leaves the successor waiting, which is an invalid end state.
 *
 * BROKEN picks a change that breaks the protocol, to show that the check finds it.
 */
#ifndef BROKEN
#define BROKEN	0
#endif

/* The broken variants. */
#define NO_LOCK		1	/* the share is looked for, and the word set, without the lock */
#define LATE_SUMMARY	2	/* the summary is cleared after the words are set */
#define OLD_CHECK	3	/* a check that went by the old baseline still counts */
#define STALE_BIT	4	/* the bit isn't cleared when the word is set */
#define NO_CHECK	5	/* a buffer with a share isn't checked when the share ends */

#define BUFFERS	2
#define SHARED	8	/* in the word: above any count */

bool share[BUFFERS], may_be_held[BUFFERS], quarantined[BUFFERS];
byte serial[BUFFERS], baseline[BUFFERS], refs[BUFFERS];
byte word[BUFFERS];	/* modulo 16, as a subtraction may take it below 0 */
bool mark[BUFFERS], summary;	/* the bit of the bitmap, and that of the header */
bool locked[BUFFERS];
bool shown_free[BUFFERS], got[BUFFERS];
byte running;

inline lock(b)
{
	atomic { !locked[b] -> locked[b] = true }
}

inline unlock(b)
{
	locked[b] = false
}

/* share_return_to_owner(): the caller has the lock. */
inline return_to_owner(b)
{
	share[b] = false;
	atomic {
		word[b] = (word[b] + 16 - SHARED) % 16;
		idle = word[b] == 0
	};
	if
	:: idle ->
		mark[b] = true;
		summary = true
	:: else
	fi
}

/* A lessee lets go of a buffer that it has on lease: share_put_last(). */
proctype lessee(byte b)
{
	bool clear, idle;
	byte seen;

	lock(b);
	clear = true;
	if
	:: may_be_held[b] ->
		seen = serial[b];
		unlock(b);
		clear = refs[b] <= baseline[b];
		lock(b);
		clear = clear && seen == serial[b]
	:: else
	fi;
	if
	:: clear -> return_to_owner(b)
	:: else -> quarantined[b] = true
	fi;
	unlock(b);
	running--
}

/* The passes over the quarantine of a buffer: evpl_quarantine_recheck_next(). */
proctype passes(byte b)
{
	bool clear, idle;
	byte seen;

end:	do
	:: atomic { quarantined[b] && !locked[b] -> seen = serial[b] };
		clear = refs[b] <= baseline[b];
		lock(b);
		if
		:: clear && seen == serial[b] ->
			quarantined[b] = false;
			return_to_owner(b)
		:: else
		fi;
		unlock(b)
	od
}

/* The device of the dead owner lets go some time. */
proctype device(byte b)
{
	refs[b] = 0;
	running--
}

inline hold(b)
{
	baseline[b] = 0;
	if
	:: refs[b] > 0 ->
		lock(b);
		if
		:: !share[b] ->
			share[b] = true;
			quarantined[b] = true
		:: else
		fi;
#if BROKEN != NO_CHECK
		may_be_held[b] = true;
#endif
#if BROKEN != OLD_CHECK
		serial[b]++;
#endif
		unlock(b)
	:: else
	fi
}

inline reset(b)
{
#if BROKEN == NO_LOCK
	if
	:: share[b] -> word[b] = SHARED
	:: else -> word[b] = 0
	fi;
	mark[b] = false
#else
	lock(b);
	if
	:: share[b] -> word[b] = SHARED
	:: else ->
		word[b] = 0;
		shown_free[b] = true
	fi;
#if BROKEN != STALE_BIT
	mark[b] = false;
#endif
	unlock(b)
#endif
}

/* A buffer is handed out. */
inline take(b)
{
	assert(!got[b]);
	assert(refs[b] == 0);
	got[b] = true
}

/* evpl_adopt(), then the successor's library. */
proctype successor()
{
	bool none;
	byte b;

#if BROKEN != LATE_SUMMARY
	summary = false;
#endif
	/* evpl_refs_clear() */
	word[0] = 0;
	mark[0] = false;
	word[1] = 0;
	mark[1] = false;
	hold(0);
	reset(0);
	hold(1);
	reset(1);
#if BROKEN == LATE_SUMMARY
	summary = false;
#endif

	/* So much is promised, even to a library that clears nothing itself. */
	lock(0);
	assert(!mark[0] || (summary && !shown_free[0]));
	unlock(0);
	lock(1);
	assert(!mark[1] || (summary && !shown_free[1]));
	unlock(1);

	/*
	 * pool_take_over(): while the library has a reference on each buffer, none comes back.
	 * EVPL_LEASE_PULL waits for reports that are on their way, and then their bits can go.
	 */
	word[0]++;
	word[1]++;
	lock(0);
	unlock(0);
	lock(1);
	unlock(1);
	summary = false;
	mark[0] = false;
	mark[1] = false;
	b = 0;
	do
	:: b < BUFFERS ->
		atomic {
			word[b]--;
			none = word[b] == 0
		};
		if
		:: none -> take(b)
		:: else
		fi;
		b++
	:: else -> break
	od;
	do
	:: got[0] && got[1] -> break
	:: else ->
		atomic { summary -> summary = false };
		b = 0;
		do
		:: b < BUFFERS ->
			if
			:: atomic { mark[b] -> mark[b] = false };
				if
				:: word[b] == 0 -> take(b)
				:: else
				fi
			:: else
			fi;
			b++
		:: else -> break
		od
	od;
	running--
}

init {
	byte b;

	atomic {
		do
		:: b < BUFFERS ->
			/* The owner has died with up to one reference. */
			if
			:: word[b] = 0
			:: word[b] = 1
			fi;
			if
			:: b == 0 ->
				refs[b] = 1;
				baseline[b] = 1;
				run device(b);
				running++
			:: skip
			fi;
			if
			:: share[b] = true;
				word[b] = word[b] + SHARED;
				if
				:: may_be_held[b] = true
				:: skip
				fi;
				run lessee(b);
				running++
			:: word[b] == 0 && refs[b] == 0 -> mark[b] = true;
				summary = true
			:: skip
			fi;
			run passes(b);
			b++
		:: else -> break
		od;
		run successor();
		running++
	}
	running == 0;
	assert(!mark[0] && !mark[1])
}
