//! Who predicts batch times best, and whether that answers more requests in time: the analytic model, and
//! the same with LightGBM or XGBoost beside it.
//!
//! Everything runs as in the scheduler: learned models begin with nothing, have to win on later batches
//! before they are published, and what is published is their table.

mod accuracy;
mod cost;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use embedring_learned::{Kind, Library};
use embedring_optimizer::Paired;
use embedring_traffic::Arrivals;
use serde::Serialize;

use crate::arrivals::requests;
use crate::device::{CPU, Device, GPU, Structure};
use crate::ours::Ours;
use crate::run::run;
use crate::{provenance, table};

/// Compares models of batch time: errors, bounds, goodput and what they cost.
///
/// Writes models.md and models.json.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A few seeds and short runs.
    #[arg(long)]
    quick: bool,
    /// Where to write.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Recorded devices beside the made-up ones, as `embedring bench cost-table` writes them, and the time of
    /// a question on them.
    #[arg(long, value_name = "FILE", default_values = ["benches/results/cost-table-gpu.json"])]
    cost_table: Vec<PathBuf>,
    /// Time of a question on the devices of --cost-table.
    #[arg(long, default_value_t = 5, value_name = "MS")]
    deadline_ms: u64,
}

/// A device, and how it is loaded.
#[derive(Debug)]
struct Case {
    device: Device,
    kind: &'static str,
    loads: [f64; 3],
    /// How many times as many requests it is sent: there are more in each of its batches.
    times: usize,
}

/// What predicts.
#[derive(Clone, Copy, Debug)]
struct Contender {
    name: &'static str,
    library: Option<&'static dyn Library>,
}

/// One model on one device.
#[derive(Debug, Serialize)]
struct Row {
    model: &'static str,
    accuracy: accuracy::Accuracy,
    /// At each load.
    goodput: Vec<Goodput>,
    /// Milliseconds to learn, the median; 0 where nothing is learned.
    train_ms: f64,
    trainings: usize,
}

#[derive(Debug, Serialize)]
struct Goodput {
    load: f64,
    /// Requests in time, of those that a device of load 1 could do.
    mean: f64,
    /// Difference to the analytic model, in percent of its goodput, over seeds: mean and 95 % interval.
    gain_percent: f64,
    low_percent: f64,
    high_percent: f64,
    /// Runs at whose end a learned model was published.
    promoted: usize,
}

/// One device.
#[derive(Debug, Serialize)]
struct Panel {
    device: String,
    kind: &'static str,
    loads: [f64; 3],
    seeds: u64,
    /// Of a run.
    requests: usize,
    deadline_ms: f64,
    rows: Vec<Row>,
}

#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
pub(crate) fn models(args: &Args) -> Result<()> {
    let (seeds, count) = if args.quick { (4, 4_000) } else { (20, 12_000) };
    let mut contenders = vec![Contender {
        name: "analytic",
        library: None,
    }];
    for kind in Kind::ALL {
        match kind.library() {
            Ok(library) => contenders.push(Contender {
                name: kind.name(),
                library: Some(library),
            }),
            Err(error) => println!("left out: {error}"),
        }
    }
    let mut panels = Vec::new();
    for case in cases(args)? {
        println!("{}, {}", case.device.name, case.kind);
        panels.push(panel(&case, &contenders, seeds, count * case.times));
    }
    let decisions = cost::decisions();
    let asked = contenders
        .iter()
        .filter_map(|contender| cost::asked(contender.name, contender.library?))
        .collect::<Vec<_>>();
    let from = provenance::here();
    let markdown = report::markdown(&panels, &decisions, &asked, &from, seeds)?;
    println!("{markdown}");
    write(&args.results, "models.md", &markdown)?;
    let json = serde_json::json!({
        "from": from, "seeds": seeds,
        "panels": panels, "decisions": decisions, "asked": asked,
    });
    let json = serde_json::to_string_pretty(&json)? + "\n";
    write(&args.results, "models.json", &json)
}

fn write(folder: &Path, file: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(file);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Made-up devices that are exactly analytic, made-up ones that are not, and recorded ones.
fn cases(args: &Args) -> Result<Vec<Case>> {
    let with = |device: &Device, name: &'static str, structure| Device {
        name: name.into(),
        structure,
        ..device.clone()
    };
    let cpu = Structure {
        tile: 64,
        cliff: 384,
        text_tokens: 5,
    };
    let gpu = Structure {
        tile: 1_024,
        cliff: 4_096,
        text_tokens: 20,
    };
    let case = |device, kind, times| Case {
        device,
        kind,
        loads: [0.8, 1.0, 1.5],
        times,
    };
    let (exact, made_up) = ("exactly analytic, simulated", "structure, simulated");
    let mut cases = vec![
        case(CPU.clone(), exact, 1),
        case(GPU.clone(), exact, 12),
        case(with(&CPU, "cpu with tiles, cliff, texts", cpu), made_up, 1),
        case(with(&GPU, "gpu with tiles, cliff, texts", gpu), made_up, 12),
    ];
    for path in &args.cost_table {
        cases.push(Case {
            device: table::device(path, args.deadline_ms * 1_000_000)?,
            kind: "recorded batches, replayed",
            // Its own line of cost, which loads are counted by, is above most of its batches.
            loads: [1.0, 2.0, 3.0],
            times: 40,
        });
    }
    Ok(cases)
}

fn panel(case: &Case, contenders: &[Contender], seeds: u64, count: usize) -> Panel {
    let device = &case.device;
    let stream = accuracy::Stream::record(device, count * 2);
    let base = case.loads.map(|load| ran(device, None, load, seeds, count));
    let rows = contenders
        .iter()
        .map(|contender| {
            let (accuracy, mut took_ms) = stream.replay(contender.library);
            took_ms.sort_unstable_by(f64::total_cmp);
            let goodput = case
                .loads
                .iter()
                .zip(&base)
                .map(|(&load, base)| goodput(device, contender, load, base, count))
                .collect();
            Row {
                model: contender.name,
                accuracy,
                goodput,
                train_ms: took_ms.get(took_ms.len() / 2).copied().unwrap_or(0.0),
                trainings: took_ms.len(),
            }
        })
        .collect();
    Panel {
        device: device.name.to_string(),
        kind: case.kind,
        loads: case.loads,
        seeds,
        requests: count,
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        deadline_ms: device.deadline_ns as f64 / 1e6,
        rows,
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Ran {
    attainment: f64,
    promoted: bool,
}

fn ran(
    device: &Device,
    library: Option<&'static dyn Library>,
    load: f64,
    seeds: u64,
    count: usize,
) -> Vec<Ran> {
    (0..seeds)
        .map(|seed| {
            let requests = requests(&Arrivals::Poisson, device, load, count, seed);
            let mut policy = match library {
                Some(library) => Ours::taught(device, library),
                None => Ours::learning(device),
            };
            let outcome = run(device, &requests, &mut policy, seed);
            Ran {
                attainment: outcome.attainment(),
                promoted: policy.is_learned(),
            }
        })
        .collect()
}

fn goodput(
    device: &Device,
    contender: &Contender,
    load: f64,
    base: &[Ran],
    count: usize,
) -> Goodput {
    let runs = match contender.library {
        Some(_) => ran(device, contender.library, load, base.len() as u64, count),
        None => base.to_vec(),
    };
    #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
    let mean = |runs: &[Ran]| {
        runs.iter().map(|run| run.attainment).sum::<f64>() / runs.len().max(1) as f64
    };
    let of_base = mean(base);
    let differences: Vec<f64> = runs
        .iter()
        .zip(base)
        .map(|(run, base)| 100.0 * (run.attainment - base.attainment) / of_base)
        .collect();
    let paired = Paired::of(&differences);
    let part = |of: fn(&Paired) -> f64| paired.as_ref().map_or(0.0, of);
    Goodput {
        load,
        mean: load * mean(&runs),
        gain_percent: part(|paired| paired.mean),
        low_percent: part(|paired| paired.low),
        high_percent: part(|paired| paired.high),
        promoted: runs.iter().filter(|run| run.promoted).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_learns_there_is_no_difference_and_errors_are_those_of_the_noise() {
        let contender = Contender {
            name: "analytic",
            library: None,
        };
        let case = Case {
            device: CPU,
            kind: "test",
            loads: [0.8, 1.0, 1.5],
            times: 1,
        };
        let panel = panel(&case, &[contender], 3, 6_000);
        let row = &panel.rows[0];
        assert!((0.03..0.06).contains(&row.accuracy.mape), "{row:?}");
        assert!(row.accuracy.coverage > 0.97, "{row:?}");
        for goodput in &row.goodput {
            assert!(goodput.gain_percent.abs() < 1e-9, "{row:?}");
            assert_eq!(goodput.promoted, 0);
        }
    }

    #[test]
    fn a_library_beside_it_predicts_a_device_with_structure_better() {
        let args = Args {
            quick: true,
            results: PathBuf::new(),
            cost_table: Vec::new(),
            deadline_ms: 5,
        };
        let cases = cases(&args).unwrap();
        let stream = accuracy::Stream::record(&cases[2].device, 30_000);
        let (analytic, _) = stream.replay(None);
        for library in Kind::ALL.into_iter().filter_map(|kind| kind.library().ok()) {
            let (learned, took_ms) = stream.replay(Some(library));
            let better =
                learned.mape < 0.97 * analytic.mape && learned.pinball < 1.1 * analytic.pinball;
            assert!(better, "{learned:?} beside {analytic:?}");
            // It is published for most of the time, and given back while its bound is the worse one.
            assert!(learned.learned > 0.5, "{learned:?}");
            assert!(!took_ms.is_empty() && took_ms.len() < 40, "{took_ms:?}");
        }
    }
}
