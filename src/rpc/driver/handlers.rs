//! The program's callbacks that are not those of calls.

use super::supervise::Supervise;
use crate::codec::{Input, Strings};
use crate::copies;
use crate::error::Error;
use crate::process::Child;
use crate::rpc::ask::{AskHandler, AskHandlers, ServeAsk};
use crate::rpc::callback::guard;
use crate::rpc::link::Link;
use crate::rpc::log;
use crate::rpc::state::SERVES_NOTHING;
use crate::service::{Signature, id_of};
use crate::wire::truncate;
use std::fmt::Display;
use std::sync::Arc;

/// How much is shown of what nobody handles.
const SHOWN: usize = 200;

/// Called with an event, and the process id of the child that it comes from.
pub(crate) type EventCallback = Box<dyn FnMut(Option<u32>, Strings) + Send>;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) on_event: Option<EventCallback>,
    pub(crate) on_error: Option<Box<dyn FnOnce(Error) + Send>>,
    pub(crate) on_destroy: Option<Box<dyn FnOnce() + Send>>,
    /// `None` if nothing is served: then the linker leaves out how.
    pub(crate) on_ask: Option<Box<dyn ServeAsk>>,
    /// Who else is told of the child.
    pub(crate) supervisor: Option<Arc<dyn Supervise>>,
    /// Whether something has come that nobody handles.
    has_dropped: bool,
}

impl Handlers {
    /// Serves what the child asks for under this name.
    ///
    /// # Panics
    ///
    /// If it is served already.
    pub(crate) fn serve<S: Signature>(&mut self, service: &S, handler: AskHandler) {
        let on_ask = self
            .on_ask
            .get_or_insert_with(|| Box::new(AskHandlers::default()));
        on_ask.add(id_of(service), handler);
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.on_event.is_some()
            || self.on_error.is_some()
            || self.on_destroy.is_some()
            || self.on_ask.is_some()
    }

    /// An event has come from this process. One that nobody handles is dropped; the first is reported.
    /// Others may follow under the same guard.
    pub(super) fn event(&mut self, event: Strings, pid: Option<u32>) {
        match &mut self.on_event {
            Some(on_event) => copies::run(|| on_event(pid, event)),
            None => self.report_dropped(
                pid,
                &format_args!("an event, as there is no on_event(): {event}"),
            ),
        }
    }

    /// Something was dropped, as nobody handles it. The first is reported.
    #[cold]
    fn report_dropped(&mut self, pid: Option<u32>, what: &dyn Display) {
        if !std::mem::replace(&mut self.has_dropped, true) {
            let text = what.to_string();
            let text = truncate(&text, SHOWN);
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            log::error(format_args!(
                "dropped {text}; only the first is reported{pid}"
            ));
        }
    }

    /// The child asks or tells something. What is told and nobody serves is treated like an event that
    /// nobody handles.
    pub(super) fn ask(&mut self, link: &Arc<Link>, payload: Input<'_>) {
        let why = match &mut self.on_ask {
            Some(on_ask) => on_ask.serve(link, payload),
            // It only tells: the connection refuses asks then.
            None => Some(SERVES_NOTHING.to_owned()),
        };
        if let Some(why) = why {
            let pid = link.child().and_then(Child::pid);
            self.report_dropped(pid, &format_args!("what the child tells: {why}"));
        }
    }

    /// Reports how it ended, by the chain of the original: an error goes to `on_error`, without that
    /// to `on_event`, without either to the log. Panics of the callbacks stop here.
    pub(super) fn end(self, error: Option<Error>, pid: Option<u32>) {
        let Handlers {
            mut on_event,
            mut on_error,
            mut on_destroy,
            on_ask,
            supervisor: _,
            has_dropped: _,
        } = self;
        guard(|| match error {
            None => {
                if let Some(on_destroy) = on_destroy.take() {
                    on_destroy();
                }
            }
            Some(error) => match (on_error.take(), &mut on_event) {
                (Some(on_error), _) => on_error(error),
                (None, Some(on_event)) => {
                    let event = ["error", &error.to_string()].into_iter().collect();
                    on_event(pid, event);
                }
                (None, None) => log::error(error),
            },
        });
        // Each on its own: if two destructors panicked in one guard, the process would be aborted.
        guard(|| drop(on_event));
        guard(|| drop(on_error));
        guard(|| drop(on_destroy));
        guard(|| drop(on_ask));
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
                Box::new(move |_: Option<u32>, event: Strings| on_event(event.to_string()))
                    as EventCallback
            }),
            on_error: is_wanted("on_error").then(|| {
                Box::new(move |error: Error| on_error(error.to_string()))
                    as Box<dyn FnOnce(Error) + Send>
            }),
            on_destroy: is_wanted("on_destroy")
                .then(|| Box::new(move || on_destroy(String::new())) as Box<dyn FnOnce() + Send>),
            on_ask: None,
            supervisor: None,
            has_dropped: false,
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
            handlers(wanted, &sender).end(error, None);
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
        let on_event = move |_: Option<u32>, _: Strings| {
            let _ = &event;
        };
        let handlers = Handlers {
            on_event: Some(Box::new(on_event)),
            on_error: Some(Box::new(|error| panic!("{error}"))),
            on_destroy: Some(Box::new(move || drop(destroy))),
            on_ask: None,
            supervisor: None,
            has_dropped: false,
        };
        drop(sender);
        handlers.end(Some(Error::new(ErrorKind::Died, "it died")), None);
        assert_eq!(dropped.iter().collect::<Vec<_>>(), ["event", "destroy"]);
    }
}
