//! Whose turn it is: which jobs share the next network call. Pure bookkeeping; knows nothing of tensors or time.
//!
//! Shapes take turns, and within a shape jobs take turns, each in a queue whose served members go to the back. So a
//! job waits at most for one call of every other shape and every job before it, whatever their step counts.

use std::collections::VecDeque;

use super::network::LatentShape;

/// Names a running job within its engine.
pub type Key = u64;

/// The jobs of one network call, all of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub shape: LatentShape,
    pub jobs: Vec<Key>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Key,
    rows: usize,
}

#[derive(Debug)]
struct Lane {
    shape: LatentShape,
    jobs: VecDeque<Entry>,
}

/// The queues of running jobs, one for each shape.
#[derive(Debug, Default)]
pub struct Rota {
    lanes: VecDeque<Lane>,
}

impl Rota {
    /// Puts a job that takes `rows` rows of a call behind those of its shape, and a new shape behind the others.
    pub fn join(&mut self, key: Key, shape: LatentShape, rows: usize) {
        let entry = Entry { key, rows };
        match self.lanes.iter_mut().find(|lane| lane.shape == shape) {
            Some(lane) => lane.jobs.push_back(entry),
            None => self.lanes.push_back(Lane { shape, jobs: VecDeque::from([entry]) }),
        }
    }

    /// Takes a job out of its queue.
    pub fn leave(&mut self, key: Key) {
        for lane in &mut self.lanes {
            lane.jobs.retain(|entry| entry.key != key);
        }
        self.lanes.retain(|lane| !lane.jobs.is_empty());
    }

    /// The jobs whose turn it is: the first of the next shape, and those behind it that fit into `cap(shape)` rows.
    /// A job that is larger than the cap gets a call, or several, of its own. `None` when nothing runs.
    pub fn next(&mut self, cap: impl Fn(LatentShape) -> usize) -> Option<Batch> {
        let mut lane = self.lanes.pop_front()?;
        let cap = cap(lane.shape);
        let mut rows = 0;
        let (served, skipped): (VecDeque<Entry>, VecDeque<Entry>) = lane.jobs.drain(..).partition(|entry| {
            let fits = rows == 0 || rows + entry.rows <= cap;
            rows += if fits { entry.rows } else { 0 };
            fits
        });
        let batch = Batch { shape: lane.shape, jobs: served.iter().map(|entry| entry.key).collect() };
        lane.jobs = skipped;
        lane.jobs.extend(served);
        self.lanes.push_back(lane);
        Some(batch)
    }
}

/// Cuts `pictures` pictures of `rows_each` rows into calls of at most `cap` rows: the number of pictures of each call.
/// The calls are as equal as they can be. At least one picture goes into a call.
pub fn chunks(pictures: usize, rows_each: usize, cap: usize) -> Vec<usize> {
    let most = (cap / rows_each.max(1)).max(1);
    let calls = pictures.div_ceil(most).max(1);
    (0..calls).map(|call| pictures * (call + 1) / calls - pictures * call / calls).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn shape(width: usize) -> LatentShape {
        LatentShape { channels: 4, height: 8, width }
    }

    #[test]
    fn all_that_fit_share_a_call_in_a_stable_order() {
        let mut rota = Rota::default();
        (1..=3).for_each(|key| rota.join(key, shape(8), 2));
        for _ in 0..3 {
            assert_eq!(rota.next(|_| 6), Some(Batch { shape: shape(8), jobs: vec![1, 2, 3] }));
        }
    }

    #[test]
    fn shapes_alternate_whatever_their_number_of_jobs() {
        let mut rota = Rota::default();
        (1..=9).for_each(|key| rota.join(key, shape(8), 1));
        rota.join(10, shape(16), 1);
        let widths: Vec<_> = (0..4).map(|_| rota.next(|_| 4).unwrap().shape.width).collect();
        assert_eq!(widths, [8, 16, 8, 16]);
    }

    #[test]
    fn rows_over_the_cap_rotate() {
        let mut rota = Rota::default();
        (1..=5).for_each(|key| rota.join(key, shape(8), 2));
        let calls: Vec<_> = (0..5).map(|_| rota.next(|_| 4).unwrap().jobs).collect();
        assert_eq!(calls, [vec![1, 2], vec![3, 4], vec![5, 1], vec![2, 3], vec![4, 5]]);
    }

    #[test]
    fn a_job_over_the_cap_runs_alone() {
        let mut rota = Rota::default();
        rota.join(1, shape(8), 8);
        rota.join(2, shape(8), 1);
        assert_eq!(rota.next(|_| 4).unwrap().jobs, [1]);
        assert_eq!(rota.next(|_| 4).unwrap().jobs, [2]);
    }

    #[test]
    fn those_who_left_are_not_served() {
        let mut rota = Rota::default();
        rota.join(1, shape(8), 1);
        rota.join(2, shape(16), 1);
        rota.leave(1);
        assert_eq!(rota.next(|_| 4).unwrap().jobs, [2]);
        rota.leave(2);
        assert_eq!(rota.next(|_| 4), None);
    }

    proptest! {
        #[test]
        fn calls_respect_the_cap_and_nobody_waits_longer_than_promised(
            jobs in prop::collection::vec((1usize..4, 1usize..9), 1..20),
            cap in 1usize..9,
        ) {
            let mut rota = Rota::default();
            for (key, (width, rows)) in jobs.iter().enumerate() {
                rota.join(key as Key, shape(*width), *rows);
            }
            let lanes = jobs.iter().map(|job| job.0).collect::<std::collections::HashSet<_>>().len();
            let mut last: HashMap<Key, usize> = HashMap::new();
            for turn in 1..=200 {
                let batch = rota.next(|_| cap).unwrap();
                let rows: usize = batch.jobs.iter().map(|key| jobs[*key as usize].1).sum();
                prop_assert!(rows <= cap || batch.jobs.len() == 1);
                for key in batch.jobs {
                    let (width, _) = jobs[key as usize];
                    prop_assert_eq!(width, batch.shape.width);
                    let lane = jobs.iter().filter(|job| job.0 == width).count();
                    let waited = turn - last.insert(key, turn).unwrap_or(0);
                    prop_assert!(waited <= lane * lanes, "job {} waited {} turns", key, waited);
                }
            }
            prop_assert_eq!(last.len(), jobs.len());
        }

        #[test]
        fn chunks_hold_every_picture_once(pictures in 1usize..20, rows_each in 1usize..3, cap in 1usize..20) {
            let sizes = chunks(pictures, rows_each, cap);
            prop_assert_eq!(sizes.iter().sum::<usize>(), pictures);
            prop_assert!(sizes.iter().all(|n| *n >= 1 && (n * rows_each <= cap || *n == 1)));
        }
    }
}
