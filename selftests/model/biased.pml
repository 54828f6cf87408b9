/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A buffer that a thread counts in without atomics, for spin: a part of its word is the
 * thread's, which adds to that part and takes from it in sections, by plain loads and
 * stores. They reach memory late and in order, as x86 and the barriers of others have
 * it: a load may be done before the stores that precede it are seen. A robber ends it: it
 * strikes the thread out, has it pass a barrier, waits for its section, and takes what is
 * left of the part off the word. Whoever takes the word to zero has the buffer.
 *
 * BROKEN picks a change that makes it wrong: see check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef OTHERS
#define OTHERS	2	/* threads that references are given to */
#endif
#ifndef OPS
#define OPS	7	/* of the thread */
#endif

#define NO_BARRIER	1	/* the robber trusts that its store is seen */
#define NO_WAIT		2	/* and that no section runs */
#define LOOK_FIRST	3	/* a section looks whose it is before it says that it has begun */
#define TAKE_LAST	4	/* a section takes all there is */
#define IDLE_UNCLAIMED	5	/* the thread reuses an idle buffer while it may be robbed */

#define OWN	2	/* what the thread has of a new one */

mtype = { BUSY, PART };
chan stores = [4] of { mtype, byte };	/* of the thread, on their way to memory */

byte word = OWN + 1;
byte part = OWN;	/* the thread's part of the word */
bool busy;
bool owner = true;
mtype = { BOUND, CLAIMED, TAKEN };
mtype current = BOUND;	/* who may change what the thread's own is */

byte pending;		/* stores of @part on their way, and the last of them */
byte last_part;

byte mine = 1;		/* ghost: references of the thread */
byte theirs;		/* ghost: of the others */
bool freed;
chan gift = [OTHERS] of { bit };

inline check_free()
{
	assert(mine + theirs == 0 && !freed);
	freed = true
}

/* The thread's own view of its part. */
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
		/* One more. */
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
		/* One less. */
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
		/* One to another. */
		n++;
		atomic { mine--; theirs++; gift!1 }
	:: n < OPS && mine == 0 ->
		/* It needs a buffer: this one, if nobody has it. */
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

/* At any moment, but when the thread has claimed it. */
active proctype robber()
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

/* In the end somebody has it. */
active proctype last()
{
	freed
}
