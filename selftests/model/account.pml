/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model for spin of the charge of a folio whose owner goes, as kernel/slab.c and lease.c
 * implement it. Two lessees get leases on the folio and let them end, while the owner goes.
 * An atomic block stands for the code under one lock.
 *
 * The model checks that when all tasks have finished, the folio is charged to a lessee that
 * has a lease, or to the owner if none has.
 *
 * BROKEN picks a change that breaks the protocol, to show that the check finds it.
 */
#ifndef BROKEN
#define BROKEN	0
#endif

/* The broken variants. */
#define NO_LOOK		1	/* a lease that comes isn't charged for */
#define EARLY_LOOK	2	/* a task looks for the owner's death before the lease comes */
#define LATE_MARK	3	/* the owner charges, then says that it has gone */
#define END_EARLY_LOOK	4	/* a task looks for the owner's death before the lease goes */

#define LESSEES	2
#define OWNER	LESSEES

bool orphaned;
bool lease[LESSEES];
byte charged = OWNER;
byte running = LESSEES + 1;

/* evpl_slab_recharge() */
inline recharge()
{
	atomic {
		if
		:: lease[0] -> charged = 0
		:: !lease[0] && lease[1] -> charged = 1
		:: else -> charged = OWNER
		fi
	}
}

proctype lessee(byte who)
{
	bool gone;
	byte round;

	do
	:: round < 2 ->
		round++;
#if BROKEN == EARLY_LOOK
		gone = orphaned;
		lease[who] = true;
#else
		lease[who] = true;
		gone = orphaned;
#endif
		if
#if BROKEN != NO_LOOK
		:: gone -> recharge()
#endif
		:: else
		fi;
		/* It may keep the lease for good. */
		if
		:: break
		:: skip
		fi;
#if BROKEN == END_EARLY_LOOK
		gone = orphaned;
		lease[who] = false;
#else
		lease[who] = false;
		gone = orphaned;
#endif
		if
		:: gone -> recharge()
		:: else
		fi
	:: else -> break
	od;
	running--
}

proctype owner()
{
#if BROKEN == LATE_MARK
	recharge();
	orphaned = true;
#else
	orphaned = true;
	recharge();
#endif
	running--
}

init {
	atomic {
		run owner();
		run lessee(0);
		run lessee(1)
	}
	running == 0;
	if
	:: charged == OWNER -> assert(!lease[0] && !lease[1])
	:: else -> assert(lease[charged])
	fi
}
