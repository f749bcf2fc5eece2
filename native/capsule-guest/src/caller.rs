//! A caller on a way to the agent: who he is, and what he and the agent say to each other. Each says first which one he is:
//! `CONNECT NONCE`, answered by `OK NONCE` (guest.proto).

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc::Sender;

const GREETING: &[u8] = b"CONNECT ";
/// Hexadecimal digits.
const NONCE: usize = 32;
const LINE: usize = GREETING.len() + NONCE + 1;
/// Bytes that wait between the way and gRPC; the driver of a port takes no more at once.
const BUFFER: usize = 256 * 1024;
const CHUNK: usize = 32 * 1024;

/// Where gRPC gets its connections from.
pub type Connections = Sender<io::Result<DuplexStream>>;

/// One direction of a way.
pub trait Way {
    /// 0 when the caller is gone.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    async fn write_all(&mut self, data: &[u8]) -> io::Result<()>;
}

/// One caller, whose nonce is `greeting` if he has said it already, until he is gone or another one has greeted, whose nonce is
/// returned. What a port tells of its other side comes late, and a caller who is gone and the next one in one: only a
/// greeting tells them apart.
pub async fn attend(
    input: &mut impl Way,
    output: &mut impl Way,
    greeting: Option<String>,
    connections: &Connections,
) -> io::Result<Option<String>> {
    let Some(nonce) = (match greeting {
        Some(nonce) => Some(nonce),
        None => greeted(input).await?,
    }) else {
        return Ok(None);
    };
    let (ours, theirs) = duplex(BUFFER);
    let (from_agent, to_agent) = split(ours);
    let talk = async {
        output.write_all(format!("OK {nonce}\n").as_bytes()).await?;
        // There is always somebody who takes it.
        let _ = connections.send(Ok(theirs)).await;
        outwards(from_agent, output).await
    };
    tokio::select! {
        next = inwards(input, to_agent) => next,
        done = talk => done.map(|()| None),
    }
}

/// Reads past what is of an earlier caller. None: this one is gone.
async fn greeted(input: &mut impl Way) -> io::Result<Option<String>> {
    let mut unread = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match input.read(&mut chunk).await? {
            0 => return Ok(None),
            count => unread.extend_from_slice(&chunk[..count]),
        }
        if let Some(nonce) = greeting_in(&unread) {
            return Ok(Some(nonce));
        }
        unread.drain(..unread.len().saturating_sub(LINE - 1));
    }
}

/// Until the caller is gone, or another one has greeted: that comes on its own, as nobody says more before he is answered.
async fn inwards(input: &mut impl Way, mut to_agent: WriteHalf<DuplexStream>) -> io::Result<Option<String>> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = input.read(&mut chunk).await?;
        let said = &chunk[..count];
        let next = if count == LINE { greeting_in(said) } else { None };
        if next.is_some() {
            return Ok(next);
        }
        if count == 0 || to_agent.write_all(said).await.is_err() {
            return Ok(None);
        }
    }
}

async fn outwards(mut from_agent: ReadHalf<DuplexStream>, output: &mut impl Way) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from_agent.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        output.write_all(&chunk[..count]).await?;
    }
}

/// The nonce of the last greeting in it: only its caller waits for an answer.
fn greeting_in(bytes: &[u8]) -> Option<String> {
    bytes.windows(LINE).rev().find_map(|line| {
        let nonce = line.strip_prefix(GREETING)?.strip_suffix(b"\n")?;
        nonce
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then(|| String::from_utf8_lossy(nonce).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_greeting_counts_wherever_it_is() {
        let line = |digit: &str| format!("CONNECT {}\n", digit.repeat(NONCE));
        let bytes = [
            line("a").as_bytes(),
            b"\0\xffCONNECT soon\nCONNECT ",
            line("b").as_bytes(),
            b"x",
        ]
        .concat();
        assert_eq!(greeting_in(&bytes), Some("b".repeat(NONCE)));
        assert_eq!(greeting_in(b"CONNECT 12\n"), None);
        assert_eq!(greeting_in(&bytes[1..LINE]), None);
    }
}
