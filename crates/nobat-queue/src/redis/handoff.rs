//! Being handed jobs: a consumer that found nothing is written down as parked in
//! the very call that found nothing, and an enqueue that finds the queue empty
//! leases its jobs to one parked consumer and pushes them to its connection.
//! That saves the consumer a call, and everybody a wake-up.
//!
//! Invariants:
//! - A consumer is parked at most once, under the token of the call that parked it:
//!   its next call takes that back. Was it handed jobs that it has not seen (the
//!   connection broke), the same call gives them to it.
//! - A message counts only for the token that is parked now: what comes later was
//!   recovered already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::connect::OnPush;
use super::keys::{KEY_LEN, Prefix};

/// Length of a parked consumer's entry: name, token, lease and room.
pub(crate) const PARKED_LEN: usize = 26;

/// One consumer's end.
pub(crate) struct Handoff {
    name: [u8; 8],
    inbox: Arc<Inbox>,
    parked: Option<Parked>,
}

/// What a consumer is parked as.
#[derive(Clone, Copy)]
pub(crate) struct Parked {
    pub(crate) entry: [u8; PARKED_LEN],
}

#[derive(Default)]
struct Inbox {
    messages: Mutex<Vec<Bytes>>,
    broke: AtomicBool,
    filled: Notify,
}

/// Jobs handed over in one message.
pub(crate) struct Handed {
    pub(crate) token: u64,
    /// The server's clock when it leased them.
    pub(crate) now_us: u64,
    frames: Bytes,
}

impl Handoff {
    pub(crate) fn new(name: [u8; 8]) -> Handoff {
        Handoff { name, inbox: Arc::default(), parked: None }
    }

    pub(crate) fn channel(&self, prefix: &Prefix) -> String {
        format!("{}{}", prefix.hand_channel(), String::from_utf8_lossy(&self.name))
    }

    pub(crate) fn on_push(&self) -> OnPush {
        let inbox = self.inbox.clone();
        Arc::new(move |info: PushInfo| match info.kind {
            PushKind::Message => {
                if let Some(Value::BulkString(message)) = info.data.into_iter().nth(1) {
                    inbox.messages.lock().push(message.into());
                    inbox.filled.notify_one();
                }
            }
            PushKind::Disconnection => {
                inbox.broke.store(true, Ordering::Release);
                inbox.filled.notify_one();
            }
            _ => {}
        })
    }

    /// The entry of a call under `token` that leases `room` jobs for `lease_us` each.
    pub(crate) fn entry(&self, token: u64, lease_us: u64, room: usize) -> [u8; PARKED_LEN] {
        let mut entry = [0; PARKED_LEN];
        entry[..8].copy_from_slice(&self.name);
        entry[8..16].copy_from_slice(&token.to_le_bytes());
        entry[16..24].copy_from_slice(&(lease_us as f64).to_le_bytes());
        entry[24..].copy_from_slice(&(room.min(usize::from(u16::MAX)) as u16).to_le_bytes());
        entry
    }

    pub(crate) fn parked(&self) -> Option<Parked> {
        self.parked
    }

    /// The consumer's name, under which the store remembers what it took last.
    pub(crate) fn name(&self) -> [u8; 8] {
        self.name
    }

    /// A call was answered: parked as `parked`, or not. Every message for an earlier
    /// token is void: its jobs came with the answer.
    pub(crate) fn answered(&mut self, parked: Option<Parked>) {
        self.parked = parked;
        let token = parked.map(|parked| parked.token());
        self.inbox.messages.lock().retain(|message| token.is_some() && token_of(message) == token);
    }

    /// The jobs handed over since the last call, if any. The consumer is parked no
    /// more then.
    pub(crate) fn take(&mut self) -> Option<Handed> {
        let token = self.parked?.token();
        let message = {
            let mut messages = self.inbox.messages.lock();
            let at = messages.iter().position(|message| token_of(message) == Some(token))?;
            messages.swap_remove(at)
        };
        let now_us = message.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(f64::from_le_bytes)?;
        self.parked = None;
        Some(Handed { token, now_us: now_us as u64, frames: message.slice(16..) })
    }

    /// Whether the connection broke since this was last asked.
    pub(crate) fn broke(&self) -> bool {
        self.inbox.broke.swap(false, Ordering::AcqRel)
    }

    /// Waits for a message, or for the connection to break.
    ///
    /// # Cancel safety
    /// Cancel safe: what arrived stays until it is taken.
    pub(crate) async fn filled(&self) {
        if self.inbox.messages.lock().is_empty() && !self.inbox.broke.load(Ordering::Acquire) {
            self.inbox.filled.notified().await;
        }
    }
}

impl Parked {
    pub(crate) fn token(&self) -> u64 {
        let mut token = [0; 8];
        token.copy_from_slice(&self.entry[8..16]);
        u64::from_le_bytes(token)
    }
}

impl Iterator for Handed {
    /// A job's key and record.
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<(Bytes, Bytes)> {
        const HEAD: usize = KEY_LEN + 4;
        let len = self.frames.get(KEY_LEN..HEAD).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)?;
        let end = HEAD + len as usize;
        if end > self.frames.len() {
            return None;
        }
        let frame = self.frames.split_to(end);
        Some((frame.slice(..KEY_LEN), frame.slice(HEAD..)))
    }
}

fn token_of(message: &Bytes) -> Option<u64> {
    message.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(token: u64, jobs: &[(&[u8; KEY_LEN], &[u8])]) -> Bytes {
        let mut bytes = token.to_le_bytes().to_vec();
        bytes.extend(1_000_000f64.to_le_bytes());
        for (key, record) in jobs {
            bytes.extend(*key);
            bytes.extend((record.len() as u32).to_le_bytes());
            bytes.extend(*record);
        }
        bytes.into()
    }

    fn parked(token: u64) -> Handoff {
        let mut handoff = Handoff::new(*b"consumer");
        let entry = handoff.entry(token, 15_000_000, 64);
        handoff.answered(Some(Parked { entry }));
        handoff
    }

    #[test]
    fn a_message_for_the_parked_token_gives_its_jobs_once() {
        let mut handoff = parked(7);
        let jobs: [(&[u8; KEY_LEN], &[u8]); 2] = [(b"aaaaaaaaaaaa", b"one"), (b"bbbbbbbbbbbb", b"")];
        handoff.inbox.messages.lock().push(message(7, &jobs));
        let handed = handoff.take().expect("handed");
        assert_eq!((handed.token, handed.now_us), (7, 1_000_000));
        let got: Vec<_> = handed.collect();
        assert_eq!(got, [("aaaaaaaaaaaa".into(), "one".into()), ("bbbbbbbbbbbb".into(), Bytes::new())]);
        assert!(handoff.parked().is_none() && handoff.take().is_none());
    }

    #[test]
    fn a_message_for_an_earlier_token_is_void() {
        let mut handoff = parked(7);
        handoff.inbox.messages.lock().push(message(6, &[(b"aaaaaaaaaaaa", b"one")]));
        assert!(handoff.take().is_none());
        let next = Parked { entry: handoff.entry(8, 1, 1) };
        handoff.inbox.messages.lock().push(message(8, &[]));
        handoff.answered(Some(next));
        assert_eq!(handoff.inbox.messages.lock().len(), 1);
        handoff.answered(None);
        assert!(handoff.inbox.messages.lock().is_empty());
    }

    #[test]
    fn what_is_cut_short_gives_nothing_and_harms_nobody() {
        let whole = message(7, &[(b"aaaaaaaaaaaa", b"record")]);
        for len in 0..whole.len() {
            let mut handoff = parked(7);
            handoff.inbox.messages.lock().push(whole.slice(..len));
            assert_eq!(handoff.take().map_or(0, Iterator::count), 0);
        }
    }
}
