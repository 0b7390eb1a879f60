//! The program's callbacks that are not those of calls.

use crate::codec::{Codec, CodecError, Input};
use crate::copies;
use crate::error::Error;
use crate::rpc::callback::guard;
use crate::rpc::log;
use crate::service::Service;

/// See the module's documentation. Below the codec.
pub(in crate::rpc) struct Handlers {
    pub(in crate::rpc) on_event: Option<Box<dyn OnEvent>>,
    pub(in crate::rpc) on_error: Option<Box<dyn FnOnce(Error) + Send>>,
    pub(in crate::rpc) on_destroy: Option<Box<dyn FnOnce() + Send>>,
}

impl Handlers {
    /// Reports how it ended, by the chain of the original: an error goes to `on_error`, without that
    /// to `on_event`, without either to the log. Panics of the callbacks stop here.
    pub(super) fn end(self, error: Option<Error>) {
        let Handlers {
            mut on_event,
            mut on_error,
            mut on_destroy,
        } = self;
        guard(|| match error {
            None => {
                if let Some(on_destroy) = on_destroy.take() {
                    on_destroy();
                }
            }
            Some(error) => match (on_error.take(), &mut on_event) {
                (Some(on_error), _) => on_error(error),
                (None, Some(on_event)) => on_event.error(error),
                (None, None) => log::error(&error),
            },
        });
        // Each on its own: if two destructors panicked in one guard, the process would be aborted.
        guard(|| drop(on_event));
        guard(|| drop(on_error));
        guard(|| drop(on_destroy));
    }
}

/// The program's `on_event`, below the codec.
pub(in crate::rpc) trait OnEvent: Send {
    /// Takes the payload of an event.
    fn event(&mut self, payload: Input<'_>) -> Result<(), CodecError>;

    /// Whether the codec is running. If so after a panic, the panic was the codec's.
    fn is_decoding(&self) -> bool;

    /// Takes an error, as there is no `on_error`.
    fn error(&mut self, error: Error);
}

/// The program's `on_event`, above the codec.
pub(in crate::rpc) struct TypedOnEvent<S: Service> {
    service: S,
    callback: Box<dyn FnMut(S::Event) + Send>,
    is_decoding: bool,
}

impl<S: Service> TypedOnEvent<S> {
    pub(in crate::rpc) fn new(service: S, callback: Box<dyn FnMut(S::Event) + Send>) -> Self {
        TypedOnEvent {
            service,
            callback,
            is_decoding: false,
        }
    }
}

impl<S: Service> OnEvent for TypedOnEvent<S> {
    fn event(&mut self, payload: Input<'_>) -> Result<(), CodecError> {
        self.is_decoding = true;
        let event = S::Codec::decode(payload)?;
        self.is_decoding = false;
        // Other callbacks may follow under the same guard.
        copies::run(|| (self.callback)(event));
        Ok(())
    }

    fn is_decoding(&self) -> bool {
        self.is_decoding
    }

    fn error(&mut self, error: Error) {
        match self.service.error_event(&error.to_string()) {
            Some(event) => (self.callback)(event),
            None => log::error(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Strings;
    use crate::error::ErrorKind;
    use std::sync::mpsc;

    /// Handlers that send their names, those of them that are wanted.
    fn handlers(wanted: &[&str], sender: &mpsc::Sender<String>) -> Handlers {
        let is_wanted = |name: &str| wanted.contains(&name);
        let send = |name: &'static str| {
            let sender = sender.clone();
            move |text: String| sender.send(format!("{name}: {text}")).unwrap()
        };
        let (on_event, on_error, on_destroy) = (send("event"), send("error"), send("destroy"));
        Handlers {
            on_event: is_wanted("on_event").then(|| {
                let callback = Box::new(move |event: Strings| on_event(event.to_string()));
                Box::new(TypedOnEvent::new("service", callback)) as Box<dyn OnEvent>
            }),
            on_error: is_wanted("on_error").then(|| {
                Box::new(move |error: Error| on_error(error.to_string()))
                    as Box<dyn FnOnce(Error) + Send>
            }),
            on_destroy: is_wanted("on_destroy")
                .then(|| Box::new(move || on_destroy(String::new())) as Box<dyn FnOnce() + Send>),
        }
    }

    #[test]
    fn end_is_reported_once_by_the_chain_of_the_original() {
        let all = ["on_event", "on_error", "on_destroy"];
        let error = || Some(Error::new(ErrorKind::Died, "it died"));
        for (wanted, error, reported) in [
            (&all[..], error(), &["error: it died"][..]),
            (&all[..], None, &["destroy: "]),
            (&all[..1], error(), &["event: error it died"]),
            (&all[2..], error(), &[]),
            (&all[..2], None, &[]),
        ] {
            let (sender, told) = mpsc::channel();
            handlers(wanted, &sender).end(error);
            drop(sender);
            assert_eq!(told.iter().collect::<Vec<_>>(), reported, "with {wanted:?}");
        }
    }

    /// Sends its name when it is dropped, and panics.
    struct Bomb(&'static str, mpsc::Sender<&'static str>);

    impl Drop for Bomb {
        fn drop(&mut self) {
            self.1.send(self.0).unwrap();
            panic!("a destructor panics");
        }
    }

    /// Otherwise the process is aborted.
    #[test]
    fn callbacks_that_panic_when_they_are_called_and_when_they_are_dropped_are_all_dropped() {
        let (sender, dropped) = mpsc::channel();
        let bomb = |name| Bomb(name, sender.clone());
        let (event, destroy) = (bomb("event"), bomb("destroy"));
        let on_event = move |_: Strings| {
            let _ = &event;
        };
        let handlers = Handlers {
            on_event: Some(Box::new(TypedOnEvent::new("service", Box::new(on_event)))),
            on_error: Some(Box::new(|error| panic!("{error}"))),
            on_destroy: Some(Box::new(move || drop(destroy))),
        };
        drop(sender);
        handlers.end(Some(Error::new(ErrorKind::Died, "it died")));
        assert_eq!(dropped.iter().collect::<Vec<_>>(), ["event", "destroy"]);
    }

    #[test]
    fn panic_of_the_callback_is_not_the_codecs() {
        let callback = Box::new(|_: Strings| panic!("the program's"));
        let mut on_event = TypedOnEvent::new("service", callback);
        assert!(on_event.event(Input::from(&b"\xff"[..])).is_err());
        let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            on_event.event(Input::from(&b"\x01a"[..]))
        }));
        assert!(called.is_err() && !on_event.is_decoding());
    }
}
