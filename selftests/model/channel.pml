/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of the protocol of words, shares, leases and records, as kernel/share.c,
 * lease.c and channel.c implement it. NC clients own a buffer each, and each has an end
 * towards every other. A client may go at any moment, also while calls on its ends
 * are running. An atomic block stands for the code under one lock, or for one atomic
 * operation; everything between two of them may be interleaved.
 *
 * The model checks that a buffer is not allocated anew, nor its memory freed, while
 * a client can touch it or a record carries it; that no client can touch a buffer without
 * a lease; that the owner's word is exact whenever no task is between two steps; and that
 * nothing is left when all clients have gone.
 *
 * BROKEN picks a change that breaks the protocol, to show that the checks find it: see
 * the script check.
 */
#ifndef NC
#define NC	2
#endif
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef MAX_REFS
#define MAX_REFS 2	/* of a new buffer */
#endif
#ifndef ROOM
#define ROOM	2	/* of a ring */
#endif
#ifndef SHARES
#define SHARES	2	/* so many shares of a buffer come, one after the other */
#endif

#ifndef DEATHS
#define DEATHS	NC	/* so many clients go, from the first on */
#endif

/* The broken variants. */
#define NO_SECOND_LOOK	1	/* a release doesn't check the word under the lock */
#define NO_PENDING	2	/* it doesn't check whether a reference is being given up */
#define LOST_GIVE_BACK	3	/* an end that closes forgets a record */
#define INSERT_OUTSIDE	4	/* a fault maps after it has let go of the lock */
#define EARLY_DROP	5	/* an ended lease drops its count, then unmaps */
#define HOME_LATE	6	/* a record that goes home drops its count, then counts in the word */
#define EARLY_HAND_BACK	7	/* a revoke hands back before it unmaps */
#define NO_RETURN	8	/* a further reference stays in the sender's word */
#define CLOSE_TAKES_ALL	9	/* an end that closes also drops the record that is being read */
#define NO_ROOM_KEPT	10	/* room for a write isn't kept */

/* Buffer b is client b's. The flag EVPL_WORD_SHARED counts as 1 in its word. */
byte word[NC];		/* of its entry */
byte own[NC];		/* ghost: references that the owner has */
byte between[NC];	/* ghost: tasks that have changed a count, but not yet the word */
bool unused[NC];	/* no client has the buffer: it can be allocated */
bool freed[NC];		/* its memory has gone */

byte count[NC];		/* of its share */
bool shared[NC];	/* the share is in evpl_slab.shares */
byte epoch[NC];		/* number of the share, or of the next one if there is none */
bool revoked[NC];	/* being revoked */
bool orphaned[NC];

typedef leases {
	byte word[NC];
	byte pending[NC];
	bool live[NC];		/* in the tables */
	bool ending[NC];	/* struck out, not finished yet */
	bool mapped[NC];
	byte epoch[NC];
	bool faulting[NC];	/* a fault holds lease_sem for read */
};
leases lease[NC];	/* by client, then by buffer */

/* The records on their way to each client: a buffer, and the epoch of its share. */
chan ring[NC] = [ROOM] of { byte, byte };
byte kept[NC];		/* room that is kept */
bool closed[NC];
bool reading[NC];	/* its thread has the first record of the ring */
bool gone[NC];
bool calling[NC];	/* a call on its file or a fault is running: so the client can't go */
bool left[NC];		/* the client's reaper has finished */
bool idle[NC];		/* the client's thread has ended */

#define in_ring(b, e)	(ring[0]??[eval(b), eval(e)] || ring[1]??[eval(b), eval(e)] || (NC > 2 && ring[NC - 1]??[eval(b), eval(e)]))
#define touchable(b)	(lease[0].mapped[b] || lease[1].mapped[b] || lease[NC - 1].mapped[b])

/* A word was taken to 0, so the owner may use the buffer again. */
inline check_unused(ub)
{
	assert(!touchable(ub));
	assert(!shared[ub] || revoked[ub]);
	assert(!in_ring(ub, epoch[ub]) || revoked[ub]);
}

inline drop_word(wb)
{
	atomic {
		assert(word[wb] > 0);
		word[wb]--;
		if
		:: word[wb] == 0 && !gone[wb] -> check_unused(wb); unused[wb] = true
		:: else
		fi
	}
}

/* No client can touch the buffer through the share any more. */
inline hand_back(buf, was_orphaned)
{
	if
	:: was_orphaned ->
		atomic {
			if
			:: !shared[buf] && !freed[buf] -> assert(!touchable(buf)); freed[buf] = true
			:: else
			fi
		}
	:: else -> drop_word(buf)
	fi;
	between[buf]--
}

/* Drop a count of the share that has this epoch. */
inline drop(bf, ep, last, was_orphaned)
{
	atomic {
		last = false;
		if
		:: ep == epoch[bf] && !(revoked[bf] && !shared[bf]) ->
			assert(count[bf] > 0);
			count[bf]--;
			last = count[bf] == 0 && !revoked[bf];
			was_orphaned = orphaned[bf];
			if
			:: last -> shared[bf] = false; between[bf]++;
				epoch[bf]++
			:: else
			fi
		:: else		/* revoked, and handed back already */
		fi
	}
	if
	:: last -> hand_back(bf, was_orphaned)
	:: else
	fi
}

/* The rest of the end of a lease that has been struck out. */
inline finish(who, what, which, last, was_orphaned)
{
#if BROKEN == EARLY_DROP
	drop(what, which, last, was_orphaned);
	atomic { lease[who].mapped[what] = false; lease[who].ending[what] = false }
#else
	atomic { lease[who].mapped[what] = false }
	atomic { lease[who].ending[what] = false }
	drop(what, which, last, was_orphaned)
#endif
}

/* Under lease_sem, held for write. */
inline lease_unpublish_idle(who, what, struck, which)
{
	struck = false;
	if
	:: lease[who].live[what] && !lease[who].ending[what] &&
#if BROKEN != NO_PENDING
	   lease[who].pending[what] == 0 &&
#endif
#if BROKEN == NO_SECOND_LOOK
	   true ->
#else
	   lease[who].word[what] == 0 ->
#endif
		assert(lease[who].word[what] == 0 && lease[who].pending[what] == 0);
		lease[who].live[what] = false;
		lease[who].ending[what] = true;
		which = lease[who].epoch[what];
		struck = true
	:: else
	fi
}

/* EVPL_LEASE_RELEASE. A pull does the same for each lease. */
inline release(by, buf2, struck, when, last, was_orphaned)
{
	if
	:: lease[by].word[buf2] == 0 ->
		atomic { !lease[by].faulting[buf2] -> lease_unpublish_idle(by, buf2, struck, when) }
		if
		:: struck -> finish(by, buf2, when, last, was_orphaned)
		:: else
		fi
	:: else
	fi
}

/* Keep room for a record, which no other write takes then. @fits: whether there was room. */
inline end_reserve(from, to, fits)
{
	atomic {
		fits = !closed[from] && !closed[to] && len(ring[to]) + kept[to] < ROOM;
#if BROKEN != NO_ROOM_KEPT
		kept[to] = kept[to] + fits
#endif
	}
}

inline end_cancel_reserve(at)
{
#if BROKEN != NO_ROOM_KEPT
	atomic { kept[at]-- }
#else
	skip
#endif
}

inline put(from, to, what, which, done)
{
	done = !closed[from] && !closed[to];
	if
	:: done -> assert(nfull(ring[to])); ring[to]!what, which; end_cancel_reserve(to)
	:: else
	fi
}

/* A record of the client's own buffer, to client d, for which room is kept. */
inline send_own(c, d, made, ok, e, last, was_orphaned)
{
	atomic {
		made = false;
		ok = !gone[c] && own[c] > 0 && !revoked[c] && word[c] > 0 &&
		     (shared[c] || epoch[c] < SHARES);
		if
		:: ok ->
			made = !shared[c];
			shared[c] = true;
			count[c]++;
			own[c]--;
			e = epoch[c];
			between[c] = between[c] + (made -> 0 : 1)
		:: else
		fi
	}
	if
	:: ok && !made ->
#if BROKEN != NO_RETURN
		drop_word(c);
#endif
		between[c]--
	:: else
	fi;
	if
	:: ok ->
		/* The put may also fail: another record of the same write may be refused. */
		atomic {
			if
			:: put(c, d, c, e, ok)
			:: ok = false
			fi;
			between[c] = between[c] + (ok -> 0 : 1)
		}
		if
		:: ok
		:: else ->
			atomic { word[c]++; own[c]++ }
			drop(c, e, last, was_orphaned);
			between[c]--;
			end_cancel_reserve(d)
		fi
	:: else -> end_cancel_reserve(d)
	fi
}

/* A record of another client's buffer, through the lease on it. Room is kept for it too. */
inline send_on(c, b, d, ok, struck, e, last, was_orphaned)
{
	atomic {
		!lease[c].faulting[b];
		ok = !gone[c] && lease[c].live[b] && lease[c].word[b] > 0 &&
		     lease[c].epoch[b] == epoch[b] && !revoked[b];
		if
		:: ok -> count[b]++; lease[c].word[b]--; lease[c].pending[b]++;
			e = epoch[b]
		:: else
		fi
	}
	if
	:: ok ->
		atomic {
			if
			:: put(c, d, b, e, ok)
			:: ok = false
			fi
		}
		if
		:: ok
		:: else ->
			atomic {
				if
				:: lease[c].live[b] && lease[c].epoch[b] == e ->
					lease[c].word[b]++
				:: else
				fi
			}
			drop(b, e, last, was_orphaned);
			end_cancel_reserve(d)
		fi;
		atomic {
			!lease[c].faulting[b];
			lease[c].pending[b]--;
			lease_unpublish_idle(c, b, struck, e)
		}
		if
		:: struck -> finish(c, b, e, last, was_orphaned)
		:: else
		fi
	:: else -> end_cancel_reserve(d)
	fi
}

/* The first record that is on its way to the client. */
inline receive(c, b, e, ok, struck, last, was_orphaned)
{
	atomic {
		ok = !closed[c] && nempty(ring[c]);
		if
		:: ok -> ring[c]?<b, e>; reading[c] = true
		:: else
		fi
	}
	if
	:: !ok
	:: ok && b == c ->
		/* It has been copied out. If it was revoked, it arrives without a reference. */
		atomic {
			ok = e == epoch[b] && !revoked[b];
			if
#if BROKEN == HOME_LATE
			:: ok -> between[b]++
#else
			:: ok -> word[b]++; own[b]++
#endif
			:: else
			fi
		}
		next(c, b, e, true, struck, last, was_orphaned);
#if BROKEN == HOME_LATE
		if
		:: ok -> atomic { word[b]++; own[b]++; between[b]-- }
		:: else
		fi
#endif
	:: ok && b != c ->
		/* Make or find a lease, copy out, count. The copy may fail. */
		atomic {
			!lease[c].faulting[b];
			struck = false;
			ok = !gone[c] && e == epoch[b] && !revoked[b] &&
			     !lease[c].ending[b] &&
			     (!lease[c].live[b] || lease[c].epoch[b] == e);
			made = ok && !lease[c].live[b];
			if
			:: made ->
				lease[c].live[b] = true;
				lease[c].word[b] = 0;
				lease[c].epoch[b] = e;
				count[b]++
			:: else
			fi;
			if
			:: ok -> lease[c].word[b]++
			:: made -> ok = false; lease_unpublish_idle(c, b, struck, struck_epoch)
			:: ok && !made -> ok = false
			:: else -> ok = e != epoch[b] || revoked[b]	/* without a lease */
			fi
		}
		if
		:: struck -> finish(c, b, struck_epoch, last, was_orphaned)
		:: else
		fi;
		next(c, b, e, ok, struck, last, was_orphaned)
	fi
}

/*
 * Take the record that was delivered out of the ring. If the end has been closed meanwhile,
 * the record isn't there any more, and the reader drops it.
 */
inline next(by, what, which, delivered, mine, last, was_orphaned)
{
	atomic {
		mine = closed[by] || delivered;
		if
		:: delivered && !closed[by] -> ring[by]?_, _
		:: else
		fi;
		reading[by] = false
	}
	if
	:: mine -> drop(what, which, last, was_orphaned)
	:: else
	fi
}

/* A fault looks the lease up and maps the page, with lease_sem held for read across both. */
inline fault(c, b, ok)
{
	atomic {
		ok = !lease[c].faulting[b] && lease[c].live[b] && !lease[c].ending[b] &&
		     lease[c].epoch[b] == epoch[b] && !revoked[b];
#if BROKEN != INSERT_OUTSIDE
		lease[c].faulting[b] = lease[c].faulting[b] || ok
#endif
	}
	if
	:: ok ->
		atomic {
			lease[c].mapped[b] = true;
			lease[c].faulting[b] = false
		}
	:: else
	fi
}

inline revoke(c, d, ok)
{
	atomic {
		ok = shared[c] && !revoked[c] && between[c] == 0;
		if
		:: ok -> revoked[c] = true; between[c]++
		:: else
		fi
	}
	if
	:: ok ->
#if BROKEN == EARLY_HAND_BACK
		atomic { shared[c] = false; count[c] = 0 }
		drop_word(c);
#endif
		d = 0;
		do
		:: d < NC ->
			atomic {
				!lease[d].faulting[c];
				if
				:: lease[d].live[c] && lease[d].epoch[c] == epoch[c] ->
					/* The lease would stay for its word; the model ends both. */
					lease[d].live[c] = false;
					lease[d].word[c] = 0
				:: else
				fi
			}
			atomic { lease[d].mapped[c] = false }
			d++
		:: else -> break
		od;
#if BROKEN != EARLY_HAND_BACK
		atomic { shared[c] = false; count[c] = 0 }
		drop_word(c);
#endif
		atomic {
			epoch[c]++;
			revoked[c] = false;
			between[c]--
		}
	:: else
	fi
}

/* One of the other clients. */
inline pick(but, one)
{
#if NC > 2
	if
	:: one = (but + 2) % NC
	:: one = (but + 1) % NC
	fi
#else
	one = (but + 1) % NC
#endif
}

/* The thread of client c. It stops when the client has gone. */
proctype user(byte c)
{
	byte b, d, e, struck_epoch;
	bool ok, made, struck, last, was_orphaned;

	do
	:: gone[c] -> break
	:: else ->
		/* The owner relies on this. */
		atomic {
			assert(between[c] || gone[c] ||
			       word[c] == own[c] + (shared[c] -> 1 : 0))
		}
		if
		:: atomic {
			unused[c] && !gone[c] ->
			check_unused(c);
			assert(word[c] == 0 && own[c] == 0);
			unused[c] = false;
			if
			:: own[c] = 1
			:: own[c] = MAX_REFS
			fi;
			word[c] = own[c]
		   }
		:: atomic { own[c] > 0 && !gone[c] -> own[c]--; between[c]++ }
			drop_word(c);
			between[c]--
		:: pick(c, d); end_reserve(c, d, ok);
			if
			:: ok -> send_own(c, d, made, ok, e, last, was_orphaned)
			:: else
			fi
		:: receive(c, b, e, ok, struck, last, was_orphaned)
		:: pick(c, b); pick(c, d); end_reserve(c, d, ok);
			if
			:: ok -> send_on(c, b, d, ok, struck, e, last, was_orphaned)
			:: else
			fi
		:: pick(c, b);
			/* A reference is dropped. The call that releases may come later, or never. */
			atomic {
				if
				:: lease[c].live[b] && lease[c].word[b] > 0 -> lease[c].word[b]--
				:: else
				fi
			}
		:: atomic { !gone[c] -> calling[c] = true }
			pick(c, b);
			pick(c, d);
			if
			:: true -> release(c, b, struck, e, last, was_orphaned)
			:: true -> release(d, c, struck, e, last, was_orphaned)
			:: true -> fault(c, b, ok)
			:: true -> revoke(c, d, ok)
			fi;
			calling[c] = false
		fi
	od;
	idle[c] = true
}

/* The end of client c, at any moment, also while its thread reads or writes an end. */
proctype reaper(byte c)
{
	byte b, e;
	bool last, was_orphaned, any, struck;

	atomic { !calling[c] -> gone[c] = true }
	atomic {
		closed[c] = true;
		if
#if BROKEN != CLOSE_TAKES_ALL
		:: reading[c] -> ring[c]?_, _
#endif
		:: else
		fi
	}
	do
	:: atomic {
		any = nempty(ring[c]);
		if
		:: any -> ring[c]?b, e
		:: else
		fi
	   }
	   if
	   :: any ->
#if BROKEN != LOST_GIVE_BACK
		drop(b, e, last, was_orphaned)
#endif
	   :: else -> break
	   fi
	od;
	b = 0;
	do
	:: b < NC ->
		atomic {
			!lease[c].faulting[b];
			struck = lease[c].live[b];
			if
			:: struck ->
				lease[c].live[b] = false;
				lease[c].ending[b] = true;
				e = lease[c].epoch[b]
			:: else
			fi
		}
		if
		:: struck -> finish(c, b, e, last, was_orphaned)
		:: else
		fi;
		b++
	:: else -> break
	od;
	atomic {
		orphaned[c] = true;
		if
		:: !shared[c] && !freed[c] -> assert(!touchable(c)); freed[c] = true
		:: else
		fi
	}
	left[c] = true
}

/* All have gone: nothing is left. */
proctype last_look()
{
	byte b;

	b = 0;
	do
	:: b < NC -> left[b] && idle[b]; b++
	:: else -> break
	od;
	atomic {
		b = 0;
		do
		:: b < NC ->
			assert(freed[b]);
			assert(!shared[b]);
			assert(!touchable(b));
			b++
		:: else -> break
		od
	}
}

init {
	byte c;

	atomic {
		c = 0;
		do
		:: c < NC ->
			unused[c] = true;
			run user(c);
			if
			:: c < DEATHS -> run reaper(c)
			:: else
			fi;
			c++
		:: else -> break
		od
#if DEATHS == NC
		;
		run last_look()
#endif
	}
}
