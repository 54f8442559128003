//! The texts that a rounding is calibrated on.

/// One text a line, every kind of text spread evenly over the file.
const TEXTS: &str = include_str!("calibration.txt");

/// The project's own calibration texts: questions, searches, words, sentences and paragraphs of many
/// styles, code, numbers, fragments of markup, chat, and a dozen languages, none of them longer than
/// a paragraph. Any prefix is a fair mix of them all.
///
/// ```
/// assert!(embedring_quant::calibration_texts().count() >= 300);
/// ```
pub fn calibration_texts() -> impl Iterator<Item = &'static str> {
    TEXTS.lines()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn texts_are_there_once_each() {
        let texts: Vec<_> = calibration_texts().collect();
        assert_eq!(texts.len(), 320);
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
        assert!(
            texts
                .iter()
                .all(|text| !text.is_empty() && text.trim() == *text)
        );
    }

    #[test]
    fn any_prefix_is_a_mix() {
        for count in [32, 64, 128, 320] {
            let prefix = || calibration_texts().take(count);
            let long = prefix().filter(|text| text.len() > 400).count();
            let other_scripts = prefix().filter(|text| !text.is_ascii()).count();
            let short = prefix().filter(|text| text.len() < 80).count();
            assert!(
                long * 10 >= count && long * 3 <= count,
                "{long} of {count} are long"
            );
            assert!(
                other_scripts * 20 >= count,
                "{other_scripts} of {count} are not ASCII"
            );
            assert!(short * 3 >= count, "{short} of {count} are short");
        }
    }
}
