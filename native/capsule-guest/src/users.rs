//! Users and groups by the names that the payload's root filesystem gives them, as it is now. The rules are those of
//! capsuled's `resolveUser`, which does the same for containers.

use displaydoc::Display;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::Read;
use thiserror::Error;

/// Account files beyond this are no honest ones.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: String,
}

#[derive(Debug, Error, Display, PartialEq, Eq)]
pub enum UserError {
    /// The image has no user "{0}" in its /etc/passwd.
    User(String),
    /// The image has no group "{0}" in its /etc/group.
    Group(String),
    /// "{0}" gives no possible id.
    Id(String),
}

/// "user", "uid", "user:group" or "uid:gid"; root for "".
pub fn resolve(user: &str, root: &str) -> Result<User, UserError> {
    look_up(user, &read_inside(root, "etc/passwd"), &read_inside(root, "etc/group"))
}

fn look_up(user: &str, passwd: &str, group_file: &str) -> Result<User, UserError> {
    if matches!(user, "" | "0" | "root" | "0:0") {
        return Ok(User {
            home: "/root".into(),
            ..User::default()
        });
    }
    let (who, group) = match user.split_once(':') {
        Some((who, group)) => (who, Some(group)),
        None => (user, None),
    };
    let account =
        lines(passwd).find(|fields| fields.first() == Some(&who) || (is_number(who) && fields.get(2) == Some(&who)));
    if account.is_none() && !is_number(who) {
        return Err(UserError::User(who.into()));
    }
    let field = |index: usize| account.as_ref().and_then(|fields| fields.get(index).copied());
    let uid = id(field(2).unwrap_or(who))?;
    let gid = match group {
        None => id(field(3).unwrap_or("0"))?,
        Some(group) => group_id(group, group_file)?,
    };
    // As login does, and only when no group was named.
    let additional_gids = match (group, field(0)) {
        (None, Some(name)) => lines(group_file)
            .filter(|fields| {
                fields
                    .get(3)
                    .is_some_and(|members| members.split(',').any(|member| member == name))
            })
            .map(|fields| id(fields.get(2).copied().unwrap_or_default()))
            .collect::<Result<_, _>>()?,
        _ => Vec::new(),
    };
    let home = field(5).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(User {
        uid,
        gid,
        additional_gids,
        home,
    })
}

fn group_id(group: &str, file: &str) -> Result<u32, UserError> {
    match lines(file).find(|fields| fields.first() == Some(&group)) {
        Some(fields) => id(fields.get(2).copied().unwrap_or_default()),
        None if is_number(group) => id(group),
        None => Err(UserError::Group(group.into())),
    }
}

fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The last number is -1, which means "no change" to the kernel.
fn id(text: &str) -> Result<u32, UserError> {
    text.parse()
        .ok()
        .filter(|id| is_number(text) && *id < u32::MAX)
        .ok_or_else(|| UserError::Id(text.into()))
}

/// A file of the payload's root; no link leads out of it. Empty when there is none.
fn read_inside(root: &str, path: &str) -> String {
    let read = || -> nix::Result<String> {
        let dir = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        // A FIFO in its place must not hold this up.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let mut bytes = Vec::new();
        let file = File::from(openat2(dir, path, how)?);
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
        // A full name may be in any encoding.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:33:34:web:/srv:/bin/false\nplain:x:7:8::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\nbad:x:99999999999:x\n";

    #[test]
    fn names_and_numbers_are_looked_up() {
        let web = User {
            uid: 33,
            gid: 34,
            additional_gids: vec![40],
            home: "/srv".into(),
        };
        assert_eq!(look_up("web", PASSWD, GROUP), Ok(web.clone()));
        assert_eq!(look_up("33", PASSWD, GROUP), Ok(web));
        assert_eq!(look_up("", PASSWD, GROUP).map(|user| user.home), Ok("/root".into()));
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        let found = look_up("web:logs", PASSWD, GROUP);
        assert_eq!(
            found,
            Ok(User {
                uid: 33,
                gid: 40,
                additional_gids: vec![],
                home: "/srv".into()
            })
        );
    }

    #[test]
    fn numbers_need_no_account() {
        let found = look_up("1000:1001", PASSWD, GROUP);
        assert_eq!(
            found,
            Ok(User {
                uid: 1000,
                gid: 1001,
                additional_gids: vec![],
                home: "/".into()
            })
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(look_up("nobody", PASSWD, GROUP), Err(UserError::User("nobody".into())));
        assert_eq!(
            look_up("web:staff", PASSWD, GROUP),
            Err(UserError::Group("staff".into()))
        );
        assert_eq!(
            look_up("web:bad", PASSWD, GROUP),
            Err(UserError::Id("99999999999".into()))
        );
        assert_eq!(
            look_up("4294967295", PASSWD, GROUP),
            Err(UserError::Id("4294967295".into()))
        );
    }
}
