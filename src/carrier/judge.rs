//! Which frames may come over a connection, whatever is in them. Pure.

use super::channels::CHUNK;
use crate::wire::{CARRIER_CONTROL, Check, MAX_ID};

/// Judges a frame by its id and by how many bytes it claims to have, or has.
///
/// # Errors
///
/// How the other end has broken the rules.
pub(crate) fn judge(id: u32, claimed: usize, longest_control: usize) -> Result<Check, String> {
    match id {
        CARRIER_CONTROL if claimed > longest_control => {
            Err(format!("a message of {claimed} bytes is too long"))
        }
        1..=MAX_ID if claimed > CHUNK => Err(format!(
            "{claimed} bytes at once on channel {id} are too many"
        )),
        CARRIER_CONTROL | 1..=MAX_ID => Ok(Check::Pass),
        _ => Err(format!("there can be no channel {id}")),
    }
}
