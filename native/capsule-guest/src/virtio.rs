//! What virtio devices the machine has.

use std::fs;

const DEVICES: &str = "/sys/bus/virtio/devices";
/// A socket device (virtio 1.1, 5), as the kernel writes it.
pub const VSOCK: &str = "0x0013";

/// Whether there is one of this type. Devices are known once the module of their transport is loaded.
pub fn has_device(kind: &str) -> bool {
    fs::read_dir(DEVICES).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| fs::read_to_string(entry.path().join("device")).is_ok_and(|found| found.trim_end() == kind))
    })
}
