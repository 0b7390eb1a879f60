//! What the host of `plugin.rs` and its plugins agree on. In real life a crate of its own.

use offspring::{Json, Service};

/// Renders a page: what plugins serve. Change the version with the types, and plugins built before are
/// refused.
pub(crate) const RENDER: Service<Json, String, String> = Service::new("render").version(1);

/// The value of a setting: what hosts serve.
pub(crate) const SETTING: Service<Json, String, u32> = Service::new("setting");

/// A page by its name: the host decides what a plugin may read.
pub(crate) const PAGE: Service<Json, String, String> = Service::new("page");

/// A line for the host's log, with its level.
pub(crate) const LOG: Service<Json, (u8, String), ()> = Service::new("log");
