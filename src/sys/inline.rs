//! Things of any type that are used up by one call, in one size.

use std::any::TypeId;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, needs_drop};

/// A type with a lifetime in it: what a [`Once`] is called with.
pub(crate) trait Family: 'static {
    type Of<'a>;
}

/// What can be made a [`Once`] of.
pub(crate) trait Consume<A: Family>: Send + 'static {
    /// Uses it up.
    fn consume(self, argument: A::Of<'_>);
}

/// How much fits without an allocation.
type Room = MaybeUninit<[usize; 4]>;

/// A `Box<dyn Consume<A>>` that needs no box for what is at most four words long. Boxes that one thread
/// makes and another frees cost three times as much as all the rest of a call.
pub(crate) struct Once<A: Family> {
    /// A vtable of the type whose value `room` has, in it or in a box.
    vtable: &'static Vtable<A>,
    room: Room,
    /// Owns a value that is `Send` and need not be `Sync`.
    owns: PhantomData<Box<dyn Send>>,
}

struct Vtable<A: Family> {
    type_id: fn() -> TypeId,
    /// Uses up the value in the room.
    consume: unsafe fn(*mut Room, A::Of<'_>),
    /// Drops it, if that does something.
    drop: Option<unsafe fn(*mut Room)>,
    /// Whether the room has a box.
    boxed: bool,
}

impl<A: Family> Once<A> {
    #[inline]
    pub(crate) fn new<F: Consume<A>>(value: F) -> Self {
        let mut room = Room::uninit();
        if Inline::<F>::FITS {
            // SAFETY: it fits into the room, which is aligned for it, and is written as a whole.
            unsafe { (&raw mut room).cast::<F>().write(value) };
        } else {
            // SAFETY: a pointer fits.
            unsafe { (&raw mut room).cast::<Box<F>>().write(Box::new(value)) };
        }
        Once {
            vtable: const { &Inline::<F>::vtable::<A>() },
            room,
            owns: PhantomData,
        }
    }

    /// Uses it up, where it is: to move it first would cost as much. Later calls do nothing.
    #[inline]
    pub(crate) fn consume(&mut self, argument: A::Of<'_>) {
        let vtable = std::mem::replace(&mut self.vtable, const { &Inline::<Spent>::vtable() });
        let room = &raw mut self.room;
        // SAFETY: the vtable is that of what is in the room, which is not used again: from here on it
        // has a `Spent`, which is nothing.
        unsafe { (vtable.consume)(room, argument) }
    }

    /// The value, if it is an `F`.
    pub(crate) fn downcast_ref<F: Consume<A>>(&self) -> Option<&F> {
        if (self.vtable.type_id)() != TypeId::of::<F>() || self.vtable.boxed {
            return None;
        }
        // SAFETY: the room has a value of this type, as the vtable says, and lives as long as `self`.
        Some(unsafe { &*self.room.as_ptr().cast::<F>() })
    }
}

impl<A: Family> Drop for Once<A> {
    fn drop(&mut self) {
        if let Some(drop) = self.vtable.drop {
            // SAFETY: as in `consume`; this is the only use after which nothing follows.
            unsafe { drop(&raw mut self.room) }
        }
    }
}

/// What a [`Once`] is after it was used.
struct Spent;

impl<A: Family> Consume<A> for Spent {
    fn consume(self, _: A::Of<'_>) {}
}

/// How an `F` is kept.
struct Inline<F>(PhantomData<F>);

impl<F> Inline<F> {
    const FITS: bool = size_of::<F>() <= size_of::<Room>() && align_of::<F>() <= align_of::<Room>();

    const fn vtable<A: Family>() -> Vtable<A>
    where
        F: Consume<A>,
    {
        Vtable {
            type_id: TypeId::of::<F>,
            consume: |room, argument| {
                if Self::FITS {
                    // SAFETY: the caller says that the room has an `F`, and does not use it again.
                    let value = unsafe { room.cast::<F>().read() };
                    value.consume(argument);
                } else {
                    // SAFETY: as above, in a box.
                    let value = unsafe { room.cast::<Box<F>>().read() };
                    value.consume(argument);
                }
            },
            drop: if Self::FITS && !needs_drop::<F>() {
                None
            } else if Self::FITS {
                // SAFETY: the caller says that the room has an `F`, and does not use it again.
                Some(|room| unsafe { room.cast::<F>().drop_in_place() })
            } else {
                // SAFETY: as above, in a box.
                Some(|room| unsafe { room.cast::<Box<F>>().drop_in_place() })
            },
            boxed: !Self::FITS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    enum Text {}

    impl Family for Text {
        type Of<'a> = &'a str;
    }

    /// Sends what it is called with, and its padding tells how large it is.
    struct Tell<const N: usize>(mpsc::Sender<String>, [u8; N]);

    impl<const N: usize> Consume<Text> for Tell<N> {
        fn consume(self, text: &str) {
            let pad = self.1.iter().map(|n| usize::from(*n)).sum::<usize>();
            self.0.send(format!("{text} {pad}")).unwrap();
        }
    }

    #[repr(align(64))]
    struct Aligned(mpsc::Sender<String>);

    impl Consume<Text> for Aligned {
        fn consume(self, text: &str) {
            let address = (&raw const self).addr();
            self.0.send(format!("{text} {}", address % 64)).unwrap();
        }
    }

    #[test]
    fn small_large_and_aligned_values_are_consumed() {
        let (sender, told) = mpsc::channel();
        Once::new(Tell(sender.clone(), [1; 1])).consume("a");
        Once::new(Tell(sender.clone(), [1; 16])).consume("b");
        Once::new(Tell(sender.clone(), [1; 100])).consume("c");
        Once::new(Aligned(sender)).consume("d");
        assert_eq!(
            told.iter().collect::<Vec<_>>(),
            ["a 1", "b 16", "c 100", "d 0"]
        );
    }

    #[test]
    fn used_value_does_nothing() {
        let (sender, told) = mpsc::channel();
        let mut once = Once::new(Tell(sender, [1; 1]));
        once.consume("a");
        once.consume("b");
        drop(once);
        assert_eq!(told.iter().collect::<Vec<_>>(), ["a 1"]);
    }

    #[test]
    fn dropped_values_are_dropped_once() {
        let (sender, told) = mpsc::channel();
        drop(Once::<Text>::new(Tell(sender.clone(), [0; 1])));
        drop(Once::<Text>::new(Tell(sender, [0; 100])));
        assert_eq!(told.recv(), Err(mpsc::RecvError));
    }

    #[test]
    fn type_is_known() {
        let once = Once::<Text>::new(Tell(mpsc::channel().0, [7; 3]));
        assert_eq!(
            once.downcast_ref::<Tell<3>>().map(|tell| tell.1),
            Some([7; 3])
        );
        assert!(once.downcast_ref::<Tell<2>>().is_none());
        assert_eq!(size_of::<Option<Once<Text>>>(), 40);
    }
}
