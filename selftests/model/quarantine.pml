/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of quarantine, as kernel/share.c and quarantine.c implement it. Two buffers lie
 * in one folio, whose references the kernel can only count as a whole. Each has a lessee that
 * gets leases, holds pages through them past their end, and lets the leases end or sends the
 * buffer home. The lessee of buffer 0 may also pass it on to another client. Meanwhile a pass
 * checks the buffers in quarantine. An atomic block stands for the code under one lock.
 *
 * The model checks that when the owner gets a buffer back, or reads a record of it that
 * doesn't say HELD, no lease on the buffer is left, no page of it is held, and no record is
 * on its way that would make another lease.
 *
 * BROKEN picks a change that breaks the protocol, to show that the checks find it.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef ROUNDS
#define ROUNDS	2	/* how often buffer 0 is leased; buffer 1 is leased once */
#endif

/* The broken variants. */
#define NO_SERIAL	1	/* a pass ignores that a lease has come since it counted */
#define HELD_LATE	2	/* no check before a record that goes home is read */
#define HOLDERS_UNSEEN	3	/* a pass clears @may_be_held although there was a lease */
#define HOME_ALONE	4	/* a record that goes home ignores the other counts of the share */
#define FLY_UNSEEN	5	/* a record that goes home ignores records that can become leases */
#define CPU_UNCHECKED	6	/* a writable lease for the CPU isn't checked */

byte count[2];		/* of the share; if 0, there is no share */
bool may_be_held[2];
bool quarantined[2];
bool quiet[2];
byte holders[2];
byte serial[2];
byte seen[2];
bool lent[2];
byte lease[2];		/* ghost: leases through which pages can be held */
byte fly[2];		/* records on their way to another client */
byte held[2];		/* ghost: pages that something holds */
byte home[2];		/* records that have been sent home */
bool over[2];		/* the lessee has ended */

#define refs	(held[0] + held[1])
#if BROKEN == HOME_ALONE
#define LAST(b)	true
#else
#define LAST(b)	(count[b] == 1)
#endif
#if BROKEN == FLY_UNSEEN
#define WAS_LENT(b)	may_be_held[b]
#else
#define WAS_LENT(b)	lent[b]
#endif
#if BROKEN == NO_SERIAL
#define is_fresh(b)	true
#else
#define is_fresh(b)	(seen[b] == serial[b])
#endif

/* The owner has the buffer to itself. */
inline check_home(b)
{
	assert(!held[b] && !lease[b] && !fly[b])
}

inline begin_quarantine(b)
{
	quarantined[b] = true
}

/* Drop a count. */
inline put(b)
{
	count[b]--;
	if
	:: count[b] == 0 ->
		check_home(b);
		assert(!quarantined[b]);
		may_be_held[b] = false;
		lent[b] = false;
		serial[b] = 0;
		seen[b] = 0
	:: else
	fi
}

/* evpl_share_put(): the last reference goes, or the quarantine takes it over. */
inline drop(b, checks, clear, before)
{
	atomic {
		checks = false;
		if
		:: count[b] > 1 || !may_be_held[b] -> put(b)
		:: else ->
			if
			:: quarantined[1 - b] -> begin_quarantine(b)
			:: else -> checks = true; before = serial[b]
			fi
		fi
	}
	if
	:: checks ->
		clear = (refs == 0);
		atomic {
			if
			:: clear && before == serial[b] -> put(b)
			:: else -> begin_quarantine(b)
			fi
		}
	:: else
	fi
}

/* The owner reads the records that are sent home. */
proctype owner(byte b)
{
	bool clear, says, checks, asks;
	byte before;

	do
	:: home[b] > 0 ->
		home[b]--;
		says = false;
#if BROKEN != HELD_LATE
		atomic {
			asks = WAS_LENT(b);
			checks = asks && LAST(b);
			before = serial[b];
			clear = checks && !may_be_held[b]
		}
		clear = clear || (checks && refs == 0);
		atomic {
			clear = clear && before == serial[b];
			says = asks && (!LAST(b) || !clear);
			may_be_held[b] = may_be_held[b] && (says || !asks);
			if
			:: says && count[b] == 1 -> begin_quarantine(b); count[b]++
			:: else
			fi;
			if
			:: !says -> check_home(b)
			:: else
			fi
		}
#else
		check_home(b);
#endif
		drop(b, checks, clear, before)
	:: over[b] && home[b] == 0 -> break
	od
}

/* A buffer is leased again and again. The lease takes over the count of its record. */
proctype lessee(byte b)
{
	bool clear, may_hold, checks;
	byte before, round;

	do
	:: round < (b -> 1 : ROUNDS) ->
		round++;
		/* The owner sends the buffer, also while it is in quarantine. */
		atomic {
			count[b]++;
			lease[b]++;
			lent[b] = true;
			may_hold = true;
#if BROKEN == CPU_UNCHECKED
			may_hold = false;
#endif
			holders[b] = holders[b] + may_hold;
			may_be_held[b] = may_be_held[b] || may_hold;
			serial[b]++
		}
		/* A page can be held as long as the lease is there. */
		if
		:: held[b] = 1
		:: skip
		fi;
		if
		:: atomic { b == 0 && round == ROUNDS -> count[b]++; fly[b]++ }
		:: skip
		fi;
		/* The lessee sends its last reference home, or just releases it. */
		if
		:: atomic { count[b]++; home[b]++ }
		:: skip
		fi;
		atomic { lease[b]--; holders[b] = holders[b] - may_hold }
		drop(b, checks, clear, before)
	:: else -> break
	od;
	over[b] = true
}

/* Another client reads a record that the lessee has passed on, and lets the lease end. */
active proctype other()
{
	bool clear, checks;
	byte before;

end:	do
	:: atomic {
		fly[0] > 0 ->
		fly[0]--;
		lease[0]++;
		holders[0]++;
		may_be_held[0] = true;
		serial[0]++
	   };
		atomic { lease[0]--; holders[0]-- };
		drop(0, checks, clear, before)
	od
}

/* A device, or a pipe, that holds a page lets go of it at some time. */
active proctype device()
{
end:	do
	:: held[0] -> held[0] = 0
	:: held[1] -> held[1] = 0
	od
}

/* evpl_quarantine_recheck_slab(), again and again until no buffer is in use. */
active proctype pass()
{
	bool clear, checks, passes, ended;
	byte before, b;

	do
	:: quarantined[0] || quarantined[1] ->
		atomic {
			if
			:: quarantined[0] -> seen[0] = serial[0]; quiet[0] = !holders[0]
			:: else
			fi;
			if
			:: quarantined[1] -> seen[1] = serial[1]; quiet[1] = !holders[1]
			:: else
			fi
		}
		passes = refs == 0;
		b = 0;
		do
		:: b < 2 ->
			atomic { ended = quarantined[b]; count[b] = count[b] + ended }
			if
			:: ended ->
				atomic {
					if
					:: quarantined[b] && passes && is_fresh(b) ->
						quarantined[b] = false;
						count[b]--;
#if BROKEN == HOLDERS_UNSEEN
						may_be_held[b] = false
#else
						may_be_held[b] = may_be_held[b] && !quiet[b]
#endif
					:: else
					fi
				}
				drop(b, checks, clear, before)
			:: else
			fi;
			b++
		:: else -> break
		od
	:: over[0] && over[1] && !count[0] && !count[1] && !home[0] && !home[1] -> break
	od
}

init {
	atomic {
		run owner(0);
		run owner(1);
		run lessee(0);
		run lessee(1)
	}
}
