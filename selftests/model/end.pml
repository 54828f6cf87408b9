/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of one end of a channel, as kernel/channel.c implements it. READERS tasks
 * read from it, WRITERS tasks write into its ring, and its client may go at any moment. An
 * atomic block stands for the code under evpl_channel.lock. Readers sleep in this end's wait
 * queue, writers in the peer's: a task checks its condition only after it has put itself into
 * the queue, then sleeps. A poller (POLLS) reads too, but never sleeps in a read: it is woken,
 * polls, and reads until it is refused (edge-triggered epoll(7)). With BINDS the end is bound
 * to its client at any moment, and refuses reads before that.
 *
 * The model checks that no task sleeps for ever although its condition holds; that poll says
 * that there is something to read only if a read isn't refused; that a record goes to one
 * reader or is given back, and once; that the client's reference is put once, and no task
 * works for the client afterwards; that the ring is empty when a writer sees that the end is
 * closed.
 *
 * BROKEN picks a change that breaks the protocol: see the script check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef CLOSES
#define CLOSES	1
#endif

#define NOT_TOLD	1	/* a reader that was turned away isn't woken */
#define NO_CROWD	2	/* a writer isn't woken when room that was kept is left again */
#define EARLY_LOOK	3	/* a task checks its condition, then puts itself into the queue */
#define CLIENT_GOES	4	/* an end that closes puts the client that its reader works for */
#define RECORD_GOES	5	/* an end that closes gives back the record that is being read */
#define QUIET_BIND	6	/* binding wakes nobody */
#define EAGER_POLL	7	/* poll says that there is a record which another task reads */
#define NO_POLL_MARK	8	/* poll doesn't set turned_away, so the reader doesn't wake it */
#define EARLY_END	9	/* a writer sees that the end is closed before it is drained */
#define EARLY_WAKE	10	/* an end that closes wakes the writers, then is drained */
#define LATE_COMMIT	11	/* a writer commits to the ring of an end that is drained */

#define CAPACITY	2
#ifndef READERS
#define READERS	2
#endif
#ifndef POLLS
#define POLLS	0
#endif
#ifndef BINDS
#define BINDS	0
#endif
#ifndef WRITERS
#define WRITERS	2
#endif
#ifndef EACH
#define EACH	2	/* writes of each writer, of one record or two */
#endif

byte nr, kept;
bool reading, turned_away, crowded, closed, drained;
bool client = true;	/* the end has a reference on its client */
bool bound = !BINDS;
byte put_client;	/* ghost: how often that reference was put */
byte sent, gone;	/* ghost: records that came into the ring, and that left it */
byte readers = READERS + POLLS, writers = WRITERS;	/* tasks that haven't ended */
#define POLLER	(READERS + WRITERS)
bool asleep[READERS + WRITERS + 1];	/* the task is in the queue, and not woken */

inline wake_readers()
{
	d_step { asleep[0] = false; asleep[READERS - 1] = false; asleep[POLLER] = false }
}

inline wake_writers()
{
	d_step {
		asleep[READERS] = false;
		asleep[READERS + 1] = false;
		asleep[READERS + WRITERS - 1] = false
	}
}

inline put_the_client()
{
	put_client++;
	assert(put_client == 1)
}

/* A task puts itself into the queue, checks its condition, and sleeps until it is woken. */
#if BROKEN == EARLY_LOOK
#define SLEEP(me)	asleep[me] = true; !asleep[me]
#define PREPARE(me)	skip
#else
#define SLEEP(me)	!asleep[me]
#define PREPARE(me)	asleep[me] = true
#endif

/* A reader that has the first record reads it, and perhaps the next ones. */
inline read_records()
{
	do
	:: /* The reader works for the client. The copy may fail. */
		assert(put_client == 0);
		if
		:: delivered = true
		:: delivered = false
		fi;
		if
		:: more = delivered
		:: more = false
		fi;
		/* end_finish_read() */
		atomic {
			tell = false;
			wakes = false;
			if
			:: closed ->
				gone++;
#if BROKEN != CLIENT_GOES
				client = false;
				put_the_client()
#endif
			:: !closed && delivered -> nr--; gone++; wakes = true
			:: else
			fi;
			more = more && !closed && nr > 0;
			if
			:: more
			:: else ->
				reading = false;
#if BROKEN != NOT_TOLD
				tell = turned_away;
#endif
				turned_away = false
			fi
		}
		if
		:: wakes -> wake_writers()
		:: else
		fi;
		if
		:: tell -> wake_readers()
		:: else
		fi;
		if
		:: more
		:: !more -> break
		fi
	od
}

active [READERS] proctype reader()
{
	byte me = _pid;
	bool has, delivered, more, tell, wakes;

	do
	:: /* end_begin_read() */
		PREPARE(me);
		atomic {
			has = false;
			if
			:: closed || !bound -> break
			:: !closed && bound && reading -> turned_away = true
			:: !closed && bound && !reading && nr > 0 -> has = true; reading = true
			:: !closed && bound && !reading && nr == 0 && writers == 0 -> break
			:: else
			fi
		}
		if
		:: !has -> SLEEP(me)
		:: has ->
			asleep[me] = false;
			read_records();
			/* It reads again, or ends. */
			if
			:: true
			:: break
			fi
		fi
	od;
	asleep[me] = false;
	readers--
}

active [WRITERS] proctype writer()
{
	byte me = _pid, n, length;
	bool has, tell;

	do
	:: n == EACH -> break
	:: else ->
		if
		:: length		/* it still waits */
		:: length == 0 -> length = 1
		:: length == 0 -> length = 2
		fi;
		/* end_reserve() */
		PREPARE(me);
		atomic {
			has = false;
			if
#if BROKEN == EARLY_END
			:: closed -> assert(nr == 0); break
#else
			:: drained -> assert(nr == 0); break
#endif
			:: !closed && nr + kept + length <= CAPACITY ->
				kept = kept + length;
				has = true
			:: else -> crowded = true
			fi
		}
		if
		:: !has ->
			/* When all readers have ended it may sleep for ever, unless the end closes. */
			if
			:: SLEEP(me)
			:: !CLOSES && readers == 0 -> break
			fi
		:: has ->
			asleep[me] = false;
			n++;
			if
			:: atomic { /* end_commit() */
				has = !drained || BROKEN == LATE_COMMIT;
				if
				:: has ->
					assert(nr + length <= CAPACITY);
					nr = nr + length;
					sent = sent + length;
					kept = kept - length
				:: else
				fi
			   }
			:: has = false	/* a record names no buffer */
			fi;
			if
			:: has -> wake_readers()
			:: else ->
				/* end_cancel_reserve() */
				atomic {
					kept = kept - length;
					tell = crowded;
					crowded = false
				}
				if
#if BROKEN != NO_CROWD
				:: tell -> wake_writers()
#endif
				:: else
				fi
			fi;
			length = 0
		fi
	od;
	asleep[me] = false;
	/* With the last writer the peer closes. */
	writers--;
	if
	:: writers == 0 -> wake_readers()
	:: else
	fi
}

#if POLLS
active proctype poller()
{
	bool told, has, delivered, more, tell, wakes;

	do
	:: /* end_poll() */
		asleep[POLLER] = true;
		atomic {
#if BROKEN == EAGER_POLL
			told = nr > 0 || writers == 0 || closed;
#else
			told = !reading && (nr > 0 || writers == 0) || closed;
#endif
			/* If it is told of a record, or the end of them, a read finds that. */
			assert(!told || closed || !reading && (nr > 0 || writers == 0));
#if BROKEN != NO_POLL_MARK
			turned_away = turned_away || reading
#endif
		}
		do
		:: !told -> break
		:: told ->
			/* end_begin_read() */
			atomic {
				has = false;
				if
				:: closed -> goto end
				:: !closed && !bound
				:: !closed && bound && reading -> turned_away = true
				:: !closed && bound && !reading && nr > 0 ->
					has = true;
					reading = true
				:: !closed && bound && !reading && nr == 0 && writers == 0 ->
					goto end
				:: else
				fi
			}
			if
			:: !has -> break
			:: has -> read_records()
			fi
		od;
		/* After a refusal it tries again only when it is woken. */
		!asleep[POLLER]
	od;
end:
	asleep[POLLER] = false;
	readers--
}
#endif

#if BINDS
active proctype binder()
{
	atomic { bound = true }
#if BROKEN != QUIET_BIND
	wake_readers();
	wake_writers()
#endif
}
#endif

#if CLOSES
active proctype closer()
{
	bool mine;

	/* end_close() */
	atomic {
		mine = false;
		if
#if BROKEN == CLIENT_GOES
		:: client -> client = false; mine = true
#else
		:: !reading && client -> client = false; mine = true
#endif
		:: else
		fi;
#if BROKEN != RECORD_GOES
		if
		:: reading && !closed -> nr--
		:: else
		fi;
#endif
		closed = true
	}
	do
	:: atomic { nr > 0 -> nr--; gone++ }
	:: atomic { nr == 0 ->
#if BROKEN != EARLY_WAKE
		drained = true
#endif
	   } -> break
	od;
	wake_readers();
	wake_writers();
#if BROKEN == EARLY_WAKE
	drained = true;
#endif
	if
	:: mine -> put_the_client()
	:: else
	fi;
	/* All have ended: nothing is left. */
	readers == 0 && writers == 0;
	assert(sent == gone && kept == 0 && !reading && put_client == 1)
}
#endif
