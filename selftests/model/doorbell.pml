/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of how the sides of a lane sleep and are woken (userlib/src/lane_block.h). The
 * sender writes entries into a ring, and sleeps while the ring is full (OUT). The receiver takes
 * the entries, and sleeps while there is none (IN). With MEMORY, two threads of the receiver return
 * the messages of a buffer, and a thread of the sender sleeps until all are returned. Either
 * process may die between any two steps. Each access to a block is one step, in one order for all:
 * they are seq_cst. The turns, the counts and the numbers of wants wrap; but a side doesn't get
 * through all numbers while its peer is between two looks at them.
 *
 * The model checks that no side sleeps for ever although what it waits for is there, or its peer
 * has gone; that a side that was woken for nothing quiets the doorbell before it sleeps again, so
 * that it doesn't run in circles; and that the entries of a sender that has gone are all taken.
 *
 * BROKEN picks a change that breaks the protocol: see the script check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif

#define EARLY_LOOK	1	/* a side looks, then says what it wants */
#define EARLY_WANT	2	/* the peer reads the want, then writes its entry, or a count */
#define LATE_QUIET	3	/* a side says what it wants, then quiets the doorbell */
#define ONE_BELL	4	/* a side rings once for a lane, not once for each number */
#define SAME_NUMBER	5	/* a side that has found nothing keeps its number */
#define ARM_ONCE	6	/* it doesn't even quiet the doorbell */
#define LATE_END	7	/* the receiver looks at the ring, then at the end of its peer */
#define TAKEN_BELL	8	/* a thread takes the doorbell, and another one waits for it */
#define QUIET_END	9	/* threads that wait for memory aren't told that the peer goes */
#define LATE_TAKE	10	/* a thread looks, then takes the doorbell */

#ifndef SENDS
#define SENDS	5	/* entries that the sender writes at most */
#endif
#ifndef MEMORY
#define MEMORY	0	/* a thread waits for memory, and nobody for the ring */
#endif
#define RING	2
#define MOD	4	/* the turns and counts wrap */
#define NUMBERS	(MEMORY -> 200 : 6)	/* of wants: 1 to this */
#define MESSAGES 3	/* of one buffer, to be returned */

#define SENDER	0
#define RECEIVER 1

#define IN	0
#define OUT	1
#define MEM	2

byte want[3];		/* each in the block of the side that waits */
byte rang[3];		/* private to its peer: the number that it has rung for last */
bool rung[3];		/* by the kernel: the doorbell; that of OUT is !full */
bool dead[2];
bool gone[2];		/* the side's end is closed, and the other one can know it */
bool asleep[3];		/* ghost */

/* The peer has written what a side may wait for. Now it looks at what the side wants. */
inline ring(which)
{
	if
	:: BROKEN == EARLY_WANT
	:: else -> w = want[which]
	fi;
	if
	:: w != 0 && w != rang[which] && !(BROKEN == ONE_BELL && rang[which] != 0) ->
		rang[which] = w;
		rung[which] = true
	:: else
	fi
}

inline look_early(which)
{
	if
	:: BROKEN == EARLY_WANT -> w = want[which]
	:: else
	fi
}

inline new_number(which)
{
	d_step { want[which] = want[which] % NUMBERS + 1 }
}

/* A side is about to sleep, and says so. @fresh: something came since it last did that. */
inline arm(which)
{
	if
	:: BROKEN == ARM_ONCE && !fresh
	:: BROKEN == SAME_NUMBER && !fresh -> atomic { rung[which] = false; heard = false }
	:: else ->
		if
		:: BROKEN != LATE_QUIET -> atomic { rung[which] = false; heard = false }
		:: else
		fi;
		new_number(which)
	fi;
	fresh = false
}

/* It has looked once more, and found nothing. */
inline sleep(which, peer)
{
	if
	:: BROKEN == LATE_QUIET -> atomic { rung[which] = false; heard = false }
	:: else
	fi;
	atomic { assert(!(heard && rung[which])); asleep[which] = true }
end_sleep:
	atomic { rung[which] || gone[peer] -> asleep[which] = false; heard = rung[which] }
}

#if !MEMORY

byte head;	/* of the ring: the turn of the last entry says so */
byte taken;	/* in the receiver's block */
byte count;	/* the receiver's own: entries that it has taken */

#define is_there	(count != head)
#define has_room	((head - taken + MOD) % MOD < RING)

active proctype sender()
{
	byte n, w;
	bool fresh = true, heard, room;

	{
		do
		:: n == SENDS -> break
		:: n < SENDS -> break	/* it sends nothing more for a while */
		:: n < SENDS && !gone[RECEIVER] ->
			room = has_room;
			if
			:: room ->
				look_early(IN);
				head = (head + 1) % MOD;
				ring(IN);
				n++;
				fresh = true
			:: else ->
				arm(OUT);
				room = has_room && BROKEN != EARLY_LOOK;
				if
				:: room
				:: else -> sleep(OUT, RECEIVER)
				fi
			fi
		:: n < SENDS && gone[RECEIVER] -> break
		od
	} unless { dead[SENDER] -> asleep[OUT] = false }
}

active proctype receiver()
{
	byte w;
	bool fresh = true, heard, end, there;

	{
		do
		:: true ->
			if
			:: BROKEN == LATE_END
			:: else -> end = gone[SENDER]
			fi;
			there = is_there;
			if
			:: BROKEN == LATE_END -> end = gone[SENDER]
			:: else
			fi;
			if
			:: there ->
				look_early(OUT);
				count = (count + 1) % MOD;
				taken = count;
				ring(OUT);
				fresh = true
			:: !there && end -> assert(count == head); break
			:: else ->
				arm(IN);
				there = is_there && BROKEN != EARLY_LOOK;
				if
				:: there
				:: else -> sleep(IN, SENDER)
				fi
			fi
		od
	} unless { dead[RECEIVER] -> asleep[IN] = false }
}

/* A process may die, or close its end. The sender may also be quiet for ever. */
active proctype kernel()
{
	if
	:: dead[SENDER] = true; gone[SENDER] = true
	:: dead[RECEIVER] = true; gone[RECEIVER] = true
	:: true
	fi;
	/* When nothing goes on, nobody sleeps beside what it waits for. */
	timeout;
	assert(!(asleep[IN] && (is_there || gone[SENDER])));
	assert(!(asleep[OUT] && (has_room || gone[RECEIVER])))
}

#else

byte uses = MESSAGES;	/* of the buffer, in the receiver's process */
byte returned;		/* in the receiver's block */
byte seen, outstanding = MESSAGES;
bool is_free;
bool waiting;		/* evpl_pool.waiting */
bool event;		/* its eventfd */

/* Under the lane's lock. If the peer has gone, the lane ends, and its references are dropped. */
inline collect()
{
	d_step {
		if
		:: gone[RECEIVER] -> outstanding = 0
		:: else -> outstanding = outstanding - (returned - seen + MOD) % MOD
		fi;
		seen = returned;
		is_free = (outstanding == 0);
		if
		:: is_free && waiting -> waiting = false; event = true
		:: else
		fi
	}
}

active [2] proctype releaser()
{
	byte w;

	{
		do
		:: atomic { uses > 0 -> uses-- }
			look_early(MEM);
			atomic { returned = (returned + 1) % MOD }
			ring(MEM)
		:: uses == 0 -> break
		od
	} unless { dead[RECEIVER] }
}

/* A thread that needs the buffer. */
active proctype waiter()
{
	do
	:: is_free -> break
	:: else ->
		waiting = true;
		if
		:: BROKEN == EARLY_LOOK -> collect(); new_number(MEM)
		:: else -> new_number(MEM); collect()
		fi;
		if
		:: BROKEN == LATE_TAKE -> rung[MEM] = false
		:: else
		fi;
		if
		:: !is_free ->
			asleep[MEM] = true;
			atomic { event || rung[MEM] -> asleep[MEM] = false; event = false }
			rung[MEM] = false
		:: else
		fi
	od
}

/*
 * Another thread, which needs some memory for itself, looks at what has come back. It takes the
 * doorbell from the thread that sleeps, so it asks for the next one in its place.
 */
active proctype other()
{
	byte n;
	bool waits;

	do
	:: n < 2 && rung[MEM] ->
		n++;
		rung[MEM] = false;
		waits = waiting;
		if
		:: waits && BROKEN != TAKEN_BELL -> new_number(MEM)
		:: else
		fi;
		collect()
	:: true -> break
	od
}

active proctype kernel()
{
	if
	:: dead[RECEIVER] = true;
		gone[RECEIVER] = true;
		if
		:: BROKEN != QUIET_END -> rung[MEM] = true
		:: else
		fi
	:: true
	fi;
	timeout;
	assert(!asleep[MEM])
}

#endif
