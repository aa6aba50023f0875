/* One round's decision: ballots, promises, Ready and Commit, explored exhaustively for small views.
 *
 * The code is prime/trainer/round/voting.py and leading.py, the protocol spec/protocols/round.md, how to run this spec/model/README.md. Rules
 * have the names that prime/sim/decision.py checks along the simulator's traces.
 *
 * Bounds, set with -D: N members (3 to 5), BALLOTS ballots led in one round, the first one among them (2 to 4), LOSSES
 * disks lost (no bound unless set). Crashes are not bounded, nor are losses, doubles and delays of messages.
 *
 * What is left out, and why nothing is missed by it:
 * - Messages. Each kind is a set that only grows; who looks sees any part of it, at any time, any number of times. That is
 *   loss, doubling and reordering at once.
 * - Ballots (counter, rank) are numbered in their order, 1 to BALLOTS, skipping those that nobody leads in a run. So all
 *   runs with at most BALLOTS led ballots are here, whatever their counters.
 * - Names. Members 1 to N-1 are alike until they act, so only those assignments of ballots to leaders are tried in which
 *   new leaders come in the order of their numbers; all others are these with other names.
 * - Values. The protocol compares values and does nothing else with them. If two decisions could differ, call one VALUE
 *   and all others ABORT: the run would be one of these.
 * - Time, suspicion, heartbeats, Nack, `following`: they only decide who acts when. Here anybody may act at any time.
 * - Being down. A member that is down is one that does nothing for a while, so a crash is a restart at once.
 * - Hearing of the decision. Who knows it takes no further part: again one that does nothing.
 * - Commands of one step are one transition, `Persist` and then `Send`. To die between the two is the same, for all who
 *   look, as to die after both with the message lost. The other order is not the same: BUG_EARLY_READY.
 * - Bytes. A vote and the bytes of its value are one write. Who holds bytes in memory matters to progress only, so a
 *   fetch that finds nobody, and the higher ballot that it ends in, are not here.
 * - What nobody will look at again is set to 0 or to one form, so that equal states are equal: the promises of a ballot
 *   whose leader has proposed or leads no more, the disk that is lost, single votes where there is a majority.
 */

#ifndef N
#define N 3
#endif
#ifndef BALLOTS
#define BALLOTS 3
#endif
#ifndef LOSSES
#define LOSSES N
#endif

#define MAJORITY (N / 2 + 1)
#define FIRST 1 /* ballots are 1 to BALLOTS; 0 is none */
#define NOTHING 0
#define ABORT 1 /* values are bits, so that a set of them is a number */
#define VALUE 2
#define BOTH 3

#define AT(m, b) ((m) * BALLOTS + (b) - 1)

mtype = { one_decision, value_proposed, one_value, one_ready, promise_kept, bytes_on_disk, ballot_once,
    every_run_decides, witness }

byte leader[BALLOTS + 1]; /* who leads each ballot; fixed before the round, as a ballot carries its leader's rank */

/* The disk of each member: what is left of it after a crash. */
byte disk_promised[N];
byte disk_ballot[N]; /* the highest ballot it accepted under, and the value */
byte disk_value[N];
bit lost[N]; /* it has no disk any more: no member of this round */

/* The memory of each member. */
byte promised[N];
byte ballot[N];
byte value[N];
byte leads[N];    /* the ballot that it leads, 0 for none */
byte proposes[N]; /* the value that it proposed under that ballot, 0 for none yet */
bit fresh;        /* member 0, whom the first ballot belongs to, has not restarted in this round */

/* All that was ever said. */
bit prepare[BALLOTS + 1];
byte promise[N * BALLOTS]; /* 0, or PROMISE(the highest ballot accepted under, its value) */
byte propose[BALLOTS + 1]; /* a set of values */
byte ready[N * BALLOTS];   /* a set of values */
byte commit;               /* a set of values */

/* Seen by the rules alone: the highest ballot that each member has answered, whatever its disk says. */
byte answered[N];

#define PROMISE(b, v) (1 + 4 * (b) + (v))
#define REPORTED_BALLOT(p) (((p) - 1) / 4)

#if N == 3
#define COUNT(P, b, x) (P(0, b, x) + P(1, b, x) + P(2, b, x))
#elif N == 4
#define COUNT(P, b, x) (P(0, b, x) + P(1, b, x) + P(2, b, x) + P(3, b, x))
#elif N == 5
#define COUNT(P, b, x) (P(0, b, x) + P(1, b, x) + P(2, b, x) + P(3, b, x) + P(4, b, x))
#endif

#define IS_READY(m, b, v) ((ready[AT(m, b)] & (v)) != 0)
#define IS_LOST(m, b, x) (lost[m])
#ifdef BUG_FORGET_BYTES
#define HAS_BYTES(m, b, x) false
#else
#define HAS_BYTES(m, b, x) (disk_value[m] == VALUE) /* a vote and its bytes are one write; a later vote replaces both */
#endif
#define REPORTS(m, b, p) (promise[AT(m, b)] == (p))
#define NOT_ABOVE(m, b, top) (promise[AT(m, b)] != 0 && REPORTED_BALLOT(promise[AT(m, b)]) <= (top))

#define CHOSEN_AT(b, v) (COUNT(IS_READY, b, v) >= MAJORITY)
#if BALLOTS == 2
#define CHOSEN(v) (CHOSEN_AT(1, v) || CHOSEN_AT(2, v))
#define EACH_LATER_BALLOT(ACT) ACT(2)
#elif BALLOTS == 3
#define CHOSEN(v) (CHOSEN_AT(1, v) || CHOSEN_AT(2, v) || CHOSEN_AT(3, v))
#define EACH_LATER_BALLOT(ACT) ACT(2) ACT(3)
#elif BALLOTS == 4
#define CHOSEN(v) (CHOSEN_AT(1, v) || CHOSEN_AT(2, v) || CHOSEN_AT(3, v) || CHOSEN_AT(4, v))
#define EACH_LATER_BALLOT(ACT) ACT(2) ACT(3) ACT(4)
#endif
#define EACH_BALLOT(ACT) ACT(1) EACH_LATER_BALLOT(ACT)

/* A rule that does not hold ends the search; `spin -t` prints its name. */
inline break_rule(name) {
    printf("rule broken: %e\n", name);
    assert(false)
}
#define RULE(name, holds) if :: !(holds) -> break_rule(name) :: else fi
#ifdef AGREEMENT_ONLY /* to see that a mutation leads to two decisions, not just to a rule's complaint on the way */
#define STEP_RULE(name, holds) skip
#else
#define STEP_RULE(name, holds) RULE(name, holds)
#endif

inline one_decision_rule() {
    RULE(one_decision, !(CHOSEN(ABORT) && CHOSEN(VALUE)) && commit != BOTH)
}

/* While most disks live, the bytes of what was decided are on one of them. */
inline bytes_on_disk_rule() {
    STEP_RULE(bytes_on_disk, commit != VALUE || COUNT(IS_LOST, 0, 0) >= MAJORITY || COUNT(HAS_BYTES, 0, 0) > 0)
}

inline answer(m, b) {
    STEP_RULE(promise_kept, answered[m] <= b);
    answered[m] = (answered[m] > b -> answered[m] : b)
}

/* Promises are read by a leader that has not proposed yet, and it never leads that ballot again (`ballot_once`). */
inline drop_promises(b) {
#ifndef BUG_FORGET_BALLOT
    promise[AT(0, b)] = 0;
    promise[AT(1, b)] = 0;
    promise[AT(2, b)] = 0;
#if N > 3
    promise[AT(3, b)] = 0;
#endif
#endif
    skip
}

inline stop_leading(m) {
    if
    :: leads[m] != 0 -> drop_promises(leads[m])
    :: else
    fi;
    leads[m] = 0;
    proposes[m] = NOTHING
}

/* A member that hears of a ballot above the one that it leads leads no more. */
inline follow(m, b) {
    if
    :: leads[m] != 0 && leads[m] < b -> stop_leading(m)
    :: else
    fi
}

inline write_promise(m, b) {
    promised[m] = b;
#ifndef BUG_FORGET_PROMISE
    disk_promised[m] = b
#endif
}

/* ------------------------------------------------------------------------------------------------- as a leader */

inline say_proposal(m, b, v) {
    proposes[m] = v;
    propose[b] = propose[b] | (v);
    drop_promises(b);
    STEP_RULE(one_value, propose[b] != BOTH)
}

/* The first leader's first ballot has no phase 1: nobody can have accepted anything before it. */
#ifdef BUG_LEAD_AGAIN
#define MAY_LEAD_FIRST (me == leader[FIRST] && promised[me] == 0 && leads[me] == 0)
#else
#define MAY_LEAD_FIRST (me == leader[FIRST] && promised[me] == 0 && leads[me] == 0 && fresh)
#endif

inline lead_first(m, v) {
    leads[m] = FIRST;
    say_proposal(m, FIRST, v)
}

/* `_open`: the number is on the disk before anybody hears of it. Its leader is the first to promise. */
inline open(m, b) {
    STEP_RULE(ballot_once, !prepare[b]);
    answer(m, b);
#ifdef BUG_FORGET_BALLOT
    promised[m] = b;
#else
    write_promise(m, b);
#endif
    stop_leading(m);
    leads[m] = b;
    prepare[b] = 1;
    promise[AT(m, b)] = PROMISE(ballot[m], value[m])
}

/* `_end_phase_one`, from any majority of the promises with the leader's own among them, whose highest vote is `top`:
 * with it belong all promises that report a lower vote or none, so that it is enough to count those. */
#ifdef BUG_SKIP_PHASE_ONE
#define MAY_CHOOSE(b) (leads[me] == (b) && proposes[me] == NOTHING)
#else
#define MAY_CHOOSE(b) MAY_CARRY(b, 0)
#endif
#define MAY_CARRY(b, top) (leads[me] == (b) && proposes[me] == NOTHING && NOT_ABOVE(me, b, top) && \
    COUNT(NOT_ABOVE, b, top) >= MAJORITY)
#ifdef BUG_CARRY_ANY
#define CARRIES(b, under, v) (leads[me] == (b) && proposes[me] == NOTHING && \
    COUNT(NOT_ABOVE, b, BALLOTS) >= MAJORITY && COUNT(REPORTS, b, PROMISE(under, v)) > 0)
#else
#define CARRIES(b, under, v) (MAY_CARRY(b, under) && COUNT(REPORTS, b, PROMISE(under, v)) > 0)
#endif

/* `_count_votes` and `_decided`. */
#ifdef BUG_ANY_MINORITY
#define ENOUGH (N - MAJORITY) /* as many as a majority may miss; of four, two would do, as two and three share one */
#else
#define ENOUGH MAJORITY
#endif

inline decide(b, v) {
#ifdef WITNESS /* not a rule: its violation shows that the last ballot can decide this value */
    RULE(witness, !(b == BALLOTS && v == WITNESS));
#endif
    commit = commit | (v);
    STEP_RULE(value_proposed, (propose[1] | propose[2] | propose[BALLOTS - 1] | propose[BALLOTS]) & (v));
    one_decision_rule();
    bytes_on_disk_rule()
}

/* ------------------------------------------------------------------------------------------------ as an acceptor */

/* `_hear_prepare`: promise, write it down, and report the vote under the highest ballot. */
inline give_promise(m, b) {
    answer(m, b);
    write_promise(m, b);
    follow(m, b);
    if
    :: leads[leader[b]] == b && proposes[leader[b]] == NOTHING -> promise[AT(m, b)] = PROMISE(ballot[m], value[m])
    :: else
    fi
}

/* One vote more or less tells nothing once there is a majority: states that differ so become one. */
inline all_ready(b, v) {
    ready[AT(0, b)] = ready[AT(0, b)] | (v);
    ready[AT(1, b)] = ready[AT(1, b)] | (v);
    ready[AT(2, b)] = ready[AT(2, b)] | (v);
#if N > 3
    ready[AT(3, b)] = ready[AT(3, b)] | (v)
#endif
}

/* `_try_ready`: with the bytes, and after value and bytes are on the disk. */
inline say_ready(m, b, v) {
    answer(m, b);
    follow(m, b);
    promised[m] = b; ballot[m] = b; value[m] = v;
#ifndef BUG_FORGET_READY
    disk_promised[m] = b; disk_ballot[m] = b; disk_value[m] = v;
#endif
    ready[AT(m, b)] = ready[AT(m, b)] | (v);
    STEP_RULE(one_ready, ready[AT(m, b)] != BOTH);
    one_decision_rule();
    if
    :: CHOSEN_AT(b, v) -> all_ready(b, v)
    :: else
    fi
}

#ifdef BUG_BELOW_PROMISE
#define MAY_READY(b, v) ((propose[b] & (v)) && (b) > ballot[me])
#else
#define MAY_READY(b, v) ((propose[b] & (v)) && (b) >= promised[me] && (b) != ballot[me])
#endif

/* ---------------------------------------------------------------------------------------------------- the faults */

inline restart(m) {
    promised[m] = disk_promised[m];
    ballot[m] = disk_ballot[m];
    value[m] = disk_value[m];
    stop_leading(m);
    fresh = fresh && m != 0
}

inline lose_disk(m) {
    stop_leading(m);
    disk_promised[m] = 0; disk_ballot[m] = 0; disk_value[m] = NOTHING;
    promised[m] = 0; ballot[m] = 0; value[m] = NOTHING;
    answered[m] = 0;
    fresh = fresh && m != 0;
#ifndef BUG_LOST_DISK_VOTES
    lost[m] = 1;
#endif
    bytes_on_disk_rule()
}

#ifdef QUIET /* the last leader stays, and so does a majority of the disks: then all who live decide */
#ifdef BUG_LAST_LEADER_DIES
#define MAY_CRASH true
#else
#define MAY_CRASH (leads[me] != BALLOTS)
#endif
#define MAY_LOSE (me != leader[BALLOTS] && COUNT(IS_LOST, 0, 0) < N - MAJORITY)
#define ACTS(m) (!lost[m] && commit == 0)
#else
#define ACTS(m) (!lost[m])
#define MAY_CRASH true
#define MAY_LOSE (COUNT(IS_LOST, 0, 0) < LOSSES)
#endif
#define SOMETHING_IN_MEMORY (leads[me] != 0 || (fresh && me == 0) || promised[me] != disk_promised[me] || \
    ballot[me] != disk_ballot[me])

/* ------------------------------------------------------------------------------------------------ what may happen */

#define DECIDE(b, v) \
    :: d_step { ACTS(me) && leads[me] == (b) && proposes[me] == (v) && COUNT(IS_READY, b, v) >= ENOUGH -> \
           decide(b, v) }
#define READY(b, v) \
    :: d_step { ACTS(me) && MAY_READY(b, v) -> say_ready(me, b, v) }
#define VOTE(b) READY(b, ABORT) READY(b, VALUE) DECIDE(b, ABORT) DECIDE(b, VALUE)
#define EARLY(b) /* a vote is given, and then the member dies before it is on the disk */ \
    :: d_step { ACTS(me) && MAY_READY(b, ABORT) -> ready[AT(me, b)] = ready[AT(me, b)] | ABORT; restart(me) } \
    :: d_step { ACTS(me) && MAY_READY(b, VALUE) -> ready[AT(me, b)] = ready[AT(me, b)] | VALUE; restart(me) }
#define CARRY(b, under, v) \
    :: d_step { ACTS(me) && CARRIES(b, under, v) -> say_proposal(me, b, v) }
#define CARRY_ON(b, under) CARRY(b, under, ABORT) CARRY(b, under, VALUE)
#define CHOOSE(b, v) \
    :: d_step { ACTS(me) && MAY_CHOOSE(b) -> say_proposal(me, b, v) }
#define PHASE_ONE(b) \
    :: d_step { ACTS(me) && leader[b] == me && (b) > promised[me] -> open(me, b) } \
    :: d_step { ACTS(me) && leader[b] != me && prepare[b] && (b) > promised[me] -> give_promise(me, b) } \
    CHOOSE(b, ABORT) CHOOSE(b, VALUE)

proctype member(byte me) {
    do
    :: d_step { ACTS(me) && MAY_LEAD_FIRST -> lead_first(me, ABORT) }
    :: d_step { ACTS(me) && MAY_LEAD_FIRST -> lead_first(me, VALUE) }
    EACH_LATER_BALLOT(PHASE_ONE)
    CARRY_ON(2, 1)
#if BALLOTS >= 3
    CARRY_ON(3, 1)
    CARRY_ON(3, 2)
#endif
#if BALLOTS >= 4
    CARRY_ON(4, 1)
    CARRY_ON(4, 2)
    CARRY_ON(4, 3)
#endif
    EACH_BALLOT(VOTE)
    :: d_step { ACTS(me) && SOMETHING_IN_MEMORY && MAY_CRASH -> restart(me) }
    :: d_step { ACTS(me) && MAY_LOSE -> lose_disk(me) }
#ifdef BUG_EARLY_READY
    EACH_BALLOT(EARLY)
#endif
#ifdef QUIET
    :: d_step { timeout && commit == 0 -> break_rule(every_run_decides) } /* nobody can do anything any more */
#endif
    od
}

/* Who leads what: all orders, but for those that only rename the members 1 to N-1. */
init {
    byte b = 2;
    byte known = 0; /* the highest number of a member that leads a ballot */
    byte m = 0;
    atomic {
        fresh = 1;
        do
        :: b > BALLOTS -> break
        :: else ->
            if
            :: leader[b] = 0
            :: leader[b] = 1
            :: known >= 1 -> leader[b] = 2
            :: known >= 2 && N > 3 -> leader[b] = 3
            fi;
            known = (leader[b] > known -> leader[b] : known);
            b++
        od;
        b = 0;
        known = 0;
        do
        :: m < N -> run member(m); m++
        :: else -> break
        od;
        m = 0
    }
}
