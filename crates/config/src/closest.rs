//! What somebody probably meant.

use crate::schema::{ANY, Key, leaves};

/// The known key most like `key`: by the whole path, or by its last part in another table.
pub(crate) fn key(key: &Key) -> Key {
    let worker = key.0.get(1).map_or("cpu", String::as_str);
    let last = |key: &Key| key.0.last().cloned().unwrap_or_default();
    let score = |known: &Key| {
        let whole = distance(&known.to_string(), &key.to_string());
        whole.min(distance(&last(known), &last(key)) + 1)
    };
    let known = leaves()
        .into_iter()
        .map(|(known, _)| known.with_worker(worker));
    known.min_by_key(score).unwrap_or_default()
}

/// The variable most like `rest`, both without `EMBEDRING_`.
pub(crate) fn variable(rest: &str, workers: &[String]) -> String {
    let mut names: Vec<&str> = workers.iter().map(String::as_str).collect();
    // A new worker's name is as good as any: then the fault is in what follows it.
    let given = rest
        .strip_prefix("WORKERS__")
        .and_then(|tail| tail.rsplit_once("__"));
    names.push(given.map_or("cpu", |(name, _)| name));
    let known = leaves().into_iter().flat_map(|(key, _)| {
        let for_each = if key.0.iter().any(|part| part == ANY) {
            names.as_slice()
        } else {
            &[""]
        };
        for_each
            .iter()
            .map(|name| key.with_worker(name).variable())
            .collect::<Vec<_>>()
    });
    known
        .min_by_key(|known| distance(known, rest))
        .unwrap_or_default()
}

/// Insertions, deletions and replacements of characters that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    // Longer than any key or variable; bounds the work on hostile input.
    const CHARS_MAX: usize = 128;
    let b: Vec<char> = b.chars().take(CHARS_MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(CHARS_MAX).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{Key, distance, key, variable};

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn finds_misspelt_and_misplaced_keys() {
        let check = |given: Key, expected: &str| assert_eq!(key(&given).to_string(), expected);
        check(Key::new(["instanse"]), "instance");
        check(Key::new(["clients_max"]), "limits.clients_max");
        check(Key::new(["workers", "a", "thread"]), "workers.a.threads");
        check(Key::new(["model", "group"]), "runtime.group");
    }

    #[test]
    fn finds_misspelt_variables() {
        let workers = ["gpu".to_owned()];
        assert_eq!(variable("INSTANCES", &workers), "INSTANCE");
        assert_eq!(variable("RUNTIME_GROUP", &workers), "RUNTIME__GROUP");
        assert_eq!(
            variable("WORKERS__X__THREDS", &workers),
            "WORKERS__X__THREADS"
        );
        assert_eq!(
            variable("WORKERS_GPU_THREADS", &workers),
            "WORKERS__GPU__THREADS"
        );
    }
}
