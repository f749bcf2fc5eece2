//! The one step that makes all later path lookups safe.

use super::error::{ArchiveError, printable};
use nix::unistd::{chdir, chroot};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes `root` (e.g. `/proc/PID/root`) the root directory of this process, for good. Needs CAP_SYS_CHROOT. No other
/// namespace is joined: the mounts of the payload are seen because the lookup of `root` leads into them.
pub fn enter_root(root: &Path) -> Result<(), ArchiveError> {
    // chroot alone leaves the working directory outside, from where `..` would lead to the host.
    chroot(root)
        .and_then(|()| chdir("/"))
        .map_err(|source| ArchiveError::EnterRoot {
            root: printable(root.as_os_str().as_bytes()),
            source,
        })
}
