//! Push delivery: a consumer that found nothing is noted as waiting by the very call
//! that found nothing, and an enqueue that finds the queue empty leases its jobs to
//! one waiting consumer and pushes them to its connection. That saves the consumer a
//! call, and everybody a wake-up.
//!
//! Invariants:
//! - A consumer is noted at most once, under the token of the call that noted it: its
//!   next call takes that back. Were jobs pushed that it has not seen (the connection
//!   broke), the same call gives them to it.
//! - A message counts only for the token that is noted now: what comes later was
//!   recovered already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::super::connection::OnPush;
use super::super::keys::{KEY_LEN, Prefix};

/// Length of a waiting consumer's entry: name, token, lease and room.
pub(crate) const WAITING_LEN: usize = 26;

/// One consumer's end.
pub(crate) struct PushInbox {
    name: [u8; 8],
    messages: Arc<Messages>,
    waiting: Option<WaitingEntry>,
}

/// What a consumer is noted as while it waits.
#[derive(Clone, Copy)]
pub(crate) struct WaitingEntry {
    pub(crate) entry: [u8; WAITING_LEN],
}

#[derive(Default)]
struct Messages {
    unread: Mutex<Vec<Bytes>>,
    broke: AtomicBool,
    filled: Notify,
}

/// Jobs pushed in one message.
pub(crate) struct PushedJobs {
    pub(crate) token: u64,
    /// The server's clock when it leased them.
    pub(crate) now_us: u64,
    frames: Bytes,
}

impl PushInbox {
    pub(crate) fn new(name: [u8; 8]) -> PushInbox {
        PushInbox { name, messages: Arc::default(), waiting: None }
    }

    pub(crate) fn channel(&self, prefix: &Prefix) -> String {
        format!("{}{}", prefix.push_channel(), String::from_utf8_lossy(&self.name))
    }

    pub(crate) fn on_push(&self) -> OnPush {
        let messages = self.messages.clone();
        Arc::new(move |info: PushInfo| match info.kind {
            PushKind::Message => {
                if let Some(Value::BulkString(message)) = info.data.into_iter().nth(1) {
                    messages.unread.lock().push(message.into());
                    messages.filled.notify_one();
                }
            }
            PushKind::Disconnection => {
                messages.broke.store(true, Ordering::Release);
                messages.filled.notify_one();
            }
            _ => {}
        })
    }

    /// The entry of a call under `token` that leases `room` jobs for `lease_us` each.
    pub(crate) fn entry(&self, token: u64, lease_us: u64, room: usize) -> [u8; WAITING_LEN] {
        let mut entry = [0; WAITING_LEN];
        entry[..8].copy_from_slice(&self.name);
        entry[8..16].copy_from_slice(&token.to_le_bytes());
        entry[16..24].copy_from_slice(&(lease_us as f64).to_le_bytes());
        entry[24..].copy_from_slice(&(room.min(usize::from(u16::MAX)) as u16).to_le_bytes());
        entry
    }

    /// What the consumer is noted as in the store, if it is.
    pub(crate) fn waiting(&self) -> Option<WaitingEntry> {
        self.waiting
    }

    /// The consumer's name, under which the store remembers what it took last.
    pub(crate) fn name(&self) -> [u8; 8] {
        self.name
    }

    /// A call was answered: noted as `waiting`, or not. Every message for an earlier
    /// token is void: its jobs came with the answer.
    pub(crate) fn answered(&mut self, waiting: Option<WaitingEntry>) {
        self.waiting = waiting;
        let token = waiting.map(|waiting| waiting.token());
        self.messages.unread.lock().retain(|message| token.is_some() && token_of(message) == token);
    }

    /// The jobs pushed since the last call, if any. The consumer is not noted any more
    /// then.
    pub(crate) fn take(&mut self) -> Option<PushedJobs> {
        let token = self.waiting?.token();
        let message = {
            let mut unread = self.messages.unread.lock();
            let at = unread.iter().position(|message| token_of(message) == Some(token))?;
            unread.swap_remove(at)
        };
        let now_us = message.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(f64::from_le_bytes)?;
        self.waiting = None;
        Some(PushedJobs { token, now_us: now_us as u64, frames: message.slice(16..) })
    }

    /// Whether the connection broke since this was last asked.
    pub(crate) fn broke(&self) -> bool {
        self.messages.broke.swap(false, Ordering::AcqRel)
    }

    /// Waits for a message, or for the connection to break.
    ///
    /// # Cancel safety
    /// Cancel safe: what arrived stays until it is taken.
    pub(crate) async fn filled(&self) {
        if self.messages.unread.lock().is_empty() && !self.messages.broke.load(Ordering::Acquire) {
            self.messages.filled.notified().await;
        }
    }
}

impl WaitingEntry {
    pub(crate) fn token(&self) -> u64 {
        let mut token = [0; 8];
        token.copy_from_slice(&self.entry[8..16]);
        u64::from_le_bytes(token)
    }
}

impl Iterator for PushedJobs {
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

    fn waiting(token: u64) -> PushInbox {
        let mut push_inbox = PushInbox::new(*b"consumer");
        let entry = push_inbox.entry(token, 15_000_000, 64);
        push_inbox.answered(Some(WaitingEntry { entry }));
        push_inbox
    }

    #[test]
    fn a_message_for_the_present_token_gives_its_jobs_once() {
        let mut push_inbox = waiting(7);
        let jobs: [(&[u8; KEY_LEN], &[u8]); 2] = [(b"aaaaaaaaaaaa", b"one"), (b"bbbbbbbbbbbb", b"")];
        push_inbox.messages.unread.lock().push(message(7, &jobs));
        let pushed = push_inbox.take().expect("pushed");
        assert_eq!((pushed.token, pushed.now_us), (7, 1_000_000));
        let got: Vec<_> = pushed.collect();
        assert_eq!(got, [("aaaaaaaaaaaa".into(), "one".into()), ("bbbbbbbbbbbb".into(), Bytes::new())]);
        assert!(push_inbox.waiting().is_none() && push_inbox.take().is_none());
    }

    #[test]
    fn a_message_for_an_earlier_token_is_void() {
        let mut push_inbox = waiting(7);
        push_inbox.messages.unread.lock().push(message(6, &[(b"aaaaaaaaaaaa", b"one")]));
        assert!(push_inbox.take().is_none());
        let next = WaitingEntry { entry: push_inbox.entry(8, 1, 1) };
        push_inbox.messages.unread.lock().push(message(8, &[]));
        push_inbox.answered(Some(next));
        assert_eq!(push_inbox.messages.unread.lock().len(), 1);
        push_inbox.answered(None);
        assert!(push_inbox.messages.unread.lock().is_empty());
    }

    #[test]
    fn what_is_cut_short_gives_nothing_and_harms_nobody() {
        let whole = message(7, &[(b"aaaaaaaaaaaa", b"record")]);
        for len in 0..whole.len() {
            let mut push_inbox = waiting(7);
            push_inbox.messages.unread.lock().push(whole.slice(..len));
            assert_eq!(push_inbox.take().map_or(0, Iterator::count), 0);
        }
    }
}
