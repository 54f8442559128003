//! The highest rate with a wanted share of the requests in time.

use serde::Serialize;

/// How it is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Share of the requests that must be in time.
    pub wanted: f64,
    /// The first rate that is tried, in requests a second.
    pub start: f64,
    /// The lowest rate that failed may be so much higher than the highest that held, of it.
    pub precision: f64,
    /// A limit below this is of no interest: where this rate does not hold, none is searched for. 0 for any limit.
    pub floor: f64,
}

/// Rates beyond these are not tried.
const RATE_MIN: f64 = 0.5;
const RATE_MAX: f64 = 1e6;
/// The first step up or down, in times the precision; each further one goes twice as far, up to the largest.
const FIRST_STEP: f64 = 4.0;
const STEP_MAX: f64 = 4.0;
/// How often a rate that did not hold with other seeds is lowered and tried again.
const CONFIRMATIONS_MAX: u64 = 6;

/// What happened at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// Requests a second.
    pub rate: f64,
    /// Share in time; the most that it can still be where `ended_early`.
    pub attainment: f64,
    /// Whether the generator kept up.
    pub valid: bool,
    /// Requests that this is known from.
    pub requests: u64,
    /// Whether the run was ended since the wanted share was out of reach.
    pub ended_early: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// The highest rate that held, in requests a second, with other seeds than it was searched with; 0 when none
    /// did.
    pub rate: f64,
    /// The lowest rate that did not hold.
    pub failed_at: f64,
    /// Whether that was for the generator and not for the instance: the limit is then at least `rate`.
    pub is_of_the_generator: bool,
    /// All that was tried, in order.
    pub probes: Vec<Probe>,
}

struct State<'a, E> {
    search: Search,
    probe: &'a mut dyn FnMut(f64, u64) -> Result<Probe, E>,
    probes: Vec<Probe>,
    low: f64,
    high: Option<Probe>,
}

/// Goes up or down from the first rate, in steps that grow, until one rate holds and the next does not; halves the
/// gap between them; and tries what is left with other seeds, one step lower each time it does not hold. The better
/// the first rate, the fewer the probes. `probe` is asked for a rate and for the number of the set of seeds, which is
/// 0 for the search.
///
/// # Errors
/// What `probe` returns.
pub fn find_limit<E>(
    search: Search,
    probe: &mut dyn FnMut(f64, u64) -> Result<Probe, E>,
) -> Result<Limit, E> {
    let mut state = State {
        search,
        probe,
        probes: Vec::new(),
        low: 0.0,
        high: None,
    };
    state.bracket()?;
    state.halve()?;
    state.confirm()?;
    Ok(Limit {
        rate: state.low,
        failed_at: state.high.map_or(0.0, |high| high.rate),
        is_of_the_generator: state.high.is_some_and(|high| !high.valid),
        probes: state.probes,
    })
}

impl<E> State<'_, E> {
    fn holds(&mut self, rate: f64, seeds: u64) -> Result<bool, E> {
        let probe = (self.probe)(rate, seeds)?;
        self.probes.push(probe);
        let holds = probe.valid && probe.attainment >= self.search.wanted;
        if !holds {
            self.high = Some(probe);
        }
        Ok(holds)
    }

    fn bracket(&mut self) -> Result<(), E> {
        let least = self.search.floor.max(RATE_MIN);
        let mut rate = self.search.start.clamp(least, RATE_MAX);
        let mut step = 1.0 + FIRST_STEP * self.search.precision;
        if self.holds(rate, 0)? {
            self.low = rate;
            while rate < RATE_MAX {
                rate *= step;
                if !self.holds(rate, 0)? {
                    return Ok(());
                }
                self.low = rate;
                step = (step * step).min(STEP_MAX);
            }
            return Ok(());
        }
        while rate > least {
            rate = (rate / step).max(least);
            if self.holds(rate, 0)? {
                self.low = rate;
                return Ok(());
            }
            step = (step * step).min(STEP_MAX);
        }
        Ok(())
    }

    fn halve(&mut self) -> Result<(), E> {
        while let Some(high) = self.high
            && self.low > 0.0
            && high.rate > self.low * (1.0 + self.search.precision)
        {
            let middle = (self.low * high.rate).sqrt();
            if self.holds(middle, 0)? {
                self.low = middle;
            }
        }
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), E> {
        for seeds in 1..=CONFIRMATIONS_MAX {
            if self.low < RATE_MIN || self.low < self.search.floor {
                break;
            }
            if self.holds(self.low, seeds)? {
                return Ok(());
            }
            self.low /= 1.0 + self.search.precision;
        }
        // Nothing held twice.
        self.low = 0.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const SEARCH: Search = Search {
        wanted: 0.99,
        start: 50.0,
        precision: 0.02,
        floor: 0.0,
    };

    /// A service that holds up to a rate, where the seeds of the search are luckier than others.
    fn search(limit: f64, luck: f64, generator: f64) -> Limit {
        search_from(SEARCH, limit, luck, generator)
    }

    fn search_from(search: Search, limit: f64, luck: f64, generator: f64) -> Limit {
        let found: Result<Limit, Infallible> = find_limit(search, &mut |rate, seeds| {
            let limit = if seeds == 0 { limit * luck } else { limit };
            Ok(Probe {
                rate,
                attainment: if rate <= limit { 1.0 } else { 0.5 },
                valid: rate <= generator,
                requests: 1_000,
                ended_early: false,
            })
        });
        found.unwrap()
    }

    #[test]
    fn a_limit_above_and_below_the_start_is_found() {
        for limit in [3.0, 50.0, 333.0, 5_000.0] {
            let found = search(limit, 1.0, f64::INFINITY);
            assert!(found.rate <= limit, "{found:?}");
            assert!(found.rate > limit / 1.025, "{found:?}");
            assert!(found.failed_at > limit && !found.is_of_the_generator);
            assert!(found.probes.len() < 20, "{}", found.probes.len());
        }
    }

    #[test]
    fn lucky_seeds_do_not_count() {
        let found = search(200.0, 1.05, f64::INFINITY);
        assert!(found.rate <= 200.0 && found.rate > 190.0, "{found:?}");
    }

    #[test]
    fn the_generators_limit_is_said_to_be_its_own() {
        let found = search(1_000.0, 1.0, 400.0);
        assert!(found.rate <= 400.0 && found.rate > 390.0, "{found:?}");
        assert!(found.is_of_the_generator);
    }

    #[test]
    fn from_a_good_start_few_probes_are_enough() {
        for start in [93.0, 100.0, 107.0] {
            let found = search_from(Search { start, ..SEARCH }, 100.0, 1.0, f64::INFINITY);
            assert!(found.rate <= 100.0 && found.rate > 98.0, "{found:?}");
            assert!(found.probes.len() <= 6, "{found:?}");
        }
    }

    #[test]
    fn below_the_floor_nothing_is_searched_for() {
        let search = Search {
            start: 105.0,
            floor: 105.0,
            ..SEARCH
        };
        let found = search_from(search, 100.0, 1.0, f64::INFINITY);
        assert!(found.rate == 0.0 && found.probes.len() == 1, "{found:?}");
        assert!(search_from(search, 110.0, 1.0, f64::INFINITY).rate > 105.0);
    }

    #[test]
    fn a_service_that_holds_nothing_has_none() {
        assert_eq!(search(0.0, 1.0, f64::INFINITY).rate, 0.0);
    }
}
