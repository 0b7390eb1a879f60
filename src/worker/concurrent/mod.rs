//! Serves functions of all kinds. Declares and re-exports only.

mod decision;
mod serving;

pub(super) use serving::{DeferredFn, ThreadedFn, answer};
