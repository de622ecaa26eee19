//! The clocks and random sources of the whole program. No other module asks the system for either,
//! so that a simulation controls both.
//!
//! | purpose | call |
//! | --- | --- |
//! | to measure, or to wait | [`now`]; it never goes back |
//! | to store, to show, or to compare across restarts | [`wall_clock`]; an operator may set it |
//! | jitter, a random order, a seed | [`rng`] |
//! | secrets that an attacker must not guess: nonces, salts, keys | [`random_bytes`] |

use std::io;
use std::time::{Instant, SystemTime};

#[cfg(test)]
use super::simulation;
use crate::timestamp::Timestamp;

/// The steady clock, by which [`sleep`](super::sleep) sleeps.
pub fn now() -> Instant {
    #[cfg(test)]
    if simulation::runs() {
        return simulation::now();
    }
    Instant::now()
}

/// The time of day.
pub fn wall_clock() -> Timestamp {
    #[cfg(test)]
    if simulation::runs() {
        return simulation::wall_clock();
    }
    SystemTime::now().into()
}

/// A random generator with a new seed. Not for secrets.
pub fn rng() -> fastrand::Rng {
    let mut seed = [0; 8];
    match random_bytes(&mut seed) {
        Ok(()) => fastrand::Rng::with_seed(u64::from_ne_bytes(seed)),
        // It need not be hard to guess: fastrand's seed from time and thread is good enough.
        Err(_) => fastrand::Rng::new(),
    }
}

/// Fills `bytes` with cryptographically secure random bytes from the kernel.
pub fn random_bytes(bytes: &mut [u8]) -> io::Result<()> {
    #[cfg(test)]
    if simulation::runs() {
        simulation::fill(bytes);
        return Ok(());
    }
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::simulation::{Simulation, disk::Disk};

    #[test]
    fn the_system_gives_time_and_random_numbers() {
        let (begin, before) = (now(), wall_clock());
        assert!(now() >= begin);
        assert!(wall_clock() > Timestamp(1_700_000_000_000) && wall_clock() >= before);
        assert_ne!(rng().u64(..), rng().u64(..));
        let (mut one, mut other) = ([0; 16], [0; 16]);
        assert!(random_bytes(&mut one).is_ok() && random_bytes(&mut other).is_ok());
        assert_ne!(one, other);
    }

    #[test]
    fn a_simulation_replaces_both() {
        let draw = || {
            Simulation::new(5, Disk::new(5), 2_500, 0).enter(|| {
                let mut secret = [0; 4];
                let filled = random_bytes(&mut secret).is_ok();
                (now(), wall_clock(), rng().u64(..), secret, filled)
            })
        };
        assert_eq!(draw(), draw());
        let (_, at, ..) = draw();
        assert_eq!(at, Timestamp(simulation::EPOCH_MS + 2));
    }
}
