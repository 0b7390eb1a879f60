//! The end of children, and of the pool.

use super::*;

#[test]
fn child_that_takes_its_time_to_exit_holds_up_nothing() {
    let mut pool = pool_with(1, |it| it.shrink_after = SEC).serving(1);
    assert_eq!(pool.pass(SEC), "-1");
    assert_eq!(pool.call('a'), "+2");
    assert_eq!(pool.ready(2), "a:2");
    assert_eq!(pool.answer(2), "");
    assert_eq!(pool.children(), [1, 2]);
}

#[test]
fn exits_while_stopping_are_no_crashes() {
    let mut pool = pool_with(1, |it| it.shrink_after = SEC);
    for child in 1..10 {
        assert_eq!(pool.call('a'), format!("+{child}"));
        pool.ready(child);
        pool.scheduler.unsent(ChildId(child), pool.now);
        pool.run();
        assert_eq!(pool.pass(SEC), format!("-{child}"));
        assert_eq!(pool.fail(child), "");
    }
    assert_eq!(pool.scheduler.sources[0].failures(), 0);
}

#[test]
fn pool_that_is_closed_answers_everything_and_lets_its_children_go() {
    let mut pool = pool(3).serving(3);
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.close(), "-3");
    assert!(pool.scheduler.is_closing() && !pool.scheduler.is_over());
    assert_eq!(pool.answer(1), "-1");
    assert_eq!(pool.answer(2), "-2");
    for child in 1..=3 {
        assert!(!pool.scheduler.is_over());
        pool.exit(child);
    }
    assert!(pool.scheduler.is_over());
    assert_eq!(pool.due_in(), None);
}

#[test]
fn pool_that_is_closed_starts_children_for_calls_that_wait_or_come_back() {
    let mut pool = pool_with(2, |it| it.idle = 2).serving(1);
    let key = pool.key_of(1);
    pool.call('a');
    assert_eq!(pool.keyed('b', key), "+2");
    assert_eq!(pool.close(), "");
    assert_eq!(pool.ready(2), "b:2");
    assert_eq!(pool.answer(2), "-2");
    pool.retire(1);
    pool.comes_back('a');
    assert_eq!(pool.crash(1), "+3");
    assert_eq!(pool.ready(3), "a:3");
    assert_eq!(pool.answer(3), "-3");
    pool.exit(2);
    pool.exit(3);
    assert!(pool.scheduler.is_over());
}

#[test]
fn pool_that_is_closed_renews_nothing_and_keeps_none_idle() {
    let limits = |it: &mut Sizing| (it.idle, it.max_age) = (2, Some(SEC));
    let mut pool = pool_with(2, limits).serving(2);
    pool.call('a');
    assert_eq!(pool.close(), "-2");
    assert_eq!(pool.restart(), "");
    assert_eq!(pool.pass(HOUR), "");
    assert_eq!(pool.answer(1), "-1");
}

#[test]
fn child_that_starts_when_the_pool_is_closed_is_stopped_and_stays_so() {
    let mut pool = pool_with(2, |it| it.idle = 1);
    pool.run();
    assert_eq!(pool.close(), "-1");
    assert_eq!(pool.ready(1), "");
    assert_eq!(pool.child(1).stage, Stage::Leaving);
    pool.exit(1);
    assert!(pool.scheduler.is_over());
}

#[test]
fn pool_that_is_closed_and_cannot_start_children_ends() {
    let mut pool = pool(1);
    pool.call('a');
    pool.close();
    assert_eq!(pool.fail(1), "+2");
    pool.fail(2);
    assert_eq!(pool.pass(SEC), "+3");
    assert_eq!(pool.fail(3), "a!no");
    assert!(pool.scheduler.is_over());
}

#[test]
fn all_calls_are_taken_out_at_once_and_children_get_no_more() {
    let mut pool = pool(2).serving(2);
    let key = pool.key_of(0);
    pool.keyed('a', key);
    pool.call('b');
    pool.call('c');
    pool.keyed('d', key);
    pool.timed('e', HOUR);
    let mut all = String::new();
    while let Some(entry) = pool.scheduler.drain() {
        all.push(entry.call);
    }
    assert_eq!(all, "ced");
    assert!(pool.scheduler.is_closing());
    assert!(pool.scheduler.children().iter().all(Child::is_told));
    assert_eq!((pool.scheduler.waiting(), pool.due_in()), (0, None));
    assert_eq!(pool.fail(1), "");
    assert!(!pool.scheduler.is_over());
    assert_eq!(pool.crash(2), "");
    assert!(pool.scheduler.is_over());
}

#[test]
fn what_is_reported_of_a_child_that_is_gone_changes_nothing() {
    let mut pool = pool(1).serving(1);
    pool.crash(1);
    pool.ready(1);
    pool.retire(1);
    pool.outgrown(1);
    pool.crash(1);
    assert!(!pool.scheduler.is_due(ChildId(1)));
    assert_eq!((pool.children(), pool.due_in()), (vec![], None));
}
