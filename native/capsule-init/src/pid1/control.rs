//! The control socket: one line in, one line out, then it is closed. Only root reaches it (mode 0600).

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

const MAX_CLIENTS: usize = 32;
const MAX_REQUEST_BYTES: usize = 256;
/// A client that has not sent its line by then is closed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Status,
    Start(String),
    Stop(String),
    Restart(String),
    Reboot,
    PowerOff,
    Confirmed,
}

impl Request {
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let words: Vec<&str> = std::str::from_utf8(line)
            .unwrap_or_default()
            .split_ascii_whitespace()
            .collect();
        match words[..] {
            ["status"] => Ok(Self::Status),
            ["start", name] => Ok(Self::Start(name.into())),
            ["stop", name] => Ok(Self::Stop(name.into())),
            ["restart", name] => Ok(Self::Restart(name.into())),
            ["reboot"] => Ok(Self::Reboot),
            ["poweroff"] => Ok(Self::PowerOff),
            ["confirmed"] => Ok(Self::Confirmed),
            _ => Err(
                "unknown request; known are: status, start NAME, stop NAME, restart NAME, reboot, poweroff, confirmed"
                    .into(),
            ),
        }
    }
}

struct Client {
    token: u64,
    stream: UnixStream,
    received: Vec<u8>,
    until: Instant,
}

/// The socket and its clients. Tokens of epoll: `first_token` is the listener, higher ones are clients.
pub struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
    first_token: u64,
    next_token: u64,
}

impl Control {
    pub fn listen(path: &Path, epoll: &Epoll, first_token: u64) -> std::io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, first_token))?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            first_token,
            next_token: first_token + 1,
        })
    }

    /// When the slowest client's time is up.
    pub fn deadline(&self) -> Option<Instant> {
        self.clients.iter().map(|client| client.until).min()
    }

    /// Something happened on `token`; `answer` is asked for the reply to each whole request.
    pub fn ready(&mut self, token: u64, epoll: &Epoll, now: Instant, answer: &mut dyn FnMut(&[u8]) -> String) {
        if token == self.first_token {
            self.accept(epoll, now);
            return;
        }
        if let Some(index) = self.clients.iter().position(|client| client.token == token) {
            if let Some(reply) = self.clients[index].receive(answer) {
                self.clients[index].reply(&reply);
                self.clients.swap_remove(index);
            }
        }
    }

    /// Closes the clients whose time is up.
    pub fn tick(&mut self, now: Instant) {
        self.clients.retain_mut(|client| {
            let in_time = client.until > now;
            if !in_time {
                client.reply("error: no request came in time\n");
            }
            in_time
        });
    }

    fn accept(&mut self, epoll: &Epoll, now: Instant) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Nothing more to accept; or no descriptors, and then the loop comes back here later.
                Err(_) => return,
            };
            let token = self.next_token;
            self.next_token += 1;
            let mut client = Client {
                token,
                stream,
                received: Vec::new(),
                until: now + PATIENCE,
            };
            let watched = client
                .stream
                .set_nonblocking(true)
                .map_err(|_| Errno::EIO)
                .and_then(|()| epoll.add(&client.stream, EpollEvent::new(EpollFlags::EPOLLIN, token)));
            if self.clients.len() >= MAX_CLIENTS {
                client.reply("error: too many clients, try again\n");
            } else if watched.is_ok() {
                self.clients.push(client);
            }
        }
    }
}

impl Client {
    /// Reads what is there; the reply once the request is whole (or hopeless).
    fn receive(&mut self, answer: &mut dyn FnMut(&[u8]) -> String) -> Option<String> {
        let mut buffer = [0; MAX_REQUEST_BYTES];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) if self.received.is_empty() => return Some(String::new()),
                Ok(0) => return Some(answer(&self.received)),
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                        return Some(answer(&self.received[..end]));
                    }
                    if self.received.len() > MAX_REQUEST_BYTES {
                        return Some("error: the request is too long\n".into());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(String::new()),
            }
        }
    }

    /// The socket's buffer takes any reply whole; a client that is gone does not matter.
    fn reply(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_its_seven_requests_and_nothing_else() {
        assert_eq!(Request::parse(b"status\r"), Ok(Request::Status));
        assert_eq!(
            Request::parse(b"restart capsuled"),
            Ok(Request::Restart("capsuled".into()))
        );
        assert_eq!(Request::parse(b" poweroff "), Ok(Request::PowerOff));
        for garbage in [
            &b""[..],
            b"restart",
            b"status now",
            b"\xff\xff",
            b"REBOOT",
            b"start a b",
        ] {
            assert!(Request::parse(garbage).is_err(), "{garbage:?}");
        }
    }
}
