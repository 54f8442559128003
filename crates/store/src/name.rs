//! Which strings are model names, and the folder each one gets.

/// Longest part of a name; the hub allows 96.
const PART_BYTES_MAX: usize = 96;

/// A checked model name: `name`, or `org/name` as on the Hugging Face hub.
///
/// Checked once here, so that a name can be used as a folder's name and inside a URL without a
/// second thought: no dot or dash in front, no `..`, no `--` (which stands for the slash on disk).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelName(String);

impl ModelName {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let good = parts.by_ref().take(2).all(is_part) && parts.next().is_none();
        good.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `org/name`, which the hub may have although the table does not.
    pub(crate) fn is_on_hub(&self) -> bool {
        self.0.contains('/')
    }

    pub(crate) fn folder(&self) -> String {
        self.0.replace('/', "--")
    }
}

fn is_part(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    part.len() <= PART_BYTES_MAX
        && edge(part.chars().next())
        && edge(part.chars().last())
        && part.chars().all(inner)
        && !part.contains("..")
        && !part.contains("--")
}

#[cfg(test)]
mod tests {
    use super::ModelName;

    #[test]
    fn accepts_names_and_refuses_paths() {
        for good in ["all-MiniLM-L6-v2", "org/name", "a", "e5_small.v2"] {
            assert!(ModelName::parse(good).is_some(), "{good}");
        }
        let long = "a".repeat(97);
        for bad in [
            "", "/", "a/", "/a", "a/b/c", "..", "../a", "a/..", ".hidden", "-x", "a b", "a--b",
            "a\\b", "a\0b", "ä", "a.", "a..b", &long,
        ] {
            assert!(ModelName::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn folders_do_not_collide() {
        let folder = |name: &str| ModelName::parse(name).unwrap().folder();
        assert_eq!(folder("org/name"), "org--name");
        assert_ne!(folder("org/name"), folder("org-name"));
    }
}
