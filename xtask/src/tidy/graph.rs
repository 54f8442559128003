//! The crate graph, as `cargo metadata` tells it, against the tables.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{MAY_USE, NOT_IN_SMALL, SMALL, SOLE_USERS, Uses, named_by};

/// Every edge of the graph that the tables forbid, in words.
pub(super) fn check(metadata: &Value) -> Result<Vec<String>> {
    let graph = Graph::read(metadata)?;
    let mut broken = Vec::new();
    for (package, dependencies) in &graph.ours {
        broken.extend(may_use(package, dependencies, &graph));
        broken.extend(sole_users(package, dependencies));
    }
    broken.extend(small_tree(&graph));
    Ok(broken)
}

#[derive(Debug)]
struct Graph {
    /// Names of the workspace's packages, and all that each names in its manifest.
    ours: BTreeMap<String, BTreeSet<String>>,
    /// By package id.
    packages: BTreeMap<String, Package>,
}

#[derive(Debug)]
struct Package {
    name: String,
    /// The native library that it links, if it declares one.
    links: Option<String>,
    edges: Vec<Edge>,
}

#[derive(Debug)]
struct Edge {
    id: String,
    /// Needed when the program runs.
    normal: bool,
    /// Needed when the program is built.
    build: bool,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let members = strings(&metadata["workspace_members"])?;
        let mut ours = BTreeMap::new();
        let mut packages = BTreeMap::new();
        for package in array(&metadata["packages"])? {
            let (id, name) = (string(&package["id"])?, string(&package["name"])?);
            if members.contains(&id) {
                // As in the manifest, not as resolved: a forbidden dependency behind a feature or
                // for another platform is forbidden too.
                let named = array(&package["dependencies"])?.iter();
                let named = named.map(|dependency| string(&dependency["name"]));
                ours.insert(name.clone(), named.collect::<Result<_>>()?);
            }
            let links = package["links"].as_str().map(str::to_owned);
            packages.insert(
                id,
                Package {
                    name,
                    links,
                    edges: Vec::new(),
                },
            );
        }
        for node in array(&metadata["resolve"]["nodes"])? {
            let edges = array(&node["deps"])?
                .iter()
                .map(edge)
                .collect::<Result<_>>()?;
            let id = string(&node["id"])?;
            packages
                .get_mut(&id)
                .with_context(|| format!("no package {id}"))?
                .edges = edges;
        }
        Ok(Self { ours, packages })
    }

    /// All packages that `start` is built from; with those that only build scripts use, if asked.
    fn tree(&self, start: &str, with_build: bool) -> BTreeSet<&str> {
        let roots = self
            .packages
            .iter()
            .filter(|(_, package)| package.name == start);
        let mut open: Vec<&str> = roots.map(|(id, _)| id.as_str()).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let edges = self
                .packages
                .get(id)
                .map_or(&[][..], |package| &package.edges);
            let wanted = edges
                .iter()
                .filter(|edge| edge.normal || (with_build && edge.build));
            open.extend(wanted.map(|edge| edge.id.as_str()));
        }
        seen
    }
}

fn edge(dependency: &Value) -> Result<Edge> {
    let kinds = array(&dependency["dep_kinds"])?;
    let has = |wanted: Option<&str>| kinds.iter().any(|kind| kind["kind"].as_str() == wanted);
    Ok(Edge {
        id: string(&dependency["pkg"])?,
        normal: has(None),
        build: has(Some("build")),
    })
}

fn may_use(package: &str, dependencies: &BTreeSet<String>, graph: &Graph) -> Vec<String> {
    let Some((_, uses)) = MAY_USE.iter().find(|(name, _)| *name == package) else {
        return vec![format!(
            "{package}: not in the table MAY_USE of xtask/src/tidy.rs"
        )];
    };
    let allowed = match uses {
        Uses::Only(allowed) => *allowed,
        Uses::Anything => return Vec::new(),
    };
    dependencies
        .iter()
        .filter(|name| graph.ours.contains_key(*name) && *name != package)
        .filter(|name| !allowed.contains(&name.as_str()))
        .map(|name| format!("{package}: must not know {name}"))
        .collect()
}

fn sole_users(package: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let mut broken = Vec::new();
    for (libraries, users) in SOLE_USERS
        .iter()
        .filter(|(_, users)| !users.contains(&package))
    {
        let hidden = |name: &&String| libraries.iter().any(|library| named_by(name, library));
        for name in dependencies.iter().filter(hidden) {
            broken.push(format!(
                "{package}: {name} may be used by {} alone",
                users.join(" and ")
            ));
        }
    }
    broken
}

fn small_tree(graph: &Graph) -> Vec<String> {
    let mut broken = Vec::new();
    for package in graph
        .tree(SMALL, true)
        .iter()
        .filter_map(|id| graph.packages.get(*id))
    {
        if NOT_IN_SMALL
            .iter()
            .any(|pattern| named_by(&package.name, pattern))
        {
            broken.push(format!(
                "{SMALL}: {} is in its dependency tree",
                package.name
            ));
        }
    }
    for package in graph
        .tree(SMALL, false)
        .iter()
        .filter_map(|id| graph.packages.get(*id))
    {
        if let Some(links) = &package.links {
            broken.push(format!(
                "{SMALL}: {} in its tree links {links}",
                package.name
            ));
        }
    }
    broken
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value
        .as_array()
        .with_context(|| format!("cargo metadata: no list where one is due: {value}"))
}

fn string(value: &Value) -> Result<String> {
    let text = value.as_str();
    text.map(str::to_owned)
        .with_context(|| format!("cargo metadata: no text where one is due: {value}"))
}

fn strings(value: &Value) -> Result<Vec<String>> {
    array(value)?.iter().map(string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// (from, to, kind): `kind` is null for a normal dependency, else "build" or "dev".
    type Edges<'a> = &'a [(&'a str, &'a str, Option<&'a str>)];

    fn of<'a>(
        edges: Edges<'a>,
        name: &str,
    ) -> impl Iterator<Item = &'a (&'a str, &'a str, Option<&'a str>)> {
        edges.iter().filter(move |(from, ..)| *from == name)
    }

    /// Metadata of a workspace in which names beginning with `embedring` are members.
    fn metadata(edges: Edges<'_>, links: &[&str]) -> Value {
        let names: BTreeSet<&str> = edges
            .iter()
            .flat_map(|(from, to, _)| [*from, *to])
            .collect();
        let packages: Vec<Value> = names
            .iter()
            .map(|name| {
                let named: Vec<Value> = of(edges, name)
                    .map(|(_, to, kind)| json!({"name": to, "kind": kind}))
                    .collect();
                let links = links.contains(name).then_some("native");
                json!({"id": name, "name": name, "links": links, "dependencies": named})
            })
            .collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = of(edges, name)
                    .map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        let members: Vec<&&str> = names
            .iter()
            .filter(|name| name.starts_with("embedring"))
            .collect();
        json!({"workspace_members": members, "packages": packages, "resolve": {"nodes": nodes}})
    }

    #[track_caller]
    fn check_edges(edges: Edges<'_>, links: &[&str], expected: &[&str]) {
        assert_eq!(check(&metadata(edges, links)).unwrap(), expected);
    }

    #[test]
    fn a_crate_uses_only_what_its_row_allows() {
        check_edges(
            &[("embedring-policy", "embedring-protocol", None)],
            &[],
            &[],
        );
        check_edges(
            &[("embedring-protocol", "embedring-policy", None)],
            &[],
            &["embedring-protocol: must not know embedring-policy"],
        );
        check_edges(
            &[("embedring-worker", "embedring-scheduler", Some("dev"))],
            &[],
            &["embedring-worker: must not know embedring-scheduler"],
        );
        check_edges(&[("embedring", "embedring-scheduler", None)], &[], &[]);
        check_edges(
            &[("embedring-new", "serde", None)],
            &[],
            &["embedring-new: not in the table MAY_USE of xtask/src/tidy.rs"],
        );
    }

    #[test]
    fn a_hidden_library_has_one_user() {
        check_edges(&[("embedring-ipc", "iceoryx2-cal", None)], &[], &[]);
        check_edges(
            &[("embedring-worker", "iceoryx2-cal", None)],
            &[],
            &[
                "embedring-worker: iceoryx2-cal may be used by embedring-ipc and \
               embedring-benches alone",
            ],
        );
        check_edges(
            &[("embedring-tests", "zip", Some("dev"))],
            &[],
            &["embedring-tests: zip may be used by embedring-store alone"],
        );
    }

    #[test]
    fn the_client_tree_stays_free_of_inference_and_native_code() {
        let candle = "embedring-client: candle-core is in its dependency tree";
        check_edges(
            &[("embedring-client", "a", None), ("a", "candle-core", None)],
            &[],
            &[candle],
        );
        check_edges(
            &[
                ("embedring-client", "a", None),
                ("a", "candle-core", Some("build")),
            ],
            &[],
            &[candle],
        );
        // What only the tests of a dependency use is not in the tree.
        check_edges(
            &[
                ("embedring-client", "a", None),
                ("a", "candle-core", Some("dev")),
            ],
            &[],
            &[],
        );
        check_edges(
            &[("embedring-client", "a", None), ("a", "z-sys", None)],
            &["z-sys"],
            &["embedring-client: z-sys in its tree links native"],
        );
        // A library linked into a build script is not linked into the program.
        check_edges(
            &[
                ("embedring-client", "a", Some("build")),
                ("a", "z-sys", None),
            ],
            &["z-sys"],
            &[],
        );
    }
}
