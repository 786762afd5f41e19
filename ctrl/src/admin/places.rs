//! Who may be connected at a time: no user holds all places, and one is always root's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients at a time.
const CLIENTS_MAX: usize = 64;
/// Of those, how many a user other than root may have.
const PER_USER_MAX: usize = 16;
/// Places that are root's alone.
const OF_ROOT: usize = 1;
/// Places that those who only look leave to those who may change things.
const OF_OPERATORS: usize = 16;

/// The places, shared by all clients' threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    by_user: HashMap<u32, usize>,
    all: usize,
    lookers: usize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    user: u32,
    is_looker: bool,
}

impl Places {
    /// A place for a user.
    ///
    /// # Errors
    /// With what to say when there is none.
    pub(super) fn take(&self, user: u32) -> Result<Place, String> {
        let mut taken = self.lock();
        let most = if user == 0 { CLIENTS_MAX } else { CLIENTS_MAX - OF_ROOT };
        if taken.all >= most {
            return Err(format!("{} clients are connected already; try again", taken.all));
        }
        let of_user = taken.by_user.entry(user).or_insert(0);
        if user != 0 && *of_user >= PER_USER_MAX {
            return Err(format!("user {user} has {PER_USER_MAX} connections already; close one"));
        }
        *of_user += 1;
        taken.all += 1;
        drop(taken);
        Ok(Place { places: self.clone(), user, is_looker: false })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes that this client only looks.
    ///
    /// # Errors
    /// With what to say when those who only look have all the places that are for them.
    pub(super) fn look_only(&mut self) -> Result<(), String> {
        let mut taken = self.places.lock();
        if taken.lookers >= CLIENTS_MAX - OF_OPERATORS {
            let count = taken.lookers;
            return Err(format!("{count} clients that only look are connected already; try again"));
        }
        taken.lookers += 1;
        drop(taken);
        self.is_looker = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        taken.lookers -= usize::from(self.is_looker);
        if let Some(of_user) = taken.by_user.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_places_and_root_always_gets_one() {
        let places = Places::default();
        let mut held: Vec<Place> = Vec::new();
        for user in 1..=4 {
            held.extend((0..100).map_while(|_| places.take(user).ok()));
        }
        assert_eq!(held.len(), 63, "three times 16, and what is left for others than root");
        assert!(places.take(9).unwrap_err().contains("try again"));
        let root = places.take(0).unwrap();
        assert!(places.take(0).is_err());
        drop(root);
        drop(held.split_off(16));
        assert!(places.take(1).unwrap_err().contains("user 1 has 16"));
        assert!(places.take(2).is_ok());
        let lookers: Vec<_> = (0..100)
            .map_while(|n| {
                let mut place = places.take(10 + n / 16).ok()?;
                place.look_only().ok()?;
                Some(place)
            })
            .collect();
        assert_eq!(lookers.len(), 47, "48 places that are theirs, or what 63 leave");
        drop((lookers, held));
        assert!(places.lock().by_user.is_empty());
    }
}
