//! Serves deferred and threaded functions. Declares and re-exports only.

mod decision;
mod serving;

pub(super) use serving::{DeferredFn, Function, ThreadedFn, answer};
