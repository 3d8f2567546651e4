//! Places of which there are few, and what one caller may hold of them: as many as it leaves
//! free. One caller alone holds half at most, two a third each, and whoever holds none gets
//! one while any is free. [`judge`] decides and is pure; [`Seats`] are places that end with a
//! connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use nobat_core::OwnerId;
use parking_lot::Mutex;

use super::limiter::owner_of;
use crate::auth::keyring::Grant;

/// Whose a place is: a key's, or an address's where callers have no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The key.
    pub owner: OwnerId,
    /// Where it came from; `None` where a key tells callers apart.
    pub address: Option<IpAddr>,
}

impl Holder {
    /// That of a request from `peer`.
    pub fn of(grant: Option<&Grant>, peer: Option<IpAddr>) -> Holder {
        Holder { owner: owner_of(grant), address: peer.filter(|_| grant.is_none()).map(network) }
    }
}

/// What of an address tells callers apart: a host of IPv6 has all of a /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// The caller holds so many, and no fewer than are free.
    Share(usize),
}

/// Whether a caller that holds `held` of the `taken` places may have one more, of `most`.
///
/// # Errors
/// Why not.
pub fn judge(held: usize, taken: usize, most: usize) -> Result<(), NoPlace> {
    match most.saturating_sub(taken) {
        0 => Err(NoPlace::Full),
        free if held >= free => Err(NoPlace::Share(held)),
        _ => Ok(()),
    }
}

/// Places that are held for as long as their [`Seat`] lives.
pub struct Seats {
    most: usize,
    // Never held over anything that waits.
    held: Arc<Mutex<HashMap<Holder, usize>>>,
}

/// A place, given back when it is dropped.
pub struct Seat {
    held: Arc<Mutex<HashMap<Holder, usize>>>,
    holder: Holder,
}

impl Seats {
    /// So many places, all free.
    pub fn new(most: usize) -> Seats {
        Seats { most, held: Arc::default() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// As [`judge`].
    pub fn take(&self, holder: Holder) -> Result<Seat, NoPlace> {
        let mut held = self.held.lock();
        // As many entries as callers that hold some: fewer than there are places.
        let own = held.get(&holder).copied().unwrap_or_default();
        judge(own, held.values().sum(), self.most)?;
        held.insert(holder, own + 1);
        Ok(Seat { held: self.held.clone(), holder })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(own) = held.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(owner: u64) -> Holder {
        Holder { owner: OwnerId(owner), address: None }
    }

    #[test]
    fn one_caller_holds_half_and_leaves_the_rest_to_others() {
        let seats = Seats::new(256);
        let of = |owner, count| (0..count).map_while(|_| seats.take(key(owner)).ok()).collect::<Vec<_>>();
        let greedy = of(1, 300);
        assert_eq!((greedy.len(), seats.take(key(1)).err()), (128, Some(NoPlace::Share(128))));
        assert_eq!(of(2, 300).len(), 64, "they go as they came");
        let tabs = of(2, 10);
        assert_eq!(tabs.len(), 10);
        drop(greedy);
        assert_eq!(of(1, 300).len(), 123, "of the 246 that are left");
        drop(tabs);
        assert!(seats.held.lock().is_empty(), "nobody is remembered who holds none");
        // Of four, one is left for a third caller.
        assert_eq!(
            [judge(1, 1, 4), judge(2, 2, 4), judge(0, 2, 4), judge(1, 3, 4), judge(0, 3, 4), judge(0, 4, 4)],
            [Ok(()), Err(NoPlace::Share(2)), Ok(()), Err(NoPlace::Share(1)), Ok(()), Err(NoPlace::Full)]
        );
    }

    #[test]
    fn callers_are_told_apart_by_their_key_or_else_by_their_network() {
        let at = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(at("2001:db8:1:2:aaaa::1"), at("2001:db8:1:2::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:10.0.0.7"), at("10.0.0.7"));
        assert_ne!(at("10.0.0.7"), at("10.0.0.8"));
        let of = |text: &str| Holder::of(None, text.parse().ok());
        assert_ne!(of("10.0.0.7"), of("10.0.0.8"));
    }

    proptest! {
        #[test]
        fn whoever_holds_none_is_refused_only_when_all_are_taken(
            most in 0usize..300, steps in prop::collection::vec((0u64..12, prop::bool::weighted(0.8)), 0..600),
        ) {
            let seats = Seats::new(most);
            let mut held: HashMap<u64, Vec<Seat>> = HashMap::new();
            for (owner, takes) in steps {
                let taken: usize = held.values().map(Vec::len).sum();
                let own = held.entry(owner).or_default();
                if !takes {
                    own.pop();
                    continue;
                }
                match seats.take(key(owner)) {
                    Ok(seat) => {
                        prop_assert!(taken < most && own.len() < most - taken);
                        own.push(seat);
                    }
                    Err(NoPlace::Full) => prop_assert_eq!(taken, most),
                    Err(NoPlace::Share(told)) => prop_assert!(told == own.len() && told > 0 && taken < most),
                }
            }
        }

        #[test]
        fn callers_that_take_all_they_can_leave_each_other_an_even_share(most in 1usize..300, callers in 1usize..20) {
            let mut held = vec![0; callers];
            loop {
                let before: usize = held.iter().sum();
                for at in 0..callers {
                    if judge(held[at], held.iter().sum(), most).is_ok() {
                        held[at] += 1;
                    }
                }
                if held.iter().sum::<usize>() == before {
                    break;
                }
            }
            let (least, largest) = (held.iter().min().copied().unwrap_or(0), held.iter().max().copied().unwrap_or(0));
            prop_assert!(largest - least <= 1 && largest <= most.div_ceil(2), "{held:?} of {most}");
            prop_assert!(most - held.iter().sum::<usize>() <= largest, "no more stays free than one holds");
        }
    }
}
