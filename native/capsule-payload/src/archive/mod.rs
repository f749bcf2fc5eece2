//! Files in and out of the root filesystem of a payload, as tar streams, without any tool in its image.
//!
//! The root filesystem is hostile: its owner may have put any link anywhere and may change it meanwhile. So a process of
//! its own calls [`enter_root`] once and then works inside; a link can then lead nowhere else. Archives are hostile too:
//! [`unpack()`] follows no link below its destination and writes nothing of an entry that it refuses.

mod command;
mod dirs;
mod error;
mod header;
mod pack;
mod reader;
mod root;
mod stat;
mod unpack;

#[cfg(test)]
mod conflict_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod escape_test;
#[cfg(test)]
mod excess_test;
#[cfg(test)]
mod honest_test;
#[cfg(test)]
mod testing;

pub use command::command;
pub use error::ArchiveError;
pub use pack::pack;
pub use root::enter_root;
pub use stat::{Kind, Stat, stat};
pub use unpack::{UnpackOptions, Unpacked, unpack};
