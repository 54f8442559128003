//! Who is compared, each in all the forms that are tried for it.

use crate::baselines::{Aimd, EarlyDrop, Edf, Fifo, ShortestFirst, SortedRounds, part};
use crate::device::Device;
use crate::ours::Ours;
use crate::run::Policy;

type Make = Box<dyn Fn(&Device) -> Box<dyn Policy>>;

/// A policy with the numbers it is run with.
pub(crate) struct Form {
    /// The numbers, in words.
    pub(crate) numbers: String,
    pub(crate) make: Make,
}

/// A policy.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    pub(crate) forms: Vec<Form>,
}

/// How a policy counts in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Something like it is shipped.
    Shipped,
    /// Stronger than what is shipped.
    Stronger,
    /// The one this is about.
    Ours,
    /// The same, told the true costs.
    OursKnowing,
}

const TOKENS: [u64; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 16_384];
const TEXTS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// All of them.
pub(crate) fn contenders() -> Vec<Contender> {
    vec![
        one("one at a time", Group::Shipped, |_| {
            Fifo::new(1, u64::MAX, 0, false)
        }),
        several("fixed size and timeout", Group::Shipped, timeouts()),
        several(
            "token budget",
            Group::Shipped,
            TOKENS.map(|tokens| form(tokens, move |_| Fifo::new(usize::MAX, tokens, 0, false))),
        ),
        several(
            "token budget, expiry",
            Group::Shipped,
            TOKENS.map(|tokens| form(tokens, move |_| Fifo::new(usize::MAX, tokens, 0, true))),
        ),
        several(
            "sorted by length, in rounds",
            Group::Shipped,
            TOKENS.map(|tokens| form(tokens, move |_| SortedRounds::new(tokens))),
        ),
        several(
            "AIMD",
            Group::Shipped,
            [0.1, 0.2, 0.3, 0.5, 0.8]
                .map(|target| form(target, move |d| Aimd::new(part(d.deadline_ns, target)))),
        ),
        several(
            "early drop",
            Group::Shipped,
            TEXTS.map(|texts| form(texts, move |d| EarlyDrop::new(texts, d.costs))),
        ),
        several("shortest first, guarded", Group::Stronger, guarded()),
        several("EDF with the true costs", Group::Stronger, edf(false)),
        several("EDF deferred, the same", Group::Stronger, edf(true)),
        one("ours", Group::Ours, Ours::learning),
        one(
            "ours with the true costs",
            Group::OursKnowing,
            Ours::knowing,
        ),
    ]
}

fn form<P: Policy + 'static>(
    numbers: impl ToString,
    make: impl Fn(&Device) -> P + 'static,
) -> Form {
    Form {
        numbers: numbers.to_string(),
        make: Box::new(move |device| Box::new(make(device))),
    }
}

fn one<P: Policy + 'static>(
    name: &'static str,
    group: Group,
    make: impl Fn(&Device) -> P + 'static,
) -> Contender {
    several(name, group, [form("", make)])
}

fn several(name: &'static str, group: Group, forms: impl IntoIterator<Item = Form>) -> Contender {
    Contender {
        name,
        group,
        forms: forms.into_iter().collect(),
    }
}

fn timeouts() -> Vec<Form> {
    let mut forms = Vec::new();
    for texts in [4, 8, 16, 32, 64] {
        for wait in [0.02, 0.05, 0.1, 0.2] {
            forms.push(form(format!("{texts}, {wait} D"), move |d| {
                Fifo::new(texts, u64::MAX, part(d.deadline_ns, wait), false)
            }));
        }
    }
    forms
}

fn guarded() -> Vec<Form> {
    let mut forms = Vec::new();
    for tokens in [128, 256, 512, 1024, 2048, 4096] {
        for guard in [0.3, 0.6, 1.0, 2.0] {
            forms.push(form(format!("{tokens}, {guard} D"), move |d| {
                ShortestFirst::new(tokens, part(d.deadline_ns, guard))
            }));
        }
    }
    forms
}

fn edf(defers: bool) -> Vec<Form> {
    let mut forms = Vec::new();
    for margin in [1.0, 1.15, 1.3, 1.6] {
        for texts_max in [16, 64, 1024] {
            forms.push(form(format!("{margin}, {texts_max}"), move |d| Edf {
                costs: d.costs,
                margin,
                texts_max,
                defers,
                queue: Vec::new(),
            }));
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::Arrivals;
    use crate::device::{CPU, GPU};
    use crate::run::run;

    #[test]
    fn every_form_answers_light_load_and_ends_under_overload() {
        for device in [CPU, GPU] {
            let light = Arrivals::Poisson.requests(&device, 0.01, 200, 1);
            let heavy = Arrivals::Bursty.requests(&device, 3.0, 400, 1);
            for contender in contenders() {
                for form in &contender.forms {
                    let name = format!("{} {} on {}", contender.name, form.numbers, device.name);
                    let mut policy = (form.make)(&device);
                    let outcome = run(&device, &light, &mut *policy, 1);
                    assert_eq!(outcome.arrived.iter().sum::<u64>(), 200, "{name}");
                    assert!(outcome.attainment() > 0.9, "{name}: {outcome:?}");
                    let mut policy = (form.make)(&device);
                    let outcome = run(&device, &heavy, &mut *policy, 1);
                    assert_eq!(outcome.arrived.iter().sum::<u64>(), 400, "{name}");
                }
            }
        }
    }

    #[test]
    fn under_overload_ours_answers_more_in_time_than_first_come_first_served() {
        for device in [CPU, GPU] {
            let requests = Arrivals::Poisson.requests(&device, 1.5, 4_000, 2);
            let attainment =
                |policy: &mut dyn Policy| run(&device, &requests, policy, 2).attainment();
            let ours = attainment(&mut Ours::learning(&device));
            let fifo = attainment(&mut Fifo::new(usize::MAX, 1024, 0, true));
            assert!(ours > 2.0 * fifo, "{}: {ours} beside {fifo}", device.name);
        }
    }
}
