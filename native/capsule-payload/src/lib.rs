//! What the programs of `native/` share about payloads, wherever they run: writing their logs and moving files in and
//! out of their root filesystem. `capsule-init` uses it on the capsule, `capsule-guest` inside a microVM.

pub mod archive;
pub mod cri;
pub mod lines;
pub mod rotating;
#[cfg(test)]
mod scratch;
pub mod time;
