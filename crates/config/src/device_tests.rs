//! Loading configurations with simulated devices.

use std::path::Path;

use crate::tests::{good, refused};
use crate::{BackendKind, Device, Gpu};

#[test]
fn a_simulated_device_has_costs_and_rows_of_a_pattern() {
    let config = good(
        r#"
        [workers.slow]
        device = "simulated:slow"
        simulated_token_ns = 400_000
        text_tokens_max = 128
        [workers.file]
        device = "simulated"
        simulated_table = "/tables/x.json"
        [workers.cpu]
        backend = "null"
        "#,
        &[],
    );
    let slow = &config.workers["slow"];
    assert_eq!(slow.device, Device::Simulated(Some("slow".to_owned())));
    assert_eq!(
        (slow.backend, slow.text_tokens_max),
        (BackendKind::Null, 128)
    );
    let costs = &slow.simulated;
    assert_eq!(
        (
            costs.batch_ns,
            costs.token_ns,
            costs.square_ps,
            &costs.table
        ),
        (1_000_000, 400_000, 43_000, &None)
    );
    let table = config.workers["file"].simulated.table.as_deref();
    assert_eq!(table, Some(Path::new("/tables/x.json")));
    assert_eq!(good(&config.to_toml(), &[]), config);
    let gpu = good("[workers.g]\ndevice = \"cuda:1\"", &[]);
    assert_eq!(gpu.workers["g"].device, Device::Cuda(Gpu::Index(1)));
    assert_eq!(gpu.workers["g"].backend, BackendKind::Packed);
}

#[test]
fn rows_of_a_pattern_beside_those_of_a_model_are_refused() {
    let check = |toml: &str, expected: &str| assert_eq!(refused(toml, &[]), expected);
    check(
        "[workers.a]\n[workers.s]\ndevice = \"simulated\"",
        "c.toml:3:10: workers.a.backend is \"packed\"; allowed: \"null\" in all workers or in none, \
         beside a simulated device; workers.s.backend is \"null\"",
    );
    check(
        "[workers.a]\nbackend = \"null\"\n[workers.s]\ndevice = \"simulated\"\nbackend = \"packed\"",
        "c.toml:5:11: workers.s.backend is \"packed\"; allowed: \"null\" in all workers or in none, \
         beside a simulated device; workers.a.backend is \"null\"",
    );
    good(
        "[workers.a]\n[workers.s]\ndevice = \"simulated\"\nbackend = \"packed\"",
        &[],
    );
}
