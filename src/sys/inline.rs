//! A fixed-size container for values of any type that are consumed by one call.

use std::any::TypeId;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, needs_drop};

/// A type with a lifetime parameter: the argument of a [`Once`].
pub(crate) trait Family: 'static {
    type Of<'a>;
}

/// A value that a [`Once`] can hold.
pub(crate) trait Consume<A: Family>: Send + 'static {
    /// Consumes the value.
    fn consume(self, argument: A::Of<'_>);
}

/// The space for a value that is stored without an allocation.
type Room = MaybeUninit<[usize; 4]>;

/// A `Box<dyn Consume<A>>` that stores values of at most four words without a box. A box that one
/// thread allocates and another frees costs three times as much as everything else in a call.
pub(crate) struct Once<A: Family> {
    /// The vtable for the type of the value in `room`, which is there directly or in a box.
    vtable: &'static Vtable<A>,
    room: Room,
    /// Owns a value that is `Send` and need not be `Sync`.
    owns: PhantomData<Box<dyn Send>>,
}

struct Vtable<A: Family> {
    type_id: fn() -> TypeId,
    /// Consumes the value in the room.
    consume: unsafe fn(*mut Room, A::Of<'_>),
    /// Drops the value. `None` if that does nothing.
    drop: Option<unsafe fn(*mut Room)>,
    /// Whether the room holds a box.
    boxed: bool,
}

impl<A: Family> Once<A> {
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

    /// Consumes the value in place: to move it first would cost as much. Later calls do nothing.
    pub(crate) fn consume(&mut self, argument: A::Of<'_>) {
        let vtable = std::mem::replace(&mut self.vtable, const { &Inline::<Spent>::vtable() });
        let room = &raw mut self.room;
        // SAFETY: the vtable is that of the value in the room, which is not used again: from here
        // on the room holds a `Spent`, which has no bytes.
        unsafe { (vtable.consume)(room, argument) }
    }

    /// The value, if it is an `F`.
    pub(crate) fn downcast_ref<F: Consume<A>>(&self) -> Option<&F> {
        if (self.vtable.type_id)() != TypeId::of::<F>() || self.vtable.boxed {
            return None;
        }
        // SAFETY: the room holds a value of this type, as the vtable says, and lives as long as
        // `self`.
        Some(unsafe { &*self.room.as_ptr().cast::<F>() })
    }
}

impl<A: Family> Drop for Once<A> {
    fn drop(&mut self) {
        if let Some(drop) = self.vtable.drop {
            // SAFETY: as in `consume`; nothing uses the room after this.
            unsafe { drop(&raw mut self.room) }
        }
    }
}

/// The value of a [`Once`] after it was consumed.
struct Spent;

impl<A: Family> Consume<A> for Spent {
    fn consume(self, _: A::Of<'_>) {}
}

/// How an `F` is stored.
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
                    // SAFETY: the caller promises that the room holds an `F` that is not used again.
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
                // SAFETY: the caller promises that the room holds an `F` that is not used again.
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

    /// Sends its argument, and the sum of its padding, which states its size.
    struct Report<const N: usize>(mpsc::Sender<String>, [u8; N]);

    impl<const N: usize> Consume<Text> for Report<N> {
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
        let (sender, received) = mpsc::channel();
        Once::new(Report(sender.clone(), [1; 1])).consume("a");
        Once::new(Report(sender.clone(), [1; 16])).consume("b");
        Once::new(Report(sender.clone(), [1; 100])).consume("c");
        Once::new(Aligned(sender)).consume("d");
        assert_eq!(
            received.iter().collect::<Vec<_>>(),
            ["a 1", "b 16", "c 100", "d 0"]
        );
    }

    #[test]
    fn consumed_value_does_nothing() {
        let (sender, received) = mpsc::channel();
        let mut once = Once::new(Report(sender, [1; 1]));
        once.consume("a");
        once.consume("b");
        drop(once);
        assert_eq!(received.iter().collect::<Vec<_>>(), ["a 1"]);
    }

    #[test]
    fn dropped_values_are_dropped_once() {
        let (sender, received) = mpsc::channel();
        drop(Once::<Text>::new(Report(sender.clone(), [0; 1])));
        drop(Once::<Text>::new(Report(sender, [0; 100])));
        assert_eq!(received.recv(), Err(mpsc::RecvError));
    }

    #[test]
    fn downcast_checks_the_type() {
        let once = Once::<Text>::new(Report(mpsc::channel().0, [7; 3]));
        assert_eq!(
            once.downcast_ref::<Report<3>>().map(|report| report.1),
            Some([7; 3])
        );
        assert!(once.downcast_ref::<Report<2>>().is_none());
        assert_eq!(size_of::<Option<Once<Text>>>(), 5 * size_of::<usize>());
    }
}
