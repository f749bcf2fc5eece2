//! Asks PID 1 to power off when the machine's power button is pressed. A process of its own: it works when capsuled does
//! not, and PID 1 needs to know nothing of inputs.

use crate::ctl;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::process::ExitCode;

/// `struct input_event` of 64-bit Linux (linux/input.h): two longs of time, then type, code and value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// How often new buttons are looked for.
const RESCAN_MS: u16 = 10_000;

pub fn main() -> ExitCode {
    let mut buttons = open_buttons();
    loop {
        let mut fds: Vec<PollFd> = buttons
            .iter()
            .map(|(_, file)| PollFd::new(file.as_fd(), PollFlags::POLLIN))
            .collect();
        let ready = poll(&mut fds, PollTimeout::from(RESCAN_MS)).unwrap_or(0);
        if ready == 0 {
            let known: Vec<String> = buttons.iter().map(|(name, _)| name.clone()).collect();
            buttons.extend(open_buttons().into_iter().filter(|(name, _)| !known.contains(name)));
            continue;
        }
        let readable: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let mut index = 0;
        buttons.retain_mut(|(_, file)| {
            index += 1;
            !readable[index - 1] || take_events(file)
        });
    }
}

/// False when the device is gone.
fn take_events(file: &mut File) -> bool {
    let mut buffer = [0; EVENT_BYTES * 64];
    let Ok(count) = file.read(&mut buffer) else {
        return false;
    };
    if buffer[..count].chunks_exact(EVENT_BYTES).any(is_press) {
        println!("the power button was pressed");
        match ctl::ask("poweroff") {
            Ok(reply) => print!("{reply}"),
            Err(error) => eprintln!("PID 1 does not answer: {error}"),
        }
    }
    count > 0
}

fn is_press(event: &[u8]) -> bool {
    let word = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    word(16) == EV_KEY && word(18) == KEY_POWER && value == 1
}

fn open_buttons() -> Vec<(String, File)> {
    let names = fs::read_dir("/sys/class/input").into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("event"))
        .filter(|name| {
            let keys = fs::read_to_string(format!("/sys/class/input/{name}/device/capabilities/key"));
            keys.is_ok_and(|text| has_bit(&text, u32::from(KEY_POWER)))
        })
        .filter_map(|name| File::open(format!("/dev/input/{name}")).ok().map(|file| (name, file)))
        .collect()
}

/// A bitmap as the kernel prints it: words of 64 bits in hexadecimal, the highest first.
fn has_bit(text: &str, bit: u32) -> bool {
    let word = text.split_whitespace().rev().nth((bit / 64) as usize);
    word.and_then(|word| u64::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_bitmaps() {
        assert!(has_bit("10000000000000 0\n", 116));
        assert!(!has_bit("10000000000000 0\n", 115));
        assert!(!has_bit("fff\n", 116));
        assert!(!has_bit("", 116));
    }

    #[test]
    fn knows_a_press_from_a_release() {
        let mut event = [0; EVENT_BYTES];
        event[16..18].copy_from_slice(&EV_KEY.to_ne_bytes());
        event[18..20].copy_from_slice(&KEY_POWER.to_ne_bytes());
        assert!(!is_press(&event));
        event[20..24].copy_from_slice(&1i32.to_ne_bytes());
        assert!(is_press(&event));
    }
}
