//! How many requests a caller may make: a quota a minute that refills steadily, so that short bursts pass.
//!
//! Kept in memory, for each process: a restart forgives. Creating predictions, looking at one and everything else have
//! quotas of their own, as on Replicate.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::ApiState;
use super::auth::Caller;
use super::problem::Problem;

/// Looks at a prediction for each other request: clients poll.
const LOOKS: u32 = 20;

/// Requests between clean-ups of callers who have their whole quota again.
const CLEAN_UP_EVERY: u32 = 4096;

/// The quotas of all callers. Clones share them.
#[derive(Clone, Default)]
pub struct RateLimits {
    create: Option<Arc<Meter>>,
    look: Option<Arc<Meter>>,
    other: Option<Arc<Meter>>,
}

impl RateLimits {
    /// Requests a minute; 0 for no limit.
    pub fn per_minute(create: u32, other: u32) -> RateLimits {
        let meter = |limit: u32| NonZeroU32::new(limit).map(|limit| Arc::new(Meter::new(limit)));
        RateLimits { create: meter(create), look: meter(other.saturating_mul(LOOKS)), other: meter(other) }
    }

    /// The meter of a request, by its normalised path.
    fn meter(&self, method: &Method, path: &str) -> Option<&Meter> {
        let creates = path.ends_with("/predictions") || path == "/images/generations";
        let looks = path.strip_prefix("/predictions/").is_some_and(|id| !id.contains('/'));
        let meter = match *method {
            Method::POST if creates => &self.create,
            Method::GET | Method::HEAD if looks => &self.look,
            _ => &self.other,
        };
        meter.as_deref()
    }
}

/// One quota.
struct Meter {
    limiter: RateLimiter<Caller, DefaultKeyedStateStore<Caller>, DefaultClock, StateInformationMiddleware>,
    quota: Quota,
    counted: AtomicU32,
}

/// How a caller stands after a request.
#[derive(Debug, PartialEq)]
enum Standing {
    /// Requests that are left, and the time until all of them are there again.
    Allowed { remaining: u32, reset: Duration },
    /// The time until the next request is allowed.
    Throttled { wait: Duration },
}

impl Meter {
    fn new(limit: NonZeroU32) -> Meter {
        let quota = Quota::per_minute(limit);
        let limiter = RateLimiter::keyed(quota).with_middleware::<StateInformationMiddleware>();
        Meter { limiter, quota, counted: AtomicU32::new(0) }
    }

    fn count(&self, caller: &Caller) -> Standing {
        if self.counted.fetch_add(1, Ordering::Relaxed) % CLEAN_UP_EVERY == CLEAN_UP_EVERY - 1 {
            self.limiter.retain_recent();
        }
        match self.limiter.check_key(caller) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.quota.burst_size().get().saturating_sub(remaining);
                Standing::Allowed { remaining, reset: self.quota.replenish_interval() * used }
            }
            Err(until) => Standing::Throttled { wait: until.wait_time_from(DefaultClock::default().now()) },
        }
    }
}

/// Whole seconds, at least one.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros().div_ceil(1_000_000).max(1)).unwrap_or(u32::MAX)
}

/// Counts a request and lets it through if its caller has quota left. Behind [`super::auth::require`].
pub async fn meter(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().copied().unwrap_or_default();
    let Some(meter) = state.rate_limits.meter(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let (mut response, remaining, reset) = match meter.count(&caller) {
        Standing::Allowed { remaining, reset } => (next.run(request).await, remaining, seconds(reset)),
        Standing::Throttled { wait } => {
            let wait = seconds(wait);
            (Problem::throttled(wait).into_response(), 0, wait)
        }
    };
    response.headers_mut().insert("ratelimit-remaining", remaining.into());
    response.headers_mut().insert("ratelimit-reset", reset.into());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_caller_has_a_quota_and_short_bursts_pass() {
        let meter = Meter::new(NonZeroU32::new(3).unwrap());
        let (one, two) = (Caller::Key([1; 32]), Caller::Peer([127, 0, 0, 1].into()));
        for left in [2, 1, 0] {
            let Standing::Allowed { remaining, reset } = meter.count(&one) else { panic!("{left}") };
            assert_eq!(remaining, left);
            assert_eq!(seconds(reset), 20 * (3 - left));
        }
        let Standing::Throttled { wait } = meter.count(&one) else { panic!("a fourth request") };
        assert!((19..=20).contains(&seconds(wait)), "{wait:?}");
        assert!(matches!(meter.count(&two), Standing::Allowed { remaining: 2, .. }));
    }

    #[test]
    fn requests_are_metered_by_what_they_do() {
        let limits = RateLimits::per_minute(600, 3000);
        let limit = |method, path| limits.meter(&method, path).unwrap().quota.burst_size().get();
        for path in ["/predictions", "/models/a/b/predictions", "/deployments/a/b/predictions", "/images/generations"] {
            assert_eq!(limit(Method::POST, path), 600, "{path}");
        }
        assert_eq!(limit(Method::GET, "/predictions/x"), 60_000);
        for path in ["/predictions", "/files", "/predictions/x/cancel", "/models/a/b/predictions"] {
            assert_eq!(limit(Method::GET, path), 3000, "{path}");
        }
        assert_eq!(limit(Method::POST, "/predictions/x/cancel"), 3000);
        assert!(RateLimits::per_minute(0, 0).meter(&Method::GET, "/files").is_none());
        assert!(RateLimits::per_minute(0, 1).meter(&Method::POST, "/predictions").is_none());
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!([0, 1, 999, 1000, 1001].map(|ms| seconds(Duration::from_millis(ms))), [1, 1, 1, 1, 2]);
    }
}
