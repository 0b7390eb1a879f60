//! How many children there are.

use super::*;

#[test]
fn pool_is_empty_at_first_and_its_first_child_starts_at_once() {
    let mut pool = pool(4);
    assert_eq!(pool.run(), "");
    assert_eq!(pool.due_in(), None);
    assert_eq!(pool.call('a'), "+1");
    assert_eq!(pool.ready(1), "a:1");
    assert_eq!(pool.scheduler.started(), 1);
}

#[test]
fn idle_children_are_started_with_the_pool_as_far_as_there_may_be_so_many() {
    assert_eq!(pool_with(4, |it| it.idle = 3).run(), "+1 +2 +3");
    let mut pool = pool_with(2, |it| it.idle = 3);
    assert_eq!(pool.run(), "+1 +2");
    assert_eq!(pool.due_in(), None);
    // Later ones are not from the beginning.
    pool.ready(1);
    pool.ready(2);
    pool.fail(1);
    assert_eq!(pool.run(), "");
    assert_eq!(pool.pass(SEC), "+3");
}

#[test]
fn calls_from_the_beginning_do_not_start_more_children_than_are_to_be_idle() {
    let mut pool = pool(4);
    for name in ['a', 'b', 'c'] {
        let ticket = pool.scheduler.ticket();
        pool.scheduler
            .enqueue(ticket, Want::default(), name, pool.now);
    }
    assert_eq!(pool.run(), "+1");
}

#[test]
fn pool_grows_when_all_were_full_for_long_enough_one_at_a_time() {
    let mut pool = pool_with(4, |it| it.load = 2).serving(1);
    pool.call('a');
    assert_eq!(pool.pass(SEC), "");
    pool.call('b');
    assert_eq!(pool.pass(SEC), "", "nothing waits");
    pool.call('c');
    pool.call('d');
    pool.call('e');
    assert_eq!(pool.due_in(), Some(100 * MS));
    assert_eq!(pool.pass(99 * MS), "");
    // Full for an instant less: it begins anew.
    for name in ['c', 'd', 'e'] {
        pool.cancel(name);
    }
    assert_eq!(pool.due_in(), None);
    for name in ['c', 'd', 'e', 'f', 'g'] {
        pool.call(name);
    }
    assert_eq!(pool.pass(99 * MS), "");
    assert_eq!(pool.pass(MS), "+2");
    assert_eq!(pool.pass(99 * MS), "");
    assert_eq!(pool.pass(MS), "+3");
    pool.cancel('g');
    assert_eq!(pool.ready(2), "c:2 d:2");
    assert_eq!(
        pool.pass(SEC),
        "",
        "the other one has room for those that are left"
    );
}

#[test]
fn pool_grows_at_once_if_it_is_to() {
    let mut pool = pool_with(3, |it| it.grow_after = Duration::ZERO).serving(1);
    assert_eq!(pool.call('a'), "a:1");
    assert_eq!(pool.call('b'), "+2");
    assert_eq!(pool.call('c'), "+3");
    assert_eq!(pool.call('d'), "");
    assert_eq!(pool.due_in(), None, "it has as many as it may have");
}

#[test]
fn children_that_start_are_room() {
    let mut pool = pool_with(3, |it| (it.load, it.grow_after) = (2, Duration::ZERO));
    assert_eq!(pool.call('a'), "+1");
    assert_eq!(pool.call('b'), "");
    assert_eq!(pool.call('c'), "+2");
    assert_eq!(pool.call('d'), "");
    assert_eq!(pool.call('e'), "+3");
    assert_eq!(pool.call('f'), "");
    assert_eq!(pool.call('g'), "");
}

#[test]
fn pool_has_no_more_children_than_it_may() {
    let mut pool = pool_with(2, |it| it.grow_after = Duration::ZERO);
    let key = pool.key_of(1);
    assert_eq!(pool.call('a'), "+1");
    assert_eq!(pool.keyed('b', key), "+2");
    for name in ['c', 'd', 'e'] {
        assert_eq!(pool.call(name), "");
    }
    assert_eq!(pool.pass(HOUR), "");
}

#[test]
fn child_that_died_is_replaced_at_once_if_calls_wait() {
    let mut pool = pool_with(3, |it| it.grow_after = HOUR).serving(2);
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.crash(2), "", "nothing is missed");
    pool.call('c');
    assert_eq!(pool.crash(1), "+3");
    assert_eq!(pool.due_in(), None, "the next one has room for all");
}

#[test]
fn only_child_that_gets_no_more_calls_is_replaced_at_once() {
    let mut pool = pool_with(1, |it| it.grow_after = HOUR).serving(1);
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.retire(1), "+2");
    assert_eq!(pool.ready(2), "b:2");
}

#[test]
fn failed_successor_and_replaced_child_do_not_make_the_pool_grow() {
    let mut pool = pool_with(3, |it| it.grow_after = HOUR).serving(1);
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.outgrown(1), "+2");
    assert_eq!(pool.fail(2), "+3", "another successor");
    assert_eq!(pool.child(3).slot, 0);
    assert_eq!(pool.ready(3), "b:3");
    pool.call('c');
    assert_eq!(pool.crash(1), "", "it has a successor");
    assert_eq!(pool.children(), [3]);
}

#[test]
fn idle_children_are_stopped_from_the_one_that_was_used_least_recently_one_per_interval() {
    let mut pool = pool(3).serving(3);
    for name in ['a', 'b', 'c'] {
        pool.call(name);
    }
    for child in [2, 1, 3] {
        pool.pass(SEC);
        pool.answer(child);
    }
    // Used in the order 1, 2, 3; idle since 2 s, 1 s, 3 s.
    assert_eq!(pool.due_in(), Some(9 * SEC));
    assert_eq!(pool.pass(9 * SEC), "-1");
    assert_eq!(pool.pass(9 * SEC), "");
    assert_eq!(pool.pass(SEC), "-2");
    assert_eq!(pool.pass(9 * SEC), "");
    assert_eq!(pool.pass(SEC), "-3");
    assert_eq!(pool.due_in(), None);
}

#[test]
fn child_is_stopped_in_time_when_that_which_was_to_be_stopped_first_gets_a_call() {
    let mut pool = pool(2).serving(2);
    pool.call('a');
    pool.call('b');
    for child in [2, 1] {
        pool.pass(SEC);
        pool.answer(child);
    }
    assert_eq!(pool.due_in(), Some(10 * SEC), "1 is first");
    let key = pool.key_of(0);
    assert_eq!(pool.keyed('c', key), "c:1");
    assert_eq!(pool.due_in(), Some(9 * SEC));
    assert_eq!(pool.pass(9 * SEC), "-2");
}

#[test]
fn child_that_was_never_used_and_has_been_there_longest_is_stopped_first() {
    let mut pool = pool_with(2, |it| it.idle = 2);
    pool.run();
    pool.ready(2);
    pool.pass(SEC);
    pool.ready(1);
    pool.scheduler.sizing.idle = 0;
    assert_eq!(pool.due_in(), Some(9 * SEC));
    assert_eq!(pool.pass(9 * SEC), "-2");
}

#[test]
fn child_is_idle_since_it_is_ready() {
    let mut pool = pool(1);
    pool.call('a');
    pool.cancel('a');
    pool.pass(HOUR);
    assert_eq!(pool.ready(1), "");
    assert_eq!(pool.due_in(), Some(10 * SEC));
}

#[test]
fn children_that_are_to_be_idle_stay() {
    let mut pool = pool_with(4, |it| it.idle = 2).serving(4);
    assert_eq!(pool.pass(15 * SEC), "-1");
    assert_eq!(pool.pass(HOUR), "-2");
    assert_eq!(pool.scheduler.children().len(), 4, "they take their time");
    pool.exit(1);
    pool.exit(2);
    assert_eq!((pool.children(), pool.due_in()), (vec![3, 4], None));
}

#[test]
fn child_that_is_used_again_is_not_stopped() {
    let mut pool = pool(2).serving(2);
    for name in ['a', 'b', 'c', 'd', 'e'] {
        // Always the same.
        let sent = pool.call(name);
        assert!(sent == format!("{name}:1"), "{sent}");
        pool.answer(1);
        assert!(["", "-2"].contains(&&*pool.pass(5 * SEC)));
    }
    assert!(pool.child(2).is_told() && !pool.child(1).is_told());
}

#[test]
fn another_child_is_started_when_too_few_are_idle() {
    let mut pool = pool_with(3, |it| it.idle = 1).serving(1);
    assert_eq!(pool.call('a'), "a:1");
    assert_eq!(pool.due_in(), Some(100 * MS));
    assert_eq!(pool.pass(SEC), "+2");
    pool.ready(2);
    assert_eq!(pool.call('b'), "b:2");
    assert_eq!(pool.answer(1), "");
    assert_eq!(pool.due_in(), None, "one is idle again");
    pool.call('c');
    assert_eq!(pool.pass(SEC), "+3");
    pool.ready(3);
    assert_eq!(pool.call('d'), "d:3");
    assert_eq!(pool.due_in(), None, "there may be no more");
}

#[test]
fn child_that_becomes_idle_may_let_another_go_that_was_idle_for_long() {
    let mut pool = pool_with(2, |it| it.idle = 1).serving(2);
    pool.call('a');
    assert_eq!(pool.scheduler.idle_deadline(), None);
    assert_eq!(pool.pass(6 * SEC), "");
    pool.scheduler.freed(ChildId(1), 1, pool.now);
    assert_eq!(pool.scheduler.idle_deadline(), Some(pool.now + 4 * SEC));
    assert_eq!(pool.pass(4 * SEC), "-2");
    pool.call('b');
    assert_eq!(pool.answer(1), "");
    assert_eq!(pool.due_in(), None);
}

#[test]
fn children_of_several_sources_are_started_where_the_fewest_are() {
    let mut pool = pool_of(&[2, 4], |it| it.idle = 6);
    assert_eq!(pool.run(), "+1@0 +2@1 +3@1 +4@0 +5@1 +6@1");
    let mut pool = pool_of(&[0, 1], |it| it.idle = 6);
    assert_eq!(pool.run(), "+1@1");
}

#[test]
fn options_may_be_as_large_as_they_like() {
    let mut pool = pool_of(&[usize::MAX, 1], |it| {
        (it.idle, it.load) = (1, usize::MAX);
        (it.grow_after, it.shrink_after) = (Duration::MAX, Duration::MAX);
        (it.max_calls, it.max_age) = (Some(u64::MAX), Some(Duration::MAX));
    });
    assert_eq!(pool.run(), "+1@0");
    assert_eq!(pool.ready(1), "");
    for name in ['a', 'b', 'c'] {
        assert_eq!(pool.call(name), format!("{name}:1"));
    }
    let age = pool.due_in().unwrap();
    assert!(age > 100_000 * HOUR, "{age:?}");
    assert!(pool.scheduler.has_room(usize::MAX));
    pool.restart();
    pool.ready(2);
    assert_eq!(pool.scheduler.children().len(), 2);

    let mut pool = pool_with(2, |it| {
        (it.idle, it.max_age) = (usize::MAX, Some(3_000_000 * HOUR));
        it.grow_after = 3_000_000 * HOUR;
    });
    assert_eq!(pool.run(), "+1 +2");
    pool.ready(1);
    assert!(pool.due_in().unwrap() > 1_000_000 * HOUR);
}
