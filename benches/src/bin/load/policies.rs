//! Who is compared, each in all the forms that are tried for it.

use serde::Serialize;

/// How a policy counts in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// Something like it is shipped.
    Shipped,
    /// Stronger than what is shipped.
    Stronger,
    /// The one this is about.
    Ours,
}

/// A policy of the worker.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// Runs what is late too, so that its clients wait for it.
    pub(crate) runs_late: bool,
    pub(crate) forms: Vec<Form>,
}

/// A policy with the numbers it is run with.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// The numbers, in words.
    pub(crate) numbers: String,
    /// Keys of the configuration.
    pub(crate) settings: Vec<(String, String)>,
}

/// All of them, or some for a quick proof.
pub(crate) fn policies(quick: bool, deadline_ms: u32, only: &str) -> Vec<Policy> {
    let mut all = others(quick, deadline_ms);
    all.retain(|policy| policy.name.contains(only));
    if quick && only.is_empty() {
        all.retain(|policy| ["one at a time", "token budget"].contains(&policy.name));
    }
    // A batch takes at most half of the tightest time that anybody has, as in the simulator.
    let target_ms = deadline_ms.div_ceil(2).to_string();
    all.push(Policy {
        name: "ours",
        group: Group::Ours,
        runs_late: false,
        forms: vec![form(
            "",
            "deadlines",
            &[("SCHEDULER__BATCH_TIME_TARGET_MS", target_ms)],
        )],
    });
    all
}

fn others(quick: bool, deadline_ms: u32) -> Vec<Policy> {
    // The likely ones first, which spares the search for the others. The best of each is within its list, not at
    // its end, unless that is the least there can be.
    let some = |numbers: &[u32]| {
        let few = if quick { 1 } else { numbers.len() };
        numbers[..few].to_vec()
    };
    let texts = some(&[2, 1, 4, 8]);
    let tokens = some(&[128, 64, 32, 256, 512, 1024]);
    let budget = |policy: &str| {
        let one = |tokens: &u32| form(&tokens.to_string(), policy, &[tokens_max(*tokens)]);
        tokens.iter().map(one).collect::<Vec<_>>()
    };
    let by_texts = |policy: &str| {
        let one = |texts: &u32| form(&texts.to_string(), policy, &[texts_max(*texts)]);
        texts.iter().map(one).collect::<Vec<_>>()
    };
    let mut timeouts = Vec::new();
    for texts in &texts {
        for percent in some(&[2, 10]).into_iter().filter(|_| *texts > 1) {
            let numbers = format!("{texts}, .{percent:02} D");
            let keys = [texts_max(*texts), time_us(deadline_ms * percent * 10)];
            timeouts.push(form(&numbers, "fixed-size", &keys));
        }
    }
    let aimd = some(&[30, 10, 5, 60]).into_iter().map(|percent| {
        let keys = [time_us(deadline_ms * percent * 10)];
        form(&format!(".{percent:02} D"), "aimd", &keys)
    });
    let one = form("", "one-at-a-time", &[]);
    let shipped = Group::Shipped;
    vec![
        policy("one at a time", shipped, true, vec![one]),
        policy("fixed size and timeout", shipped, true, timeouts),
        policy("token budget", shipped, true, budget("token-budget")),
        policy(
            "token budget, expiry",
            shipped,
            false,
            budget("token-budget-expiry"),
        ),
        policy(
            "sorted by length, in rounds",
            shipped,
            true,
            budget("length-rounds"),
        ),
        policy("AIMD", shipped, true, aimd.collect()),
        policy("early drop", shipped, false, by_texts("early-drop")),
        policy(
            "EDF with a model",
            Group::Stronger,
            false,
            vec![form("64", "earliest-deadline", &[texts_max(64)])],
        ),
    ]
}

fn policy(name: &'static str, group: Group, runs_late: bool, forms: Vec<Form>) -> Policy {
    Policy {
        name,
        group,
        runs_late,
        forms,
    }
}

fn texts_max(texts: u32) -> (&'static str, String) {
    ("WORKERS__CPU__BATCH_TEXTS_MAX", texts.to_string())
}

fn tokens_max(tokens: u32) -> (&'static str, String) {
    ("WORKERS__CPU__BATCH_TOKENS_MAX", tokens.to_string())
}

fn time_us(us: u32) -> (&'static str, String) {
    ("WORKERS__CPU__BATCH_POLICY_US", us.to_string())
}

fn form(numbers: &str, policy: &str, keys: &[(&str, String)]) -> Form {
    let policy = ("WORKERS__CPU__BATCH_POLICY", policy.to_owned());
    Form {
        numbers: numbers.to_owned(),
        settings: std::iter::once(&policy)
            .chain(keys)
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_always_there_and_never_tuned() {
        for (quick, only) in [(true, ""), (false, ""), (false, "AIMD")] {
            let policies = policies(quick, 100, only);
            let ours: Vec<_> = policies.iter().filter(|p| p.group == Group::Ours).collect();
            assert_eq!(ours.len(), 1);
            assert_eq!(ours[0].forms.len(), 1);
            assert!(policies.iter().all(|policy| !policy.forms.is_empty()));
        }
        assert_eq!(policies(false, 100, "").len(), 9);
        assert_eq!(policies(false, 100, "AIMD").len(), 2);
    }
}
