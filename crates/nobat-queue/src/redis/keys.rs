//! Every key this store uses, who writes it, and how long it lives.
//!
//! `<12>` is the random part of the job's id as it is, in bytes: its 96 bits fill the
//! smallest size of memory block wherever a key stands, where 128, or text, would
//! cost 16 bytes more each time. With the 32 bits that only this deployment can
//! compute, an id has 128 that nobody can guess.
//!
//! All keys of one queue carry the hash tag `{model}`, so one script may touch
//! them in a cluster; `nobat` below is the configurable prefix, which is also
//! what an ACL user needs (`~nobat* &nobat*`). A script gets the queue's base
//! (`nobat{model}:`) as its only key and derives the others from it.
//!
//! | key | type | holds | written by | lives |
//! |---|---|---|---|---|
//! | `nobat{m}:<12>` | string | a job's record while it lives, its result after ([`record`](super::record)) | enqueue, step | result ttl after the end |
//! | `nobat{m}:<12>:in` | string | a payload over [`INLINE_MAX`] | client, before enqueue | until the job ends |
//! | `nobat{m}:<12>:<16 hex>` | string | a result over [`INLINE_MAX`], named by its lease token | consumer, before settle | result ttl |
//! | `nobat{m}:ready` | zset | job keys by score | enqueue, step, tick | |
//! | `nobat{m}:leases` | zset | token (8 bytes) + job key, by expiry (us) | step | |
//! | `nobat{m}:took` | zset | consumers, and `h` + consumers that jobs were pushed to, by the expiry of the leases they took last (us): where a lost reply's are found | step, enqueue | an hour |
//! | `nobat{m}:lapsed` | zset | leases that ran out and counted a death, by when (us): taken back when their holder asks | step, tick | an hour |
//! | `nobat{m}:sched` | zset | delayed and retrying job keys, by due time (us) | enqueue, step | |
//! | `nobat{m}:dead` | zset | dead letters by time (us), capped | step, tick | |
//! | `nobat{m}:due` | zset | waiting jobs that have a deadline, by deadline (us) | enqueue, step | |
//! | `nobat{m}:marker` | zset | one member while there may be work: what idle consumers block on | enqueue, step, tick | until popped |
//! | `nobat{m}:parked` | set | consumers that wait and may have jobs pushed to them: name (8), token (8), lease (us, f64), room (u16) | step, enqueue | until pushed to; an hour after the last tick |
//! | `nobat{m}:meta` | hash | `last` and `seq` (FIFO position), `bytes`, `enq`, `fin`, `drop`, `paused`, `last_chance` (the lease last given to a job on its last chance), `swept` (when timers were last looked after), `spared` (until when no lease is reaped), `at`/`was`/`rate` (drain rate) | all scripts | |
//! | `nobat{m}:cx` | set | jobs cancelled while leased | cancel | until settled or reaped |
//! | `nobat{m}:watch` | hash | job key -> clients (8 bytes each) that wait for another client's job | register_waiter | until the job ends |
//! | `nobat{m}:keeper` | string | the process that is the queue's sweeper | tick | seconds |
//! | `nobat{m}:i:<hash>` | string | idempotency key -> fingerprint, tombstone expiry, job key; names nothing once that job has no record | enqueue | idempotency ttl |
//! | `nobat{m}:at:<minute>` | list | keys of the jobs enqueued in a minute | enqueue, unless `queue.index` is off | the longest ttl of its jobs, and an hour |
//! | `nobat{m}:x:<hour>:<3 hex>` | list | job keys with 4 bytes of a tag's or request id's hash, by 12 other bits of it | enqueue | as above, and a day |
//! | `nobat{m}:e:<code>:<ms>` | list | keys of the jobs that ended with an error of this code since then | step, tick, cancel, unless `queue.index` is off | the longest of its jobs |
//! | `nobat{m}:errors` | hash | code -> which of those lists there are | step, tick, cancel | |
//! | `nobat{m}:minutes`, `hours` | zset | which of those lists there are | enqueue | |
//! | `nobat{m}:probe` | string | nothing: whether writes are taken again | pulse | a second |
//! | `nobat{:}secret` | string | 16 random bytes that job ids are keyed with | first process | |
//! | `nobat{:}queues` | hash | model -> queue number | first use of a model | |
//! | `nobat{:}workers` | hash | worker id -> expiry (ms) and JSON | workers | until expired or deregistered |
//! | `nobat{:}registry` | channel | the set of workers changed | workers | |
//! | `nobat{:}commands` | channel | commands to workers | admin | |
//! | `nobat:cache:<32 hex>` | string | an answer that gateways share | gateways | the model's cache ttl |
//! | `nobat:rate:<16 hex>` | string | a caller's bucket: when it is full again (us) | gateways | until it is full |
//! | `nobat:lane:<8>` | channel | finished jobs for one client | step, tick, cancel | |
//! | `nobat:hand:<8>` | channel | jobs pushed to one waiting consumer | enqueue | |
//! | `nobat:keeper:<8>` | channel | an earlier due time for one sweeper | enqueue, step | |

use nobat_core::job::LeaseToken;
use nobat_core::{JobId, OwnerId};
use smol_str::SmolStr;

/// Payloads and results over this many bytes travel beside the scripts: Lua
/// touches every byte it passes several times.
pub(crate) const INLINE_MAX: usize = 4096;

/// What bounds a value, for whoever reads why one was refused.
pub(crate) const VALUE_LIMIT: &str = "redis: `proto-max-bulk-len`";

/// Length of a job's key.
pub(crate) const KEY_LEN: usize = 12;

/// Bits of an id's random part that its key leaves out: this store leaves them 0.
const SPARE_BITS: u32 = 128 - 8 * KEY_LEN as u32;

/// A job's key: the random part of its id.
pub(crate) fn key_of(id: JobId) -> [u8; KEY_LEN] {
    key_of_random(id.random)
}

/// The key of the job with this random part.
pub(crate) fn key_of_random(random: u128) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key.copy_from_slice(&random.to_be_bytes()[..KEY_LEN]);
    key
}

/// The random part of a new job's id.
pub(crate) fn keyed(random: u128) -> u128 {
    random >> SPARE_BITS << SPARE_BITS
}

/// The random part that a key stands for.
pub(crate) fn job_of(key: &[u8]) -> Option<u128> {
    let key: &[u8; KEY_LEN] = key.try_into().ok()?;
    let mut wide = [0; 16];
    wide[..KEY_LEN].copy_from_slice(key);
    Some(u128::from_be_bytes(wide))
}

/// Length of a lease's member: token and job key.
pub(crate) const MEMBER_LEN: usize = 8 + KEY_LEN;

/// A member of the leases: the exact claim.
pub(crate) fn lease_member(id: JobId, token: LeaseToken) -> [u8; MEMBER_LEN] {
    let mut out = [0; MEMBER_LEN];
    out[..8].copy_from_slice(&token.0.to_le_bytes());
    out[8..].copy_from_slice(&key_of(id));
    out
}

/// The store's name for a caller's idempotency key, whatever its length and
/// content.
pub(crate) fn idempotency_key(owner: OwnerId, key: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(key.as_bytes(), owner.0)
}

/// Names derived from a deployment's prefix.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    pub(crate) text: String,
}

impl Prefix {
    /// The base of `model`'s keys.
    pub(crate) fn base(&self, model: &str) -> String {
        format!("{}{{{model}}}:", self.text)
    }

    /// A key of the deployment itself.
    pub(crate) fn global(&self, name: &str) -> String {
        // Everything global shares one slot through the tag `{:}`, which no
        // model name can be.
        format!("{}{{:}}{name}", self.text)
    }

    /// An answer that gateways share. No tag: they spread over a cluster.
    pub(crate) fn cached(&self, key: u128) -> String {
        format!("{}:cache:{key:032x}", self.text)
    }

    /// A caller's bucket. No tag, as above.
    pub(crate) fn rate(&self, owner: OwnerId) -> String {
        format!("{}:rate:{:016x}", self.text, owner.0)
    }

    /// The bucket of a caller's tokens.
    pub(crate) fn tokens(&self, owner: OwnerId) -> String {
        format!("{}:tokens:{:016x}", self.text, owner.0)
    }

    /// What a client's channel name begins with.
    pub(crate) fn client_channel(&self) -> String {
        format!("{}:lane:", self.text)
    }

    /// What a waiting consumer's channel name begins with.
    pub(crate) fn push_channel(&self) -> String {
        format!("{}:hand:", self.text)
    }

    /// What a sweeper's channel name begins with.
    pub(crate) fn sweeper_channel(&self) -> String {
        format!("{}:keeper:", self.text)
    }
}

/// One queue: a model's keys and its number in public ids.
#[derive(Debug)]
pub(crate) struct QueueKeys {
    pub(crate) model: SmolStr,
    pub(crate) base: String,
    pub(crate) number: u64,
}

impl QueueKeys {
    /// The key of a job's record.
    pub(crate) fn job(&self, key: &[u8]) -> Vec<u8> {
        [self.base.as_bytes(), key].concat()
    }

    /// The key of a job's payload that travels beside the script.
    pub(crate) fn payload(&self, key: &[u8]) -> Vec<u8> {
        [self.base.as_bytes(), key, b":in"].concat()
    }

    /// The key of a result that travels beside the script.
    pub(crate) fn result(&self, key: &[u8], token: u64) -> Vec<u8> {
        [self.base.as_bytes(), key, format!(":{token:016x}").as_bytes()].concat()
    }

    /// One of the queue's own keys, such as `ready`.
    pub(crate) fn own(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }
}
