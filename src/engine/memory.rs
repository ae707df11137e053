//! How much may run at once: bytes that running jobs hold and that one call needs, against a limit. Weights are not
//! counted. Pure bookkeeping; the figures come from the network.

use std::collections::HashMap;

use super::schedule::Key;

/// What one job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Bytes for as long as it runs: latents, remembered values, encoded prompt.
    pub held: u64,
    /// Bytes of the smallest call that moves it on: one picture's rows, or decoding one picture.
    pub call: u64,
}

/// Whether a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Admit,
    /// Not before others have ended.
    Wait,
    /// It is larger than the limit alone.
    Never,
}

/// The accounts of one device.
#[derive(Debug, Default)]
pub struct Memory {
    limit: Option<u64>,
    jobs: HashMap<Key, Need>,
}

impl Memory {
    pub fn new(limit: Option<u64>) -> Self {
        Memory { limit, jobs: HashMap::new() }
    }

    /// Whether this job fits beside those that run: what all of them hold and the largest of their smallest calls.
    pub fn verdict(&self, need: Need) -> Verdict {
        let Some(limit) = self.limit else { return Verdict::Admit };
        let largest = self.jobs.values().map(|job| job.call).max().unwrap_or(0).max(need.call);
        if need.held.saturating_add(need.call) > limit {
            Verdict::Never
        } else if self.held().saturating_add(need.held).saturating_add(largest) > limit {
            Verdict::Wait
        } else {
            Verdict::Admit
        }
    }

    /// Opens a job's account.
    pub fn hold(&mut self, key: Key, need: Need) {
        self.jobs.insert(key, need);
    }

    /// Closes it.
    pub fn release(&mut self, key: Key) {
        self.jobs.remove(&key);
    }

    /// Bytes that the running jobs hold between calls.
    pub fn held(&self) -> u64 {
        self.jobs.values().map(|job| job.held).sum()
    }

    /// Rows of `row_bytes` bytes that fit into one call now, at most `cap`.
    pub fn rows(&self, row_bytes: u64, cap: usize) -> usize {
        let Some(limit) = self.limit else { return cap };
        let room = limit.saturating_sub(self.held()) / row_bytes.max(1);
        usize::try_from(room).unwrap_or(usize::MAX).min(cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_limit_everything_fits() {
        let memory = Memory::new(None);
        assert_eq!(memory.verdict(Need { held: u64::MAX, call: u64::MAX }), Verdict::Admit);
        assert_eq!(memory.rows(u64::MAX, 7), 7);
    }

    #[test]
    fn a_job_waits_for_room_and_is_refused_when_there_never_will_be() {
        let mut memory = Memory::new(Some(100));
        memory.hold(1, Need { held: 30, call: 50 });
        assert_eq!(memory.verdict(Need { held: 20, call: 40 }), Verdict::Admit);
        assert_eq!(memory.verdict(Need { held: 21, call: 40 }), Verdict::Wait, "the other's call needs 50");
        assert_eq!(memory.verdict(Need { held: 60, call: 41 }), Verdict::Never);
        assert_eq!(memory.rows(20, 16), 3);
        memory.release(1);
        assert_eq!(memory.verdict(Need { held: 21, call: 40 }), Verdict::Admit);
    }

    proptest! {
        #[test]
        fn every_admitted_job_can_always_make_its_smallest_call(
            limit in 1u64..1000,
            needs in prop::collection::vec((0u64..200, 1u64..400), 1..30),
        ) {
            let mut memory = Memory::new(Some(limit));
            let mut admitted = Vec::new();
            for (key, (held, call)) in needs.into_iter().enumerate() {
                let need = Need { held, call };
                if memory.verdict(need) == Verdict::Admit {
                    memory.hold(key as Key, need);
                    admitted.push(need);
                }
                for need in &admitted {
                    prop_assert!(memory.held() + need.call <= limit);
                }
            }
        }
    }
}
