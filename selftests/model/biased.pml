/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of the biased count (userlib/src/bias.c): a thread counts its references
 * on a buffer without atomics. A part of the buffer's word belongs to the thread, which adds
 * to that part and takes from it in sections, by plain loads and stores. The stores reach
 * memory late and in order, as on x86: a load may be done before the stores that precede it are
 * seen. litmus/kernel/bias.litmus has the orders that arm64 allows besides. A reclaimer ends
 * this: it strikes the thread out, has the thread pass a barrier, waits for its section to end,
 * and subtracts the rest of the part from the word. The task that takes the word to zero has the
 * buffer.
 *
 * BROKEN picks a change that breaks the protocol: see the script check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef OTHERS
#define OTHERS	2	/* threads that get references */
#endif
#ifndef OPS
#define OPS	7	/* operations of the thread */
#endif

#define NO_BARRIER	1	/* the reclaimer doesn't have the thread pass a barrier */
#define NO_WAIT		2	/* the reclaimer doesn't wait for the thread's section */
#define LOOK_FIRST	3	/* a section checks @owner before it sets @busy */
#define TAKE_LAST	4	/* a section takes the last reference of the part */
#define IDLE_UNCLAIMED	5	/* the thread reuses an idle buffer while it may be reclaimed */

#define OWN	2	/* the thread's part of a new buffer's word */

mtype = { BUSY, PART };
chan stores = [4] of { mtype, byte };	/* of the thread, on their way to memory */

byte word = OWN + 1;
byte part = OWN;	/* the thread's part of the word */
bool busy;
bool owner = true;
mtype = { BOUND, CLAIMED, TAKEN };
mtype current = BOUND;	/* which task may change the thread's part, outside of sections */

byte pending;		/* how many stores to @part are on their way */
byte last_part;		/* the value of the last of these */

byte mine = 1;		/* ghost: references that the thread has */
byte theirs;		/* ghost: references that the others have */
bool freed;
chan gift = [OTHERS] of { bit };

inline check_free()
{
	assert(mine + theirs == 0 && !freed);
	freed = true
}

/* The thread sees its own stores at once. */
inline load_part(value)
{
	atomic {
		if
		:: pending > 0 -> value = last_part
		:: else -> value = part
		fi
	}
}

inline store_part(value)
{
	atomic { stores!PART,value; pending++; last_part = value }
}

active proctype memory()
{
	byte value;

end:	do
	:: atomic { stores?BUSY,value -> busy = value }
	:: atomic { stores?PART,value -> part = value; pending-- }
	od
}

active proctype thread()
{
	byte n, value, sum;
	bool is_owner, zero, done;

	do
	:: n < OPS && mine > 0 ->
		/* Take a reference. */
		n++;
		done = false;
#if BROKEN == LOOK_FIRST
		is_owner = owner;
#endif
		stores!BUSY,1;
#if BROKEN != LOOK_FIRST
		is_owner = owner;
#endif
		if
		:: is_owner ->
			load_part(value);
			if
#if BROKEN == TAKE_LAST
			:: value > 0 ->
#else
			:: value > 1 ->
#endif
				store_part(value - 1);
				mine++;
				done = true
			:: else
			fi
		:: else
		fi;
		stores!BUSY,0;
		if
		:: done
		:: else -> atomic { empty(stores) -> word++; mine++ }
		fi
	:: n < OPS && mine > 0 ->
		/* Drop a reference. */
		n++;
put:		done = false;
#if BROKEN == LOOK_FIRST
		is_owner = owner;
#endif
		stores!BUSY,1;
#if BROKEN != LOOK_FIRST
		is_owner = owner;
#endif
		if
		:: is_owner ->
			load_part(value);
			atomic { stores!PART,value + 1; pending++; last_part = value + 1; mine-- }
			done = true
		:: else
		fi;
		stores!BUSY,0;
		if
		:: done
		:: else ->
			atomic {
				empty(stores) -> mine--;
				assert(word > 0);
				word--;
				zero = word == 0
			}
			if
			:: zero -> check_free(); break
			:: else
			fi
		fi
	:: n < OPS && mine > 0 && nfull(gift) ->
		/* Give a reference to another thread. */
		n++;
		atomic { mine--; theirs++; gift!1 }
	:: n < OPS && mine == 0 ->
		/* It needs a buffer, and takes this one if nobody has a reference. */
		n++;
#if BROKEN != IDLE_UNCLAIMED
		atomic {
			empty(stores);
			if
			:: current == BOUND -> current = CLAIMED
			:: else -> goto out
			fi
		}
#else
		if
		:: owner
		:: else -> goto out
		fi;
#endif
		load_part(value);
		sum = word;
		if
		:: sum == value ->
			assert(mine + theirs == 0 && !freed);
			word = OWN + 1;
			store_part(OWN);
			mine = 1
		:: else
		fi;
#if BROKEN != IDLE_UNCLAIMED
		atomic { empty(stores) -> current = BOUND }
#endif
	:: n >= OPS && mine > 0 -> goto put
	:: n >= OPS && mine == 0 -> break
	od;
out:	skip
}

active [OTHERS] proctype other()
{
	bool zero;

end:	do
	:: gift?1 ->
		atomic {
			theirs--;
			assert(word > 0);
			word--;
			zero = word == 0
		}
		if
		:: zero -> check_free()
		:: else
		fi
	od
}

/* The reclaimer comes at any moment, except while the thread has claimed the buffer. */
active proctype reclaimer()
{
	byte n;
	bool zero;

	atomic { current == BOUND -> current = TAKEN }
	owner = false;
#if BROKEN != NO_BARRIER
	empty(stores);
#endif
#if BROKEN != NO_WAIT
	!busy;
#endif
	n = part;
	part = 0;
	atomic {
		assert(word >= n);
		word = word - n;
		zero = word == 0
	}
	if
	:: zero && n > 0 -> check_free()
	:: else
	fi
}

/* In the end some task has taken the word to zero. */
active proctype last()
{
	freed
}
