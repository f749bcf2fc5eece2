//! What people read who look at a machine's console.

use std::fmt::Display;
use std::io::Write;

/// Says a line. `println!` would end PID 1, and with it the machine, when the console takes nothing.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "capsule-guest: {line}");
}
