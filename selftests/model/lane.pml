/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of one direction of a lane (userlib/src/lane_block.h): the sender's buffers go to
 * the receiver by entries of a ring, and come back by counts. How the two sides sleep is in
 * doorbell.pml. The owner has two buffers and fewer grants, and may have a second thread. Threads
 * of the receiver release messages. Either side may close its end, and either process may die
 * between any two steps. The turns and counts wrap. A d_step stands for one atomic operation, or
 * for a step of the kernel under a lock.
 *
 * The model checks that no buffer becomes free, so that its owner may write to it, while a living
 * receiver uses a message of it, or will take one; that it becomes free once, and does so in the
 * end; that messages come in order, each once, and batches as a whole; that each lease ends; and
 * that no side finds that its peer has broken the rules.
 *
 * With LIES one side writes anything into its block at any time. The other side must drop no
 * reference that the lane doesn't have, use no grant that isn't there, and come to an end.
 *
 * BROKEN picks a change that breaks the protocol: see the script check.
 */
#ifndef BROKEN
#define BROKEN	0
#endif
#ifndef LIES
#define LIES	0
#endif
#ifndef GRANTS
#define GRANTS	1
#endif
#ifndef SENDS
#define SENDS	3	/* messages at most */
#endif
#ifndef DEATHS
#define DEATHS	0	/* the process that may die */
#endif
#ifndef BATCH
#define BATCH	0	/* messages of a buffer that is granted may go two at a time */
#endif
#ifndef RELEASERS
#define RELEASERS 1
#endif
#ifndef SECOND
#define SECOND	0	/* the owner has a second thread, which drops references */
#endif
#ifndef CLONES
#define CLONES	0	/* how often a thread takes a further reference */
#endif

#define TURN_FIRST	1	/* the turn of an entry is written before its fields */
#define EARLY_ENTRY	2	/* the entry of a record is written before the record */
#define LATE_RETURN	3	/* a release drops its reference, then writes the count */
#define RETURN_AGAIN	4	/* a release writes it again though the grant has ended */
#define KEPT_SLOT	5	/* a grant that has ended keeps its slot until its last release */
#define LATE_SEAL	6	/* a lane that ends drops its references, then seals */
#define NO_SEAL		7	/* it doesn't seal them */
#define BLIND_FREE	8	/* a buffer with the kernel's share becomes free without a CAS */
#define EARLY_TAKE_BACK	9	/* a grant is taken back while messages are outstanding */
#define ANY_TAKEN	10	/* the peer's count of taken entries isn't checked */
#define ANY_RETURNED	11	/* nor that of returned messages */
#define FIRST_TURN	12	/* the turn of a batch's first entry is written first */
#define LATE_COUNT	13	/* a message is counted after its entry has been written */
#define READ_TWICE	14	/* an entry is checked, then read once more */
#define EARLY_TAKEN	15	/* the receiver counts an entry as taken, then copies it */
#define BLOCK_GOES	16	/* a receiver that closes gives up its block at once */
#define ONE_LOOK	17	/* a thread that frees a buffer doesn't look for the seal again */

#define SENDER		1
#define RECEIVER	2

#define BUFFERS	2
#define NONE	7
#define RING	2
#define MOD	4
#define START	1	/* turns and counts begin with this */
#define OBJECTS	3	/* grants of the receiver that live at a time */

#define less(a, b)	((a - (b) + MOD) % MOD)

/* The owner's buffers: the word of each, and what the library knows. */
byte refs[BUFFERS];		/* EVPL_WORD_COUNT of the word */
bool shared[BUFFERS];		/* EVPL_WORD_SHARED */
bool mark[BUFFERS];		/* WORD_FREE */
bool sealed[BUFFERS];
bool is_free[BUFFERS] = true;	/* on a free list */
bool reported[BUFFERS];		/* in the returned bitmap */
byte own[BUFFERS];		/* ghost: the references of the owner's program */
byte flying[BUFFERS];		/* ghost: messages that the receiver hasn't taken */

/* The kernel. */
byte share[BUFFERS];		/* leases and records of the buffer */
chan records = [2] of { byte, byte };
bool closed_sender, closed_receiver;
bool dead_sender, dead_receiver;

/* The sender's block. */
typedef entry { byte turn; byte kind; byte grant; byte number; bool more /* ghost */ }
entry ring[RING];
mtype = { MESSAGE, RECORD, TAKE_BACK };

/* The sender's own. */
byte head = START, known_taken = START;
byte granted[GRANTS] = NONE;	/* the buffer */
byte outstanding[GRANTS];
byte seen[GRANTS] = START;
bool ended;			/* the lane has ended for the sender */
bool sender_done;

/* The receiver's block. */
byte taken = START;
byte returned[GRANTS] = START;
bool block_gone;

/* The receiver's own. */
byte count = START;		/* of entries */
byte slot[GRANTS] = NONE;	/* the object */
byte slot_count[GRANTS] = START; /* where the count of the slot's next grant goes on */
typedef object { bool live; byte buffer; byte grant; byte count; byte refs; bool closed }
object obj[OBJECTS];
byte held[OBJECTS];		/* ghost: references of the program */
byte using[BUFFERS];		/* ghost: likewise */
bool stops;			/* ghost: the receiver takes no more messages */
bool receiver_done;
byte clones;
bool within;			/* ghost: more of its batch must come */
byte last_number;		/* ghost: of the last message that has come */

#define FIRST_OBJECT	(!obj[0].live -> 0 : (!obj[1].live -> 1 : (!obj[2].live -> 2 : NONE)))

/* A count of the share goes: a lease ends, or a record is dropped. In a d_step. */
inline share_put(kb)
{
	assert(share[kb] > 0);
	share[kb]--;
	if
	:: share[kb] == 0 ->
		shared[kb] = false;
		reported[kb] = reported[kb] || refs[kb] == 0 && !mark[kb] && !dead_sender
	:: else
	fi
}

/* The caller owns the buffer, and frees it. In a d_step. */
inline push(pb)
{
	assert(!is_free[pb] && refs[pb] == 0 && own[pb] == 0);
	assert(mark[pb] || !shared[pb]);
	/* From now on the owner may write to it. */
	assert(LIES || dead_receiver || using[pb] == 0 && (flying[pb] == 0 || stops));
	is_free[pb] = true
}

/* A thread drops a reference. In a d_step. */
inline drop(db)
{
	assert(refs[db] > 0);
	refs[db]--;
	only_shared = (refs[db] == 0 && shared[db]);
	if
	:: refs[db] == 0 && !shared[db] -> push(db)
	:: else
	fi
}

/* If nothing but the kernel's share was left, the thread may free the buffer all the same. */
inline free_shared(fb)
{
	if
	:: d_step { only_shared -> only_shared = !sealed[fb] }
		if
		:: d_step {
			only_shared &&
			(refs[fb] == 0 && shared[fb] && !mark[fb] || BROKEN == BLIND_FREE) ->
			mark[fb] = true;
			only_shared = false
		   }
			/* The look may have been at an earlier use of the buffer. */
			if
			:: d_step { !sealed[fb] || BROKEN == ONE_LOOK -> push(fb) }
			:: else ->
				d_step {
					mark[fb] = false;
					if
					:: !shared[fb] -> push(fb)
					:: else
					fi
				}
			fi
		:: else -> only_shared = false
		fi
	:: else
	fi
}

#if LIES != SENDER

/* The lane ends for its sender: it closes, or its peer has, or has broken the rules. */
inline lane_end()
{
	d_step { ended = true; n = 0; g = 0 }
	do
	:: g < GRANTS && outstanding[g] > 0 ->
		e = granted[g];
		if
		:: BROKEN != NO_SEAL && BROKEN != LATE_SEAL -> sealed[e] = true
		:: else
		fi;
		do
		:: d_step { outstanding[g] > 0 -> outstanding[g]--; drop(e) }
			free_shared(e)
		:: else -> break
		od;
		if
		:: BROKEN == LATE_SEAL -> sealed[e] = true
		:: else
		fi;
		g++
	:: g < GRANTS && outstanding[g] == 0 -> g++
	:: g == GRANTS -> break
	od;
	atomic { e = 0; closed_sender = true }
}

inline broken_rule()
{
	assert(LIES == RECEIVER);
	lane_end()
}

/* Takes the references of the messages that the peer has returned. */
inline collect(cg)
{
	n = less(returned[cg], seen[cg]);
	if
	:: n > outstanding[cg] && BROKEN != ANY_RETURNED -> broken_rule()
	:: else ->
		e = granted[cg];
		do
		:: d_step {
			n > 0 ->
			n--;
			assert(outstanding[cg] > 0);
			outstanding[cg]--;
			seen[cg] = (seen[cg] + 1) % MOD;
			drop(e)
		   }
			free_shared(e)
		:: else -> break
		od;
		e = 0
	fi
}

/* Writes an entry, but for its turn. In a d_step. */
inline write_fields(at, what, which)
{
	ring[(at) % RING].kind = what;
	ring[(at) % RING].grant = which;
	ring[(at) % RING].number = sends;
	ring[(at) % RING].more = false
}

inline write_turn(at)
{
	ring[(at) % RING].turn = (at + 1) % MOD
}

/* How many entries the ring has room for, or NONE if the peer has lied. */
inline look_for_room()
{
	d_step {
		n = taken;
		if
		:: less(n, known_taken) > less(head, known_taken) && BROKEN != ANY_TAKEN -> n = NONE
		:: else -> known_taken = n; n = RING - less(head, known_taken)
		fi;
		assert(n == NONE || n <= RING);
		g = (granted[0] == b -> 0 : (granted[GRANTS - 1] == b -> GRANTS - 1 : NONE))
	}
}

/* Two messages of a buffer that is granted. Another reference is taken for one of them. */
inline send_batch()
{
	d_step {
		sends++;
		flying[b] = flying[b] + 2;
		mine = false;
		refs[b]++;
		outstanding[g] = outstanding[g] + 2;
		write_fields(head, MESSAGE, g);
		ring[head % RING].more = true;
		sends++;
		write_fields(head + 1, MESSAGE, g)
	}
	if
	:: BROKEN == FIRST_TURN -> write_turn(head)
	:: else -> write_turn(head + 1)
	fi;
	d_step {
		if
		:: BROKEN == FIRST_TURN -> write_turn(head + 1)
		:: else -> write_turn(head)
		fi;
		head = (head + 2) % MOD
	}
}

/* A message of a buffer that is granted. */
inline send_message()
{
	d_step {
		sends++;
		flying[b]++;
		mine = false;
		outstanding[g] = outstanding[g] + (BROKEN == LATE_COUNT -> 0 : 1);
		if
		:: BROKEN == TURN_FIRST -> write_turn(head)
		:: else -> write_fields(head, MESSAGE, g)
		fi
	}
	d_step {
		if
		:: BROKEN == TURN_FIRST -> write_fields(head, MESSAGE, g)
		:: else -> write_turn(head)
		fi;
		head = (head + 1) % MOD
	}
	if
	:: BROKEN == LATE_COUNT -> collect(g); outstanding[g]++
	:: else
	fi
}

/* A new grant. One more reference is taken, and the record takes it over. */
inline write_record()
{
	d_step {
		n = (closed_receiver || len(records) == 2 -> NONE : n);
		if
		:: n != NONE ->
			share[b]++;
			shared[b] = true;
			records!b, sends
		:: else
		fi
	}
}

inline send_record()
{
	d_step { sends++; flying[b]++; n = (granted[g] == NONE -> 0 : 1) }
	if
	:: BROKEN != EARLY_ENTRY -> write_record()
	:: else
	fi;
	if
	:: n == NONE -> d_step { sends--; flying[b]-- }
	:: else ->
		/* The slot's former grant is taken back in the same batch. */
		d_step {
			granted[g] = b;
			outstanding[g] = 1;
			mine = false;
			if
			:: n == 1 -> write_fields(head, TAKE_BACK, g)
			:: else
			fi;
			write_fields(head + n, RECORD, g)
		}
		write_turn(head + n);
		d_step {
			if
			:: n == 1 -> write_turn(head)
			:: else
			fi;
			head = (head + n + 1) % MOD
		}
		if
		:: BROKEN == EARLY_ENTRY -> write_record()
		:: else
		fi
	fi
}

active proctype sender()
{
	byte b, e, g, n, sends;
	bool only_shared, mine;

	{
		do
		:: atomic {
			sends < SENDS && !ended && (is_free[0] || is_free[1]);
			if
			:: is_free[0] -> b = 0
			:: is_free[1] -> b = 1
			fi;
			/* The owner takes a buffer, and writes to it. */
			is_free[b] = false;
			sealed[b] = false;
			mark[b] = false;
			assert(refs[b] == 0);
			refs[b] = 2;
			own[b] = 2;
			b = 0
		   }
		:: atomic {
			sends < SENDS && !ended && (own[0] > 0 || own[1] > 0);
			if
			:: own[0] > 0 -> b = 0
			:: own[1] > 0 -> b = 1
			fi;
			own[b]--;
			mine = true
		   }
			look_for_room();
			if
			:: n == NONE -> broken_rule()
			:: n != NONE && n > 0 && g != NONE && outstanding[g] < MOD - 1 ->
				if
				:: BATCH && n == 2 && outstanding[g] < MOD - 2 -> send_batch()
				:: send_message()
				fi
			:: n != NONE && n > 0 && g == NONE ->
				if
				:: g = 0
				:: GRANTS > 1 -> g = 1
				fi;
				if
				:: granted[g] == NONE ||
				   n == 2 && (outstanding[g] == 0 || BROKEN == EARLY_TAKE_BACK) ->
					send_record()
				:: else
				fi
			:: else
			fi;
			/* It keeps a reference that it hasn't sent. */
			atomic { own[b] = own[b] + mine; mine = false; b = 0; g = 0; n = 0 }
		:: atomic {
			ended && (own[0] > 0 || own[1] > 0);
			b = (own[0] > 0 -> 0 : 1);
			d_step { own[b]--; drop(b) }
		   }
			free_shared(b);
			b = 0
		:: !ended && outstanding[0] > 0 && returned[0] != seen[0] ->
			collect(0);
			atomic { b = 0; g = 0; n = 0 }
		:: GRANTS > 1 && !ended && outstanding[GRANTS - 1] > 0 &&
		   returned[GRANTS - 1] != seen[GRANTS - 1] ->
			collect(GRANTS - 1);
			atomic { b = 0; g = 0; n = 0 }
		:: !ended && (closed_receiver || sends == SENDS) ->
			lane_end();
			atomic { b = 0; g = 0; n = 0 }
		:: atomic {
			reported[0] || reported[1];
			if
			:: reported[0] -> b = 0
			:: reported[1] -> b = 1
			fi;
			reported[b] = false;
			/* A bit of the bitmap is a hint. */
			if
			:: refs[b] == 0 && !shared[b] && !mark[b] -> d_step { push(b) }
			:: else
			fi;
			b = 0
		   }
		:: ended && is_free[0] && is_free[1] -> break
		od;
		sender_done = true
	} unless {
		atomic {
			dead_sender ->
			b = 0;
			e = 0;
			g = 0;
			n = 0;
			sends = 0;
			only_shared = false;
			mine = false
		}
	}
}

#if SECOND
active proctype second()
{
	bool only_shared;
	byte b;

	{
end:		do
		:: atomic {
			own[0] > 0 || own[1] > 0;
			if
			:: own[0] > 0 -> b = 0
			:: own[1] > 0 -> b = 1
			fi;
			d_step { own[b]--; drop(b) }
		   }
			free_shared(b);
			b = 0
		od
	} unless {
		atomic { dead_sender -> b = 0; only_shared = false }
	}
}
#endif

#else

/* A sender that lies. The words of its buffers are its own affair. */
active proctype liar()
{
	byte i, records_left = SENDS;

	{
		do
		:: atomic {
			/* The receiver looks at no other entry, and for no other turn. */
			i = count % RING;
			if
			:: ring[i].turn = (count + 1) % MOD
			:: ring[i].grant = 0
			:: ring[i].grant = GRANTS
			:: ring[i].kind = MESSAGE
			:: ring[i].kind = RECORD
			:: ring[i].kind = TAKE_BACK
			fi;
			i = 0
		   }
		:: d_step {
			records_left > 0 && len(records) < 2 && !closed_receiver ->
			records_left--;
			share[0]++;
			records!0, 0
		   }
		:: true -> break
		od;
		closed_sender = true
	} unless { dead_sender }
}

#endif

#if LIES != RECEIVER

/* In a d_step. */
inline end_grant(go)
{
	assert(obj[go].live && obj[go].refs == 0 && held[go] == 0);
	share_put(obj[go].buffer);
	obj[go].live = false;
	obj[go].closed = false;
	obj[go].count = 0;
	obj[go].grant = 0;
	obj[go].buffer = 0;
	block_gone = block_gone || closed_receiver && !obj[0].live && !obj[1].live && !obj[2].live
}

/* The grant of a slot ends now, or when its last message is released. In a d_step. */
inline close_grant(cg)
{
	obj[slot[cg]].closed = true;
	slot_count[cg] = obj[slot[cg]].count;
	o = slot[cg];
	if
	:: BROKEN == KEPT_SLOT && obj[o].refs > 0
	:: else -> slot[cg] = NONE
	fi;
	if
	:: obj[o].refs == 0 -> end_grant(o)
	:: else
	fi;
	o = 0
}

inline close_lane()
{
	d_step { stops = true; g = 0; n = 0 }
	do
	:: d_step {
		g < GRANTS ->
		if
		:: slot[g] != NONE && !obj[slot[g]].closed -> close_grant(g)
		:: else
		fi;
		g++
	   }
	:: else -> break
	od;
	atomic {
		closed_receiver = true;
		block_gone = (!obj[0].live && !obj[1].live && !obj[2].live || BROKEN == BLOCK_GOES);
	}
	do
	:: d_step { len(records) > 0 -> records?b, n; share_put(b) }
	:: len(records) == 0 -> break
	od
}

inline check_order(number)
{
	assert(LIES || number == last_number + 1);
	last_number = (LIES -> 0 : number)
}

inline copy_entry()
{
	kind = ring[count % RING].kind;
	g = ring[count % RING].grant;
	n = ring[count % RING].number;
	within = !LIES && ring[count % RING].more
}

/* In a d_step. Clears @ok if the peer has broken the rules. */
inline receive()
{
	ok = true;
	if
	:: kind == MESSAGE && slot[g] != NONE ->
		o = slot[g];
		check_order(n);
		obj[o].count = (obj[o].count + 1) % MOD;
		obj[o].refs++;
		held[o]++;
		using[obj[o].buffer]++;
		flying[obj[o].buffer] = flying[obj[o].buffer] - (!LIES && !dead_sender)
	:: kind == RECORD && slot[g] == NONE && len(records) > 0 ->
		check_order(n);
		o = FIRST_OBJECT;
		records?b, n;
		obj[o].live = true;
		obj[o].buffer = b;
		obj[o].grant = g;
		obj[o].count = (slot_count[g] + 1) % MOD;
		obj[o].refs = 1;
		slot[g] = o;
		held[o] = 1;
		using[b]++;
		flying[b] = flying[b] - (!LIES && !dead_sender)
	:: kind == TAKE_BACK && slot[g] != NONE -> close_grant(g)
	:: else -> ok = false
	fi
}

active proctype receiver()
{
	byte b, g, o, n, kind;
	bool ok;

	{
		do
		:: true -> break	/* it closes */
		:: closed_sender ->
			if
			:: ring[count % RING].turn != (count + 1) % MOD -> assert(!within); break
			:: else
			fi
		:: ring[count % RING].turn == (count + 1) % MOD && FIRST_OBJECT != NONE &&
		   (!LIES || using[0] + using[1] < 2) ->
			if
			:: BROKEN == EARLY_TAKEN -> taken = (count + 1) % MOD
			:: else
			fi;
			d_step { copy_entry() }
			if
			:: BROKEN == READ_TWICE && g < GRANTS -> d_step { copy_entry() }
			:: else
			fi;
			assert(BROKEN != READ_TWICE || g < GRANTS);
			d_step {
				ok = false;
				if
				:: g < GRANTS -> receive()
				:: else
				fi;
				count = (count + ok) % MOD;
				b = 0;
				g = 0;
				o = 0;
				n = 0;
				kind = 0
			}
			if
			:: ok
			:: else -> assert(LIES == SENDER); break
			fi;
			d_step { ok = false; taken = count }
		od;
		/* A record that has no entry was never sent. */
		close_lane();
		receiver_done = true
	} unless {
		atomic { dead_receiver -> b = 0; g = 0; o = 0; n = 0; kind = 0; ok = false }
	}
}

/* Some object with a message that the program uses. */
inline pick()
{
	held[0] > 0 || held[1] > 0 || held[2] > 0;
	if
	:: held[0] > 0 -> o = 0
	:: held[1] > 0 -> o = 1
	:: held[2] > 0 -> o = 2
	fi
}

/*
 * A thread reads the word of the grant. If its reference is the last one of a grant that goes on,
 * it first says what has been returned. Otherwise it drops the reference at once. In a d_step.
 */
inline look()
{
	assert(obj[o].live && obj[o].refs > 0);
	publish = (obj[o].refs == 1 && (!obj[o].closed || BROKEN == RETURN_AGAIN && returning));
	returning = publish;
	c = obj[o].count;
	if
	:: BROKEN == LATE_RETURN && publish -> obj[o].refs--
	:: !publish ->
		obj[o].refs--;
		if
		:: obj[o].refs == 0 ->
			if
			:: BROKEN == KEPT_SLOT -> slot[obj[o].grant] = NONE
			:: else
			fi;
			end_grant(o)
		:: else
		fi
	:: else
	fi
}

active [RELEASERS] proctype releaser()
{
	byte o, c;
	bool publish, returning;

	{
end:		do
		:: atomic {
			pick();
			d_step {
				/* The program has done with the message. */
				held[o]--;
				using[obj[o].buffer]--;
				look()
			}
		   }
			do
			:: publish ->
				d_step { assert(!block_gone); returned[obj[o].grant] = c }
				d_step {
					if
					:: BROKEN == LATE_RETURN -> publish = false
					:: BROKEN != LATE_RETURN && obj[o].refs == 1 &&
					   obj[o].count == c && !obj[o].closed ->
						obj[o].refs--;
						publish = false
					:: else -> look()	/* the word has changed */
					fi
				}
			:: else -> break
			od;
			atomic { o = 0; c = 0; publish = false; returning = false }
		:: atomic {
			clones < CLONES && (held[0] > 0 || held[1] > 0 || held[2] > 0);
			pick();
			clones++;
			held[o]++;
			obj[o].refs++;
			using[obj[o].buffer]++;
			o = 0
		   }
		od
	} unless {
		atomic { dead_receiver -> o = 0; c = 0; publish = false; returning = false }
	}
}

#else

/* A receiver that lies. It keeps the leases that it gets, for a while. */
active proctype liar()
{
	byte b, n, leases[BUFFERS];

	{
		do
		:: taken = 0
		:: taken = 1
		:: taken = 2
		:: taken = 3
		:: returned[0] = 0
		:: returned[0] = 1
		:: returned[0] = 2
		:: returned[0] = 3
		:: d_step { len(records) > 0 -> records?b, n; leases[b]++; b = 0; n = 0 }
		:: d_step { leases[0] > 0 -> leases[0]--; share_put(0) }
		:: d_step { leases[1] > 0 -> leases[1]--; share_put(1) }
		:: true -> break
		od;
		do
		:: d_step { leases[0] > 0 -> leases[0]--; share_put(0) }
		:: d_step { leases[1] > 0 -> leases[1]--; share_put(1) }
		:: leases[0] + leases[1] == 0 -> break
		od;
		closed_receiver = true;
		do
		:: d_step { len(records) > 0 -> records?b, n; share_put(b); b = 0; n = 0 }
		:: len(records) == 0 -> break
		od;
		receiver_done = true
	} unless { dead_receiver }
}

#endif

#define FORGET(what)	what[0] = 0; what[1] = 0;

/* The death of a process, and what the kernel does then. */
active proctype kernel()
{
	byte b, n;

	if
	:: DEATHS == SENDER ->
		/* Nothing is left of its own but what others can see. */
		d_step {
			dead_sender = true;
			FORGET(refs)
			FORGET(mark)
			FORGET(sealed)
			FORGET(is_free)
			FORGET(reported)
			FORGET(own)
			FORGET(flying)
			known_taken = 0;
			outstanding[0] = 0;
			outstanding[GRANTS - 1] = 0;
			seen[0] = 0;
			seen[GRANTS - 1] = 0;
			granted[0] = 0;
			granted[GRANTS - 1] = 0
		}
		closed_sender = true
	:: DEATHS == RECEIVER ->
		dead_receiver = true;
		do
		:: d_step {
			n < OBJECTS ->
			if
			:: obj[n].live -> share_put(obj[n].buffer); obj[n].live = false
			:: else
			fi;
			obj[n].buffer = 0;
			obj[n].grant = 0;
			obj[n].count = 0;
			obj[n].refs = 0;
			obj[n].closed = false;
			held[n] = 0;
			n++
		   }
		:: else -> break
		od;
		atomic {
			FORGET(using)
			FORGET(flying)
			count = 0;
			last_number = 0;
			within = false;
			clones = 0
		}
		closed_receiver = true;
		do
		:: d_step { len(records) > 0 -> records?b, n; share_put(b) }
		:: len(records) == 0 -> break
		od;
		atomic { b = 0; n = 0 }
	:: true
	fi;
	timeout;
	assert(sender_done || dead_sender || LIES == SENDER);
	assert(receiver_done || dead_receiver);
	assert(share[0] + share[1] == 0);
	assert(!obj[0].live && !obj[1].live && !obj[2].live)
}
