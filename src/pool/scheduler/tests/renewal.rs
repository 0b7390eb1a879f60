//! Children that are replaced.

use super::*;

#[test]
fn child_is_replaced_after_about_so_many_calls() {
    let mut counts = std::collections::BTreeSet::new();
    let mut pool = pool_with(1, |it| it.max_calls = Some(100)).serving(1);
    for child in 1..50 {
        let mut ended = 0;
        loop {
            pool.call('a');
            ended += 1;
            if pool.answer(child) == format!("+{}", child + 1) {
                break;
            }
        }
        assert!((75..=125).contains(&ended), "{ended}");
        counts.insert(ended);
        assert_eq!(pool.ready(child + 1), format!("-{child}"));
        pool.exit(child);
    }
    assert!(counts.len() > 10, "not all at the same time: {counts:?}");
}

#[test]
fn few_calls_are_exactly_so_many() {
    for calls in 1..4 {
        let mut pool = pool_with(1, |it| it.max_calls = Some(calls)).serving(1);
        for n in 1..=calls {
            pool.call('a');
            assert_eq!(pool.answer(1), if n == calls { "+2" } else { "" });
        }
    }
}

#[test]
fn child_is_replaced_at_about_this_age() {
    let limits = |it: &mut Sizing| (it.max_age, it.shrink_after) = (Some(HOUR), Duration::MAX);
    let mut pool = pool_with(2, limits).serving(2);
    let mut ages = std::collections::BTreeSet::new();
    for child in 3..5 {
        let due = pool.due_in().unwrap();
        assert_eq!(pool.pass(due), format!("+{child}"));
        let age = pool.now - pool.start;
        assert!(age >= HOUR * 3 / 4 && age <= HOUR * 5 / 4, "{age:?}");
        ages.insert(age);
        pool.ready(child);
    }
    assert_eq!(ages.len(), 2, "not at the same time");
}

#[test]
fn child_that_has_outgrown_its_limit_is_replaced() {
    let mut pool = pool(1).serving(1);
    assert!(!pool.scheduler.is_due(ChildId(1)));
    assert_eq!(pool.outgrown(1), "+2");
    assert!(pool.scheduler.is_due(ChildId(1)) && !pool.scheduler.is_due(ChildId(2)));
    assert_eq!(pool.outgrown(1), "");
    assert_eq!(pool.ready(2), "-1");
}

#[test]
fn child_gets_calls_until_its_successor_is_ready_and_ends_what_it_has() {
    let mut pool = pool_with(1, |it| it.load = 2).serving(1);
    pool.outgrown(1);
    assert_eq!(pool.call('a'), "a:1");
    assert_eq!(pool.call('b'), "b:1");
    assert_eq!(pool.call('c'), "");
    assert_eq!(pool.answer(1), "c:1");
    assert_eq!(pool.ready(2), "");
    assert_eq!(pool.call('d'), "d:2");
    assert_eq!(pool.answer(1), "");
    assert_eq!(pool.answer(1), "-1");
    assert_eq!(pool.exit(1), "");
    assert_eq!(pool.children(), [2]);
}

#[test]
fn child_stays_if_its_successor_cannot_be_started() {
    let mut pool = pool_with(1, |it| it.shrink_after = HOUR).serving(1);
    assert_eq!(pool.outgrown(1), "+2");
    for child in 2..10 {
        let done = pool.fail(child);
        assert_eq!(pool.call('a'), "a:1");
        assert_eq!(pool.answer(1), "");
        let due = pool.due_in().unwrap_or_default().min(40 * SEC);
        assert_eq!(done + &pool.pass(due), format!("+{}", child + 1));
    }
    assert_eq!(pool.ready(10), "-1");
}

#[test]
fn restart_replaces_all_one_at_a_time() {
    let mut pool = pool(3).serving(3);
    pool.call('a');
    assert_eq!(pool.restart(), "+4");
    assert_eq!(pool.ready(4), "+5");
    assert_eq!(pool.ready(5), "+6 -2");
    assert_eq!(pool.ready(6), "-3");
    assert_eq!(pool.answer(1), "-1");
    for child in 1..=3 {
        pool.exit(child);
    }
    assert_eq!(pool.children(), [4, 5, 6]);
    assert!(
        pool.scheduler
            .children()
            .iter()
            .all(|it| it.generation == 1)
    );
}

#[test]
fn restart_replaces_those_that_start_too() {
    let mut pool = pool(1);
    pool.call('a');
    assert_eq!(pool.restart(), "");
    assert_eq!(pool.ready(1), "a:1 +2");
    assert_eq!(pool.ready(2), "");
    assert_eq!(pool.answer(1), "-1");
}

#[test]
fn second_restart_during_the_first_replaces_the_new_ones_too() {
    let mut pool = pool(2).serving(2);
    assert_eq!(pool.restart(), "+3");
    assert_eq!(pool.restart(), "");
    assert_eq!(pool.ready(3), "+4 -1");
    assert_eq!(pool.ready(4), "-2", "its slot has two");
    assert_eq!(pool.exit(1), "+5");
    assert_eq!(pool.ready(5), "-3");
    assert!(
        pool.scheduler
            .children()
            .iter()
            .all(|it| it.generation == 2 || it.is_told())
    );
}

#[test]
fn calls_of_a_key_go_on_in_the_successor() {
    let mut pool = pool(2).serving(2);
    let key = pool.key_of(1);
    pool.keyed('a', key);
    pool.keyed('b', key);
    assert_eq!(pool.outgrown(2), "+3");
    assert_eq!(pool.ready(3), "b:3");
    assert_eq!(pool.answer(2), "-2");
}

#[test]
fn child_whose_predecessor_is_gone_counts_as_one_that_starts() {
    let mut pool = pool_with(3, |it| (it.load, it.grow_after) = (2, Duration::ZERO)).serving(1);
    for name in ['a', 'b'] {
        pool.call(name);
    }
    pool.outgrown(1);
    assert_eq!(pool.call('c'), "+3");
    assert_eq!(pool.call('d'), "");
    assert_eq!(pool.crash(1), "");
    assert_eq!(pool.call('e'), "", "2 and 3 have room for all");
    assert_eq!(pool.call('f'), "");
    assert_eq!(pool.call('g'), "+4");
}

#[test]
fn children_that_do_not_end_their_calls_do_not_become_more_and_more() {
    let mut pool = pool_with(1, |it| (it.load, it.max_calls) = (2, Some(1))).serving(1);
    // Each child has a call that hangs, and one that ends.
    pool.call('a');
    pool.call('b');
    assert_eq!(pool.answer(1), "+2");
    pool.ready(2);
    pool.call('c');
    pool.call('d');
    assert_eq!(pool.answer(2), "", "1 and 2 are there");
    pool.retire(2);
    assert_eq!(pool.call('e'), "");
    assert_eq!(pool.pass(HOUR), "");
    assert_eq!(pool.children(), [1, 2]);
    assert_eq!(pool.crash(1), "+3");
    assert_eq!(pool.ready(3), "e:3");
}

#[test]
fn slot_whose_children_do_not_end_their_calls_does_not_keep_others_from_being_used() {
    let mut pool = pool_with(2, |it| it.grow_after = Duration::ZERO).serving(1);
    assert_eq!(pool.call('a'), "a:1");
    assert_eq!(pool.retire(1), "");
    assert_eq!(pool.call('b'), "+2");
    assert_eq!(pool.ready(2), "b:2");
    assert_eq!(pool.retire(2), "");
    assert_eq!(pool.call('c'), "+3");
    let slots = pool.scheduler.children().iter().map(|child| child.slot);
    assert_eq!(slots.collect::<Vec<_>>(), [0, 0, 1]);
}

#[test]
fn only_one_child_is_renewed_at_a_time_but_a_broken_source_does_not_hold_up_others() {
    let mut pool = pool_of(&[1, 1], |_| {}).serving(2);
    assert_eq!(pool.restart(), "+3@0");
    assert_eq!(pool.fail(3), "+4@0");
    assert_eq!(pool.fail(4), "+5@1");
    assert_eq!(pool.ready(5), "-2");
    assert!(pool.pass(125 * MS).ends_with("+6@0"));
}
