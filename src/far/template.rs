//! Templates on other machines: many children behind one connection.

use super::connection::{Connection, Order};
use crate::error::{Error, ErrorKind};
use crate::fd::Reach;
use crate::process::{CopyWait, FarStarter, Forker, Launched, Process};
use crate::revival::Revival;
use crate::unwind;
use crate::wire::{LONGEST_CONTROL, LONGEST_SETUP, ToRelay};
use std::any::Any;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// The longest message to a relay, which may have one for a template in it.
pub(crate) const LONGEST_TO_RELAY: usize = LONGEST_SETUP + LONGEST_CONTROL;

/// A description of a template behind a connection.
#[derive(Debug)]
struct FarTemplate {
    host: Arc<Host>,
    /// The template that it is a copy of, unless it is executed.
    base: Option<Process>,
    process: Process,
    /// The connection on which the other side knows it, and its number there.
    declared: Mutex<Option<(Weak<Connection>, u32)>>,
}

/// A description of a connection, and the connection, if it is there.
#[derive(Debug)]
struct Host {
    process: Process,
    state: Mutex<HostState>,
}

#[derive(Debug, Default)]
struct HostState {
    live: Option<Arc<Connection>>,
    revival: Revival<Error>,
}

/// See [`super::template`].
pub(super) fn of(process: Process) -> Process {
    let base = process.forker().and_then(far);
    let host = match base {
        Some(base) => Arc::clone(&base.host),
        None => Arc::new(Host {
            process: process.clone(),
            state: Mutex::default(),
        }),
    };
    let base = base.is_some().then(|| process.clone());
    Process::copy_of(Arc::new(FarTemplate {
        host,
        base,
        process,
        declared: Mutex::default(),
    }))
}

fn far(forker: &dyn Forker) -> Option<&FarTemplate> {
    forker.as_any().downcast_ref()
}

impl Forker for FarTemplate {
    fn launch(&self, copy: &Process, wait: &CopyWait) -> Result<Launched, Error> {
        let connection = self.host.connection()?;
        let base = self.declare(&connection)?;
        connection.launch(copy, base, wait.timeout)
    }

    fn label(&self) -> String {
        self.host.process.label()
    }

    fn reach(&self) -> Reach {
        Reach::Far
    }

    fn far_starter(&self) -> Option<&'static dyn FarStarter> {
        Some(&super::Far)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn warm(&self) -> Result<(), Error> {
        let connection = self.host.connection()?;
        let id = self.declare(&connection)?;
        connection.warm(id)
    }
}

impl FarTemplate {
    /// Has the other side know it. Returns its number there.
    fn declare(&self, connection: &Arc<Connection>) -> Result<u32, Error> {
        let mut declared = unwind::lock(&self.declared);
        if let Some((on, number)) = &*declared
            && on.as_ptr() == Arc::as_ptr(connection)
        {
            return Ok(*number);
        }
        let base = match self
            .base
            .as_ref()
            .and_then(|process| far(process.forker()?))
        {
            Some(base) => base.declare(connection)?,
            None => 0,
        };
        let process = &self.process;
        if self.base.is_some() && (process.captures_stdout() || process.captures_stderr()) {
            let message = "a template on another machine that is itself a copy cannot have captured output: \
                           capture that of its copies";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (huge_pages, prepared) = process.far_preparations()?;
        let id = connection.number();
        let mut order = process.start_order(base, [None, None]);
        if self.base.is_none() {
            // The command's, which it shares.
            (order.stdout, order.stderr) = Default::default();
        }
        let template = ToRelay::Template {
            id,
            huge_pages,
            order,
        };
        let prepared = prepared
            .iter()
            .map(|message| ToRelay::Prepare(message).encode());
        let messages = prepared.chain([template.encode()]).collect();
        connection.order(Order::Send(messages));
        *declared = Some((Arc::downgrade(connection), id));
        Ok(id)
    }
}

impl Drop for FarTemplate {
    fn drop(&mut self) {
        let declared = unwind::get_mut(&mut self.declared).take();
        if let Some((connection, id)) = declared
            && let Some(connection) = connection.upgrade()
        {
            connection.order(Order::Send(vec![ToRelay::Forget { id }.encode()]));
        }
    }
}

impl Host {
    /// The connection, which is made if it is not there.
    fn connection(&self) -> Result<Arc<Connection>, Error> {
        let mut state = unwind::lock(&self.state);
        let now = Instant::now();
        // A copy of the process that made it makes one of its own.
        state.live.take_if(|live| live.is_elsewhere());
        if let Some(live) = &state.live {
            let Some((error, has_greeted)) = live.lost() else {
                return Ok(Arc::clone(live));
            };
            state.live = None;
            if has_greeted {
                state.revival.succeeded();
            }
            state.revival.failed(now, error);
        }
        if let Some((error, wait, failures)) = state.revival.must_wait(now) {
            let message = format!(
                "the connection has failed {failures} times in a row, and is not tried again for another \
                 {wait:.1?}: {}",
                error.summary()
            );
            let said = error.stderr().to_owned();
            return Err(Error::new(error.kind(), message).with_process(None, None, None, said));
        }
        let started = Connection::new(&self.process, None).and_then(|(connection, carrier)| {
            connection.serve(&self.process, carrier)?;
            Ok(connection)
        });
        match started {
            Ok(connection) => {
                state.live = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                state.revival.failed(now, error.clone());
                Err(error)
            }
        }
    }
}
