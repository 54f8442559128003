//! Sizes as people write them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A size in bytes; in TOML an integer, or a string such as `"64KiB"` or `"1GiB"`.
///
/// Only binary units: a ring slot of `64KB` would be 64,000 bytes to one reader and 65,536 to
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

/// Units from the largest, the order in which [`Bytes`] looks for one that divides exactly.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Bytes {
    /// Reads `65536`, `65536B`, `64KiB` or `64 KiB`; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = unit.trim_start();
        let scale = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, scale)| *scale)?
        };
        number.checked_mul(scale).map(Self)
    }

    /// The largest unit of which this is a whole number.
    fn unit(self) -> (&'static str, u64) {
        let divides = |scale: u64| self.0 >= scale && self.0.is_multiple_of(scale);
        UNITS
            .into_iter()
            .find(|(_, scale)| divides(*scale))
            .unwrap_or(("B", 1))
    }
}

impl fmt::Display for Bytes {
    /// The shortest exact form: `64KiB`, but `65537` for what no unit divides.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit() {
            (_, 1) => write!(f, "{}", self.0),
            (name, scale) => write!(f, "{}{name}", self.0 / scale),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.unit().1 == 1 {
            serializer.serialize_u64(self.0)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in bytes, or a string such as \"64KiB\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                let unexpected = de::Unexpected::Signed(value);
                u64::try_from(value)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(unexpected, &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Bytes, E> {
                let unexpected = de::Unexpected::Str(value);
                Bytes::parse(value).ok_or_else(|| E::invalid_value(unexpected, &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["integer", "string"] })
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(Bytes::parse(text).map(|b| b.0), expected, "{text:?}");
    }

    #[test]
    fn reads_numbers_with_binary_units_only() {
        check("0", Some(0));
        check("4096", Some(4096));
        check("7B", Some(7));
        check("64KiB", Some(65_536));
        check(" 64 KiB ", Some(65_536));
        check("1GiB", Some(1 << 30));
        check("2TiB", Some(2 << 40));
        check("16777215TiB", Some(16_777_215 << 40));
    }

    #[test]
    fn refuses_what_is_ambiguous_or_too_large() {
        for text in [
            "", "KiB", "64KB", "64k", "64kib", "-1", "1.5GiB", "1GiBx", "0x10", "١",
        ] {
            check(text, None);
        }
        check("16777216TiB", None);
        check("18446744073709551616", None);
    }

    #[test]
    fn prints_what_it_reads() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1023, "1023"),
            (1024, "1KiB"),
            (1536, "1536"),
            (18_432, "18KiB"),
            (1 << 30, "1GiB"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
            check(text, Some(bytes));
        }
    }
}
