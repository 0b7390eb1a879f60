//! A child's bookkeeping of its calls: which wait, which run, and which one the main thread runs. Pure.
//! Declares and re-exports only.

mod id_set;
mod ledger;
mod main_call;

pub(crate) use ledger::{CallLimits, CallState, Duplicate, Lane, Ledger, Started};
pub(crate) use main_call::MainCall;
