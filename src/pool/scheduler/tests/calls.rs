//! Which call goes where, and when.

use super::*;

#[test]
fn call_goes_to_the_idle_child_that_was_used_last() {
    let mut pool = pool(3).serving(3);
    for name in ['a', 'b', 'c'] {
        pool.call(name);
    }
    pool.answer(2);
    pool.answer(1);
    pool.answer(3);
    // The calls went to 1, 2, 3.
    assert_eq!(pool.call('d'), "d:3");
    assert_eq!(pool.call('e'), "e:2");
    pool.answer(2);
    assert_eq!(pool.call('f'), "f:2");
}

#[test]
fn busy_child_gets_no_second_call_while_another_is_idle() {
    let mut pool = pool_with(2, |it| it.load = 3).serving(2);
    assert_eq!(pool.call('a'), "a:1");
    assert_eq!(pool.call('b'), "b:2");
    assert_eq!(pool.call('c'), "c:2");
    assert_eq!(pool.call('d'), "d:1");
    pool.answer(1);
    pool.answer(1);
    assert_eq!(pool.call('e'), "e:1", "it is idle");
}

#[test]
fn calls_wait_while_all_have_as_many_as_they_take_and_go_in_their_order() {
    let mut pool = pool_with(1, |it| it.load = 2).serving(1);
    assert_eq!(pool.call('a'), "a:1");
    assert_eq!(pool.call('b'), "b:1");
    for name in ['c', 'd', 'e'] {
        assert_eq!(pool.call(name), "");
    }
    assert_eq!(pool.answer(1), "c:1");
    assert_eq!(pool.answer(1), "d:1");
    assert_eq!(pool.scheduler.waiting(), 1);
    // A caller that comes before the waiting one was sent is not faster.
    pool.scheduler.freed(ChildId(1), 3, pool.now);
    assert_eq!(pool.call('f'), "e:1");
}

#[test]
fn several_calls_that_end_are_reported_at_once_and_in_any_order() {
    let mut pool = pool_with(1, |it| it.load = 4).serving(1);
    for name in ['a', 'b', 'c', 'd'] {
        pool.call(name);
    }
    assert!(pool.scheduler.freed(ChildId(1), 3, pool.now));
    assert!(!pool.scheduler.freed(ChildId(1), 2, pool.now), "older news");
    assert_eq!(pool.child(1).in_flight(), 1);
    assert!(pool.scheduler.freed(ChildId(1), 9, pool.now));
    assert_eq!((pool.child(1).in_flight(), pool.child(1).ended), (0, 4));
    assert!(!pool.scheduler.freed(ChildId(7), 1, pool.now));
}

#[test]
fn call_that_was_not_taken_leaves_its_place_to_others() {
    let mut pool = pool(1).serving(1);
    pool.call('a');
    pool.call('b');
    pool.scheduler.unsent(ChildId(1), pool.now);
    assert_eq!(pool.run(), "b:1");
    assert_eq!((pool.child(1).in_flight(), pool.child(1).ended), (1, 0));
    pool.scheduler.unsent(ChildId(7), pool.now);
}

#[test]
fn call_that_comes_back_takes_its_old_place() {
    let mut pool = pool_with(1, |it| it.load = 3).serving(1);
    for name in ['a', 'b', 'c', 'd', 'e'] {
        pool.call(name);
    }
    // A cancelled one leaves a gap.
    pool.cancel('d');
    assert_eq!(pool.retire(1), "+2");
    for name in ['b', 'c', 'a'] {
        pool.comes_back(name);
    }
    pool.crash(1);
    assert_eq!(pool.ready(2), "a:2 b:2 c:2");
    pool.call('f');
    pool.retire(2);
    pool.comes_back('c');
    pool.crash(2);
    assert_eq!(pool.ready(3), "c:3 e:3 f:3");
}

#[test]
fn call_that_comes_back_may_take_the_gap_that_it_has_left() {
    let mut pool = pool(1).serving(1);
    let now = pool.now;
    for name in ['a', 'b', 'c', 'd'] {
        pool.call(name);
    }
    let (ticket, want) = pool.calls[&'c'];
    let entry = pool.scheduler.withdraw(ticket).unwrap();
    pool.scheduler.enqueue(ticket, want, entry.call, now);
    assert_eq!(pool.answer(1), "b:1");
    assert_eq!(pool.answer(1), "c:1");
    assert_eq!(pool.answer(1), "d:1");
}

#[test]
fn urgent_calls_go_first_and_in_their_order() {
    let mut pool = pool(1).serving(1);
    let key = pool.key_of(0);
    pool.call('a');
    pool.keyed('b', key);
    pool.call('c');
    pool.urgent('d');
    pool.call_with(
        'e',
        Want {
            urgent: true,
            key: Some(key),
            ..Want::default()
        },
    );
    pool.urgent('f');
    for name in ['d', 'e', 'f', 'b', 'c'] {
        assert_eq!(pool.answer(1), format!("{name}:1"));
    }
}

#[test]
fn call_that_is_alone_waits_for_an_idle_child_and_holds_back_the_others_of_its_lane() {
    let mut pool = pool_with(2, |it| it.load = 3).serving(2);
    pool.call('a');
    pool.call('b');
    pool.call('c');
    assert_eq!(pool.alone('d'), "");
    assert_eq!(pool.call('e'), "");
    assert_eq!(pool.answer(2), "");
    assert_eq!(pool.answer(2), "d:2 e:1");
    assert_eq!(pool.call('f'), "f:1");
    assert_eq!(pool.call('g'), "", "child 1 is full, and d is alone");
    assert_eq!(pool.answer(2), "g:2");
}

#[test]
fn call_that_is_alone_goes_to_an_idle_child_at_once() {
    let mut pool = pool_with(1, |it| it.load = 3).serving(1);
    assert_eq!(pool.alone('a'), "a:1");
    assert_eq!(pool.call('b'), "");
    assert_eq!(pool.answer(1), "b:1");
    assert_eq!(pool.alone('c'), "");
    pool.scheduler.unsent(ChildId(1), pool.now);
    assert_eq!(pool.run(), "c:1");
    assert_eq!(pool.call('d'), "");
}

#[test]
fn call_that_is_alone_in_the_child_of_its_key_gets_it_however_many_others_come() {
    let mut pool = pool_with(1, |it| it.load = 2).serving(1);
    let key = pool.key_of(0);
    pool.call('a');
    let want = Want {
        key: Some(key),
        alone: true,
        ..Want::default()
    };
    assert_eq!(pool.call_with('b', want), "");
    for name in ['c', 'd'] {
        assert_eq!(pool.call(name), "", "it would never be idle");
    }
    assert_eq!(pool.answer(1), "b:1");
    assert_eq!(pool.answer(1), "c:1 d:1");
}

#[test]
fn call_that_is_alone_gets_a_child_however_many_keyed_ones_come() {
    let mut pool = pool_with(1, |it| it.load = 2).serving(1);
    let key = pool.key_of(0);
    pool.keyed('a', key);
    assert_eq!(pool.alone('b'), "");
    assert_eq!(pool.keyed('c', key), "");
    assert_eq!(pool.answer(1), "b:1");
    assert_eq!(pool.answer(1), "c:1");
}

#[test]
fn urgent_call_does_not_wait_for_one_that_is_alone() {
    let mut pool = pool_with(1, |it| it.load = 2).serving(1);
    pool.call('a');
    pool.alone('b');
    assert_eq!(pool.urgent('c'), "c:1");
    assert_eq!(pool.answer(1), "");
    assert_eq!(pool.answer(1), "b:1");
}

#[test]
fn calls_of_a_key_go_to_the_child_of_its_slot_even_if_others_are_idle() {
    let mut pool = pool(3).serving(3);
    let slot = |child| pool.child(child).slot;
    assert_eq!([slot(1), slot(2), slot(3)], [0, 1, 2]);
    let key = pool.key_of(1);
    assert_eq!(pool.keyed('a', key), "a:2");
    assert_eq!(pool.keyed('b', key), "", "it is full");
    assert_eq!(pool.call('c'), "c:1");
    assert_eq!(pool.answer(2), "b:2");
    assert_eq!(pool.answer(1), "");
}

#[test]
fn calls_of_a_key_wait_for_the_child_of_its_slot_which_is_started_at_once() {
    let mut pool = pool_with(4, |it| it.grow_after = HOUR).serving(1);
    let key = pool.key_of(2);
    assert_eq!(pool.keyed('a', key), "+2");
    assert_eq!(pool.keyed('b', key), "");
    assert_eq!(pool.child(2).slot, 2);
    assert_eq!(pool.ready(2), "a:2");
    assert_eq!(pool.answer(2), "b:2");
    // And when that has died.
    pool.keyed('c', key);
    assert_eq!(pool.crash(2), "+3");
    assert_eq!(pool.child(3).slot, 2);
    assert_eq!(pool.ready(3), "c:3");
}

#[test]
fn older_call_of_a_key_is_not_overtaken_in_its_child() {
    let mut pool = pool(1).serving(1);
    let key = pool.key_of(0);
    pool.call('a');
    pool.keyed('b', key);
    // Before the next one is sent, another comes.
    pool.scheduler.freed(ChildId(1), 1, pool.now);
    assert_eq!(pool.call('c'), "b:1");
    pool.scheduler.freed(ChildId(1), 2, pool.now);
    assert_eq!(pool.keyed('d', key), "c:1");
    pool.scheduler.freed(ChildId(1), 3, pool.now);
    assert_eq!(pool.keyed('e', key), "d:1");
    assert_eq!(pool.answer(1), "e:1");
}

#[test]
fn keys_are_spread_over_all_slots_and_few_move_when_there_is_one_more() {
    let (ten, eleven) = (pool(10), pool(11));
    let mut counts = [0; 10];
    let mut moved = 0;
    for key in 0..10_000 {
        let slot = ten.scheduler.slot_of(key);
        counts[slot] += 1;
        let other = eleven.scheduler.slot_of(key);
        assert!(other == slot || other == 10);
        moved += u32::from(other != slot);
    }
    assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    assert!((700..1100).contains(&moved), "{moved}");
}

#[test]
fn call_that_times_out_leaves_the_queue() {
    let mut pool = pool(1).serving(1);
    pool.call('a');
    pool.timed('b', 50 * MS);
    pool.timed('c', 20 * MS);
    pool.call('d');
    assert_eq!(pool.pass(30 * MS), "c?");
    assert_eq!(pool.answer(1), "b:1");
    assert_eq!(pool.pass(SEC), "", "that is its child's business now");
    assert_eq!(pool.scheduler.waiting(), 1);
}

#[test]
fn place_of_a_call_in_its_child_is_free_when_the_child_says_so() {
    let mut pool = pool(1).serving(1);
    pool.timed('a', 10 * MS);
    pool.call('b');
    assert_eq!(pool.pass(HOUR), "");
    assert_eq!(pool.answer(1), "b:1");
}

#[test]
fn cancelled_call_leaves_the_queue() {
    let mut pool = pool(2).serving(1);
    let key = pool.key_of(1);
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.keyed('c', key), "+2");
    assert_eq!(pool.cancel('b'), "");
    assert_eq!(pool.cancel('c'), "");
    assert_eq!(pool.scheduler.waiting(), 0);
    let (ticket, _) = pool.calls[&'a'];
    assert!(pool.scheduler.withdraw(ticket).is_none(), "it was sent");
    assert!(pool.scheduler.withdraw(Ticket(u64::MAX)).is_none());
}

#[test]
fn calls_and_bytes_that_may_wait_are_limited() {
    let bytes = |bytes| Want {
        bytes,
        ..Want::default()
    };
    let limits = |it: &mut Sizing| (it.queue_calls, it.queue_bytes) = (4, 100);
    let mut pool = pool_with(1, limits).serving(1);
    assert!(pool.scheduler.has_room(usize::MAX), "however long it is");
    pool.call_with('a', bytes(1000));
    assert!(
        pool.scheduler.has_room(100),
        "those that were sent do not count"
    );
    pool.call_with('b', bytes(60));
    assert!(pool.scheduler.has_room(40) && !pool.scheduler.has_room(41));
    assert!(!pool.scheduler.has_room(usize::MAX));
    pool.call_with('c', bytes(40));
    assert!(pool.scheduler.has_room(0) && !pool.scheduler.has_room(1));
    pool.call_with('d', bytes(0));
    assert!(!pool.scheduler.has_room(0), "four have not ended");
    assert_eq!(pool.scheduler.waiting_bytes(), 100);
    pool.answer(1);
    assert!(pool.scheduler.has_room(60) && !pool.scheduler.has_room(61));
    pool.cancel('c');
    pool.cancel('d');
    assert_eq!(pool.scheduler.waiting_bytes(), 0);
    assert!(pool.scheduler.has_room(1000));
    pool.crash(1);
    assert_eq!(pool.scheduler.in_flight, 0);
}

#[test]
fn length_of_the_queue_and_the_oldest_wait_are_known() {
    let mut pool = pool(2).serving(1);
    let key = pool.key_of(0);
    pool.call('a');
    assert_eq!(pool.scheduler.oldest(), None);
    pool.keyed('b', key);
    let since = pool.now;
    pool.pass(MS);
    pool.urgent('c');
    assert_eq!(
        (pool.scheduler.waiting(), pool.scheduler.oldest()),
        (2, Some(since))
    );
    pool.cancel('b');
    assert_eq!(pool.scheduler.oldest(), Some(since + MS));
}

#[test]
fn gaps_do_not_pile_up_behind_a_call_that_stays() {
    let mut pool = pool(1).serving(1);
    pool.call('a');
    pool.call('b');
    for _ in 0..10_000 {
        pool.timed('c', MS);
        pool.pass(MS);
    }
    pool.timed('d', HOUR);
    let lane = format!("{:?}", pool.scheduler.shared);
    assert!(lane.matches("None)").count() < 200, "{}", lane.len());
    assert_eq!(pool.answer(1), "b:1");
    assert_eq!(pool.answer(1), "d:1");
}

#[test]
fn call_to_each_child_goes_to_full_and_to_starting_ones_too() {
    let mut pool = pool_with(3, |it| it.grow_after = Duration::ZERO).serving(2);
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.call('c'), "+3");
    pool.retire(2);
    for (child, takes) in [(1, true), (2, false), (3, true), (9, false)] {
        assert_eq!(pool.scheduler.send_to(ChildId(child), pool.now), takes);
    }
    assert_eq!(pool.child(1).in_flight(), 2);
    assert_eq!(pool.answer(1), "", "it has one more than it takes");
    assert_eq!(pool.ready(3), "+4", "it has one");
    assert_eq!(pool.answer(3), "c:3");
}
