//! Who is compared, each in all the forms that are tried for it.

use embedring_policy::BatchPolicy;

use crate::device::Device;
use crate::others::{Other, part};
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
    let mut all = shipped();
    all.extend([
        others("shortest first, guarded", Group::Stronger, guarded()),
        others("EDF with the true costs", Group::Stronger, edf(false)),
        others("EDF deferred, the same", Group::Stronger, edf(true)),
        one("ours", Group::Ours, Ours::learning),
        one(
            "ours with the true costs",
            Group::OursKnowing,
            Ours::knowing,
        ),
    ]);
    all
}

fn shipped() -> Vec<Contender> {
    let budget = |expires| {
        TOKENS.map(|tokens_max| {
            other(tokens_max, move |_| BatchPolicy::TokenBudget {
                tokens_max,
                expires,
            })
        })
    };
    vec![
        others(
            "one at a time",
            Group::Shipped,
            [other("", |_| BatchPolicy::OneAtATime)],
        ),
        others("fixed size and timeout", Group::Shipped, timeouts()),
        others("token budget", Group::Shipped, budget(false)),
        others("token budget, expiry", Group::Shipped, budget(true)),
        others(
            "sorted by length, in rounds",
            Group::Shipped,
            TOKENS.map(|tokens_max| {
                other(tokens_max, move |_| BatchPolicy::LengthRounds {
                    tokens_max,
                })
            }),
        ),
        others(
            "AIMD",
            Group::Shipped,
            [0.1, 0.2, 0.3, 0.5, 0.8].map(|target| {
                other(target, move |d| BatchPolicy::Aimd {
                    batch_ns_max: part(d.deadline_ns, target),
                })
            }),
        ),
        others(
            "early drop",
            Group::Shipped,
            TEXTS.map(|texts_max| other(texts_max, move |_| BatchPolicy::EarlyDrop { texts_max })),
        ),
    ]
}

/// A form of what others do.
fn other(numbers: impl ToString, policy: impl Fn(&Device) -> BatchPolicy + 'static) -> Form {
    form(numbers, move |device| Other::new(policy(device), device))
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
    others(name, group, [form("", make)])
}

fn others(name: &'static str, group: Group, forms: impl IntoIterator<Item = Form>) -> Contender {
    Contender {
        name,
        group,
        forms: forms.into_iter().collect(),
    }
}

fn timeouts() -> Vec<Form> {
    let mut forms = Vec::new();
    for texts_max in [4, 8, 16, 32, 64] {
        for wait in [0.02, 0.05, 0.1, 0.2] {
            forms.push(other(format!("{texts_max}, {wait} D"), move |d| {
                BatchPolicy::FixedSize {
                    texts_max,
                    wait_ns: part(d.deadline_ns, wait),
                }
            }));
        }
    }
    forms
}

fn guarded() -> Vec<Form> {
    let mut forms = Vec::new();
    for tokens_max in [128, 256, 512, 1024, 2048, 4096] {
        for guard in [0.3, 0.6, 1.0, 2.0] {
            forms.push(other(format!("{tokens_max}, {guard} D"), move |d| {
                BatchPolicy::ShortestFirst {
                    tokens_max,
                    guard_ns: part(d.deadline_ns, guard),
                }
            }));
        }
    }
    forms
}

fn edf(defers: bool) -> Vec<Form> {
    let mut forms = Vec::new();
    for (margin, worst_1024) in [(1.0, 1024), (1.15, 1178), (1.3, 1331), (1.6, 1638)] {
        for texts_max in [16, 64, 1024] {
            forms.push(other(format!("{margin}, {texts_max}"), move |_| {
                BatchPolicy::EarliestDeadline {
                    texts_max,
                    worst_1024,
                    defers,
                }
            }));
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use embedring_traffic::Arrivals;

    use super::*;
    use crate::arrivals::requests;
    use crate::device::{CPU, GPU};
    use crate::run::run;

    #[test]
    fn every_form_answers_light_load_and_ends_under_overload() {
        for device in [CPU, GPU] {
            let light = requests(&Arrivals::Poisson, &device, 0.01, 200, 1);
            let heavy = requests(&Arrivals::Bursty, &device, 3.0, 400, 1);
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
            let requests = requests(&Arrivals::Poisson, &device, 1.5, 4_000, 2);
            let attainment =
                |policy: &mut dyn Policy| run(&device, &requests, policy, 2).attainment();
            let ours = attainment(&mut Ours::learning(&device));
            let fifo = BatchPolicy::TokenBudget {
                tokens_max: 1024,
                expires: true,
            };
            let fifo = attainment(&mut Other::new(fifo, &device));
            assert!(ours > 2.0 * fifo, "{}: {ours} beside {fifo}", device.name);
        }
    }
}
