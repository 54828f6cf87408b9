/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of threads that wait for memory, as userlib/src/alloc.c and recycle.c
 * implement it. A request takes buffers one after the other, and gives them back if there
 * aren't enough. Then it sets WAITING, counts the free buffers, and fails if there are too few.
 * Its thread sleeps until the eventfd is written. It must not sleep while the buffers that it
 * needs are free and no thread will write the eventfd. Each thread sees each write, as with an
 * epoll set of its own with EPOLLET.
 *
 * BROKEN picks a change that breaks the protocol: see the script check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif

#define NO_COUNTING	1	/* a thread doesn't announce that it counts free buffers */
#define NO_FAILURES	2	/* a thread doesn't announce that it has found too few */
#define EARLY_FAILURE	3	/* it announces a failure before it counts, and nothing else */
#define LATE_WAITING	4	/* it counts before it sets WAITING */
#define FAILURES_FIRST	5	/* give_back() reads failures first, and then counting */

#define BUFFERS	2
#define THREADS	2
#ifndef TRIES
#define TRIES	3	/* of the request that can be met; when it has none left, it gives up */
#endif

byte free = BUFFERS;
bool waiting;
byte counting;
byte failures;
bool event[THREADS];

inline wake()
{
	d_step { event[0] = true; event[1] = true }
}

inline notify()
{
	bool notifier;

	atomic { notifier = waiting; waiting = false }
	if
	:: notifier -> wake()
	:: else
	fi
}

/* give_back(): all buffers of a request that came to too few. */
inline give_back()
{
	do
	:: got > 0 -> atomic { got--; free++ }
	:: else -> break
	od;
	if
	:: BROKEN == FAILURES_FIRST -> failed_since = (failures != before); counts = (counting > 0)
	:: else -> counts = (counting > 0 && BROKEN != NO_COUNTING); failed_since = (failures != before)
	fi;
	if
	:: counts || failed_since -> notify()
	:: else
	fi
}

/* alloc_all() */
inline try_all()
{
	before = failures;
	got = 0;
	do
	:: got == need -> break
	:: atomic { got < need && free > 0 -> free--; got++ }
	:: got < need && free == 0 -> give_back(); break
	od
}

inline count_failure()
{
	if
	:: BROKEN != NO_FAILURES -> failures++
	:: else
	fi
}

/* try_last() */
inline try_last()
{
	if
	:: BROKEN == EARLY_FAILURE -> failures++
	:: else -> atomic { counting++ }
	fi;
	if
	:: BROKEN == LATE_WAITING -> enough = (free >= need)
	:: else
	fi;
	waiting = true;
	if
	:: BROKEN != LATE_WAITING -> enough = (free >= need)
	:: else
	fi;
	if
	:: enough ->
		try_all();
		if
		:: got < need -> wake()
		:: else
		fi
	:: else
	fi;
	if
	:: BROKEN == EARLY_FAILURE
	:: BROKEN != EARLY_FAILURE && got < need -> count_failure(); atomic { counting-- }
	:: BROKEN != EARLY_FAILURE && got == need -> atomic { counting-- }
	fi
}

/* A thread that allocates up to @tries times, and after each failure waits to be woken. */
proctype requester(byte id; byte need; byte tries)
{
	byte got, before;
	bool enough, counts, failed_since;

	do
	:: tries == 0 -> break
	:: tries > 0 ->
		tries--;
		try_all();
		if
		:: got < need -> try_last()
		:: else
		fi;
		if
		:: got == need -> break
		:: else
		fi;
		if
		:: need > BUFFERS ->
			/* It may sleep for ever: there is never enough for it. */
end_never:		event[id] -> event[id] = false
		:: else ->
			event[id] -> event[id] = false
		fi
	od;
	/* It releases its buffers one by one. */
	do
	:: got > 0 -> atomic { got--; free++ }; notify()
	:: else -> break
	od
}

/* A thread that has a buffer for a moment. */
active proctype holder()
{
	if
	:: atomic { free > 0 -> free-- }; free++; notify()
	:: true
	fi
}

init
{
	/* The first thread needs more than there is. The second must get its buffers in the end. */
	atomic {
		run requester(0, BUFFERS + 1, 2);
		run requester(1, BUFFERS, TRIES)
	}
}
